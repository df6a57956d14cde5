"""What a worker asks of the world around it. A worker yields these; a driver carries them out.

The same worker so runs on real sockets and clocks (`agents.join`) and in virtual time
(`engines.simulated`). A driver raises `Torn` into the worker where a meeting breaks off, and what a
computation refuses to go on with where it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from coterie.transport.messages import Term, Wire


@dataclass(frozen=True)
class Now:
    """The time in seconds, of a clock that only goes forward."""


@dataclass(frozen=True)
class Tell:
    """Send a message to the coordinator."""

    message: Wire


@dataclass(frozen=True)
class Hear:
    """The coordinator's next message, in order."""


@dataclass(frozen=True)
class Compute:
    """Run a function that works through batches of these sizes; its value."""

    run: Callable[[], Any]
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """Build the group of a term."""

    me: str
    term: Term


@dataclass(frozen=True)
class Total:
    """The sum of every member's vector."""

    vector_N: Tensor


@dataclass(frozen=True)
class Gather:
    """Every member's vector, in the order of the term's members."""

    vector_N: Tensor


@dataclass(frozen=True)
class Give:
    """Send a vector to one member."""

    peer: str
    vector_N: Tensor


@dataclass(frozen=True)
class Take:
    """Receive a vector of known length from one member."""

    peer: str
    into_N: Tensor


Effect = Now | Tell | Hear | Compute | Form | Total | Gather | Give | Take
T = TypeVar("T")
Life = Generator[Effect, Any, T]
