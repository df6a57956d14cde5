"""What is learned: the contract of a task, and the kinds of task we bring."""

from __future__ import annotations

from coterie.tasks.autoencoder import Autoencoder
from coterie.tasks.base import IndexedTask, NamedTask, StagedTask, Task
from coterie.tasks.clusters import Clusters
from coterie.tasks.contrastive import Contrastive
from coterie.tasks.kinds import checked, from_spec
from coterie.tasks.multitask import MultiTask
from coterie.tasks.prototypes import Prototypes
from coterie.tasks.supervised import Supervised
from coterie.tasks.tables import MISSING, Table
from coterie.tasks.weighing import Conflict

__all__ = [
    "MISSING",
    "Autoencoder",
    "Clusters",
    "Conflict",
    "Contrastive",
    "IndexedTask",
    "MultiTask",
    "NamedTask",
    "Prototypes",
    "StagedTask",
    "Supervised",
    "Table",
    "Task",
    "checked",
    "from_spec",
]
