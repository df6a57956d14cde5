"""What can be learned: the contract every task keeps, whoever wrote it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from coterie.errors import JobError
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


def fresh(whose: str, model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """A module made anew, or a deep copy of the one given; JobError for what is none.

    >>> fresh("the model of eye", lambda: 3)
    Traceback (most recent call last):
    coterie.errors.JobError: expected the model of eye to be a torch.nn.Module, found int; ...
    """
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    made: object = model()
    if isinstance(made, nn.Module):
        return made
    raise JobError(
        f"expected {whose} to be a torch.nn.Module, found {type(made).__name__}; "
        "return one from its factory"
    )
