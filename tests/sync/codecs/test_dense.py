"""Codecs that keep every value: laws for all of them, then what holds of 8 and 16 bits alone.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import Tensor

from coterie.errors import StrategyError, TrainingError
from coterie.sync.codecs import blocks
from coterie.sync.codecs.base import Codec, ErrorFeedback
from coterie.sync.codecs.blocks import Blockwise
from coterie.sync.codecs.dense import Bf16, Fp16, Int8, Stochastic
from coterie.sync.codecs.fourbit import E3M0, Int4
from coterie.sync.codecs.sign import Sign
from coterie.sync.pieces import Memory
from coterie.types import Ctx, Layout

CODECS: list[Codec] = [
    Fp16(),
    Bf16(),
    Int8(),
    Int8(block=4),
    Int4(),
    Int4(block=5),
    E3M0(),
    E3M0(block=5),
    Sign(),
    Sign(block=12),
    Stochastic(),
    Stochastic(8, 4),
    Stochastic(4, 6),
    Stochastic(16),
]
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 63, 64, 65, 1023, 1024, 1025]
# The most that a value may move, as a share of its block's largest; Sign is not of this kind.
STEPS = {
    Int8(block=16): 0.5 / 127,
    Stochastic(8, 16): 1 / 127,
    Int4(block=16): 0.5 / 7 * (1 + 2**-6),
    Stochastic(4, 16): 1 / 7 * (1 + 2**-6),
}

every_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)
every_drawing = pytest.mark.parametrize(
    "codec", [c for c in CODECS if isinstance(c, Stochastic)], ids=repr
)


def random(num: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num, generator=torch.Generator().manual_seed(num))


def seeded(seed: int = 0) -> Ctx:
    return Ctx(generator=torch.Generator().manual_seed(seed))


def through(codec: Codec, delta_N: Tensor, seed: int = 0) -> Tensor:
    ctx = seeded(seed)
    return codec.decode(codec.encode(delta_N, ctx), delta_N, ctx)


@every_codec
@pytest.mark.parametrize("num", SIZES)
def test_a_packet_is_flat_bytes_of_the_size_announced(codec: Codec, num: int) -> None:
    packed = codec.encode(random(num), Ctx())
    assert packed.dtype == torch.uint8
    assert packed.shape == (codec.packet_bytes(num),)
    assert codec.decode(packed, random(num), Ctx()).shape == (num,)


@pytest.mark.parametrize(
    ("codec", "num", "num_bytes"),
    [
        (Fp16(), 9, 18),
        (Bf16(), 9, 18),
        (Int8(block=4), 9, 3 * 4 + 9),
        (Int4(block=4), 9, 3 * 2 + 5),
        (E3M0(block=4), 9, 3 * 2 + 5),
        (Sign(block=4), 9, 3 * 4 + 2),
        (Stochastic(8, 4), 9, 3 * 4 + 9),
        (Stochastic(4, 4), 9, 3 * 2 + 5),
        (Stochastic(16, 4), 9, 18),
        (Int4(), 6400, 100 * 2 + 3200),
        (Sign(), 1024, 4 + 128),
    ],
)
def test_every_byte_is_accounted_for(codec: Codec, num: int, num_bytes: int) -> None:
    assert codec.packet_bytes(num) == num_bytes
    assert codec.num_bytes(Layout(("w",), ((num,),))) == num_bytes


@every_codec
def test_zeros_stay_zeros_exactly(codec: Codec) -> None:
    assert torch.equal(through(codec, torch.zeros(37)), torch.zeros(37))


@every_codec
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_decoding_gives_back_size_and_dtype(codec: Codec, dtype: torch.dtype) -> None:
    delta_N = random(37).to(dtype)
    opened_N = through(codec, delta_N)
    assert (opened_N.dtype, opened_N.shape) == (dtype, delta_N.shape)
    torch.testing.assert_close(
        opened_N.float(), through(codec, delta_N.float()), rtol=0.02, atol=1e-6
    )


@every_codec
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_packet_opens_wherever_it_lies_in_a_buffer(codec: Codec, offset: int) -> None:
    delta_N = random(29)
    packed = codec.encode(delta_N, seeded())
    buffer = torch.zeros(packed.numel() + offset, dtype=torch.uint8)
    buffer[offset:] = packed
    assert torch.equal(codec.decode(buffer[offset:], delta_N, Ctx()), through(codec, delta_N))


@every_codec
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 5, 8])
def test_a_broken_value_is_refused(codec: Codec, broken: float, where: int) -> None:
    delta_N = random(9)
    delta_N[where] = broken
    with pytest.raises(TrainingError, match="finite values"):
        codec.encode(delta_N, Ctx())


@every_codec
def test_what_float32_cannot_hold_is_refused(codec: Codec) -> None:
    with pytest.raises(TrainingError, match="beyond float32"):
        codec.encode(torch.tensor([1e300], dtype=torch.float64), Ctx())


@every_codec
def test_a_packet_of_another_size_is_refused(codec: Codec) -> None:
    with pytest.raises(TrainingError, match=f"expected a packet of {codec.packet_bytes(8)} bytes"):
        codec.decode(codec.encode(random(17), Ctx()), random(8), Ctx())


@every_codec
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_delta_is_not_written_to(codec: Codec, dtype: torch.dtype) -> None:
    delta_N = random(37, scale=1e6).to(dtype)
    before_N = delta_N.clone()
    codec.encode(delta_N, Ctx())
    assert torch.equal(delta_N, before_N)


@every_codec
def test_opening_leaves_the_packet_and_the_pattern_alone(codec: Codec) -> None:
    like_N = random(37)
    packed = codec.encode(like_N, Ctx())
    before, like_before_N = packed.clone(), like_N.clone()
    first = codec.decode(packed, like_N, Ctx())
    assert torch.equal(codec.decode(packed, like_N, Ctx()), first)
    assert torch.equal(packed, before)
    assert torch.equal(like_N, like_before_N)


@every_codec
def test_the_same_draws_give_the_same_packet(codec: Codec) -> None:
    delta_N = random(100)
    assert torch.equal(codec.encode(delta_N, seeded(3)), codec.encode(delta_N, seeded(3)))


@every_codec
@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_no_scale_overflows_and_the_bound_holds(codec: Codec, scale: float) -> None:
    for num in (1, 10, 70):
        delta_N = random(num, scale)
        opened_N = through(codec, delta_N)
        assert opened_N.isfinite().all()
        bound = codec.bound(float(delta_N.double().norm()))
        assert bound is not None
        assert float(opened_N.double().norm()) <= bound * (1 + 1e-5) + num * 1e-38


@every_codec
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_float32_does_not_overflow(codec: Codec, sign: float) -> None:
    delta_N = torch.tensor([0.0, 3.4028234e38, 1e-38]).mul(sign)
    for seed in range(20 if isinstance(codec, Stochastic) else 1):
        opened_N = through(codec, delta_N, seed)
        assert opened_N.isfinite().all()
        assert opened_N[1] * sign > 6e4


@every_codec
def test_unknown_norm_has_no_bound(codec: Codec) -> None:
    assert codec.bound(None) is None


@every_codec
def test_what_is_kept_is_a_share(codec: Codec) -> None:
    assert 0 < codec.keeps() <= 1


@every_codec
def test_parts_packed_one_by_one_open_as_the_whole_does(codec: Codec) -> None:
    delta_N, cut = random(95), 60  # a multiple of every block up to 12
    if isinstance(codec, Blockwise) and 60 % codec.block:
        delta_N, cut = random(2500), 1024
    whole, parts = seeded(), seeded()
    opened_N = codec.decode(codec.encode(delta_N, whole), delta_N, Ctx())
    halves = [
        codec.decode(codec.encode(part_N, parts), part_N, Ctx())
        for part_N in (delta_N[:cut], delta_N[cut:])
    ]
    assert codec.divisible
    assert torch.equal(torch.cat(halves), opened_N)


@every_codec
@pytest.mark.parametrize("num", [2048, 2500, 4099])
def test_packets_do_not_depend_on_the_slab(
    codec: Codec, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta_N = random(num)
    packed, opened_N = codec.encode(delta_N, seeded()), through(codec, delta_N)
    monkeypatch.setattr(blocks, "CPU_SLAB", 1)  # the least there is
    assert torch.equal(codec.encode(delta_N, seeded()), packed)
    assert torch.equal(through(codec, delta_N), opened_N)


@every_codec
def test_what_was_sent_and_what_is_owed_make_what_was_wanted(codec: Codec) -> None:
    piece, ctx = ErrorFeedback(codec), seeded()
    produced_N, sent_N = torch.zeros(30), torch.zeros(30)
    memory: Memory = piece.init(Layout(("w",), ((30,),)), produced_N)
    for seed in range(40):
        delta_N = torch.randn(30, generator=torch.Generator().manual_seed(seed))
        packed, memory = piece.update(delta_N, memory, ctx)
        produced_N += delta_N
        sent_N += codec.decode(packed, delta_N, ctx)
    residual_N = cast("tuple[Tensor, Memory]", memory)[0]
    torch.testing.assert_close(sent_N + residual_N, produced_N, rtol=1e-5, atol=1e-5)
    assert residual_N.norm() < 60  # it does not pile up


@pytest.mark.parametrize(("codec", "step"), STEPS.items(), ids=repr)
def test_a_value_moves_by_a_step_or_its_half_at_most(codec: Codec, step: float) -> None:
    for num, scale in ((160, 1.0), (37, 1e-30), (16, 1e30)):
        delta_N = random(num, scale)
        errors = (through(codec, delta_N) - delta_N).abs().split(16)
        largest = [float(block.abs().max()) for block in delta_N.split(16)]
        moved = [float(error.max()) / peak for error, peak in zip(errors, largest, strict=True)]
        assert step / 4 < max(moved) <= step * (1 + 1e-4)


@pytest.mark.parametrize("codec", [Bf16(), Stochastic(16)], ids=repr)
def test_sixteen_bits_move_a_value_by_a_share_of_itself(codec: Codec) -> None:
    delta_N = random(1000)
    moved_N = ((through(codec, delta_N) - delta_N) / delta_N).abs()
    most = 2**-8 if codec == Bf16() else 2**-7
    assert most / 2 < moved_N.max() <= most


def test_fp16_is_exact_where_sixteen_bits_suffice() -> None:
    delta_N = torch.tensor([0.0, 1.0, -0.5, 1024.0, -65504.0])
    assert torch.equal(through(Fp16(), delta_N), delta_N)


def test_fp16_saturates_instead_of_overflowing() -> None:
    assert through(Fp16(), torch.tensor([1e30, -7e4])).tolist() == [65504.0, -65504.0]


def test_bf16_rounds_as_torch_does() -> None:
    delta_N = torch.cat([random(500), random(500, 1e-30), random(500, 1e30)])
    assert torch.equal(through(Bf16(), delta_N), delta_N.bfloat16().float())


def test_int8_keeps_a_small_block_beside_a_large_one() -> None:
    delta_N = torch.cat([random(4, scale=1e-6), random(4, scale=1e6)])
    torch.testing.assert_close(through(Int8(block=4), delta_N), delta_N, rtol=0.1, atol=1e-8)


def test_int8_keeps_the_largest_value_and_zero() -> None:
    delta_N = torch.tensor([0.0, -0.7, 0.1, 3e38])
    opened_N = through(Int8(), delta_N)
    assert opened_N[0] == 0
    torch.testing.assert_close(opened_N[3], delta_N[3], rtol=2e-7, atol=0)


def test_int8_is_about_a_quarter_of_float32() -> None:
    assert Int8().packet_bytes(1_000_000) / 4_000_000 < 0.252


@every_drawing
def test_chance_is_right_on_average(codec: Stochastic) -> None:
    delta_N = torch.tensor([1.0, 0.337, -0.5301, 0.0203, -0.0011, 0.0])
    codec = Stochastic(codec.bits, 6)  # a block is one copy of the values
    opened = through(codec, delta_N.repeat(20_000)).view(-1, 6).double()
    spread_6 = opened.std(0) / math.sqrt(20_000)
    assert ((opened.mean(0) - delta_N).abs() <= 4.5 * spread_6 + 1e-6).all()
    assert opened[:, 1].std() > 0  # the draws do differ


@every_drawing
def test_members_draw_differently(codec: Stochastic) -> None:
    delta_N = random(100)
    assert not torch.equal(codec.encode(delta_N, seeded(0)), codec.encode(delta_N, seeded(1)))


@every_drawing
def test_what_needs_no_rounding_is_not_rounded(codec: Stochastic) -> None:
    delta_N = torch.tensor([127.0, -64.0, 1.0, 0.0]) if codec.bits != 4 else torch.zeros(4)
    for seed in range(20):
        assert torch.equal(through(codec, delta_N, seed), delta_N)


@pytest.mark.parametrize("block", [0, -1, 8.0, True])
@pytest.mark.parametrize("kind", [Int8, Int4, E3M0, Sign])
def test_what_is_no_block_is_refused(kind: type[Blockwise], block: object) -> None:
    with pytest.raises(StrategyError, match="at least one value"):
        kind(block)  # type: ignore[call-arg]


@pytest.mark.parametrize("bits", [0, 2, 32, 8.5, True, "8"])
def test_stochastic_refuses_other_bits(bits: object) -> None:
    with pytest.raises(StrategyError, match="4, 8 or 16 bits"):
        Stochastic(bits)  # type: ignore[arg-type]


def test_error_feedback_delivers_in_time_what_one_packet_loses() -> None:
    small_N = torch.tensor([1.0, 0.001])  # the second is under half a step of the first
    piece, ctx = ErrorFeedback(Int8()), Ctx()
    memory: Memory = piece.init(Layout(("w",), ((2,),)), small_N)
    sent_N = torch.zeros(2)
    for _ in range(100):
        packed, memory = piece.update(small_N, memory, ctx)
        sent_N += piece.codec.decode(packed, small_N, ctx)  # type: ignore[union-attr]
    assert through(Int8(), small_N)[1] == 0
    torch.testing.assert_close(sent_N / 100, small_N, rtol=0, atol=1e-4)


def test_error_feedback_announces_no_bound() -> None:
    assert ErrorFeedback(Int8()).bound(1.0) is None


def test_error_feedback_costs_and_keeps_what_its_codec_does() -> None:
    piece = ErrorFeedback(Fp16())
    assert piece.num_bytes(Layout(("w",), ((10,),))) == 20
    assert piece.keeps() == Fp16().keeps()


@pytest.mark.parametrize("codec", [ErrorFeedback(Int8()), "Int8()", None])
def test_error_feedback_refuses_what_is_no_codec(codec: object) -> None:
    with pytest.raises(StrategyError, match="a codec inside"):
        ErrorFeedback(codec)  # type: ignore[arg-type]
