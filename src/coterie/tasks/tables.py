"""Samples with several answers each, of which some may be missing.

Legend of shape suffixes: N samples of a table, K samples of a batch that have an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coterie.errors import JobError
from coterie.tasks.samples import gather

MISSING = -100  # an answer in whole numbers that nobody gave, as torch's losses say it


@dataclass(frozen=True, eq=False)
class Table:
    """N inputs, and for each task their N answers; one is missing where it is NaN or `MISSING`.

    `inputs` is a tensor or any map-style dataset of inputs; they are read when they are needed.
    Raises JobError where a task's answers are not as many as the inputs, or all missing.

    >>> table = Table(torch.eye(3), {"digit": torch.tensor([7, MISSING, 1])})
    >>> len(table), len(table.column("digit")), table[1][1]
    (3, 2, {})
    """

    inputs: Any
    answers: Mapping[str, Tensor]
    places: Mapping[str, Tensor] = field(init=False, repr=False)  # of each task's answers

    def __post_init__(self) -> None:
        places = {}
        for name, answers_N in self.answers.items():
            if len(answers_N) != len(self.inputs):
                raise JobError(
                    f"expected an answer of {name} for each of {len(self.inputs)} inputs, found "
                    f"{len(answers_N)}; write NaN or {MISSING} where there is none"
                )
            places[name] = torch.nonzero(_given(answers_N))[:, 0]
            if not len(places[name]):
                raise JobError(
                    f"expected an answer of {name} to at least one input, found none; "
                    "leave that task out"
                )
        object.__setattr__(self, "places", places)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Tensor]]:
        given = {n: a[index] for n, a in self.answers.items() if bool(_given(a[index : index + 1]))}
        return self.inputs[index], given

    def column(self, name: str) -> Column:
        """The samples that have an answer of one task; JobError where there is no such task."""
        if name not in self.answers:
            raise JobError(
                f"expected a table with answers of {name}, found {', '.join(self.answers)}; "
                "call tasks as the table calls their answers"
            )
        return Column(self, name)

    def gather(self, indices: Sequence[int]) -> Any:
        """The inputs at some places, as one batch."""
        return gather(self.inputs, indices)

    def answered(self, name: str, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which of the samples at `indices` have an answer of a task, (K,), and those answers.

        >>> Table(torch.eye(3), {"x": torch.tensor([0.5, torch.nan, 1.0])}).answered("x", [1, 2])
        (tensor([1]), tensor([1.]))
        """
        answers = self.answers[name][torch.as_tensor(indices)]
        given_K = torch.nonzero(_given(answers))[:, 0]
        return given_K, answers[given_K]


@dataclass(frozen=True, eq=False)
class Column:
    """The samples of a table that have an answer of one task, as a dataset of its own.

    >>> Table(torch.eye(2), {"digit": torch.tensor([MISSING, 4])}).column("digit")[0]
    (tensor([0., 1.]), tensor(4))
    """

    table: Table
    name: str

    def __len__(self) -> int:
        return len(self.table.places[self.name])

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        place = int(self.table.places[self.name][index])
        return self.table.inputs[place], self.table.answers[self.name][place]


def _given(answers_N: Tensor) -> Tensor:
    """Which answers are there; one of many values is missing only if all of them are."""
    there = ~answers_N.isnan() if answers_N.is_floating_point() else answers_N != MISSING
    return there.flatten(1).any(1) if there.dim() > 1 else there
