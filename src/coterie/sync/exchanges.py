"""Who hears whom: the pure meaning of a meeting, how it is held on a road, and what it costs.

Legend of shape suffixes: N values of a vector, K of those that are shared, M members.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from coterie.errors import JobError, StrategyError, TrainingError
from coterie.sync.laws import Law, Mean
from coterie.sync.meetings import gathered, grain_bytes, in_parts, summed
from coterie.sync.pieces import Kind, Memory, Piece, is_count
from coterie.sync.room import Agreed, Payload, Room
from coterie.sync.talk import Talk

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Layout, Message
    from coterie.world import Link

Road = Literal["ring", "star"]
MEAN = Mean()
RING_SHARE = 0.9  # of a probed bandwidth that a ring reaches: 0.90 on four and on three slow hosts


class Pace(NamedTuple):
    """How fast a road is between two members."""

    latency_s: float
    bytes_per_s: float


class Exchange(Piece):
    """The one piece that knows other members exist: a law, not a courier.

    >>> isinstance(Reduce(), Exchange)
    True
    """

    kind: ClassVar[Kind] = "exchange"
    agrees: ClassVar[bool] = True  # whether all go home with the same
    asynchronous: ClassVar[bool] = False  # whether members meet a server alone, when they like
    weighted: bool | Literal["score"] = True  # by samples, not at all, or by a score
    quorum: int = 0  # how many a round waits for; everybody, if none
    divides: bool = False  # whether parts of a vector can be combined on their own
    linear: bool = True  # whether what they go home with is a weighted sum
    road: Road = "ring"

    @abc.abstractmethod
    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """The vector that each message's member goes home with, in the order of the messages.

        Payloads are opened rows of shape (N,). The result is bitwise independent of the order of
        arrival, and its entries may be one and the same tensor: read it, do not write to it.
        Raises TrainingError for no message, two of one member, or weights that cannot be.
        """

    @abc.abstractmethod
    def talk(self, mine: Message, memory: Memory, room: Room) -> Talk[Agreed]:
        """Hold the meeting of the law on a road: it equals `meet` of what all members bring.

        A member of weight zero is heard by nobody. Raises TrainingError where all that agree are
        of it.
        """

    def price(self, payload: Payload, num_members: int, links: Sequence[Link]) -> float:
        """Seconds that one meeting of `num_members` takes over `links`; alone it is free.

        Raises JobError when a member has no link.
        """
        if num_members <= 1:
            return 0.0
        return self.price_at(payload, num_members, slowest(links, num_members))

    @abc.abstractmethod
    def price_at(self, payload: Payload, num_members: int, pace: Pace) -> float:
        """Seconds that one meeting of two members or more takes at the pace of its road."""

    def passes(self, payload: Payload, num_members: int) -> tuple[float, float]:
        """How many vectors of the payload's length each member packs and opens in a meeting."""
        return (1.0, 1.0) if num_members > 1 else (0.0, 0.0)

    def bring(self, delta_K: Tensor, anchor_K: Tensor) -> Tensor:
        """What a member lays on the table, of its delta and of where it started from."""
        return delta_K

    def land(self, agreed_K: Tensor, anchor_K: Tensor) -> Tensor:
        """The delta that what a member goes home with means for its own anchor."""
        return agreed_K

    def shown(self, layout: Layout) -> Layout:
        """The layout of what is laid on the table."""
        return layout

    def waiting_for(self, num: int) -> Exchange:
        """The same with another quorum, if it has one."""
        return self

    def least(self) -> int:
        """Fewest members it makes sense with."""
        return 1

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta as it is: what happens to it among members is said by `meet`."""
        return delta_N, memory


@dataclass(frozen=True, repr=False)
class Reduce(Exchange):
    """Everybody goes home with one combination of all deltas: by default their weighted mean.

    On the ring road a dense mean is summed (Patarasuk and Yuan 2009, Bandwidth Optimal
    All-reduce); packets are gathered by all, or each member combines a part of them, packs it
    anew and hands it round, whichever moves fewer bytes. On the star road a server combines. With
    a `quorum` it waits for the first k deltas only and the others' work is done again: backup
    workers (Chen et al. 2016, Revisiting Distributed Synchronous SGD). `weighted` is by samples,
    not at all, or by "score": the likelihood exp(−loss) of what a member has just learned from.

    >>> import torch
    >>> from coterie.types import Message
    >>> rows = [Message("a", torch.tensor([3.0]), 1), Message("b", torch.tensor([0.0]), 2)]
    >>> Reduce().meet(rows)
    [tensor([1.]), tensor([1.])]
    """

    law: Law = MEAN
    weighted: bool | Literal["score"] = field(default=True, kw_only=True)
    road: Road = field(default="ring", kw_only=True)
    quorum: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.law, Law):
            raise StrategyError(
                f"expected a law of combining, found {self.law!r}; "
                "write for example Reduce(TrimmedMean(1)), or Reduce() for the mean"
            )
        if not isinstance(self.weighted, bool) and self.weighted != "score":
            raise StrategyError(
                f'expected weighted=True, False or "score", found {self}; '
                "write Reduce() to weigh by samples"
            )
        if self.road not in ("ring", "star"):
            raise StrategyError(f'expected road="ring" or road="star", found {self}; choose one')
        if not is_count(self.quorum + 1) or (self.quorum and self.road != "star"):
            raise StrategyError(
                "expected a quorum of some members, and only on the star road, where a server "
                f'waits for them, found {self}; write for example Reduce(road="star", quorum=3)'
            )

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Whether the law is a weighted sum."""
        return self.law.linear

    @property
    def divides(self) -> bool:  # type: ignore[override]
        """Whether each value depends on its own column alone."""
        return self.law.coordinatewise

    def waiting_for(self, num: int) -> Reduce:
        """The same with another quorum.

        >>> Reduce(road="star", quorum=3).waiting_for(2), Reduce().waiting_for(2)
        (Reduce(road='star', quorum=2), Reduce())
        """
        return replace(self, quorum=num) if self.quorum else self

    def least(self) -> int:
        """As many as the law needs, and at least the quorum."""
        return max(self.law.least, self.quorum)

    def bound(self, norm: float | None) -> float | None:
        """A mean is no longer than its rows; what other laws make may be."""
        return norm if self.linear else None

    def weigh(self, weight: float) -> float:
        """A member's weight, given what it brings."""
        return weight if self.weighted else float(weight > 0)

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """Nothing yet: what a second packing loses is remembered once there is one."""
        return None

    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """The combination, once for each message."""
        ordered = [m for m in by_member(messages) if m.weight != 0]  # what cannot be is refused
        weight_M = [self.weigh(message.weight) for message in ordered]
        agreed_N = self.law.combine([message.payload for message in ordered], weight_M)
        return [agreed_N] * len(messages)

    def talk(self, mine: Message, memory: Memory, room: Room) -> Talk[Agreed]:
        """One sum, one gathering, or parts combined by their owners."""
        if room.pack is None and self.linear:
            return (yield from summed(self, mine, room))
        grain = grain_bytes(room.codec, mine.payload.itemsize)
        divides = self._divides(room)
        if Payload(mine.payload.nbytes, False, divides, grain).in_parts(len(room.members)):
            return (yield from in_parts(self, mine, memory, room))
        return (yield from gathered(self, mine, room))

    def _divides(self, room: Room) -> bool:
        cut = room.pack is None or (room.codec is not None and room.codec.divisible)
        return self.divides and cut

    def price_at(self, payload: Payload, num_members: int, pace: Pace) -> float:
        """2(n−1)·L + 2(n−1)/n·S/bw by ring or in parts; gathering costs (n−1)·(L + S/bw).

        L is the largest latency, bw nine tenths of the smallest bandwidth: a ring goes at the pace
        of its slowest link. A sketch pays the latency of each of its sums. By the star road, up
        and down again, 2·(L + S/bw), of the bandwidth that was probed.

        >>> pace = Pace(latency_s=0.5, bytes_per_s=1000.0)
        >>> Reduce().price_at(Payload(900, summable=True), 2, pace)
        2.0
        >>> Reduce().price_at(Payload(90, summable=False), 2, pace)
        0.6
        """
        latency_s, hops = pace.latency_s, num_members - 1
        if self.road == "star":
            return 2 * (latency_s + payload.num_bytes / pace.bytes_per_s)
        bytes_per_s = RING_SHARE * pace.bytes_per_s
        passing_s = payload.num_bytes / bytes_per_s
        if payload.summable:
            return 2 * hops * (payload.num_sums * latency_s + passing_s / num_members)
        if payload.in_parts(num_members):
            return 2 * hops * (latency_s + payload.part_bytes(num_members) / bytes_per_s)
        return hops * (latency_s + passing_s)

    def passes(self, payload: Payload, num_members: int) -> tuple[float, float]:
        """All that is gathered is opened; of parts, everybody's of the own one, then the outcome.

        >>> packets = Payload(4_000, summable=False, divisible=True)
        >>> Reduce().passes(packets, 2), Reduce().passes(packets, 4)
        ((1.0, 2.0), (1.25, 2.25))
        """
        if num_members <= 1 or payload.summable or self.road == "star":
            return super().passes(payload, num_members)
        if payload.in_parts(num_members):
            return 1 + 1 / num_members, 2 + 1 / num_members
        return 1.0, float(num_members)


def by_member(messages: Sequence[Message]) -> list[Message]:
    """The messages in the order of their members' names: arrival must change nothing.

    >>> by_member([])
    []
    """
    count = Counter(message.member for message in messages)
    doubled = sorted(member for member, num in count.items() if num > 1)
    if doubled:
        raise TrainingError(
            f"expected one message of each member, found several of {', '.join(doubled)}; "
            "give every agent its own name"
        )
    return sorted(messages, key=lambda message: message.member)


def slowest(links: Sequence[Link], num_members: int) -> Pace:
    """The largest latency and the smallest bandwidth among links that reach all members."""
    reached = {end for link in links for end in (link.a, link.b)}
    if len(reached) < num_members:
        raise JobError(
            f"expected links that reach {num_members} members, found {len(reached)} reached "
            f"({', '.join(sorted(reached)) or 'none'}); probe the links of the others first"
        )
    for link in links:
        if not (math.isfinite(link.latency_s) and link.latency_s >= 0):
            raise JobError(
                f"expected a latency of 0 s or more between {link.a} and {link.b}, found "
                f"{link.latency_s} s; probe it again or leave one of them out"
            )
        if not link.bytes_per_s > 0:
            raise JobError(
                f"expected a bandwidth above zero between {link.a} and {link.b}, "
                f"found {link.bytes_per_s} bytes/s; probe it again or leave one of them out"
            )
    return Pace(max(link.latency_s for link in links), min(link.bytes_per_s for link in links))
