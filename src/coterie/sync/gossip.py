"""Meetings after which members differ: each hears a few others, and all drift towards one another.

Legend of shape suffixes: N values of a vector, K of those that are shared.
"""

from __future__ import annotations

import abc
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie import combine
from coterie.errors import StrategyError
from coterie.sync.exchanges import Exchange, Pace, by_member
from coterie.sync.meetings import with_weight, without_weight
from coterie.sync.pieces import Memory, is_number
from coterie.sync.room import Agreed, Payload, Room
from coterie.sync.talk import Swap, Talk
from coterie.types import Layout, Message

if TYPE_CHECKING:
    from torch import Tensor

GRAPHS = ("exponential", "ring", "complete")


class Neighbourly(Exchange):
    """An exchange in which a member hears some others only, and goes home with its own mixture.

    >>> Neighbourly.agrees
    False
    """

    agrees: ClassVar[bool] = False

    @abc.abstractmethod
    def shifts(self, num_members: int, number: int) -> tuple[int, ...]:
        """How far along the circle of members those are whom each hears in a round, in order.

        Where everybody hears from i − s, everybody is heard by i + s: the mixing is doubly
        stochastic, so the mean over members stays where it is.
        """

    def seats(self, members: Sequence[str], number: int) -> list[str]:
        """The circle of members in a round."""
        return sorted(members)

    @abc.abstractmethod
    def mixture(self, mine_K: Tensor, heard: Sequence[Tensor]) -> Tensor:
        """What a member goes home with, of what it brought and what it heard."""

    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """Each member's own mixture; the round is that of `number` 1."""
        return self.meet_in(messages, 1)

    def meet_in(self, messages: Sequence[Message], number: int) -> list[Tensor]:
        """Each member's own mixture in a round."""
        rows = {message.member: message.payload for message in by_member(messages)}
        circle = self.seats(list(rows), number)
        mixed = {}
        for seat, member in enumerate(circle):
            heard = [rows[circle[seat - s]] for s in self.shifts(len(circle), number)]
            mixed[member] = self.mixture(rows[member], heard)
        return [mixed[message.member] for message in messages]

    def talk(self, mine: Message, memory: Memory, room: Room) -> Talk[Agreed]:
        """One swap for each member that is heard; who brings nothing finite is not listened to."""
        circle = self.seats(room.members, room.ctx.round)
        seat, heard = circle.index(room.me), []
        weights = {room.me: mine.weight}
        for shift in self.shifts(len(circle), room.ctx.round):
            to, origin = circle[(seat + shift) % len(circle)], circle[seat - shift]
            packet = yield Swap(to, origin, with_weight(mine.payload, mine.weight))
            payload, weights[origin] = without_weight(packet)
            heard.append(payload if weights[origin] > 0 else mine.payload)
        # All count as having met: a round is one, though nobody heard everybody.
        counted = {member: weights.get(member, room.weights.get(member, 0.0)) for member in circle}
        return Agreed(self.mixture(mine.payload, heard), counted, memory)

    def price_at(self, payload: Payload, num_members: int, pace: Pace) -> float:
        """Latency and passing of one swap for each member that is heard."""
        swap_s = pace.latency_s + payload.num_bytes / pace.bytes_per_s
        return len(self.shifts(num_members, 1)) * swap_s


@dataclass(frozen=True, repr=False)
class Gossip(Neighbourly):
    """Members average where they stand with a few others: decentralised SGD.

    Lian et al. 2017 for the ring (both neighbours); Ying et al. 2021 for the exponential graph
    (one peer a round, at distance 1, 2, 4, ...); on the complete graph it is an all-reduce.

    >>> import torch
    >>> rows = [Message(name, torch.tensor([float(i)]), 1) for i, name in enumerate("abcd")]
    >>> [float(row) for row in Gossip("exponential").meet(rows)]
    [1.5, 0.5, 1.5, 2.5]
    """

    graph: str = "exponential"

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise StrategyError(
                f"expected a graph of {', '.join(GRAPHS)}, found {self}; "
                'write for example Gossip("ring")'
            )

    def shifts(self, num_members: int, number: int) -> tuple[int, ...]:
        """Both neighbours, one peer at a power of two, or everybody."""
        others = num_members - 1
        if self.graph == "complete":
            return tuple(range(1, num_members))
        if self.graph == "ring":
            return tuple(dict.fromkeys((1, others))) if others else ()
        powers = [1 << k for k in range(max(1, others.bit_length())) if 1 << k <= others]
        return (powers[(number - 1) % len(powers)],) if powers else ()

    def mixture(self, mine_K: Tensor, heard: Sequence[Tensor]) -> Tensor:
        """The plain mean of where all stand."""
        return combine.mean([mine_K, *heard], [1.0] * (1 + len(heard)))

    def bring(self, delta_K: Tensor, anchor_K: Tensor) -> Tensor:
        """Where the member stands: anchors differ, so that deltas could not be averaged."""
        return anchor_K - delta_K

    def land(self, agreed_K: Tensor, anchor_K: Tensor) -> Tensor:
        """The way from the member's own anchor to the mixture."""
        return anchor_K - agreed_K


@dataclass(frozen=True, repr=False)
class Pairs(Neighbourly):
    """Each round every member hears one other, drawn at random, and is heard by one.

    After Kolehmainen et al. 2025, NoLoCo: no all-reduce; the mean delta of the two moves the
    member's anchor, which is also pulled towards their mean anchor by `pull` of the way. An outer
    Nesterov follows.

    >>> Pairs(0.5).seats(["a", "b", "c", "d"], 1) == Pairs(0.5).seats(["d", "c", "b", "a"], 1)
    True
    """

    pull: float = 0.5

    def __post_init__(self) -> None:
        if not (is_number(self.pull) and 0 < self.pull <= 1):
            raise StrategyError(
                f"expected a pull above 0 and up to 1, found {self}; write for example Pairs(0.5)"
            )

    def seats(self, members: Sequence[str], number: int) -> list[str]:
        """The members in an order drawn from the round, the same for all."""
        circle = sorted(members)
        random.Random(number).shuffle(circle)
        return circle

    def shifts(self, num_members: int, number: int) -> tuple[int, ...]:
        """One other."""
        return (1,) if num_members > 1 else ()

    def bring(self, delta_K: Tensor, anchor_K: Tensor) -> Tensor:
        """The delta, and behind it the anchor."""
        both = delta_K.new_empty(2 * delta_K.numel())
        both[: delta_K.numel()], both[delta_K.numel() :] = delta_K, anchor_K
        return both

    def shown(self, layout: Layout) -> Layout:
        """Twice as many values."""
        return Layout((*layout.names, *(f"anchor.{n}" for n in layout.names)), 2 * layout.shapes)

    def mixture(self, mine_K: Tensor, heard: Sequence[Tensor]) -> Tensor:
        """The pair's mean delta, and `pull` of the way from the pair's mean anchor to the own."""
        mean_K = combine.mean([mine_K, *heard], [1.0] * (1 + len(heard)))
        half = mine_K.numel() // 2
        return mean_K[:half] + self.pull * (mine_K[half:] - mean_K[half:])
