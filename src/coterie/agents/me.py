"""`coterie.join()`: what a script's own loop knows of the agent that it runs on.

Started by `coterie run`, a script is one of several agents. Started by Python it is alone, and
what it prepares is handed back as it is.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from coterie.agents.learner import best_device
from coterie.agents.prepared import Moved, Things
from coterie.agents.several import parts_of
from coterie.agents.state import copied, pack_state, unpack_state
from coterie.errors import CheckpointError, JobError
from coterie.tasks.passes import Streamed

seat: ContextVar[Callable[[], Me]] = ContextVar("seat")  # who takes part here, in a run of many


class Me(ABC):
    """One agent, as its script sees it."""

    name: str
    things: Things | None = None

    @property
    def device(self) -> str:
        """Where the prepared model and batches are."""
        return best_device()

    @property
    @abstractmethod
    def is_first(self) -> bool:
        """Whether this is the one agent that evaluates, prints and saves for all."""

    @property
    @abstractmethod
    def should_stop(self) -> bool:
        """Whether the run is over, and the script is to come to its end."""

    @abstractmethod
    def tell(self, loss: Tensor | float) -> None:
        """Tell the loss of the batch under way, for the run's screen; this is not needed."""

    @abstractmethod
    def clip_grad_norm_(self, max_norm: float) -> None:
        """Clip the gradient of every step from now on to this norm: the one that all agreed on."""

    @abstractmethod
    def _share(self, things: Things, accumulate: int) -> dict[int, Any]:
        """What stands for each thing from now on, by its id."""

    @abstractmethod
    def has_begun(self) -> bool:
        """Whether what was prepared is at work in a run of many."""

    def prepare(self, *things: Any, accumulate: int = 1) -> tuple[Any, ...]:
        """A model, optimizers, a DataLoader and perhaps a scheduler, as the agents share them.

        `accumulate` of the loader's batches make one step. Raises JobError for what cannot be
        shared among agents.
        """
        if self.things is not None:
            raise JobError("expected one me.prepare in a script, found another; leave one out")
        if not isinstance(accumulate, int) or accumulate < 1:
            raise JobError(f"expected accumulate of 1 or more batches, found {accumulate!r}")
        self.things = Things.of(things)
        self.things.model.to(self.device)
        stands_for = self._share(self.things, accumulate)
        return tuple(stands_for.get(id(thing), thing) for thing in things)

    @abstractmethod
    def say(self, text: str) -> None:
        """Print a line where the run is watched."""

    @abstractmethod
    def passes(self, num: int) -> Iterator[int]:
        """The numbers of so many passes over the loader, from the one that the others are in."""

    def print(self, *words: object) -> None:
        """Print a line on one agent alone."""
        if self.is_first:
            self.say(" ".join(map(str, words)))

    def save(self, path: str | Path, **extras: Any) -> None:
        """Write model, optimizer, scheduler and plain values to one file, on one agent alone."""
        things = self._prepared()
        if not self.is_first:
            return
        state = {"weights": things.whole.state_dict(), "optimizer": things.optimizer.state_dict()}
        if things.scheduler is not None:
            state["scheduler"] = things.scheduler.state_dict()
        beside = Path(f"{path}.part")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(pack_state(copied({**state, "extras": extras})))
        os.replace(beside, path)

    def load(self, path: str | Path) -> dict[str, Any]:
        """Go on from what `save` wrote, on every agent, before the first pass; its plain values."""
        things = self._prepared()
        if self.has_begun():
            raise CheckpointError(
                "expected me.load before the first pass over the loader, found it behind; the "
                "agents hold the same already, so load first"
            )
        try:
            state = unpack_state(Path(path).read_bytes())
            things.whole.load_state_dict(state["weights"])
            things.optimizer.load_state_dict(state["optimizer"])
            if things.scheduler is not None and "scheduler" in state:
                things.scheduler.load_state_dict(state["scheduler"])
        except (OSError, LookupError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"expected in {path} what me.save wrote of this model, found: {error}"
            ) from error
        return dict(state["extras"])

    def _prepared(self) -> Things:
        if self.things is None:
            raise JobError("expected me.prepare before me.save or me.load, found none; move it up")
        return self.things


class Alone(Me):
    """The only agent: a script that was started by Python.

    >>> import torch
    >>> me = Alone()
    >>> model, loader = nn.Linear(2, 1), DataLoader([0.5, 1.5])
    >>> sgd = torch.optim.SGD(model.parameters())
    >>> me.prepare(model, sgd, loader) == (model, sgd, loader) or torch.cuda.is_available()
    True
    """

    name = "alone"
    is_first = True
    should_stop = False
    _max_norm: float | None = None

    def tell(self, loss: Tensor | float) -> None:
        """Nobody looks."""

    def say(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)

    def passes(self, num: int) -> Iterator[int]:
        """All of them."""
        return iter(range(num))

    def clip_grad_norm_(self, max_norm: float) -> None:
        """Clip before every step from now on."""
        if self._max_norm is None:
            for optimizer in parts_of(self._prepared().optimizer):
                optimizer.register_step_pre_hook(self._clip)
        self._max_norm = max_norm

    def _clip(self, *_: object) -> None:
        assert self._max_norm is not None
        nn.utils.clip_grad_norm_(self._prepared().model.parameters(), self._max_norm)

    def _share(self, things: Things, accumulate: int) -> dict[int, Any]:
        loader: DataLoader[Any] = things.loader
        if isinstance(loader.dataset, Streamed):
            things.checked()  # shuffled, it would be read anew for every sample
        if not Moved.has_work(loader, self.device):
            return {}
        return {id(loader): Moved(loader, self.device)}

    def has_begun(self) -> bool:
        """Never: what it holds is its own."""
        return False


def join() -> Me:
    """This agent, whether it is one of several or alone.

    >>> join().is_first
    True
    """
    return seat.get(Alone)()
