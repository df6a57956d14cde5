"""Outer optimizers against those of torch.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import StrategyError
from coterie.sync.outer import Outer
from coterie.types import Ctx, Layout

LAYOUT = Layout(("w",), ((6,),))
OUTERS = [Outer(1.0), Outer(0.3, 0.9), Outer(0.7, 0.9, nesterov=True)]


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
    assert Outer(0.7, 0.9, nesterov=True).regains(17) == 0.5
    assert Outer(0.7, 0.9, nesterov=True).regains(16) == 0.0
    assert Outer(0.7, 0.9).regains(100) == 0.0


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
