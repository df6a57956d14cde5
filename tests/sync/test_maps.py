"""Words that scale a delta by the moment.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import StrategyError
from coterie.sync.maps import Discount, Even, Prox
from coterie.sync.pieces import Piece
from coterie.types import Ctx

DELTA_N = torch.tensor([0.1, -3.0, 0.0])


def updated(piece: Piece, ctx: Ctx) -> torch.Tensor:
    delta_N, memory = piece.update(DELTA_N, None, ctx)
    assert memory is None
    return delta_N


@pytest.mark.parametrize("num_steps", [1, 3, 7, 100])
def test_even_changes_nothing_when_all_walk_equally_far(num_steps: int) -> None:
    ctx = Ctx(num_steps=num_steps, mean_steps=float(num_steps))
    assert torch.equal(updated(Even(), ctx), DELTA_N)


def test_even_mean_of_steady_walks_is_one_pace_times_the_mean_of_steps() -> None:
    """FedNova's point: whoever walks further does not pull harder."""
    pace_N, steps, share = DELTA_N.double(), [2, 8], [0.25, 0.75]
    mean_steps = 0.25 * 2 + 0.75 * 8
    agreed_N = torch.zeros(3, dtype=torch.float64)
    for num, part in zip(steps, share, strict=True):
        ctx = Ctx(num_steps=num, mean_steps=mean_steps)
        agreed_N += part * Even().update(pace_N * num, None, ctx)[0]
    torch.testing.assert_close(agreed_N, pace_N * mean_steps)


def test_even_bears_a_member_that_took_no_step() -> None:
    assert Even().update(torch.zeros(2), None, Ctx(num_steps=0))[0].tolist() == [0.0, 0.0]


def test_even_gives_no_bound_for_privacy_to_build_on() -> None:
    assert Even().bound(1.0) is None


def test_discount_believes_a_fresh_delta_to_the_bit() -> None:
    assert torch.equal(updated(Discount(), Ctx(staleness=0)), DELTA_N)


def test_discount_shrinks_with_age_as_the_paper_says() -> None:
    torch.testing.assert_close(updated(Discount(0.5), Ctx(staleness=3)), DELTA_N / 2)
    torch.testing.assert_close(updated(Discount(2.0), Ctx(staleness=1)), DELTA_N / 4)


def test_discount_keeps_a_bound() -> None:
    assert Discount().bound(2.0) == 2.0


def test_prox_is_for_the_walk_and_leaves_its_delta() -> None:
    assert Prox(0.1).kind == "local"
    assert updated(Prox(0.1), Ctx(num_steps=9)) is DELTA_N


def test_where_each_stands() -> None:
    assert (Even.stands, Discount.stands) == ("before", "after")
    assert (Even.kind, Discount.kind) == ("map", "map")


@pytest.mark.parametrize("piece", [Even(), Discount(0.5), Discount(0.25), Prox(0.1)], ids=repr)
def test_no_word_writes_to_what_it_is_given(piece: Piece) -> None:
    before = DELTA_N.clone()
    piece.update(DELTA_N, None, Ctx(num_steps=2, mean_steps=3.0, staleness=5))
    assert torch.equal(DELTA_N, before)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1", True])
def test_numbers_that_cannot_be_are_refused(value: object) -> None:
    with pytest.raises(StrategyError, match="exponent above zero"):
        Discount(value)  # type: ignore[arg-type]
    with pytest.raises(StrategyError, match="pull above zero"):
        Prox(value)  # type: ignore[arg-type]
