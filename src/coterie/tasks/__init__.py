"""What is learned: the contract of a task, and the kinds of task we bring."""

from __future__ import annotations

from coterie.tasks.base import IndexedTask, Task
from coterie.tasks.supervised import Supervised, checked, from_spec

__all__ = ["IndexedTask", "Supervised", "Task", "checked", "from_spec"]
