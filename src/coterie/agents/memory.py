"""How much memory a step takes by its batch, found without taking it.

A copy of the model steps on tensors that have shapes and no values (FakeTensorMode of torch), while
torch's MemTracker adds up what lives at once: parameters, gradients, the optimizer's state, what is
kept for the backward pass and what is only needed for a moment. The peak is the largest of several
moments, each affine in the batch: so it is taken between two batches about as large as fit. The
tracker is private to torch: all that is known of it is in here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from coterie.agents.learner import Learner
from coterie.types import Batch

SEEN = 2  # samples that are looked at for their shapes
NUM_STEPS = 2  # the first makes the optimizer's state, the second runs beside it


def step_bytes(learner: Learner, sizes: tuple[int, int]) -> tuple[float, float]:
    """(fixed, per sample): the bytes that live at once in a step, on batches between two sizes.

    Of 2 samples or more, on fake tensors; nothing of the learner changes. Raises what torch raises
    for a model that asks for values; `in_words` says it.

    >>> from torch import nn
    >>> from torch.utils.data import TensorDataset
    >>> from coterie.agents.learner import Setup
    >>> from coterie.tasks.supervised import Supervised
    >>> pairs = TensorDataset(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))
    >>> task = Supervised("t", lambda: nn.Linear(8, 2), pairs, pairs)
    >>> _, per_sample = step_bytes(Learner(Setup(task, torch.optim.SGD)), (1_000, 4_000))
    >>> inputs_bytes, outputs_bytes = 4 * 8, 4 * 2
    >>> per_sample >= inputs_bytes + outputs_bytes
    True
    """
    small, large = sizes
    seen = learner.task.fetch(list(range(SEEN))).data
    least, most = (_peak_bytes(learner, seen, size) for size in sizes)
    per_sample = max(0.0, (most - least) / (large - small))
    return least - per_sample * small, per_sample


def in_words(error: Exception) -> str:
    """Why a model cannot step on tensors without values."""
    first, _, _ = str(error).partition("\n")
    return (
        f"expected a model that can step on shapes alone, found {type(error).__name__} "
        f"({first[:120]}): its memory is taken from what it keeps for the backward pass instead"
    )


def _peak_bytes(learner: Learner, seen: Any, size: int) -> int:
    fakes = FakeTensorMode(allow_non_fake_inputs=True)  # as weights of classes in a loss
    with FakeCopyMode(fakes):
        model = copy.deepcopy(learner.model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with fakes, torch.random.fork_rng(devices=[]):
        batch = Batch(_resized(seen, size), size)
        optimizer = learner.setup.optimizer(parameters)
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *_leaves(batch.data))
        with tracker:
            for _ in range(NUM_STEPS):
                optimizer.zero_grad()
                learner.task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                tracker.reset_mod_stats()
    peaks = tracker.get_tracker_snapshot("peak").values()
    return sum(int(each["Total"]) for each in cast("Any", peaks))


def _resized(data: Any, size: int) -> Any:
    """The same with as many samples, and no values: what has one row a sample has `size` rows."""
    match data:
        case Tensor() if data.dim() and len(data) == SEEN:
            return torch.empty((size, *data.shape[1:]), dtype=data.dtype)
        case Tensor():
            return torch.empty(data.shape, dtype=data.dtype)
        case Mapping():
            return {key: _resized(value, size) for key, value in data.items()}
        case str():
            return data
        case Sequence():
            return [_resized(each, size) for each in data]
    return data


def _leaves(data: Any) -> list[Tensor]:
    match data:
        case Tensor():
            return [data]
        case Mapping():
            return [leaf for each in data.values() for leaf in _leaves(each)]
        case str():
            return []
        case Sequence():
            return [leaf for each in data for leaf in _leaves(each)]
    return []
