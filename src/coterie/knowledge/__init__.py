"""How members teach: lessons, the board where they meet, and the gate that they pass.

A name is loaded when it is first used: who decides reads graphs, and needs no torch for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "Attended": "coterie.knowledge.currency",
    "Board": "coterie.knowledge.board",
    "BoardFailed": "coterie.knowledge.events",
    "Change": "coterie.knowledge.currency",
    "Course": "coterie.knowledge.scholar",
    "Currency": "coterie.knowledge.currency",
    "Door": "coterie.knowledge.lesson",
    "Episodes": "coterie.knowledge.scholar",
    "Event": "coterie.knowledge.events",
    "Evidence": "coterie.knowledge.lesson",
    "Fixed": "coterie.knowledge.fusion",
    "Fusion": "coterie.knowledge.fusion",
    "Gate": "coterie.knowledge.gate",
    "Graph": "coterie.knowledge.graph",
    "Heard": "coterie.knowledge.board",
    "Hints": "coterie.knowledge.distill",
    "Labels": "coterie.knowledge.distill",
    "Learned": "coterie.knowledge.fusion",
    "Lesson": "coterie.knowledge.lesson",
    "LessonRefused": "coterie.knowledge.events",
    "LessonTaken": "coterie.knowledge.events",
    "Linear": "coterie.knowledge.scholar",
    "MemoryBoard": "coterie.knowledge.board",
    "Moment": "coterie.knowledge.pupil",
    "Open": "coterie.knowledge.gate",
    "Packing": "coterie.knowledge.lesson",
    "Placed": "coterie.knowledge.currency",
    "Pool": "coterie.knowledge.distill",
    "Prototypes": "coterie.knowledge.prototypes",
    "Pupil": "coterie.knowledge.pupil",
    "Rules": "coterie.knowledge.study",
    "Samples": "coterie.knowledge.experience",
    "Scholar": "coterie.knowledge.scholar",
    "Study": "coterie.knowledge.study",
    "Term": "coterie.knowledge.pupil",
    "Transitions": "coterie.knowledge.experience",
    "Trust": "coterie.knowledge.trust",
    "Verdict": "coterie.knowledge.gate",
    "cross_loss": "coterie.knowledge.affinity",
    "cross_loss_row": "coterie.knowledge.affinity",
    "gathered": "coterie.knowledge.graph",
    "look_ahead": "coterie.knowledge.affinity",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
