"""What a member asks of the road in a meeting: sentences say it, whoever drives them carries it.

A *talk* is a generator of these asks. It never sends and never waits, so that the same one runs in
memory, on real roads and in virtual time. All members of a meeting ask for the same things in the
same order. Legend of shape suffixes: N values of a vector.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Total:
    """The sum of every member's vector; `among` names some of them, in the term's order."""

    vector_N: Tensor
    among: tuple[str, ...] = ()  # everybody, where nobody is named


@dataclass(frozen=True)
class Gather:
    """Every member's vector, in the order of the term's members; all of one length and dtype."""

    vector_N: Tensor
    among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shuffle:
    """Part j goes to the j-th member; answered by the parts meant for me, by member's order.

    Parts meant for one member have the same length, whoever sends them; the dtype is uint8 or
    that of the parameters.
    """

    parts: tuple[Tensor, ...]
    among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Swap:
    """Send a vector to one member and receive one of the same length from another, at once."""

    to: str
    origin: str
    vector_N: Tensor


Ask: TypeAlias = Total | Gather | Shuffle | Swap
T = TypeVar("T")
Talk = Generator[Ask, Any, T]
