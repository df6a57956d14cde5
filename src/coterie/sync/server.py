"""The asynchronous exchange: a server holds the anchor, and nobody waits for anybody.

Legend of shape suffixes: N values of a vector, K of those that are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from coterie.errors import StrategyError, TrainingError
from coterie.sync.exchanges import Exchange, Pace, Road, by_member
from coterie.sync.pieces import Memory, is_count
from coterie.sync.room import Agreed, Payload, Room
from coterie.sync.talk import Talk

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Message


@dataclass(frozen=True, repr=False)
class Push(Exchange):
    """Each member's delta moves the server's anchor as it comes; the member goes on from there.

    Xie et al. 2019, Asynchronous Federated Optimization; Ho et al. 2013, Stale Synchronous
    Parallel: a delta whose anchor is more than `max_staleness` updates old is refused, and its
    samples are learned again. What stands after it, such as Discount and an outer optimizer, is
    the server's.

    >>> Push(max_staleness=16), Push().asynchronous
    (Push(max_staleness=16), True)
    """

    max_staleness: int = field(default=64, kw_only=True)
    road: ClassVar[Road] = "star"  # type: ignore[misc]
    asynchronous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_count(self.max_staleness):
            raise StrategyError(
                f"expected a bound of at least one update, found {self}; "
                "write for example Push(max_staleness=16)"
            )

    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """Each delta as it came: what arrives together is applied one after the other."""
        by_member(messages)
        return [message.payload for message in messages]

    def talk(self, mine: Message, memory: Memory, room: Room) -> Talk[Agreed]:
        """Members do not meet one another."""
        yield from ()  # a talk of no asks
        raise TrainingError("expected a server to push to, found a meeting; choose another road")

    def price_at(self, payload: Payload, num_members: int, pace: Pace) -> float:
        """Up and down again over the member's own road, waited for by nobody else."""
        return 2 * (pace.latency_s + payload.num_bytes / pace.bytes_per_s)
