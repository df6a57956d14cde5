"""The words for how many deltas become one: `Reduce(Median())`, `Reduce(TrimmedMean(2))`, …

The arithmetic is in `coterie.combine`; a word says which, with what, and what may be built on it.
Robust laws hold against members that are wrong in what they bring, not in how much they say it
weighs: where they could lie about samples, write `Reduce(..., weighted=False)`.
Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie import combine
from coterie.errors import StrategyError
from coterie.sync.pieces import as_written, is_count, is_number

if TYPE_CHECKING:
    from torch import Tensor

OUTVOTED = 3  # members at least, so that two can outvote one


@dataclass(frozen=True, repr=False)
class Law(abc.ABC):
    """How rows become one: a word in the mouth of an exchange.

    A leaf is a frozen dataclass, so that it compares, travels and prints as it is written.

    >>> TrimmedMean(2), TrimmedMean(2) == TrimmedMean(2)
    (TrimmedMean(2), True)
    """

    coordinatewise: ClassVar[bool]  # whether each value depends on its own column alone
    linear: ClassVar[bool] = False  # whether it is a weighted sum, with weights known beforehand

    @property
    @abc.abstractmethod
    def least(self) -> int:
        """Fewest members that it makes sense with."""

    @abc.abstractmethod
    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """One new row of shape (N,) from M rows, sorted and finite; weight zero is not read.

        Raises TrainingError when too few rows are left for it.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(as_written(self))})"


@dataclass(frozen=True, repr=False)
class Mean(Law):
    """The weighted mean: the best that can be done when everybody is right.

    >>> import torch
    >>> Mean().combine([torch.tensor([1.0]), torch.tensor([4.0])], [2, 1])
    tensor([2.])
    """

    coordinatewise: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    @property
    def least(self) -> int:
        """One: alone it is the row itself."""
        return 1

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.mean`."""
        return combine.mean(rows, weight_M)


@dataclass(frozen=True, repr=False)
class Median(Law):
    """The weighted median of each value (Yin et al. 2018): holds while the wrong are a minority.

    >>> import torch
    >>> Median().combine([torch.tensor([v]) for v in (1.0, 2.0, 9e9)], [1, 1, 1])
    tensor([2.])
    """

    coordinatewise: ClassVar[bool] = True

    @property
    def least(self) -> int:
        """Three: of two members, neither can be outvoted."""
        return OUTVOTED

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.median`."""
        return combine.median(rows, weight_M)


@dataclass(frozen=True, repr=False)
class TrimmedMean(Law):
    """The weighted mean without the `trim` smallest and largest of each value (Yin et al. 2018).

    >>> TrimmedMean(2).least
    5
    """

    trim: int = 1
    coordinatewise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not _is_whole(self.trim):
            raise StrategyError(
                f"expected how many values to drop on each side, found {self}; "
                "write for example TrimmedMean(1)"
            )

    @property
    def least(self) -> int:
        """2·trim + 1, so that one value is left."""
        return 2 * self.trim + 1

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.trimmed_mean`."""
        return combine.trimmed_mean(rows, weight_M, self.trim)


@dataclass(frozen=True, repr=False)
class Krum(Law):
    """The one row among the others, when up to `faulty` are anything (Blanchard et al. 2017).

    >>> Krum(), Krum(2).least
    (Krum(), 7)
    """

    faulty: int = 1
    coordinatewise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_faulty(self, self.faulty)

    @property
    def least(self) -> int:
        """2·faulty + 3, below which the paper promises nothing."""
        return 2 * self.faulty + 3

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.krum`."""
        return combine.krum(rows, weight_M, self.faulty)


@dataclass(frozen=True, repr=False)
class MultiKrum(Law):
    """The mean of the `keep` rows that Krum likes best, n − faulty by default (Blanchard 2017).

    >>> MultiKrum(2, keep=3), MultiKrum(2).least, MultiKrum(1, keep=9).least
    (MultiKrum(2, 3), 7, 9)
    """

    faulty: int = 1
    keep: int | None = None
    coordinatewise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_faulty(self, self.faulty)
        if self.keep is not None and not is_count(self.keep):
            raise StrategyError(
                f"expected how many rows to keep, at least one, found {self}; "
                "write for example MultiKrum(1, keep=3), or MultiKrum(1) for all but one"
            )

    @property
    def least(self) -> int:
        """2·faulty + 3, and those that are kept."""
        return max(2 * self.faulty + 3, self.keep or 1)

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.multi_krum`."""
        return combine.multi_krum(rows, weight_M, self.faulty, self.keep)


@dataclass(frozen=True, repr=False)
class CentredClip(Law):
    """A centre that no row can pull from further than `radius` away (Karimireddy et al. 2021).

    Without a radius, the median distance. The centre is not carried between rounds as in the
    paper: each meeting starts at the median of each value, so that a law stays without memory.

    >>> CentredClip(), CentredClip(2.0, num_steps=1)
    (CentredClip(), CentredClip(2.0, 1))
    """

    radius: float | None = None
    num_steps: int = 3
    coordinatewise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.radius is not None and not (is_number(self.radius) and self.radius > 0):
            raise StrategyError(
                f"expected a finite radius above zero, found {self}; "
                "write for example CentredClip(1.0), or CentredClip() for the median distance"
            )
        if not is_count(self.num_steps):
            raise StrategyError(
                f"expected a whole number of steps, at least one, found {self}; "
                "write for example CentredClip(num_steps=3)"
            )

    @property
    def least(self) -> int:
        """Three: of two members, neither can be outvoted."""
        return OUTVOTED

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.centred_clip`."""
        return combine.centred_clip(rows, weight_M, self.radius, self.num_steps)


@dataclass(frozen=True, repr=False)
class Kin(Law):
    """The mean with weights times how far each delta agrees with those of the others.

    Whoever learns something else is heard less; it listens to likeness and is not a defence.

    >>> Kin(), Kin().linear
    (Kin(), False)
    """

    coordinatewise: ClassVar[bool] = False

    @property
    def least(self) -> int:
        """Three: two agree with each other equally, which is the plain mean."""
        return 3

    def combine(self, rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
        """See `coterie.combine.kin`."""
        return combine.kin(rows, weight_M)


def _is_whole(value: object) -> bool:
    return is_count(value) or (value == 0 and type(value) is int)


def _check_faulty(law: Law, faulty: object) -> None:
    if not _is_whole(faulty):
        name = type(law).__name__
        raise StrategyError(
            f"expected how many members may be wrong, at least zero, found {law}; "
            f"write for example {name}(1)"
        )
