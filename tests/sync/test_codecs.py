"""Packing a delta into fewer bytes.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from coterie.errors import StrategyError, TrainingError
from coterie.sync.codecs import Codec, ErrorFeedback, Fp16, Int8
from coterie.sync.pieces import Memory
from coterie.types import Ctx, Layout

CODECS: list[Codec] = [Fp16(), Int8(), Int8(block=4)]


def random(num: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num, generator=torch.Generator().manual_seed(num))


def through(codec: Codec, delta_N: Tensor) -> Tensor:
    return codec.decode(codec.encode(delta_N), delta_N)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("num", [1, 3, 4, 5, 1023, 1024, 1025])
def test_a_packet_is_flat_bytes_of_the_size_announced(codec: Codec, num: int) -> None:
    packed = codec.encode(random(num))
    assert packed.dtype == torch.uint8
    assert packed.shape == (codec.num_bytes(num),)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_decoding_gives_back_size_and_dtype(codec: Codec, dtype: torch.dtype) -> None:
    delta_N = random(37).to(dtype)
    opened_N = through(codec, delta_N)
    assert (opened_N.dtype, opened_N.shape) == (dtype, delta_N.shape)
    torch.testing.assert_close(opened_N, delta_N, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_packet_opens_wherever_it_lies_in_a_buffer(codec: Codec) -> None:
    delta_N = random(9)
    packed = codec.encode(delta_N)
    buffer = torch.zeros(packed.numel() + 1, dtype=torch.uint8)
    buffer[1:] = packed
    assert torch.equal(codec.decode(buffer[1:], delta_N), through(codec, delta_N))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_value_is_refused(codec: Codec, broken: float) -> None:
    delta_N = random(9)
    delta_N[5] = broken
    with pytest.raises(TrainingError, match="finite values"):
        codec.encode(delta_N)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_packet_of_another_size_is_refused(codec: Codec) -> None:
    with pytest.raises(TrainingError, match=f"expected a packet of {codec.num_bytes(8)} bytes"):
        codec.decode(codec.encode(random(9)), random(8))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_the_delta_is_not_written_to(codec: Codec) -> None:
    delta_N = random(8, scale=1e6)
    before_N = delta_N.clone()
    codec.encode(delta_N)
    assert torch.equal(delta_N, before_N)


def test_fp16_is_exact_where_sixteen_bits_suffice() -> None:
    delta_N = torch.tensor([0.0, 1.0, -0.5, 1024.0, -65504.0])
    assert torch.equal(through(Fp16(), delta_N), delta_N)


def test_fp16_saturates_instead_of_overflowing() -> None:
    assert through(Fp16(), torch.tensor([1e30, -7e4])).tolist() == [65504.0, -65504.0]


def test_int8_moves_a_value_by_half_a_step_at_most() -> None:
    delta_N = random(64)
    error_N = (through(Int8(block=64), delta_N) - delta_N).abs()
    half_step = delta_N.abs().max() / 254
    assert half_step / 4 < error_N.max() <= half_step * (1 + 1e-5)


def test_int8_keeps_a_small_block_beside_a_large_one() -> None:
    delta_N = torch.cat([random(4, scale=1e-6), random(4, scale=1e6)])
    torch.testing.assert_close(through(Int8(block=4), delta_N), delta_N, rtol=0.1, atol=1e-8)


def test_int8_keeps_the_largest_value_and_zero_exactly() -> None:
    delta_N = torch.tensor([0.0, -0.7, 0.1, 3e38])
    opened_N = through(Int8(), delta_N)
    assert (opened_N[0], opened_N[3]) == (delta_N[0], delta_N[3])


def test_int8_is_about_a_quarter_of_float32() -> None:
    assert Int8().num_bytes(1_000_000) / 4_000_000 < 0.252


def test_int8_refuses_what_float32_cannot_hold() -> None:
    with pytest.raises(TrainingError, match="beyond float32"):
        Int8().encode(torch.tensor([1e300], dtype=torch.float64))


@pytest.mark.parametrize("block", [0, -1, 8.0, True])
def test_int8_refuses_what_is_no_block(block: object) -> None:
    with pytest.raises(StrategyError, match="at least one value"):
        Int8(block)  # type: ignore[arg-type]


def test_error_feedback_delivers_in_time_what_one_packet_loses() -> None:
    small_N = torch.tensor([1.0, 0.001])  # the second is under half a step of the first
    piece, ctx = ErrorFeedback(Int8()), Ctx()
    memory: Memory = piece.init(Layout(("w",), ((2,),)), small_N)
    sent_N = torch.zeros(2)
    for _ in range(100):
        packed, memory = piece.update(small_N, memory, ctx)
        sent_N += piece.decode(packed, small_N)
    assert through(Int8(), small_N)[1] == 0
    torch.testing.assert_close(sent_N / 100, small_N, rtol=0, atol=1e-4)


def test_error_feedback_announces_no_bound() -> None:
    assert ErrorFeedback(Int8()).bound(1.0) is None


def test_error_feedback_costs_and_keeps_what_its_codec_does() -> None:
    piece = ErrorFeedback(Fp16())
    assert (piece.num_bytes(10), piece.keeps()) == (20, Fp16().keeps())


@pytest.mark.parametrize("codec", [ErrorFeedback(Int8()), "Int8()", None])
def test_error_feedback_refuses_what_is_no_codec(codec: object) -> None:
    with pytest.raises(StrategyError, match="a codec inside"):
        ErrorFeedback(codec)  # type: ignore[arg-type]
