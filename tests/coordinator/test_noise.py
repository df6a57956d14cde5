"""The gradient noise scale is right whatever the shares; advice on the batch follows from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coterie.coordinator.noise import Noise, Norms, best_batch
from coterie.sync import recipes
from coterie.types import Layout
from coterie.world import Device, Link, World

SIGNAL, VARIANCE, NUM_VALUES = 1.0, 70.0, 2_000
LAYOUT = Layout(("w",), ((1_000,),))
PAIR = World(
    (Device("a", 0.01, 0.001, 4_096), Device("b", 0.01, 0.002, 4_096)),
    (Link("a", "b", 1e-4, 1e9),),
    64,
    50_000,
)


def measured(shares: tuple[int, ...], num_rounds: int = 200) -> Noise:
    """Gradients of known |G|² and S, of members with these shares, averaged by samples."""
    rng, whole, noise = np.random.default_rng(2), sum(shares), Noise()
    true = np.full(NUM_VALUES, (SIGNAL / NUM_VALUES) ** 0.5)
    for _ in range(num_rounds):
        spreads = [(VARIANCE / NUM_VALUES / b) ** 0.5 for b in shares]
        rows = [true + rng.normal(0.0, spread, NUM_VALUES) for spread in spreads]
        mean = sum(b * row for b, row in zip(shares, rows, strict=True)) / whole
        for b, row in zip(shares, rows, strict=True):
            noise = noise.seen(Norms(row @ row, mean @ mean, row @ mean, b, b / whole))
    return noise


@pytest.mark.parametrize("shares", [(16, 16, 16, 16), (40, 16, 6, 2), (60, 4)])
def test_the_scale_is_right_within_ten_per_cent_whatever_the_shares(shares):
    noise = measured(shares)
    assert noise.signal == pytest.approx(SIGNAL, rel=0.1)
    assert noise.variance == pytest.approx(VARIANCE, rel=0.1)
    assert noise.scale == pytest.approx(VARIANCE / SIGNAL, rel=0.1)


def test_one_who_brings_everything_says_nothing():
    assert Noise().seen(Norms(1.0, 1.0, 1.0, 8, 1.0)) == Noise()
    assert Noise().scale is None


def test_a_quiet_gradient_needs_no_larger_batch_and_a_noisy_one_does():
    small, _ = best_batch(PAIR, LAYOUT, recipes.all_reduce(), scale=1.0)
    large, gain = best_batch(PAIR, LAYOUT, recipes.all_reduce(), scale=10_000.0)
    assert small < PAIR.batch < large
    assert gain > 1.1


def test_the_advice_is_the_best_of_all_batches_and_never_worse_than_the_one_in_force():
    for scale in (3.0, 30.0, 300.0, 3_000.0):
        best, gain = best_batch(PAIR, LAYOUT, recipes.all_reduce(), scale)
        assert gain >= 1.0
        assert 1 <= best <= 8_192
        there = replace(PAIR, batch=best)
        _, gain = best_batch(there, LAYOUT, recipes.all_reduce(), scale)
        assert gain < 1.02  # but for the grid, it is where it advises to be
