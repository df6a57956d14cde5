"""How members teach: lessons, the board where they meet, and the gate that they pass."""

from __future__ import annotations

from coterie.knowledge.board import Board, Heard, MemoryBoard
from coterie.knowledge.currency import Attended, Change, Currency, Placed
from coterie.knowledge.lesson import Door, Evidence, Lesson, Packing
from coterie.knowledge.pupil import Moment, Pupil, Term

__all__ = [
    "Attended",
    "Board",
    "Change",
    "Currency",
    "Door",
    "Evidence",
    "Heard",
    "Lesson",
    "MemoryBoard",
    "Moment",
    "Packing",
    "Placed",
    "Pupil",
    "Term",
]
