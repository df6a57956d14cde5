"""What is learned: the contract of a task, and the kinds of task we bring."""

from __future__ import annotations

from coterie.tasks.autoencoder import Autoencoder
from coterie.tasks.base import IndexedTask, NamedTask, StagedTask, Task
from coterie.tasks.clusters import Clusters
from coterie.tasks.contrastive import Contrastive
from coterie.tasks.kinds import checked, from_spec
from coterie.tasks.supervised import Supervised

__all__ = [
    "Autoencoder",
    "Clusters",
    "Contrastive",
    "IndexedTask",
    "NamedTask",
    "StagedTask",
    "Supervised",
    "Task",
    "checked",
    "from_spec",
]
