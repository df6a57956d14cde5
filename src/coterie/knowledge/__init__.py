"""How members teach: lessons, the board where they meet, and the gate that they pass."""

from __future__ import annotations

from coterie.knowledge.affinity import cross_loss, cross_loss_row, look_ahead
from coterie.knowledge.board import Board, Heard, MemoryBoard
from coterie.knowledge.currency import Attended, Change, Currency, Placed
from coterie.knowledge.distill import Hints, Labels, Pool
from coterie.knowledge.events import BoardFailed, Event, LessonRefused, LessonTaken
from coterie.knowledge.experience import Samples, Transitions
from coterie.knowledge.fusion import Fixed, Fusion, Learned
from coterie.knowledge.gate import Gate, Open, Verdict
from coterie.knowledge.graph import Graph, gathered
from coterie.knowledge.lesson import Door, Evidence, Lesson, Packing
from coterie.knowledge.prototypes import Prototypes
from coterie.knowledge.pupil import Moment, Pupil, Term
from coterie.knowledge.scholar import Course, Episodes, Linear, Scholar
from coterie.knowledge.study import Rules, Study
from coterie.knowledge.trust import Trust

__all__ = [
    "Attended",
    "Board",
    "BoardFailed",
    "Change",
    "Course",
    "Currency",
    "Door",
    "Episodes",
    "Event",
    "Evidence",
    "Fixed",
    "Fusion",
    "Gate",
    "Graph",
    "Heard",
    "Hints",
    "Labels",
    "Learned",
    "Lesson",
    "LessonRefused",
    "LessonTaken",
    "Linear",
    "MemoryBoard",
    "Moment",
    "Open",
    "Packing",
    "Placed",
    "Pool",
    "Prototypes",
    "Pupil",
    "Rules",
    "Samples",
    "Scholar",
    "Study",
    "Term",
    "Transitions",
    "Trust",
    "Verdict",
    "cross_loss",
    "cross_loss_row",
    "gathered",
    "look_ahead",
]
