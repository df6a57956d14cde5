"""Outer optimizers against those of torch, and against plain loops.

Legend of shape suffixes: N values of the delta, T deltas one after the other.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import StrategyError
from coterie.sync.outer import DelayedNesterov, Outer, OuterAdam, OuterYogi
from coterie.sync.pieces import Memory, Piece
from coterie.types import Ctx, Layout

LAYOUT = Layout(("w",), ((6,),))
OUTERS = [Outer(1.0), Outer(0.3, 0.9), Outer(0.7, 0.9, nesterov=True)]
DELAYED = [DelayedNesterov(0.7, 0.9, every=1), DelayedNesterov(0.5, 0.8, every=3)]
OTHERS: list[Piece] = [OuterAdam(0.02), OuterYogi(0.02), *DELAYED]


def deltas(num: int) -> list[torch.Tensor]:
    return list(torch.randn(num, 6, generator=torch.Generator().manual_seed(1)).double())


def walked(outer: Piece, delta_TN: list[torch.Tensor]) -> list[torch.Tensor]:
    """The update for each delta in turn."""
    memory: Memory = outer.init(LAYOUT, delta_TN[0])
    updates = []
    for delta_N in delta_TN:
        update_N, memory = outer.update(delta_N, memory, Ctx())
        updates.append(update_N)
    return updates


@pytest.mark.parametrize("outer", OUTERS, ids=repr)
def test_outer_walks_as_torch_sgd(outer: Outer) -> None:
    generator = torch.Generator().manual_seed(0)
    here_N = torch.randn(6, generator=generator, dtype=torch.float64)
    there_N = torch.nn.Parameter(here_N.clone())
    sgd = torch.optim.SGD([there_N], outer.lr, momentum=outer.momentum, nesterov=outer.nesterov)
    memory = outer.init(LAYOUT, here_N)
    for _ in range(20):
        delta_N = torch.randn(6, generator=generator, dtype=torch.float64)
        update_N, memory = outer.update(delta_N, memory, Ctx())
        here_N = here_N - update_N
        there_N.grad = delta_N
        sgd.step()
    torch.testing.assert_close(here_N, there_N.data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("outer", OUTERS, ids=repr)
def test_the_bound_is_reached_by_steady_deltas_and_not_passed(outer: Outer) -> None:
    delta_N = torch.ones(6, dtype=torch.float64) / math.sqrt(6)
    memory = outer.init(LAYOUT, delta_N)
    for _ in range(200):
        update_N, memory = outer.update(delta_N, memory, Ctx())
    bound = outer.bound(1.0)
    assert bound is not None
    assert 0.999 * bound < float(update_N.norm()) <= bound * (1 + 1e-12)


def test_memory_is_momentum_and_only_momentum() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    assert Outer(1.0).init(LAYOUT, like) is None
    momentum_N = Outer(1.0, 0.9).init(LAYOUT, like)
    assert isinstance(momentum_N, torch.Tensor)
    assert momentum_N.dtype == torch.float64
    assert momentum_N.tolist() == [0.0] * 6


def test_only_nesterov_regains_and_only_after_a_long_walk() -> None:
    assert Outer(0.7, 0.9, nesterov=True).regains(65) == 0.5
    assert Outer(0.7, 0.9, nesterov=True).regains(64) == 0.0
    assert Outer(0.7, 0.9).regains(100) == 0.0


def test_a_light_momentum_costs_nothing_and_wins_a_little_back_at_once() -> None:
    light, heavy = Outer(0.7, 0.5, nesterov=True), Outer(0.7, 0.9, nesterov=True)
    assert heavy.keeps() < light.keeps() == Outer(1.0).keeps() == 1.0
    assert heavy.regains(16) == light.regains(65) == 0.0 < light.regains(64) < heavy.regains(65)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "learning rate"),
        ((math.inf,), "learning rate"),
        (("1",), "learning rate"),
        ((1.0, 1.0), "momentum from 0"),
        ((1.0, -0.1), "momentum from 0"),
        ((1.0, 0.0, True), "only with a momentum"),
        ((1.0, 0.9, 1), "True or False"),
    ],
)
def test_outer_refuses_what_would_not_converge(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        Outer(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("outer", [OuterAdam(0.02), OuterYogi(0.02, 0.8, 0.9, 0.1)], ids=repr)
def test_adaptive_outers_walk_as_a_plain_loop(outer: OuterAdam | OuterYogi) -> None:
    delta_TN = [delta_N * 0.3 for delta_N in deltas(20)]
    found_T = [float(update_N[0]) for update_N in walked(outer, delta_TN)]
    m, v, expected_T = 0.0, outer.eps**2, []
    for d in (float(delta_N[0]) for delta_N in delta_TN):
        m = outer.b1 * m + (1 - outer.b1) * d
        if isinstance(outer, OuterAdam):
            v = outer.b2 * v + (1 - outer.b2) * d**2
        else:
            v = v - (1 - outer.b2) * d**2 * math.copysign(1, v - d**2)
        expected_T.append(outer.lr * m / (math.sqrt(v) + outer.eps))
    assert found_T == pytest.approx(expected_T, rel=1e-12)


def test_steady_deltas_move_adam_by_the_learning_rate_whatever_their_size() -> None:
    for size in (1.0, 1000.0):
        update_N = walked(OuterAdam(0.02), [torch.full((6,), size).double()] * 2000)[-1]
        assert update_N.tolist() == pytest.approx([0.02] * 6, rel=2e-3)


def test_yogi_forgets_a_large_delta_more_slowly_than_adam() -> None:
    small_N = torch.full((6,), 0.1, dtype=torch.float64)
    delta_TN = [100 * small_N] + [small_N] * 300
    assert walked(OuterYogi(0.02), delta_TN)[-1][0] < walked(OuterAdam(0.02), delta_TN)[-1][0] / 2


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nesterov_delayed_by_one_is_nesterov(momentum: float) -> None:
    plain = Outer(0.7, momentum, nesterov=momentum > 0)
    found, expected = walked(DelayedNesterov(0.7, momentum, every=1), deltas(9)), deltas(9)
    for update_N, expected_N in zip(found, walked(plain, expected), strict=True):
        torch.testing.assert_close(update_N, expected_N, rtol=1e-14, atol=1e-14)


def test_a_round_of_delayed_nesterov_lands_where_nesterov_of_the_mean_does() -> None:
    delta_TN = deltas(12)
    found = walked(DelayedNesterov(0.7, 0.9, every=4), delta_TN)
    mean_TN = [torch.stack(delta_TN[i : i + 4]).mean(0) for i in (0, 4, 8)]
    for i, update_N in enumerate(walked(Outer(0.7, 0.9, nesterov=True), mean_TN)):
        torch.testing.assert_close(torch.stack(found[4 * i : 4 * i + 4]).sum(0), update_N)


def test_between_renewals_a_delta_moves_by_its_share_alone() -> None:
    delta_TN = deltas(7)
    found = walked(DelayedNesterov(0.8, 0.9, every=4), delta_TN)
    for i in (0, 1, 2, 4, 5, 6):
        torch.testing.assert_close(found[i], 0.2 * delta_TN[i])


@pytest.mark.parametrize("outer", OTHERS, ids=repr)
def test_no_update_is_longer_than_the_bound(outer: Piece) -> None:
    bound = outer.bound(1.0)
    assert bound is not None
    assert outer.bound(None) is None
    steady_TN = [torch.ones(6, dtype=torch.float64) / math.sqrt(6)] * 100
    swinging_TN = [delta_N / delta_N.norm() for delta_N in deltas(100)]
    for delta_TN in (steady_TN, swinging_TN):
        assert max(float(u.norm()) for u in walked(outer, delta_TN)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("outer", DELAYED, ids=repr)
def test_the_bound_of_delayed_nesterov_is_reached(outer: DelayedNesterov) -> None:
    steady_TN = [torch.ones(6, dtype=torch.float64) / math.sqrt(6)] * 300
    longest = max(float(update_N.norm()) for update_N in walked(outer, steady_TN))
    bound = outer.bound(1.0)
    assert bound is not None
    assert longest > 0.999 * bound


@pytest.mark.parametrize("outer", [*OUTERS, *OTHERS], ids=repr)
def test_nothing_that_is_passed_is_written_to(outer: Piece) -> None:
    """Refusing a round is dropping a value: the same delta again gives the same update."""
    delta_N = deltas(1)[0]
    _, memory = outer.update(delta_N, outer.init(LAYOUT, delta_N), Ctx())
    first_N, _ = outer.update(delta_N, memory, Ctx())
    again_N, _ = outer.update(delta_N, memory, Ctx())
    assert torch.equal(first_N, again_N)
    assert torch.equal(delta_N, deltas(1)[0])


@pytest.mark.parametrize("outer", OTHERS, ids=repr)
def test_memory_is_of_the_dtype_it_is_asked_for(outer: Piece) -> None:
    memory = outer.init(LAYOUT, torch.zeros(1, dtype=torch.float64))
    assert isinstance(memory, tuple)
    assert {part.dtype for part in memory if isinstance(part, torch.Tensor)} == {torch.float64}
    assert (outer.kind, outer.stands, outer.optimizes) == ("map", "after", True)


def test_delayed_nesterov_regains_as_nesterov_does() -> None:
    assert DelayedNesterov(0.7).regains(65) == 0.5
    assert DelayedNesterov(0.7).regains(64) == 0.0
    assert DelayedNesterov(0.7, 0.0).regains(65) == 0.0


@pytest.mark.parametrize("outer", [OuterAdam, OuterYogi])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "learning rate"),
        ((1.0, 0.9, 0.99, 0.0), "eps above zero"),
        ((1.0, 1.0), "b1 and b2"),
        ((1.0, 0.9, -0.1), "b1 and b2"),
        ((math.nan,), "learning rate"),
    ],
)
def test_adaptive_outers_refuse_what_would_not_converge(
    outer: type[OuterAdam] | type[OuterYogi], arguments: tuple[float, ...], message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        outer(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "learning rate"),
        ((1.0, 1.0), "momentum from 0"),
        ((1.0, 0.9, 0), "number of arrivals"),
        ((1.0, 0.9, 2.0), "number of arrivals"),
    ],
)
def test_delayed_nesterov_refuses_what_cannot_be(
    arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        DelayedNesterov(*arguments)  # type: ignore[arg-type]
