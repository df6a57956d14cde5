"""Who hears whom: the pure meaning of a meeting, and what it costs.

Legend of shape suffixes: N values of the delta, M members.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie import combine
from coterie.errors import JobError, StrategyError, TrainingError
from coterie.sync.pieces import Kind, Memory, Piece

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Message
    from coterie.world import Link


@dataclass(frozen=True)
class Payload:
    """What each member brings to a meeting: its bytes, and whether they can be added on the way.

    >>> Payload(num_bytes=4_000_000, summable=True).num_bytes
    4000000
    """

    num_bytes: int
    summable: bool  # a dense vector is, a packet is not


class Exchange(Piece):
    """The one piece that knows other members exist: a law, not a courier.

    >>> isinstance(Reduce(), Exchange)
    True
    """

    kind: ClassVar[Kind] = "exchange"

    @abc.abstractmethod
    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """The vector that each message's member goes home with, in the order of the messages.

        Payloads are opened rows of shape (N,). The result is bitwise independent of the order of
        arrival, and its entries may be one and the same tensor: read it, do not write to it.
        Raises TrainingError for no message, two of one member, or weights that cannot be.
        """

    @abc.abstractmethod
    def price(self, payload: Payload, num_members: int, links: Sequence[Link]) -> float:
        """Seconds that one meeting of `num_members` takes over `links`; alone it is free.

        Raises JobError when a member has no link.
        """

    @abc.abstractmethod
    def factor(self, weight: float, weight_M: Sequence[float]) -> float | None:
        """What a member of this weight multiplies its row by, so that the sum of all is the law.

        None where the law is no sum; the road then carries every row to every member.
        """

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta as it is: what happens to it among members is said by `meet`."""
        return delta_N, memory


@dataclass(frozen=True, repr=False)
class Reduce(Exchange):
    """Everybody goes home with the mean of all deltas, weighted by the samples behind each.

    Patarasuk and Yuan 2009, Bandwidth Optimal All-reduce, for the road of dense vectors; packets
    cannot be added, so everybody gathers all of them.

    >>> import torch
    >>> from coterie.types import Message
    >>> rows = [Message("a", torch.tensor([3.0]), 1), Message("b", torch.tensor([0.0]), 2)]
    >>> Reduce().meet(rows)
    [tensor([1.]), tensor([1.])]
    """

    weighted: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.weighted, bool):
            raise StrategyError(
                f"expected weighted=True or weighted=False, found {self}; "
                "write Reduce() to weigh by samples"
            )

    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """The mean, once for each message."""
        ordered = _by_member(messages)
        weight_M = [message.weight if self.weighted else 1.0 for message in ordered]
        agreed_N = combine.mean([message.payload for message in ordered], weight_M)
        return [agreed_N] * len(messages)

    def price(self, payload: Payload, num_members: int, links: Sequence[Link]) -> float:
        """Ring all-reduce of a dense vector, 2(n−1)·L + 2(n−1)/n·S/bw; gather of packets.

        L is the largest latency, bw the smallest bandwidth: a ring goes at the pace of its
        slowest link. Gathering costs (n−1)·(L + S/bw).

        >>> from coterie.world import Link
        >>> link = Link("a", "b", latency_s=0.5, bytes_per_s=100.0)
        >>> Reduce().price(Payload(400, summable=True), 2, [link])
        5.0
        >>> Reduce().price(Payload(100, summable=False), 2, [link])
        1.5
        """
        if num_members <= 1:
            return 0.0
        latency_s, bytes_per_s = _slowest(links, num_members)
        hops = num_members - 1
        passing_s = payload.num_bytes / bytes_per_s
        if payload.summable:
            return 2 * hops * latency_s + 2 * hops / num_members * passing_s
        return hops * (latency_s + passing_s)

    def factor(self, weight: float, weight_M: Sequence[float]) -> float:
        """The member's part of all samples, or of all members that bring any.

        >>> Reduce().factor(1.0, [1.0, 3.0]), Reduce(weighted=False).factor(1.0, [1.0, 3.0])
        (0.25, 0.5)
        """
        if self.weighted:
            return weight / sum(weight_M)
        return (weight > 0) / sum(w > 0 for w in weight_M)


def _by_member(messages: Sequence[Message]) -> list[Message]:
    """The messages in the order of their members' names: arrival must change nothing."""
    count = Counter(message.member for message in messages)
    doubled = sorted(member for member, num in count.items() if num > 1)
    if doubled:
        raise TrainingError(
            f"expected one message of each member, found several of {', '.join(doubled)}; "
            "give every agent its own name"
        )
    return sorted(messages, key=lambda message: message.member)


def _slowest(links: Sequence[Link], num_members: int) -> tuple[float, float]:
    """The largest latency and the smallest bandwidth among links that reach all members."""
    reached = {end for link in links for end in (link.a, link.b)}
    if len(reached) < num_members:
        raise JobError(
            f"expected links that reach {num_members} members, found {len(reached)} reached "
            f"({', '.join(sorted(reached)) or 'none'}); probe the links of the others first"
        )
    for link in links:
        if not link.bytes_per_s > 0:
            raise JobError(
                f"expected a bandwidth above zero between {link.a} and {link.b}, "
                f"found {link.bytes_per_s} bytes/s; probe it again or leave one of them out"
            )
    return max(link.latency_s for link in links), min(link.bytes_per_s for link in links)
