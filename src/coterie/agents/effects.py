"""What a worker asks of the world around it. A worker yields these; a driver carries them out.

The same worker so runs on real sockets and clocks (`agents.join`) and in virtual time
(`engines.simulated`). A driver raises `Torn` into the worker where a meeting breaks off, and what a
computation refuses to go on with where it was asked for. What members ask of the road in a meeting
(`sync.talk`) are effects too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from coterie.sync.talk import Gather, Shuffle, Swap, Talk, Total
from coterie.transport.messages import Term, Wire
from coterie.types import Batch

__all__ = ["Gather", "Shuffle", "Swap", "Total"]


@dataclass(frozen=True)
class Now:
    """The time in seconds, of a clock that only goes forward."""


@dataclass(frozen=True)
class Tell:
    """Send a message to the coordinator."""

    message: Wire


@dataclass(frozen=True)
class TellMeanwhile:
    """Send what a function makes, one after the other, while the worker goes on."""

    make: Callable[[], Iterable[Wire]]


@dataclass(frozen=True)
class Hear:
    """The coordinator's next message, in order."""


@dataclass(frozen=True)
class Glance:
    """The coordinator's next message if one is here, else None."""


@dataclass(frozen=True)
class Compute:
    """Run a function that works through batches of these sizes; its value."""

    run: Callable[[], Any]
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Await:
    """Run a function that waits for the user's own loop; its value."""

    run: Callable[[], Any]


@dataclass(frozen=True)
class Stream:
    """Run a function that hands out parts of a vector as it computes them, and sum each at once.

    `run` is given a function to call with each part, which becomes the sum in place; every member
    hands out parts of the same sizes in the same order. The answer is its value, whether all
    the sums were made, and the seconds that it computed: the rest was waiting for others.
    """

    run: Callable[[Callable[[Tensor], None]], Any]
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """Build the group of a term."""

    me: str
    term: Term


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


@dataclass(frozen=True)
class Begin:
    """Hold a meeting while the worker goes on; a handle to finish it by. One at a time."""

    talk: Talk[Any]


@dataclass(frozen=True)
class Finish:
    """Wait for a meeting that was begun; what it came to."""

    handle: Any


@dataclass(frozen=True)
class Leave:
    """Break off a meeting that was begun: it belongs to a term that is over."""

    handle: Any


@dataclass(frozen=True)
class Post:
    """Send bytes to a party of the star road, on a channel."""

    to: str
    channel: str
    data: bytes


@dataclass(frozen=True)
class Fetch:
    """The next bytes on a channel of the star road, and whom they are from.

    With `wait` false, None where nothing is there, and with patience where nothing came so long.
    """

    channel: str
    wait: bool = True
    patience_s: float | None = None


@dataclass(frozen=True)
class Next:
    """What comes first: the coordinator's next message, or bytes on a channel as by `Fetch`."""

    channel: str


@dataclass(frozen=True)
class Pass:
    """One batch through a pipeline of members: the gradient stays in the stage's parameters.

    Answered by the mean loss, on the last member, and the seconds that this member computed;
    `alone` does its part of it without the others, where there are none.
    """

    team: tuple[str, ...]
    stage: nn.Module
    batch: Batch
    loss: Callable[[Any, Any], Tensor]
    micro_batches: int
    alone: Callable[[], float | None]


Effect = (
    Now
    | Tell
    | TellMeanwhile
    | Hear
    | Glance
    | Compute
    | Await
    | Stream
    | Form
    | Give
    | Take
    | Begin
    | Finish
    | Leave
    | Post
    | Fetch
    | Next
    | Pass
    | Total
    | Gather
    | Shuffle
    | Swap
)
T = TypeVar("T")
Life = Generator[Effect, Any, T]
