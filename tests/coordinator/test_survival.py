"""How often to save: the formula's limits, whatever is measured."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.survival import (
    LEAST_S,
    MOST_S,
    PAUSED_PART,
    checkpoint_interval_s,
    failures_per_s,
)
from coterie.world import DEFAULT_FAILURES_PER_S

costs_s = st.floats(0.0, 1e4)
rates_per_s = st.floats(1e-9, 1.0)
members = st.integers(1, 1000)


def test_the_prior_stands_until_losses_are_counted() -> None:
    assert failures_per_s(0, 0.0) == DEFAULT_FAILURES_PER_S
    assert failures_per_s(0, 1e9) < failures_per_s(1, 1e9) < failures_per_s(2, 1e8)
    assert math.isclose(failures_per_s(10**6, 1e9), 1e-3, rel_tol=1e-3)


@given(costs_s, members, rates_per_s)
def test_pauses_keep_to_their_part_and_intervals_to_their_bounds(
    cost_s: float, num_members: int, rate_per_s: float
) -> None:
    every_s = checkpoint_interval_s(cost_s, num_members, rate_per_s)
    assert cost_s <= PAUSED_PART * every_s * (1 + 1e-12)
    assert LEAST_S <= every_s <= max(MOST_S, cost_s / PAUSED_PART)


@given(costs_s, members, rates_per_s)
def test_dear_saves_are_rarer_and_frequent_losses_make_them_more_frequent(
    cost_s: float, num_members: int, rate_per_s: float
) -> None:
    every_s = checkpoint_interval_s(cost_s, num_members, rate_per_s)
    assert checkpoint_interval_s(2 * cost_s, num_members, rate_per_s) >= every_s
    assert checkpoint_interval_s(cost_s, num_members, 2 * rate_per_s) <= every_s
    assert checkpoint_interval_s(cost_s, 2 * num_members, rate_per_s) <= every_s
