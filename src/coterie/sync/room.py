"""What a meeting is about: who is in the room, what each brings, and what is agreed.

Legend of shape suffixes: K values of what is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coterie.sync.codecs.base import Codec, ErrorFeedback, Pack
from coterie.sync.pieces import Memory

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx


@dataclass(frozen=True)
class Payload:
    """What each member brings to a meeting, as its price depends on it.

    >>> packet = Payload(num_bytes=4_000, summable=False, divisible=True, grain_bytes=1_000)
    >>> packet.part_bytes(3), packet.in_parts(3), packet.in_parts(2)
    (2000, False, False)
    """

    num_bytes: int
    summable: bool  # a dense vector is, a packet is not
    divisible: bool = False  # whether parts of it can be packed on their own
    grain_bytes: int = 1  # and where they may be cut: at multiples of so many
    num_sums: int = 1  # by which a summable one is agreed on, one after the other

    def part_bytes(self, num_members: int) -> int:
        """Of the part that each member owns where it is held in parts: whole grains."""
        return -(-self.num_bytes // (num_members * self.grain_bytes)) * self.grain_bytes

    def in_parts(self, num_members: int) -> bool:
        """Whether to send and to hear a part of each is less than to hear all of everybody."""
        return self.divisible and 2 * self.part_bytes(num_members) < self.num_bytes


@dataclass(frozen=True)
class Room:
    """Who meets, and what stands on the table: the same on all members but for `me` and `ctx`."""

    me: str
    members: tuple[str, ...]  # of the term, in the order of the road
    weights: Mapping[str, float]  # the samples that members were to bring
    like_K: Tensor  # size, dtype and device of what is shared
    pack: Pack | None
    ctx: Ctx

    @property
    def planned(self) -> float:
        """Samples of all members."""
        return sum(self.weights.values())

    @property
    def codec(self) -> Codec | None:
        """What packs a vector, with or without error feedback."""
        pack = self.pack.codec if isinstance(self.pack, ErrorFeedback) else self.pack
        return pack if isinstance(pack, Codec) else None


@dataclass(frozen=True)
class Agreed:
    """What a member goes home with, who brought something that counted, and the memory after it."""

    vector_K: Tensor
    weights: Mapping[str, float]
    memory: Memory = None
    beside_P: Tensor | None = None  # what members told of what they do not share
