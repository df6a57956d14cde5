"""What can be learned: the contract every task keeps, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from coterie.types import Batch


@runtime_checkable
class Task(Protocol):
    """What is learned; what it samples may depend on the model, which is all that RL needs.

    >>> from coterie.tasks.supervised import Supervised
    >>> pairs = [(torch.ones(2), torch.tensor(0)), (torch.zeros(2), torch.tensor(1))]
    >>> isinstance(Supervised("two", nn.Linear(2, 2), pairs, pairs), Task)
    True
    """

    @property
    def name(self) -> str:
        """What the task is called in events and scores."""

    def build(self) -> nn.Module:
        """A fresh model, on the CPU."""

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` samples drawn by `rng`, a generator of the CPU."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar to descend: a mean over the batch, so that members can be weighted."""

    def score(self, model: nn.Module) -> dict[str, float]:
        """Held-out scores by name; higher is better unless the task says otherwise."""


@runtime_checkable
class IndexedTask(Task, Protocol):
    """A task whose samples are numbered, so that each is learned once in a data epoch.

    >>> from coterie.tasks.supervised import Supervised
    >>> pairs = [(torch.ones(2), torch.tensor(0)), (torch.zeros(2), torch.tensor(1))]
    >>> isinstance(Supervised("two", nn.Linear(2, 2), pairs, pairs), IndexedTask)
    True
    """

    @property
    def num_train(self) -> int:
        """How many training samples there are."""

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, collated in that order."""


@runtime_checkable
class NamedTask(IndexedTask, Protocol):
    """A task that a job file can name, so that other processes build it anew."""

    kind: ClassVar[str]  # as the job file's `task.kind` says it

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments of that kind, as they were given; None for what was not."""


@runtime_checkable
class StagedTask(IndexedTask, Protocol):
    """A task whose batches are (inputs, targets), and whose loss is of outputs and targets.

    That is all that a pipeline asks: its first member has the inputs, its last one the targets.
    """

    @property
    def criterion(self) -> Callable[[Any, Any], Tensor]:
        """The mean loss of outputs and targets."""

    @property
    def in_stages(self) -> bool:
        """Whether stages, on one part of a batch after another, would learn just the same."""


@runtime_checkable
class SourcedTask(IndexedTask, Protocol):
    """A task of several, whose samples are numbered source after source.

    Where it is placed, members may learn the samples of some sources only.
    """

    @property
    def is_placed(self) -> bool:
        """Whether its parts have owners."""

    @property
    def numbered(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """Of each source: the tasks that learn from it, and how many samples it has."""

    def source_of(self, parameter: str) -> int | None:
        """The source whose samples alone teach a parameter or move a buffer; None if all do."""


@runtime_checkable
class HeadTask(NamedTask, Protocol):
    """A task that may share a trunk with others: its model is a head, which reads features.

    Its batches are (inputs, targets); the trunk reads the inputs alone.
    """

    @property
    def train(self) -> Any:
        """What it was given to learn from."""

    def under(self, model: Any) -> NamedTask:
        """The same samples and loss with another model, or with what makes one."""

    def judge(self, predictions: Any, targets: Any, device: torch.device) -> Tensor:
        """The mean loss of what the head made of a batch's inputs, on a device."""
