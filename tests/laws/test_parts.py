"""A packet cut into parts opens to the very values of the whole."""

from __future__ import annotations

import math

import pytest
import torch

from coterie.sync.codecs import E3M0, Bf16, Codec, Fp16, Int4, Int8, Sign, Stochastic
from coterie.types import Ctx

CODECS: list[Codec] = [
    Fp16(),
    Bf16(),
    Int8(),
    Int8(16),
    Int4(),
    Int4(12),
    E3M0(),
    E3M0(24),
    Sign(),
    Sign(40),
    Stochastic(8, 32),
    Stochastic(4, 64),
    Stochastic(16),
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("size", [1, 7, 100, 4096, 5000])
@pytest.mark.parametrize("num", [2, 3, 5])
def test_parts_open_to_the_values_of_the_whole(codec: Codec, size: int, num: int) -> None:
    chance = torch.Generator().manual_seed(size)
    delta_N = torch.randn(size, generator=chance)
    packed, ctx = codec.encode(delta_N, Ctx(generator=chance)), Ctx()
    whole_N = codec.decode(packed, delta_N, ctx)
    grain = math.lcm(codec.block, 8)
    length = -(-size // (num * grain)) * grain
    for owner in range(num):
        where = slice(owner * length, (owner + 1) * length)
        part = codec.part(packed, size, where)
        assert part.numel() == codec.packet_bytes(length)
        opened_N = codec.decode(part, torch.zeros(length), ctx)
        assert torch.equal(opened_N[: max(0, size - where.start)], whole_N[where])


def test_every_codec_that_divides_is_under_this_law() -> None:
    import coterie.sync.codecs as room

    kinds = {each for each in vars(room).values() if isinstance(each, type)}
    divisible = {k for k in kinds if issubclass(k, Codec) and k is not Codec and k.divisible}
    assert divisible == set(map(type, CODECS))
