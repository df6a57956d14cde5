"""What is learned: the contract of a task, and the kinds of task we bring."""

from __future__ import annotations

from coterie.tasks.base import IndexedTask, Task
from coterie.tasks.multitask import MultiTask, proven
from coterie.tasks.specs import from_spec
from coterie.tasks.supervised import Supervised, checked
from coterie.tasks.tables import MISSING, Table
from coterie.tasks.weighing import Conflict

__all__ = [
    "MISSING",
    "Conflict",
    "IndexedTask",
    "MultiTask",
    "Supervised",
    "Table",
    "Task",
    "checked",
    "from_spec",
    "proven",
]
