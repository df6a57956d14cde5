"""One member's model, optimizer and scheduler, and the two ways in which it learns.

Legend: N trainable parameters laid end to end.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from coterie.agents.buckets import forgiving, stream
from coterie.agents.draws import Draws
from coterie.agents.stages import Stage, split
from coterie.agents.state import copied
from coterie.agents.stream import shuffled
from coterie.errors import CheckpointError, JobError, NotFinite
from coterie.tasks.base import IndexedTask, SourcedTask, StagedTask
from coterie.tasks.columns import order_of
from coterie.transport.messages import Ready
from coterie.types import Batch, Layout


def best_device() -> str:
    """Where this process computes: its GPU if it has one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Own(Protocol):
    """The user's own loop as a learner sees it: it has a model, and computes its gradients."""

    model: nn.Module
    optimizer: Optimizer
    batch: int  # samples of one step over all agents

    @property
    def is_one_pass(self) -> bool:
        """Whether a step takes one backward pass, after which its gradient may be final."""

    def descend(self, indices: Sequence[int], data_epoch: int) -> float:
        """Leave the mean gradient on these samples in the model; the loss, NaN if it is not told.

        Raises NotFinite where the loop drops the batch, and LoopEnded where it is over.
        """

    def finish(self) -> None:
        """Do to the gradient that is stepped on what the loop wants done to it."""

    def begins(self, data_epoch: int) -> bool:
        """End all earlier passes over the data; whether the loop begins this one."""


@dataclass(frozen=True)
class Setup:
    """What is learned, and by which optimizer and schedule: a recipe for a `Learner`."""

    task: IndexedTask
    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    scheduler_every: Literal["epoch", "step"] = "epoch"
    device: str = "cpu"
    seed: int = 0
    own: Own | None = None  # who computes the gradients, where that is not the task


class Learner:
    """A model that walks by its own torch optimizer."""

    def __init__(self, setup: Setup) -> None:
        torch.manual_seed(setup.seed)  # every member starts from the same weights
        self.setup = setup
        self.task = setup.task
        self.model = (setup.own.model if setup.own else setup.task.build()).to(setup.device)
        self.layout = Layout.of(self.model)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = setup.own.optimizer if setup.own else setup.optimizer(self._parameters)
        self.scheduler = setup.scheduler(self.optimizer) if setup.scheduler else None
        self.draws = Draws(setup.device)  # it goes on as a plain torch loop would
        self.num_steps = 0
        self.data_epoch = 0
        self._rooms: list[Tensor] = []
        self._kept_N: Tensor | None = None  # what a loop of its own had computed, to compare
        self.restates = False  # whether it changes gradients once they were computed
        self._stages: dict[tuple[str, ...], tuple[Stage, ...]] = {}

    @property
    def needs_closure(self) -> bool:
        """Whether the optimizer evaluates the loss more than once a step, as LBFGS does."""
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        return closure is not None and closure.default is inspect.Parameter.empty

    def ready(self) -> Ready:
        """What the coordinator has to know before it gives orders."""
        return Ready(
            names=self.layout.names,
            shapes=self.layout.shapes,
            num_train=self.task.num_train,
            needs_closure=self.needs_closure,
            rates_fall=getattr(self.optimizer, "rates_fall", False),
            shuffled=shuffled(self.setup.seed) ^ order_of(self.task),
            batch=self.setup.own.batch if self.setup.own else None,
            sources=self.task.numbered if isinstance(self.task, SourcedTask) else (),
        )

    @property
    def streams(self) -> bool:
        """Whether parts of a gradient may be final before the whole is."""
        return self.setup.own is None or self.setup.own.is_one_pass

    def begins(self, data_epoch: int) -> bool:
        """Whether the user's own loop begins this pass; a task is learned as long as is asked."""
        return self.setup.own is None or self.setup.own.begins(data_epoch)

    def step(
        self,
        indices: Sequence[int],
        pull: float = 0.0,
        anchor_N: Tensor | None = None,
        rates: Mapping[str, float] | None = None,
    ) -> float:
        """One plain step of the torch loop; the loss before it. Raises NotFinite on NaN.

        With `pull`, the gradient of pull/2·‖here − anchor‖² is added (FedProx, Li et al. 2020).
        Gradients of the parameters named in `rates` are multiplied by them.
        """
        first: list[float] = []

        def closure() -> float:
            first.append(self._descend(batch))
            self._scale(rates or {})
            self._finish()
            if anchor_N is not None:
                self._draw(pull, anchor_N)
            return first[-1]

        with self.draws:
            batch = self._batch(indices)
            self.optimizer.step(closure)
        self._stepped()
        return first[0]

    def gradient(self, indices: Sequence[int]) -> tuple[float, Tensor]:
        """The loss on some samples and its gradient as one vector; nothing is stepped."""
        return self._backward(indices), self.computed()

    def room_to_tell(self) -> Tensor:
        """Memory for a vector that others hear, in turns: what was told last stays as it is."""
        if not self._rooms:  # memory is dear to get anew for every step
            self._rooms = [torch.empty(self.layout.size, dtype=self.dtype) for _ in range(2)]
        self._rooms.reverse()
        return self._rooms[0]

    def leave_rooms(self) -> None:
        """Never use that memory again: a sum that was left may still be written into it.

        It waits for a silent peer, and goes on where it stood once that is heard again.
        """
        self._rooms = []

    def stream(
        self, indices: Sequence[int], told_N: Tensor, factor: float, emit: Callable[[Tensor], None]
    ) -> float:
        """The loss on some samples, and factor·gradient in `told_N`, handed out as it comes.

        A loop of its own may still change what was handed out, as by clipping: `told_N` is not
        finite then, and from then on `restates` is true.
        """
        own = self.setup.own is not None
        if own and self._kept_N is None:
            self._kept_N = torch.empty_like(told_N)
        loss, changed = stream(
            self._parameters,
            self.layout,
            lambda: self._backward(indices) if indices else 0.0,
            told_N,
            factor,
            forgiving(emit) if own else emit,
            self._kept_N,
        )
        self.restates = self.restates or changed
        return loss

    def computed(self) -> Tensor:
        """The gradient that was computed last, as one vector."""
        blocks = [
            torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1)
            for p in self._parameters
        ]
        return torch.cat([block.to(self.dtype) for block in blocks]).cpu()

    def _backward(self, indices: Sequence[int]) -> float:
        with self.draws:
            return self._descend(self._batch(indices))

    def _batch(self, indices: Sequence[int]) -> Batch:
        """The samples; a loop of its own fetches them itself, and is told which."""
        return Batch(indices, len(indices)) if self.setup.own else self.task.fetch(indices)

    def _descend(self, batch: Batch) -> float:
        """The loss on a batch; its gradient is left in the parameters."""
        self.optimizer.zero_grad()
        if self.setup.own is not None:
            return self.setup.own.descend(batch.data, self.data_epoch)
        loss = self.task.loss(self.model, batch)
        value = self._finite(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        return value

    def _scale(self, rates: Mapping[str, float]) -> None:
        for name, parameter in zip(self.layout.names, self._parameters, strict=True):
            if name in rates and parameter.grad is not None:
                parameter.grad.mul_(rates[name])

    def _finish(self) -> None:
        if self.setup.own is not None:
            self.setup.own.finish()

    def apply(self, gradient_N: Tensor) -> None:
        """Step the optimizer on a gradient that was agreed on."""
        for parameter, (_, where) in zip(self._parameters, self.layout.slices(), strict=True):
            agreed = gradient_N[where].view(parameter.shape)
            parameter.grad = agreed.to(parameter.device, parameter.dtype)
        self._finish()
        self.optimizer.step()
        self._stepped()

    def stages(self, cuts: tuple[str, ...]) -> tuple[Stage, ...]:
        """The model in stages that begin at these modules; they share its parameters."""
        if cuts not in self._stages:
            data = self.task.fetch([0]).data
            if not isinstance(data, tuple | list) or len(data) != 2:
                raise JobError(
                    "expected in a pipeline batches of (inputs, targets), found "
                    f"{type(data).__name__}; choose a strategy without Pipeline(...)"
                )
            self._stages[cuts] = split(self.model, cuts, data[0])
        return self._stages[cuts]

    @property
    def criterion(self) -> Callable[[Any, Any], Tensor]:
        """The loss of outputs and targets; JobError for a task whose loss is not of those alone."""
        if not isinstance(self.task, StagedTask):
            raise JobError(
                "expected in a pipeline a task whose loss is of outputs and targets alone, found "
                f"{type(self.task).__name__}; choose a strategy without Pipeline(...)"
            )
        return self.task.criterion

    def fetch(self, indices: Sequence[int]) -> Batch:
        """Training samples, with what is drawn for them drawn by this learner."""
        with self.draws:
            return self.task.fetch(indices)

    def pass_alone(self, batch: Batch, stage: Stage, last: bool) -> float | None:
        """The gradient of a stage from the whole model, where there are no others to pass to."""
        self.optimizer.zero_grad()
        with self.draws:
            loss = self.task.loss(self.model, batch)
            value = self._finite(loss)
            loss.backward()  # type: ignore[no-untyped-call]
        return value if last else None

    def step_stage(self, stage: Stage) -> None:
        """Step the optimizer on one stage's own gradients."""
        for name, parameter in self.model.named_parameters():
            if name not in stage.names:
                parameter.grad = None
        self.optimizer.step()
        self._stepped()

    @property
    def dtype(self) -> torch.dtype:
        """What travels: float32, or float64 if a parameter is."""
        wide = any(p.dtype == torch.float64 for p in self._parameters)
        return torch.float64 if wide else torch.float32

    def vector(self) -> Tensor:
        """A copy of the parameters, on the CPU."""
        with torch.no_grad():
            return torch.cat(
                [p.detach().reshape(-1).to(self.dtype) for p in self._parameters]
            ).cpu()

    def place(self, vector_N: Tensor) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for parameter, (_, where) in zip(self._parameters, self.layout.slices(), strict=True):
                parameter.copy_(vector_N[where].view(parameter.shape))

    def end_epoch(self, data_epoch: int, loss: float | None) -> None:
        """Note that a later epoch has begun, and move a per-epoch schedule on by one step each."""
        while self.data_epoch < data_epoch:
            self.data_epoch += 1
            if self.scheduler is None or self.setup.scheduler_every == "step":
                continue
            if isinstance(self.scheduler, ReduceLROnPlateau):
                if loss is not None:  # none is known before the first epoch's end
                    self.scheduler.step(loss)
            else:
                self.scheduler.step()

    def score(self) -> dict[str, float]:
        """Held-out metrics."""
        return self.task.score(self.model)

    def weights(self, vector_N: Tensor | None = None) -> dict[str, Tensor]:
        """Parameters and buffers by name: what a plain torch model loads.

        Copies; with `vector_N`, the parameters are parts of it instead.
        """
        views = self.layout.views(self.vector() if vector_N is None else vector_N)
        named = self.model.named_parameters()
        parts = {id(p): views[name].to(p.dtype) for name, p in named if p.requires_grad}
        whole = self.model.state_dict(keep_vars=True)  # where one parameter has two names, both
        return {k: parts[id(v)] if id(v) in parts else copied(v) for k, v in whole.items()}

    def private(self) -> dict[str, Any]:
        """What only this member carries: optimizer, schedule, counts, where its draws stand."""
        return {
            "draws": self.draws.state(),
            "optimizer_kind": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "num_steps": self.num_steps,
            "data_epoch": self.data_epoch,
        }

    def restore(self, weights: dict[str, Tensor], private: dict[str, Any]) -> None:
        """Take over weights and private state; CheckpointError if they are of another model."""
        self._check(weights)
        mine, theirs = type(self.optimizer).__name__, private["optimizer_kind"]
        if mine != theirs:  # torch would load it, and fail or do something else at the next step
            raise CheckpointError(
                f"expected the state of the optimizer {mine}, found that of {theirs}; "
                "resume with the optimizer that the run was started with"
            )
        self.model.load_state_dict(weights)
        try:
            self.optimizer.load_state_dict(private["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"expected the state of this {mine}, found one of other parameters ({error}); "
                "resume with the optimizer that the run was started with"
            ) from error
        if self.scheduler and private["scheduler"] is not None:
            self.scheduler.load_state_dict(private["scheduler"])
        self.num_steps, self.data_epoch = private["num_steps"], private["data_epoch"]
        self.draws.restore(private.get("draws", ()))  # older checkpoints have none

    def _check(self, weights: dict[str, Tensor]) -> None:
        """Name the first parameter or buffer in which a checkpoint differs from this model."""
        mine = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in weights.items()}
        for name in [*mine, *theirs]:
            if mine.get(name) != theirs.get(name):
                raise CheckpointError(
                    f"expected {name} of shape {mine.get(name, 'none')}, found "
                    f"{theirs.get(name, 'none')}: this is a checkpoint of another model; resume "
                    "with the model that wrote it, or start anew"
                )

    def scratch(self) -> Learner:
        """A copy to measure on, that leaves this one and the random state as they are."""
        with torch.random.fork_rng(devices=[]):
            return Learner(replace(self.setup, own=None))

    def forget(self) -> None:
        """Begin anew with the optimizer: what it remembers is of values that are not finite."""
        self.optimizer.state.clear()

    def _draw(self, pull: float, anchor_N: Tensor) -> None:
        for parameter, (_, where) in zip(self._parameters, self.layout.slices(), strict=True):
            if parameter.grad is not None:
                there = anchor_N[where].view(parameter.shape).to(parameter)
                parameter.grad.add_(parameter.detach() - there, alpha=pull)

    def _stepped(self) -> None:
        self.num_steps += 1
        if self.scheduler is not None and self.setup.scheduler_every == "step":
            self.scheduler.step()

    def _finite(self, loss: Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFinite(
                f"expected a finite loss, found {value} at step {self.num_steps + 1}; "
                "lower the learning rate, or look for broken samples"
            )
        return value
