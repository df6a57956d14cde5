"""Many rows become one: the laws of combining, whether rows are workers or tasks.

Every law takes M rows of shape (N,) with a weight each, mostly the samples behind them, and gives
one new row. A row of weight zero is not read at all and does not count as a row. Sums depend on
their order in the last bit, so callers sort the rows first. What is not finite must be left out
by the caller: a comparison with NaN says nothing. All raise TrainingError when there are too few
rows, or when a weight is not a finite number of at least zero.

A law that takes weights believes them: who claims more than half of all samples is the median.
Give equal weights where members could lie about them. Robust laws bear rows that are wrong;
conflict laws reconcile rows that are right and want different things.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from coterie.combine.classes import class_means, nearness
from coterie.combine.robust import centred_clip, kin, krum, median, multi_krum, trimmed_mean
from coterie.combine.rows import mean

if TYPE_CHECKING:
    from coterie.combine.conflict import aligned_mtl as aligned_mtl
    from coterie.combine.conflict import cagrad as cagrad
    from coterie.combine.conflict import imtl_g as imtl_g
    from coterie.combine.conflict import mgda as mgda
    from coterie.combine.conflict import nash_mtl as nash_mtl
    from coterie.combine.conflict import pcgrad as pcgrad
    from coterie.combine.conflict import upgrad as upgrad

__all__ = [
    "aligned_mtl",
    "cagrad",
    "centred_clip",
    "class_means",
    "imtl_g",
    "kin",
    "krum",
    "mean",
    "median",
    "mgda",
    "multi_krum",
    "nash_mtl",
    "nearness",
    "pcgrad",
    "trimmed_mean",
    "upgrad",
]

_CONFLICT = ("aligned_mtl", "cagrad", "imtl_g", "mgda", "nash_mtl", "pcgrad", "upgrad")


def __getattr__(name: str) -> object:
    if name not in _CONFLICT:  # they need numpy, which deciding does without
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("coterie.combine.conflict"), name)
