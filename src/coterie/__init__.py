"""Train PyTorch models on unequal machines that come and go, and be told why.

A public name is loaded when it is first used: `import coterie` loads neither torch nor pydantic.

>>> import coterie
>>> coterie.parse("diloco(32)")
chain(Every(32), Reduce(), Outer(0.7, 0.9, nesterov=True))
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

from coterie.errors import (
    CheckpointError,
    CoterieError,
    JobError,
    JoinError,
    LessonError,
    NotFinite,
    StrategyError,
    Torn,
    TrainingError,
)

if TYPE_CHECKING:
    from coterie.agents.me import join
    from coterie.config import Job, load_job
    from coterie.engines.train import train
    from coterie.sync.chain import chain
    from coterie.sync.codecs import ErrorFeedback, Fp16, Int8
    from coterie.sync.exchanges import Reduce
    from coterie.sync.outer import Outer
    from coterie.sync.pieces import Clip, Every, Only
    from coterie.sync.reading import parse
    from coterie.tasks.autoencoder import Autoencoder
    from coterie.tasks.clusters import Clusters, GaussianMixture, KMeans, PerCentre
    from coterie.tasks.contrastive import Contrastive
    from coterie.tasks.keras import KerasNet
    from coterie.tasks.lightning import Lightning
    from coterie.tasks.multitask import MultiTask
    from coterie.tasks.outputs import own_loss
    from coterie.tasks.passes import Streamed, Transformed
    from coterie.tasks.prototypes import Prototypes
    from coterie.tasks.supervised import Supervised
    from coterie.tasks.tables import Table
    from coterie.watch.callbacks import KerasCallbacks

__all__ = [
    "Autoencoder",
    "CheckpointError",
    "Clip",
    "Clusters",
    "Contrastive",
    "CoterieError",
    "ErrorFeedback",
    "Every",
    "Fp16",
    "GaussianMixture",
    "Int8",
    "Job",
    "JobError",
    "JoinError",
    "KMeans",
    "KerasCallbacks",
    "KerasNet",
    "LessonError",
    "Lightning",
    "MultiTask",
    "NotFinite",
    "Only",
    "Outer",
    "PerCentre",
    "Prototypes",
    "Reduce",
    "StrategyError",
    "Streamed",
    "Supervised",
    "Table",
    "Torn",
    "TrainingError",
    "Transformed",
    "__version__",
    "chain",
    "join",
    "load_job",
    "own_loss",
    "parse",
    "train",
]

try:
    __version__ = metadata.version("coterie")
except metadata.PackageNotFoundError:
    __version__ = "0+unknown"  # a checkout that was never installed

_HOMES = {
    "Autoencoder": "coterie.tasks.autoencoder",
    "Clip": "coterie.sync.pieces",
    "Clusters": "coterie.tasks.clusters",
    "Contrastive": "coterie.tasks.contrastive",
    "ErrorFeedback": "coterie.sync.codecs",
    "Every": "coterie.sync.pieces",
    "Fp16": "coterie.sync.codecs",
    "GaussianMixture": "coterie.tasks.clusters",
    "Int8": "coterie.sync.codecs",
    "Job": "coterie.config",
    "KMeans": "coterie.tasks.clusters",
    "KerasCallbacks": "coterie.watch.callbacks",
    "KerasNet": "coterie.tasks.keras",
    "Lightning": "coterie.tasks.lightning",
    "MultiTask": "coterie.tasks.multitask",
    "Only": "coterie.sync.pieces",
    "Outer": "coterie.sync.outer",
    "PerCentre": "coterie.tasks.clusters",
    "Prototypes": "coterie.tasks.prototypes",
    "Reduce": "coterie.sync.exchanges",
    "Streamed": "coterie.tasks.passes",
    "Supervised": "coterie.tasks.supervised",
    "Table": "coterie.tasks.tables",
    "Transformed": "coterie.tasks.passes",
    "chain": "coterie.sync.chain",
    "join": "coterie.agents.me",
    "load_job": "coterie.config",
    "own_loss": "coterie.tasks.outputs",
    "parse": "coterie.sync.reading",
    "train": "coterie.engines.train",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
