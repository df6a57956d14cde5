"""Agreeing on matrices by a few columns each.

Legend of shape suffixes: N values of the delta, n rows and m columns of a matrix, r its rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from coterie.errors import StrategyError, TrainingError
from coterie.sync.codecs.base import ErrorFeedback
from coterie.sync.codecs.lowrank import PowerSGD, _noise, _orthonormal
from coterie.sync.pieces import Memory
from coterie.sync.talk import Total
from coterie.types import Ctx, Layout

MIXED = Layout(
    ("conv", "bias", "scale", "weight", "thin"), ((9, 3, 2, 2), (9,), (), (7, 8), (2, 3))
)
MATRIX = Layout(("w",), ((12, 10),))
VECTORS = Layout(("a", "b"), ((5,), (3, 1)))
SHARES = (0.5, 0.3, 0.2)


def random(layout: Layout, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(layout.size, generator=generator, dtype=torch.float64)


def rows_of(layout: Layout, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    return [random(layout, seed + i, scale) for i in range(len(SHARES))]


def mean_of(rows: Sequence[Tensor]) -> Tensor:
    return sum((row * share for row, share in zip(rows, SHARES, strict=True)), 0 * rows[0])


def meet(
    piece: PowerSGD, rows: Sequence[Tensor], memories: Sequence[Memory], layout: Layout
) -> tuple[Tensor, Memory, list[int]]:
    """Drive the members' talks in step, in memory: what they agree on, and the sizes they asked."""
    talks = [
        piece.talk(row, share, memory, layout, Ctx())
        for row, share, memory in zip(rows, SHARES, memories, strict=True)
    ]
    asks, sizes = [next(talk) for talk in talks], []
    ends: list[tuple[Tensor, Memory]] = []
    while not ends:
        assert all(isinstance(ask, Total) and ask.vector_N.dim() == 1 for ask in asks)
        sizes.append(asks[0].vector_N.numel())
        total = torch.stack([ask.vector_N for ask in asks]).sum(0)
        asks = []
        for talk in talks:
            try:
                asks.append(talk.send(total.clone()))
            except StopIteration as end:
                ends.append(end.value)
        assert not (asks and ends)  # all members ask for the same number of totals
    assert all(same(end, ends[0]) for end in ends)
    return *ends[0], sizes


def same(left: object, right: object) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right is None


def rounds(piece: PowerSGD, rows: Sequence[Tensor], layout: Layout, num: int) -> Tensor:
    """What is agreed after `num` meetings over the same deltas."""
    memory = piece.init(layout, rows[0])
    for _ in range(num):
        agreed_N, memory, _ = meet(piece, rows, [memory] * len(rows), layout)
    return agreed_N


@pytest.mark.parametrize("layout", [MIXED, MATRIX, VECTORS], ids=["mixed", "matrix", "vectors"])
@pytest.mark.parametrize("rank", [1, 2, 3, 100])
def test_a_meeting_costs_the_bytes_announced_in_two_totals_at_most(
    layout: Layout, rank: int
) -> None:
    piece, rows = PowerSGD(rank), rows_of(layout)
    agreed_N, _, sizes = meet(piece, rows, [piece.init(layout, rows[0])] * 3, layout)
    shrinks = layout is not VECTORS and rank < 100 and piece.num_bytes(layout) < 4 * layout.size
    assert len(sizes) == (2 if shrinks else 1)
    assert 4 * sum(sizes) == piece.num_bytes(layout) <= 4 * layout.size
    assert agreed_N.shape == (layout.size,)


def test_bytes_are_those_of_columns_and_rows_and_of_what_travels_whole() -> None:
    # conv is 9 × 12, weight 7 × 8; bias, scale and thin (2 × 3, which rank 2 would not shrink)
    assert PowerSGD(2).num_bytes(MIXED) == 4 * (2 * (9 + 12) + 2 * (7 + 8) + 9 + 1 + 6)
    assert PowerSGD(2).num_bytes(Layout(("w",), ((1000, 1000),))) == 4 * 4000


@pytest.mark.parametrize("layout", [MIXED, MATRIX, VECTORS], ids=["mixed", "matrix", "vectors"])
def test_a_rank_that_reaches_every_matrix_agrees_exactly(layout: Layout) -> None:
    rows = rows_of(layout)
    torch.testing.assert_close(rounds(PowerSGD(12), rows, layout, 1), mean_of(rows))


def test_what_travels_whole_is_agreed_on_exactly_beside_what_does_not() -> None:
    rows = rows_of(MIXED)
    agreed = MIXED.views(rounds(PowerSGD(1), rows, MIXED, 1))
    expected = MIXED.views(mean_of(rows))
    for name in ("bias", "scale"):
        torch.testing.assert_close(agreed[name], expected[name])
    assert not torch.allclose(agreed["conv"], expected["conv"])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_mean_of_low_rank_is_agreed_on_exactly_at_once(rank: int) -> None:
    left = random(Layout(("w",), ((12 * rank,),)), 1).view(12, rank)
    right = random(Layout(("w",), ((10 * rank,),)), 2).view(rank, 10)
    spoil_N = random(MATRIX, 3)  # the members' own deltas are of full rank
    mean_N = (left @ right).flatten()
    rows = [mean_N + spoil_N, mean_N - spoil_N, mean_N - spoil_N]
    torch.testing.assert_close(rounds(PowerSGD(rank), rows, MATRIX, 1), mean_N)


def test_warm_starts_find_the_best_approximation() -> None:
    rows = rows_of(MATRIX)
    u, s, v = torch.linalg.svd(mean_of(rows).view(12, 10))
    best_N = (u[:, :2] * s[:2] @ v[:2]).flatten()
    assert not torch.allclose(rounds(PowerSGD(2), rows, MATRIX, 1), best_N, atol=1e-2)
    torch.testing.assert_close(rounds(PowerSGD(2), rows, MATRIX, 150), best_N)


def test_a_warm_start_loses_less_than_a_cold_one() -> None:
    rows = rows_of(MIXED)
    lost = [float((rounds(PowerSGD(1), rows, MIXED, n) - mean_of(rows)).norm()) for n in (1, 2, 5)]
    assert lost[0] > lost[1] > lost[2] > 0


def test_what_is_agreed_is_no_longer_than_the_mean() -> None:
    for seed in range(20):
        rows = rows_of(MIXED, seed)
        assert rounds(PowerSGD(2), rows, MIXED, 1).norm() <= mean_of(rows).norm() * (1 + 1e-12)


def test_zeros_rest_and_do_not_kill_the_columns() -> None:
    piece, zeros = PowerSGD(2), [torch.zeros(MIXED.size)] * 3
    agreed_N, memory, _ = meet(piece, zeros, [piece.init(MIXED, zeros[0])] * 3, MIXED)
    assert torch.equal(agreed_N, zeros[0])
    rows = [row.float() for row in rows_of(MIXED)]
    agreed_N, _, _ = meet(piece, rows, [memory] * 3, MIXED)
    assert all(float(view.abs().sum()) > 0 for view in MIXED.views(agreed_N).values())


def test_a_matrix_of_rank_one_leaves_no_dead_column_behind() -> None:
    piece = PowerSGD(3)
    thin = [torch.ones(MATRIX.size, dtype=torch.float64)] * 3
    agreed_N, memory, _ = meet(piece, thin, [piece.init(MATRIX, thin[0])] * 3, MATRIX)
    torch.testing.assert_close(agreed_N, thin[0])
    assert isinstance(memory, tuple)
    assert isinstance(memory[0], Tensor)
    torch.testing.assert_close(memory[0].mT @ memory[0], torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-41, 1e-38, 1e-20, 1e20, 1e30, 1e36])
def test_any_scale_of_float32_is_agreed_on(scale: float) -> None:
    rows = [row.float() for row in rows_of(MIXED, scale=scale)]
    agreed_N = rounds(PowerSGD(2), rows, MIXED, 2)
    assert agreed_N.dtype == torch.float32
    expected_N = rounds(PowerSGD(2), rows_of(MIXED), MIXED, 2)
    torch.testing.assert_close(agreed_N.double() / scale, expected_N, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_is_of_the_dtype_of_the_deltas_and_the_same_on_all(dtype: torch.dtype) -> None:
    like = torch.zeros(MIXED.size, dtype=dtype)
    first, second = PowerSGD(2).init(MIXED, like), PowerSGD(2).init(MIXED, like + 1)
    assert same(first, second)
    assert isinstance(first, tuple)
    shapes = [q.shape for q in first if isinstance(q, Tensor) and q.dtype == dtype]
    assert shapes == [(12, 2), (8, 2)]


def test_neither_deltas_nor_memory_are_written_to() -> None:
    piece, rows = PowerSGD(2), rows_of(MIXED)
    memory = piece.init(MIXED, rows[0])
    meet(piece, rows, [memory] * 3, MIXED)
    assert same(tuple(rows), tuple(rows_of(MIXED)))
    assert same(memory, piece.init(MIXED, rows[0]))


def test_feedback_keeps_on_the_mean_what_the_agreement_lost() -> None:
    piece, inner = ErrorFeedback(PowerSGD(1)), PowerSGD(1)
    memories: list[Memory] = [piece.init(MIXED, row) for row in rows_of(MIXED)]
    produced_N = agreed_sum_N = torch.zeros(MIXED.size, dtype=torch.float64)
    for seed in range(0, 30, 3):
        rows = rows_of(MIXED, seed)
        wanted = [piece.update(row, m, Ctx())[0] for row, m in zip(rows, memories, strict=True)]
        sketches = [memory[1] for memory in memories if isinstance(memory, tuple)]
        agreed_N, after, _ = meet(inner, wanted, sketches, MIXED)
        memories = [
            piece.settle(w, agreed_N, (m[0], after))
            for w, m in zip(wanted, memories, strict=True)
            if isinstance(m, tuple)
        ]
        residuals = [m[0] for m in memories if isinstance(m, tuple) and isinstance(m[0], Tensor)]
        torch.testing.assert_close(mean_of(residuals) + agreed_N, mean_of(wanted))
        produced_N = produced_N + mean_of(rows)
        agreed_sum_N = agreed_sum_N + agreed_N
    torch.testing.assert_close(mean_of(residuals) + agreed_sum_N, produced_N)
    assert mean_of(residuals).norm() > 0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_delta_is_refused_before_anything_is_asked(broken: float) -> None:
    delta_N = random(MATRIX, 0)
    delta_N[7] = broken
    piece = PowerSGD(2)
    talk = piece.talk(delta_N, 1.0, piece.init(MATRIX, delta_N), MATRIX, Ctx())
    with pytest.raises(TrainingError, match="expected a delta of finite values"):
        next(talk)


@pytest.mark.parametrize("num_good", [0, 1])
def test_a_broken_sum_is_refused(num_good: int) -> None:
    delta_N, piece = random(MATRIX, 0), PowerSGD(2)
    talk = piece.talk(delta_N, 1.0, piece.init(MATRIX, delta_N), MATRIX, Ctx())
    ask = next(talk)
    for _ in range(num_good):
        ask = talk.send(ask.vector_N)
    assert isinstance(ask, Total)
    with pytest.raises(TrainingError, match="expected a sum of finite values"):
        talk.send(ask.vector_N * math.nan)


FULL = random(Layout(("w",), ((320,),)), 9).view(40, 8)
HARD = {
    "noise": FULL,
    "zeros": 0 * FULL,
    "equal columns": FULL[:, :1].repeat(1, 8),
    "one zero column": FULL * (torch.arange(8) != 3),
    "steep": FULL @ torch.diag(10.0 ** -torch.arange(8.0, dtype=torch.float64)) @ FULL[:8],
    "huge": 1e30 * FULL,
    "tiny": 1e-41 * FULL,
    "as its own filler": _noise(FULL, 40, 8)[:, [1, 0, 1, 2, 2, 3, 4, 5]],
    "square but one": FULL[:9],
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_columns_become_orthonormal(kind: str, dtype: torch.dtype, most: float) -> None:
    basis = _orthonormal(HARD[kind].to(dtype))
    assert (basis.mT @ basis - torch.eye(8, dtype=dtype)).abs().max() < most


def test_orthonormal_columns_span_what_was_given() -> None:
    given = FULL
    basis = _orthonormal(given)
    torch.testing.assert_close(basis @ (basis.mT @ given), given)


def test_noise_is_spread_and_the_same_for_ever() -> None:
    noise = _noise(torch.zeros(1), 1000, 2)
    assert noise.abs().max() <= 1
    assert noise.mean().abs() < 0.05
    assert 0.5 < noise.std() < 0.65  # 1/√3 if uniform
    first = _noise(torch.zeros(1), 1, 3) * 2**23
    assert first.tolist() == [[4678439.0, 3724194.0, -3985463.0]]


@pytest.mark.parametrize("rank", [0, -1, 2.0, True, "2"])
def test_what_is_no_rank_is_refused(rank: object) -> None:
    with pytest.raises(StrategyError, match="a rank of at least one"):
        PowerSGD(rank)  # type: ignore[arg-type]


def test_what_is_kept_grows_with_the_rank() -> None:
    assert 0 < PowerSGD(1).keeps() < PowerSGD(2).keeps() < PowerSGD(8).keeps() < 1
