"""How a law is held on the ring road: as a sum, by gathering, or in parts that members own.

Each is a talk: the same on every member, pure, and equal to the law. What a member brings carries
its weight, so that one who has nothing to say is heard by nobody, and everybody knows who was.
Legend of shape suffixes: K values of what is shared, P of one part of them, M members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from coterie.errors import TrainingError
from coterie.sync.codecs import Codec, Sketch
from coterie.sync.codecs.base import as_bytes, from_bytes
from coterie.sync.pieces import Memory
from coterie.sync.room import Agreed, Room
from coterie.sync.talk import Gather, Shuffle, Talk, Total
from coterie.types import Message

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Layout

WEIGHT_BYTES = 4  # a float32 behind each packet


class Law(Protocol):
    """What of an exchange is needed here."""

    def meet(self, messages: Sequence[Message]) -> list[Tensor]:
        """The pure law."""

    def weigh(self, weight: float) -> float:
        """A member's weight, given what it brings."""


def agreed(vector_K: Tensor, weights: Mapping[str, float], memory: Memory) -> Agreed:
    """An outcome, unless nobody brought anything that counts."""
    if not any(weights.values()):
        raise TrainingError(
            "expected a member that brings finite values, found none; lower the learning rate, "
            "or look for broken samples"
        )
    return Agreed(vector_K, weights, memory)


def summed(law: Law, mine: Message, room: Room) -> Talk[Agreed]:
    """A weighted mean as one sum; the weights of those who were heard travel behind it."""
    num, planned = len(room.members), sum(map(law.weigh, room.weights.values()))
    weight = law.weigh(mine.weight)
    size = mine.payload.numel()
    row = mine.payload.new_zeros(size + num)
    if weight > 0:
        row[:size] = mine.payload
        row[:size] *= weight / planned
        row[size + room.members.index(room.me)] = weight
    total = yield Total(row)
    weight_M = total[size:].tolist()
    heard = dict(zip(room.members, weight_M, strict=True))
    vector_K = total[:size]
    if abs(sum(weight_M) - planned) > 1e-6 * planned and any(weight_M):
        vector_K = vector_K * (planned / sum(weight_M))  # somebody who was to speak did not
    return agreed(vector_K, heard, None)


def gathered(law: Law, mine: Message, room: Room) -> Talk[Agreed]:
    """Everybody hears every packet, and combines them alike."""
    packets = yield Gather(with_weight(mine.payload, mine.weight))
    messages = []
    for member, packet in zip(room.members, packets, strict=True):
        payload, weight = without_weight(packet)
        messages.append(Message(member, _opened(payload, room.like_K, weight, room), weight))
    heard = {message.member: message.weight for message in messages}
    if not any(heard.values()):
        return agreed(room.like_K, heard, None)
    return agreed(law.meet(messages)[0], heard, None)


def in_parts(law: Law, mine: Message, memory: Memory, room: Room) -> Talk[Agreed]:
    """Member j combines part j of everybody's vector, packs it anew and hands it round.

    What the second packing loses is remembered by the owner of the part and added the next time:
    the memory is that residual of shape (K,).
    """
    parts = _cut(mine.payload, room)
    heard = yield Shuffle(tuple(with_weight(part, mine.weight) for part in parts))
    like_P = _part(room.like_K, 0, room)
    messages = []
    place = _place(room.members.index(room.me), room)
    for member, packet in zip(room.members, heard, strict=True):
        payload, weight = without_weight(packet)
        row_P = _opened(payload, like_P, weight, room)
        row_P[place.stop - place.start :] = 0  # padding
        messages.append(Message(member, row_P, weight))
    weights = {message.member: message.weight for message in messages}
    if not any(weights.values()):
        return agreed(room.like_K, weights, memory)
    packet, memory = _packed_anew(law.meet(messages)[0], memory, room)
    packets = yield Gather(packet)
    return agreed(_joined(packets, room), weights, memory)


def sketched(
    law: Law, sketch: Sketch, mine: Message, memory: Memory, layout: Layout, room: Room
) -> Talk[Agreed]:
    """First who is heard, then what they agree on as they shrink it together."""
    mark = mine.payload.new_zeros(len(room.members))
    mark[room.members.index(room.me)] = law.weigh(mine.weight)
    weight_M = (yield Total(mark)).tolist()
    heard = dict(zip(room.members, weight_M, strict=True))
    if not any(weight_M):
        return agreed(room.like_K, heard, memory)
    share = law.weigh(mine.weight) / sum(weight_M)
    vector_K = mine.payload if mine.weight > 0 else mine.payload.new_zeros(mine.payload.shape)
    vector_K, memory = yield from sketch.talk(vector_K, share, memory, layout, room.ctx)
    return agreed(vector_K, heard, memory)


def with_weight(payload: Tensor, weight: float) -> Tensor:
    """A payload with the weight behind it: four bytes behind a packet, one value behind others.

    >>> import torch
    >>> with_weight(torch.tensor([1.0, 2.0]), 3.0)
    tensor([1., 2., 3.])
    """
    dense = payload.is_floating_point()
    size = payload.numel()
    longer = payload.new_empty(size + (1 if dense else WEIGHT_BYTES))
    longer[:size] = payload
    longer[size:] = weight if dense else as_bytes(payload[:0].float().new_tensor([weight]))
    return longer


def without_weight(packet: Tensor) -> tuple[Tensor, float]:
    """A payload and the weight that was behind it.

    >>> import torch
    >>> without_weight(with_weight(torch.tensor([7], dtype=torch.uint8), 0.5))
    (tensor([7], dtype=torch.uint8), 0.5)
    """
    if packet.is_floating_point():
        return packet[:-1], float(packet[-1])
    weight = from_bytes(packet[-WEIGHT_BYTES:], packet[:0].float().dtype)
    return packet[:-WEIGHT_BYTES], float(weight)


def _opened(payload: Tensor, like: Tensor, weight: float, room: Room) -> Tensor:
    """The row in a payload; what is not counted is not looked at."""
    if not weight > 0:
        return like
    return payload if room.codec is None else room.codec.decode(payload, like, room.ctx)


def part_size(room: Room) -> int:
    """Values in each member's part, whole blocks of them; the last may be padded."""
    block = _block(room.codec)
    return -(-room.like_K.numel() // (len(room.members) * block)) * block


def grain_bytes(codec: Codec | None, value_bytes: int) -> int:
    """What a packet may be cut at multiples of; without a codec, a vector between its values.

    >>> from coterie.sync.codecs import Int8
    >>> grain_bytes(Int8(), 4), grain_bytes(None, 4)
    (1028, 4)
    """
    return codec.packet_bytes(_block(codec)) if codec else value_bytes


def _block(codec: Codec | None) -> int:
    return math.lcm(codec.block, 8) if codec else 1


def _part(vector_K: Tensor, owner: int, room: Room) -> Tensor:
    """The part that a member owns, padded with zeros to the common length."""
    size = part_size(room)
    part = vector_K[owner * size : (owner + 1) * size]
    if part.numel() == size:
        return part
    padded = part.new_zeros(size)
    padded[: part.numel()] = part
    return padded


def _cut(payload: Tensor, room: Room) -> list[Tensor]:
    """A payload as one for each member's part."""
    num = len(room.members)
    if room.codec is None:
        return [_part(payload, owner, room) for owner in range(num)]
    size, length = room.like_K.numel(), part_size(room)
    places = [slice(owner * length, (owner + 1) * length) for owner in range(num)]
    return [room.codec.part(payload, size, where) for where in places]


def _packed_anew(part_P: Tensor, memory: Memory, room: Room) -> tuple[Tensor, Memory]:
    """The packet of this member's part without its padding, and the residual of shape (K,)."""
    if room.codec is None:
        return part_P, memory
    mine = _place(room.members.index(room.me), room)
    lost_K = room.like_K.new_zeros(room.like_K.shape) if memory is None else cast("Tensor", memory)
    wanted = part_P[: mine.stop - mine.start] + lost_K[mine]
    packet = room.codec.encode(wanted, room.ctx)
    lost_K = lost_K.clone()
    lost_K[mine] = wanted - room.codec.decode(packet, wanted, room.ctx)
    padded = packet.new_zeros(room.codec.packet_bytes(part_size(room)))
    padded[: packet.numel()] = packet
    return padded, lost_K


def _joined(packets: Sequence[Tensor], room: Room) -> Tensor:
    """The parts as their owners packed them, side by side."""
    vector_K = room.like_K.new_empty(room.like_K.shape)
    for owner, packet in enumerate(packets):
        where = _place(owner, room)
        part = vector_K[where]
        if room.codec is None:
            part.copy_(packet[: part.numel()])
        else:
            num_bytes = room.codec.packet_bytes(part.numel())
            part.copy_(room.codec.decode(packet[:num_bytes], part, room.ctx))
    return vector_K


def _place(owner: int, room: Room) -> slice:
    """Where a member's part lies; parts at the end may be short or empty."""
    size, num = part_size(room), room.like_K.numel()
    return slice(min(owner * size, num), min((owner + 1) * size, num))
