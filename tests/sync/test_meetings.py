"""How a law is held: weights behind packets, parts and their owners.

Legend of shape suffixes: K values of what is shared.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from coterie.errors import TrainingError
from coterie.sync.codecs import Codec, Fp16, Int4, Int8, Pack, Sign
from coterie.sync.exchanges import Reduce
from coterie.sync.meetings import (
    agreed,
    grain_bytes,
    part_size,
    summed,
    with_weight,
    without_weight,
)
from coterie.sync.room import Payload, Room
from coterie.sync.talk import Total
from coterie.types import Ctx, Message

NAMES = ("m1", "m0", "m2", "m3", "m4")


def room(size: int, num: int = 3, pack: Pack | None = None, me: str = "m0") -> Room:
    members = NAMES[:num]
    return Room(me, members, dict.fromkeys(members, 2.0), torch.zeros(size), pack, Ctx())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [0.0, 0.5, 7.0, 16_777_216.0])
def test_a_weight_comes_back_and_leaves_the_payload_as_it_was(
    dtype: torch.dtype, weight: float
) -> None:
    payload = torch.arange(5).to(dtype)
    packet = with_weight(payload, weight)
    back, found = without_weight(packet)
    assert torch.equal(back, payload)
    assert found == weight
    assert packet.nbytes - payload.nbytes == (4 if dtype == torch.uint8 else payload.itemsize)


def test_a_packet_is_opened_wherever_it_lies_in_a_buffer() -> None:
    packet = with_weight(torch.tensor([1, 2, 3], dtype=torch.uint8), 0.5)
    buffer = torch.zeros(packet.numel() + 1, dtype=torch.uint8)
    buffer[1:] = packet
    assert without_weight(buffer[1:])[1] == 0.5


@pytest.mark.parametrize("size", [1, 9, 10, 13, 100])
@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("block", [1, 3, 4, 16])
def test_parts_are_whole_blocks_and_bytes_and_cover_all(size: int, num: int, block: int) -> None:
    found = part_size(room(size, num, Int8(block=block)))
    assert found % block == 0
    assert found % 8 == 0
    assert size <= found * num < size + num * math.lcm(block, 8)


def test_parts_are_cut_of_what_has_no_codec_by_value() -> None:
    assert part_size(room(10)) == 4


@pytest.mark.parametrize("codec", [Int8(block=10), Int8(), Int4(), Fp16(), Sign(), None], ids=repr)
@pytest.mark.parametrize("size", [1, 10, 1024, 3000, 20_000])
@pytest.mark.parametrize("num", [2, 3, 5])
def test_a_price_knows_the_bytes_of_parts_that_are_really_cut(
    codec: Codec | None, size: int, num: int
) -> None:
    length = part_size(room(size, num, codec))
    really = codec.packet_bytes(length) if codec else 4 * length
    num_bytes = codec.packet_bytes(size) if codec else 4 * size
    payload = Payload(num_bytes, False, True, grain_bytes(codec, 4))
    assert payload.part_bytes(num) == really
    assert payload.in_parts(num) == (2 * really < num_bytes)
    assert not Payload(num_bytes, summable=False, divisible=False).in_parts(num)


def test_nobody_heard_is_a_refusal() -> None:
    with pytest.raises(TrainingError, match="found none"):
        agreed(torch.zeros(1), {"a": 0.0, "b": 0.0}, None)


def test_a_sum_is_made_right_when_somebody_who_was_to_speak_did_not() -> None:
    there = room(2)
    talk = summed(Reduce(), Message("m0", torch.tensor([3.0, 6.0]), 2.0), there)
    ask = next(talk)
    assert isinstance(ask, Total)
    torch.testing.assert_close(ask.vector_N, torch.tensor([1.0, 2.0, 0.0, 2.0, 0.0]))
    answer = ask.vector_N + torch.tensor([1.0, 1.0, 2.0, 0.0, 0.0])  # the third is silent
    with pytest.raises(StopIteration) as end:
        talk.send(answer)
    found = end.value.value
    torch.testing.assert_close(found.vector_K, torch.tensor([3.0, 4.5]))
    assert found.weights == {"m1": 2.0, "m0": 2.0, "m2": 0.0}


def test_what_is_not_finite_is_not_added_when_it_weighs_nothing() -> None:
    talk = summed(Reduce(), Message("m0", torch.full((2,), torch.nan), 0.0), room(2))
    ask = next(talk)
    assert isinstance(ask, Total)
    assert ask.vector_N.tolist() == [0.0] * 5


def test_a_payload_is_not_written_to() -> None:
    payload: Tensor = torch.tensor([3.0, 6.0])
    next(summed(Reduce(), Message("m0", payload, 2.0), room(2)))
    assert payload.tolist() == [3.0, 6.0]
