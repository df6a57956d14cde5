"""Sending few of the values.

Legend of shape suffixes: N values of the delta, K of them that travel.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coterie.errors import StrategyError, TrainingError
from coterie.sync.codecs import sparse
from coterie.sync.codecs.base import Codec, ErrorFeedback
from coterie.sync.codecs.sparse import ChunkTopK, RandomK, TopK
from coterie.sync.pieces import Memory
from coterie.sync.talk import Total
from coterie.types import Ctx, Layout

CTX = Ctx()
CODECS: list[Codec] = [TopK(0.3), TopK(0.01), TopK(1.0), ChunkTopK(8, 3), ChunkTopK(5, 5)]
CODECS += [ChunkTopK(), ChunkTopK(1, 1)]

every_codec = pytest.mark.parametrize("codec", CODECS, ids=repr)


def random(num: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num, generator=torch.Generator().manual_seed(num))


def through(codec: Codec, delta_N: Tensor) -> Tensor:
    return codec.decode(codec.encode(delta_N, CTX), delta_N, CTX)


def plain_top_k(delta_N: Tensor, num: int) -> Tensor:
    """The law in its simplest words: sort by magnitude, the lower place first among equals."""
    size_N = delta_N.abs().tolist()
    kept = sorted(range(len(size_N)), key=lambda i: (-size_N[i], i))[:num]
    out_N = torch.zeros_like(delta_N)
    out_N[kept] = delta_N[kept]
    return out_N


@every_codec
@pytest.mark.parametrize("num", [0, 1, 2, 7, 8, 9, 41, 4095, 4096, 4097])
def test_a_packet_is_flat_bytes_of_the_size_announced(codec: Codec, num: int) -> None:
    packed = codec.encode(random(num), CTX)
    assert packed.dtype == torch.uint8
    assert packed.shape == (codec.packet_bytes(num),)
    assert codec.decode(packed, random(num), CTX).shape == (num,)


@every_codec
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_decoding_gives_back_dtype_and_signs(codec: Codec, dtype: torch.dtype) -> None:
    delta_N = random(37).to(dtype)
    opened_N = through(codec, delta_N)
    assert opened_N.dtype == dtype
    assert int((opened_N != 0).sum()) > 0
    assert (opened_N * delta_N >= 0).all()


@every_codec
def test_a_packet_opens_wherever_it_lies_in_a_buffer(codec: Codec) -> None:
    delta_N = random(41)
    packed = codec.encode(delta_N, CTX)
    buffer = torch.zeros(packed.numel() + 1, dtype=torch.uint8)
    buffer[1:] = packed
    assert torch.equal(codec.decode(buffer[1:], delta_N, CTX), through(codec, delta_N))


@every_codec
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5, 40])
def test_a_broken_value_is_refused(codec: Codec, broken: float, place: int) -> None:
    delta_N = random(41)
    delta_N[place] = broken
    with pytest.raises(TrainingError, match="finite values"):
        codec.encode(delta_N, CTX)


@every_codec
def test_a_value_beyond_float32_is_refused(codec: Codec) -> None:
    with pytest.raises(TrainingError, match="beyond float32"):
        codec.encode(torch.tensor([1e300, 1.0], dtype=torch.float64), CTX)


@every_codec
def test_a_packet_of_another_size_is_refused(codec: Codec) -> None:
    packed = codec.encode(random(41), CTX)
    with pytest.raises(TrainingError, match="expected a packet of"):
        codec.decode(packed[1:], random(41), CTX)


@every_codec
@pytest.mark.parametrize("scale", [1e-41, 1e-38, 1e-20, 1e20, 1e37, 0.0])
def test_any_scale_packs_within_the_norm_that_came_in(codec: Codec, scale: float) -> None:
    delta_N = random(41, scale)
    opened_N = through(codec, delta_N)
    norm, bound = float(opened_N.double().norm()), codec.bound(float(delta_N.double().norm()))
    assert bound is not None
    assert math.isfinite(norm)
    assert norm <= bound * (1 + 1e-5) + 1e-43
    assert (norm > 0) == (scale > 0)


@every_codec
def test_the_largest_float_does_not_overflow(codec: Codec) -> None:
    delta_N = torch.full((41,), torch.finfo(torch.float32).max)
    opened_N = through(codec, delta_N)
    assert torch.equal(opened_N, torch.where(opened_N != 0, delta_N, 0))


@every_codec
def test_the_delta_is_not_written_to(codec: Codec) -> None:
    delta_N = random(41)
    codec.encode(delta_N, CTX)
    assert torch.equal(delta_N, random(41))


@every_codec
def test_feedback_delivers_in_time_what_packets_leave_behind(codec: Codec) -> None:
    piece, like_N = ErrorFeedback(codec), random(41)
    memory: Memory = piece.init(Layout(("w",), ((41,),)), like_N)
    produced_N, sent_N = torch.zeros(41), torch.zeros(41)
    for seed in range(30):
        delta_N = torch.randn(41, generator=torch.Generator().manual_seed(seed))
        packed, memory = piece.update(delta_N, memory, CTX)
        produced_N += delta_N
        sent_N += codec.decode(packed, like_N, CTX)
    assert isinstance(memory, tuple)
    assert isinstance(memory[0], Tensor)
    torch.testing.assert_close(sent_N + memory[0], produced_N, rtol=1e-5, atol=1e-5)


@given(
    st.lists(st.sampled_from([0.0, 1.0, -1.0, 1e-45, 3e38, 2.0, -2.5, 1e-3]), max_size=150),
    st.floats(1e-3, 1.0),
)
def test_top_k_is_top_k(values: list[float], density: float) -> None:
    delta_N, codec = torch.tensor(values), TopK(density)
    expected_N = plain_top_k(delta_N, codec.packet_bytes(len(values)) // 8)
    assert torch.equal(through(codec, delta_N), expected_N)


SHAPES = {
    "gauss": random(3001),
    "heavy": random(3001) ** 9,
    "rising": torch.arange(3001.0),
    "falling": torch.arange(3001.0).flip(0),
    "equal": -torch.ones(3001),
    "zero": torch.zeros(3001),
    "one huge": torch.cat([random(3000), torch.tensor([1e30])]),
    "mostly zero": random(3001) * (torch.arange(3001) % 500 == 0),
    "two levels": 1.0 + (torch.arange(3001) % 7 == 0),
    "a loud stride": torch.where(torch.arange(3001) % 8 == 0, 100.0, 1.0) * random(3001),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.001, 0.01, 0.2, 0.9])
@pytest.mark.parametrize("slab", [64, 1024, 2**18])
def test_top_k_is_exact_however_values_are_spread(
    shape: str, density: float, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "SLAB", slab)
    delta_N, codec = SHAPES[shape], TopK(density)
    expected_N = plain_top_k(delta_N, codec.packet_bytes(3001) // 8)
    assert torch.equal(through(codec, delta_N), expected_N)


def test_top_k_sends_the_share_asked_for_to_the_value() -> None:
    assert [TopK(0.07).packet_bytes(num) for num in (0, 1, 100, 101)] == [0, 8, 56, 64]
    assert TopK(1.0).packet_bytes(10) == 80


def test_top_k_refuses_a_place_that_is_not_in_the_vector() -> None:
    packed = TopK(0.5).encode(torch.tensor([0.0, 0.0, 0.0, 1.0]), CTX)
    packed[0] = 200
    with pytest.raises(TrainingError, match="expected places below 4"):
        TopK(0.5).decode(packed, torch.zeros(4), CTX)


def test_chunk_top_k_keeps_the_places_of_the_k_largest_of_each_chunk() -> None:
    delta_N = random(8 * 5 + 2)
    opened_N = through(ChunkTopK(8, 3), delta_N)
    for start in range(0, 42, 8):
        chunk_N = delta_N[start : start + 8]
        expected_N = plain_top_k(chunk_N, min(3, len(chunk_N))) != 0
        assert torch.equal(opened_N[start : start + 8] != 0, expected_N)


def test_chunk_top_k_sends_the_mean_magnitude_of_ranks_1_2_and_3_to_4() -> None:
    delta_N = torch.tensor([1.0, -8.0, 0.5, 3.0, -4.0, 0.0])
    opened_N = through(ChunkTopK(6, 4), delta_N)
    assert opened_N.tolist() == [2.0, -8.0, 0.0, 2.0, -4.0, 0.0]


def test_chunk_top_k_costs_about_a_quarter_of_a_bit() -> None:
    assert ChunkTopK().packet_bytes(4096) == 64 * 13 // 8 + 7 * 4
    assert 8 * ChunkTopK().packet_bytes(4096 * 100) / (4096 * 100) < 0.26


@pytest.mark.parametrize("power", [1, 3])
def test_chunk_top_k_loses_under_a_percent_of_what_it_sends(power: int) -> None:
    delta_N = random(4096) ** power
    kept_N = through(TopK(64 / 4096), delta_N)
    lost_N = through(ChunkTopK(), delta_N) - kept_N
    assert 0 < lost_N.norm() ** 2 / kept_N.norm() ** 2 < 0.01


def test_chunk_top_k_lets_no_chunk_drown_another() -> None:
    delta_N = torch.cat([random(4096, scale=1e-9), random(4096, scale=1e9)])
    assert int((through(ChunkTopK(), delta_N)[:4096] != 0).sum()) == 64


def agree(piece: RandomK, rows: list[Tensor], shares: list[float], ctx: Ctx) -> Tensor:
    """What members agree on, in memory; their asks are one `Total` each."""
    layout = Layout(("w",), ((len(rows[0]),),))
    talks = [
        piece.talk(row, share, None, layout, ctx) for row, share in zip(rows, shares, strict=True)
    ]
    asks = [next(talk) for talk in talks]
    assert all(isinstance(ask, Total) for ask in asks)
    total_K = torch.stack([ask.vector_N for ask in asks]).sum(0)
    assert total_K.numel() * 4 == piece.num_bytes(layout)
    agreed = []
    for talk in talks:
        with pytest.raises(StopIteration) as end:
            talk.send(total_K)
        agreed.append(end.value.value[0])
    assert all(torch.equal(other_N, agreed[0]) for other_N in agreed)
    return agreed[0]


@pytest.mark.parametrize("num", [0, 1, 2, 10, 97])
@pytest.mark.parametrize("density", [0.01, 0.5, 1.0])
def test_random_k_agrees_on_the_weighted_sum_where_it_looks(num: int, density: float) -> None:
    rows, piece = [random(num), random(num, 3.0), -random(num)], RandomK(density)
    agreed_N = agree(piece, rows, [0.5, 0.25, 0.25], Ctx(round=5))
    looked_N = agreed_N != 0
    assert int(looked_N.sum()) == (0 if num == 0 else max(1, math.ceil(density * num)))
    expected_N = 0.5 * rows[0] + 0.25 * rows[1] + 0.25 * rows[2]
    torch.testing.assert_close(agreed_N, torch.where(looked_N, expected_N, 0))


@given(st.integers(1, 300), st.floats(1e-3, 1.0), st.integers(0, 10**9))
def test_random_k_never_draws_a_value_twice(num: int, density: float, round_: int) -> None:
    values_K = RandomK(density).pick(torch.arange(float(num)), Ctx(round=round_))
    assert len(values_K) == len(values_K.unique())


def test_random_k_draws_each_value_about_as_often_as_any() -> None:
    drawn: Counter[float] = Counter()
    for round_ in range(2000):
        drawn.update(RandomK(0.1).pick(torch.arange(60.0), Ctx(round=round_)).tolist())
    assert len(drawn) == 60
    assert 130 < min(drawn.values()) <= max(drawn.values()) < 270  # 200 ± 5 deviations


def test_random_k_draws_the_same_on_every_machine_for_ever() -> None:
    assert RandomK(0.05).pick(torch.arange(100.0), Ctx(round=7)).tolist() == [
        83.0,
        86.0,
        89.0,
        92.0,
        95.0,
    ]


def test_random_k_steps_fit_into_an_int64() -> None:
    for size in (10**9, 10**12, 2**40):
        num = size // 10
        step, start = sparse._draw(size, num, 3)
        assert math.gcd(step, size) == 1
        assert step * num + start < 2**63


def test_random_k_with_feedback_loses_nothing_on_the_mean() -> None:
    piece, layout = ErrorFeedback(RandomK(0.2)), Layout(("w",), ((41,),))
    rows = [random(41), random(41, -2.0)]
    first, memories = rows, [piece.init(layout, row) for row in rows]
    for round_ in range(20):
        wanted = [piece.update(row, m, CTX)[0] for row, m in zip(first, memories, strict=True)]
        agreed_N = agree(RandomK(0.2), wanted, [0.5, 0.5], Ctx(round=round_))
        memories = [piece.settle(w, agreed_N, m) for w, m in zip(wanted, memories, strict=True)]
        mean_N = torch.stack([memory[0] for memory in memories]).mean(0)
        torch.testing.assert_close(mean_N + agreed_N, torch.stack(wanted).mean(0))


def test_random_k_refuses_a_broken_delta_before_it_asks() -> None:
    talk = RandomK(0.1).talk(
        torch.tensor([1.0] * 50 + [math.nan]), 1.0, None, Layout(("w",), ((51,),)), CTX
    )
    with pytest.raises(TrainingError, match="NaN"):
        next(talk)


@pytest.mark.parametrize("word", [TopK, RandomK])
@pytest.mark.parametrize("density", [0, -0.1, 1.01, math.nan, True, "0.1", None])
def test_what_is_no_density_is_refused(word: type[TopK], density: object) -> None:
    with pytest.raises(StrategyError, match="a density above 0"):
        word(density)  # type: ignore[arg-type]


@pytest.mark.parametrize("args", [(0, 1), (8, 0), (8, 9), (8.0, 2), (8, True)])
def test_what_is_no_chunk_is_refused(args: tuple[int, int]) -> None:
    with pytest.raises(StrategyError, match="of each chunk"):
        ChunkTopK(*args)


@pytest.mark.parametrize("piece", [TopK(), TopK(1e-6), ChunkTopK(), RandomK(), RandomK(1e-6)])
def test_what_is_kept_is_a_share(piece: TopK | ChunkTopK | RandomK) -> None:
    assert 0 < piece.keeps() < 1


def test_sparse_packets_are_not_divisible() -> None:
    assert not TopK.divisible
    assert not ChunkTopK.divisible
