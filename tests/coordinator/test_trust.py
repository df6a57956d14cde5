"""Who deviates is found out whatever the shares and the noise; who is healthy never is."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.coordinator.noise import Norms
from coterie.coordinator.trust import LEAST_TRUST, Standing, judge

NUM_VALUES = 200


def standings(
    shares: dict[str, int], factors: dict[str, float], noise: float, num_reports: int, seed: int
) -> dict[str, Standing]:
    """Reports of members whose gradients are noisy as their shares say, times a factor."""
    rng, whole = np.random.default_rng(seed), sum(shares.values())
    true = np.full(NUM_VALUES, NUM_VALUES**-0.5)
    found = {name: Standing() for name in shares}
    for _ in range(num_reports):
        rows = {
            name: factors.get(name, 1.0)
            * (true + rng.normal(0.0, noise * (NUM_VALUES * b) ** -0.5, NUM_VALUES))
            for name, b in shares.items()
        }
        mean = sum(shares[name] * row for name, row in rows.items()) / whole
        for name, row in rows.items():
            b = shares[name]
            found[name].add(Norms(row @ row, mean @ mean, row @ mean, b, b / whole))
    return found


SHARES = {"a": 100, "b": 30, "c": 8, "d": 3}


@pytest.mark.parametrize("noise", [0.0, 3.0, 100.0])
def test_unequal_healthy_members_are_never_named(noise):
    for seed in range(30):
        assert judge(standings(SHARES, {}, noise, num_reports=40, seed=seed)) == {}


@pytest.mark.parametrize("bad", ["b", "c", "d"])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_one_that_points_the_other_way_is_named_and_counts_for_nothing(bad, noise):
    found = judge(standings(SHARES, {bad: -1.0}, noise, num_reports=40, seed=1))
    assert {name: trust for name, (trust, _) in found.items()} == {bad: 0.0}


@pytest.mark.parametrize("factor", [20.0, 1_000.0, -1_000.0])
def test_one_of_another_scale_counts_for_next_to_nothing(factor):
    found = judge(standings(SHARES, {"b": factor}, 3.0, num_reports=8, seed=1))
    assert found.keys() == {"b"}
    assert found["b"][0] < LEAST_TRUST


def test_a_minority_is_named_one_by_one_and_one_half_against_the_other_is_not():
    five = dict.fromkeys("abcde", 10)
    assert judge(standings(five, {"a": -1, "b": -1}, 1.0, 40, seed=1)).keys() < {"a", "b"}
    assert judge(standings(dict.fromkeys("abcd", 10), {"a": -1, "b": -1}, 1.0, 40, seed=1)) == {}


def test_faster_members_of_paced_walks_get_farther_and_are_not_blamed_for_it():
    steps = {name: float(b) for name, b in {"a": 100, "b": 10, "c": 8}.items()}
    found = standings({"a": 100, "b": 10, "c": 8}, steps, 0.0, num_reports=8, seed=1)
    assert judge(found, paced=True) == {}
    assert "a" in judge(found)


def test_nothing_is_said_too_early():
    assert judge(standings(SHARES, {"b": 1_000.0}, 1.0, num_reports=2, seed=1)) == {}
