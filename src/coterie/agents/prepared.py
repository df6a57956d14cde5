"""What a script's own loop holds in place of its optimizer, loader and scheduler.

They look like what they stand for: schedulers, gradient scalers and progress bars are none the
wiser. The model is the user's own, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from coterie.agents.loop import Loop, Start
from coterie.agents.several import OneStepper, Several, Together
from coterie.errors import JobError
from coterie.tasks.passes import Streamed, numbered
from coterie.tasks.samples import MapStyle, to_device

SAMPLERS = (RandomSampler, SequentialSampler)


@dataclass(frozen=True)
class Things:
    """A script's model, optimizer and loader, and its scheduler if it has one."""

    model: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    scheduler: LRScheduler | None = None

    @classmethod
    def of(cls, given: tuple[object, ...]) -> Things:
        """The things that a script prepares, in any order. Raises JobError for others.

        >>> model = nn.Linear(2, 1)
        >>> sgd, loader = torch.optim.SGD(model.parameters()), DataLoader([0.5, 1.5])
        >>> Things.of((sgd, model, loader)).scheduler is None
        True
        """
        models = [thing for thing in given if isinstance(thing, nn.Module)]
        optimizers = [thing for thing in given if isinstance(thing, Optimizer)]
        loaders = [thing for thing in given if isinstance(thing, DataLoader)]
        schedulers = [thing for thing in given if isinstance(thing, LRScheduler)]
        num_known = len(models) + len(optimizers) + len(loaders) + len(schedulers)
        are_single = len(models) == len(loaders) == 1
        if not are_single or not optimizers or len(schedulers) > 1 or num_known < len(given):
            names = ", ".join(type(thing).__name__ for thing in given) or "nothing"
            raise JobError(
                "expected a model, its optimizers, a DataLoader and at most one scheduler in "
                f"me.prepare, found {names}; leave out what is only evaluated on"
            )
        optimizer = optimizers[0] if len(optimizers) == 1 else Several(optimizers)
        return cls(models[0], optimizer, loaders[0], *schedulers)

    @property
    def whole(self) -> nn.Module:
        """The model, out of whatever `torch.compile` wrapped it in: both share parameters."""
        return getattr(self.model, "_orig_mod", self.model)

    @cached_property
    def samples(self) -> MapStyle:
        """The loader's samples, each with its number; those of a stream once they are counted."""
        return numbered("the loader's dataset", self.loader.dataset)

    @property
    def is_stream(self) -> bool:
        """Whether they can only be read one after another."""
        return isinstance(self.samples, Streamed)

    def checked(self) -> Things:
        """The same things, once none asks for what several agents cannot grant."""
        sampler = self.loader.sampler
        found = ""
        if self.is_stream and self.loader.batch_size is not None:
            is_shuffled = isinstance(sampler, RandomSampler)
            found = "a stream that the loader shuffles" if is_shuffled else ""
            wanted = "shuffle=False, for a stream comes in an order of its own"
        elif self.loader.batch_size is None or not isinstance(sampler, SAMPLERS):
            found = type(sampler if self.loader.batch_size else self.loader.batch_sampler).__name__
            wanted = "a DataLoader with batch_size and shuffle alone, for agents share its samples"
        elif isinstance(self.scheduler, ReduceLROnPlateau):
            found, wanted = "ReduceLROnPlateau", "a scheduler that goes by steps or epochs"
        elif self.scheduler is None and "initial_lr" in self.optimizer.param_groups[0]:
            found = "a scheduler that was not prepared"
            wanted = "me.prepare(model, optimizer, loader, scheduler), for all agents to agree"
        if found:
            raise JobError(f"expected {wanted}, found {found}; change that in the script")
        return self


def fetched(
    loader: DataLoader[Any], indices: Sequence[int], samples: MapStyle | None = None
) -> Any:
    """These samples of a loader's dataset, or of its stream, as its own batches are collated.

    >>> fetched(DataLoader([1, 2, 3]), [2, 0])
    tensor([3, 1])
    """
    dataset: Any = loader.dataset if samples is None else samples
    many = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(many(list(indices)) if many else [dataset[i] for i in indices])


class Shares:
    """This agent's batches of a loader: each sample once in a pass, wherever it is learned."""

    def __init__(
        self,
        loader: DataLoader[Any],
        loop: Loop,
        start: Start,
        device: str,
        samples: MapStyle | None = None,
    ) -> None:
        self._loader, self._loop, self._start = loader, loop, start
        self._device = torch.device(device)
        self._samples: Any = loader.dataset if samples is None else samples

    def __iter__(self) -> Iterator[Any]:
        self._loop.begin_pass(self._start)
        try:
            while (indices := self._loop.next()) is not None:
                yield to_device(fetched(self._loader, indices, self._samples), self._device)
        finally:
            self._loop.is_in_pass = False

    def __len__(self) -> int:
        """Batches of a pass over all agents together, which is how many steps it takes."""
        assert self._loader.batch_size is not None
        return math.ceil(len(self._samples) / self._loader.batch_size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Moved:
    """A loader whose batches are put on a device, and whose dataset is told each pass."""

    def __init__(self, loader: DataLoader[Any], device: str) -> None:
        self._loader, self._device = loader, torch.device(device)
        self._tell_pass = getattr(loader.dataset, "set_epoch", None)
        self._num_passes = 0

    @classmethod
    def has_work(cls, loader: DataLoader[Any], device: str) -> bool:
        """Whether a loader is not good as it is."""
        return device != "cpu" or callable(getattr(loader.dataset, "set_epoch", None))

    def __iter__(self) -> Iterator[Any]:
        if callable(self._tell_pass):
            self._tell_pass(self._num_passes)
        self._num_passes += 1
        return (to_device(batch, self._device) for batch in self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Stepper(Optimizer):
    """An optimizer whose step is the group's: back once it is taken, here as everywhere."""

    _step_supports_amp_scaling = False  # a scaler has to unscale what others are to hear

    def __init__(self, inner: Optimizer, loop: Loop) -> None:
        self._inner, self._loop = inner, loop  # what else there is to know, the inner one knows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return repr(self._inner)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Hand the gradient in, and go on where all have stepped; what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._loop.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        self._loop.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As the inner one's."""
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the inner one does."""
        self._inner.load_state_dict(state_dict)


def steppers(things: Things, loop: Loop) -> dict[int, Optimizer]:
    """What stands for each optimizer of a script, by its id."""
    if not isinstance(things.optimizer, Several):
        return {id(things.optimizer): Stepper(things.optimizer, loop)}
    parts = things.optimizer.parts
    together = Together(things.whole, loop, len(parts))
    return {id(part): OneStepper(part, together) for part in parts}


class Schedule:
    """A scheduler that goes by the steps that all have taken, or by passes.

    The script's calls say which: one inside a pass is one of every step. To the learner, which
    calls `step` after each of its own, it is a scheduler that steps with it.
    """

    def __init__(self, inner: LRScheduler, loop: Loop) -> None:
        self.inner, self._loop = inner, loop
        self._every, self._num_steps, self._num_passes = "", 0, 0

    def step(self) -> None:
        """The learner has stepped."""
        self._num_steps += 1
        if self._every == "step":
            self.inner.step()

    def call(self) -> None:
        """The script calls: the first time it may be steps behind, later it has nothing to do."""
        if not self._every:
            self._every = "step" if self._loop.is_in_pass else "pass"
            for _ in range(self._num_steps if self._every == "step" else 0):
                self.inner.step()
        if self._every == "pass" and self._loop.passes > self._num_passes:
            self.inner.step()
            self._num_passes = self._loop.passes

    def state_dict(self) -> dict[str, Any]:
        """The inner one's, and what the script's calls said."""
        counts = {"num_steps": self._num_steps, "num_passes": self._num_passes}
        return {"inner": self.inner.state_dict(), "every": self._every, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another member stands."""
        self.inner.load_state_dict(state["inner"])
        self._every = state["every"]
        self._num_steps, self._num_passes = state["num_steps"], state["num_passes"]


class Scheduler:
    """A scheduler as a script's own loop holds it."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def step(self) -> None:
        """Count a step or a pass, whichever the script calls this for."""
        self._schedule.call()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._schedule.inner, name)
