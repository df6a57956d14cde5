"""Adapting: a changed speed is learned in a few steps, and stationary noise costs little."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.adapt import observe
from coterie.coordinator.shares import exact_shares, step_s
from coterie.errors import JobError
from coterie.world import Device

LAPTOP = Device("laptop", 0.01, 0.002, 512, failures_per_s=1e-4)


def slowed(device: Device, factor: float) -> Device:
    return replace(
        device,
        overhead_s=factor * device.overhead_s,
        per_sample_s=factor * device.per_sample_s,
    )


def observed(device: Device, true: Device, num_steps: int, batch: int = 64) -> Device:
    for _ in range(num_steps):
        device = observe(device, batch, true.step_s(batch))
    return device


def error(device: Device, true: Device, batch: int = 64) -> float:
    return abs(device.step_s(batch) / true.step_s(batch) - 1)


@given(st.integers(1, 512))
def test_what_was_predicted_changes_nothing(batch):
    seen = observe(LAPTOP, batch, LAPTOP.step_s(batch))
    assert seen == LAPTOP


@given(st.floats(0.01, 100.0))
def test_a_changed_speed_is_learned_and_never_overshot(factor):
    true = slowed(LAPTOP, factor)
    seen, before = LAPTOP, LAPTOP.step_s(64)
    for _ in range(30):
        seen = observe(seen, 64, true.step_s(64))
        low, high = sorted((before, true.step_s(64)))
        assert low * (1 - 1e-9) <= seen.step_s(64) <= high * (1 + 1e-9)
        before = seen.step_s(64)
    assert error(seen, true) < 0.01


def test_a_threefold_slowdown_is_known_to_ten_per_cent_after_five_steps():
    true = slowed(LAPTOP, 3.0)
    assert error(observed(LAPTOP, true, num_steps=1), true) < 0.25
    assert error(observed(LAPTOP, true, num_steps=5), true) < 0.10


def cluster(*factors: float) -> list[Device]:
    return [slowed(replace(LAPTOP, name=f"d{i}"), factor) for i, factor in enumerate(factors)]


def shared_again(believed: list[Device], true: list[Device], num_rounds: int) -> dict[str, int]:
    """Shares of 448 samples after steps that were seen with 5 % of log-normal noise."""
    generator = random.Random(7)
    for _ in range(num_rounds):
        shares = exact_shares(448, believed)
        believed = [
            observe(
                device,
                shares[device.name],
                truth.step_s(shares[device.name]) * generator.lognormvariate(0.0, 0.05),
            )
            for device, truth in zip(believed, true, strict=True)
        ]
    return exact_shares(448, believed)


def test_stationary_noise_costs_a_few_per_cent_of_a_step():
    true = cluster(1, 2, 4)
    shares = shared_again(true, true, num_rounds=200)
    assert step_s(shares, true) <= 1.05 * step_s(exact_shares(448, true), true)


def test_shares_follow_a_slowdown_through_noise():
    believed, true = cluster(1, 2, 4), cluster(3, 2, 4)
    before_s = step_s(exact_shares(448, believed), true)
    best_s = step_s(exact_shares(448, true), true)
    after_s = step_s(shared_again(believed, true, num_rounds=20), true)
    assert before_s > 1.5 * best_s
    assert after_s <= 1.05 * best_s


def test_a_jump_weighs_more_than_noise():
    predicted_s = LAPTOP.step_s(64)
    noise = observe(LAPTOP, 64, 1.6 * predicted_s).step_s(64) / predicted_s
    jump = observe(LAPTOP, 64, 1.7 * predicted_s).step_s(64) / predicted_s
    assert noise == pytest.approx(1 + 0.2 * 0.6)
    assert jump == pytest.approx(1 + 0.7 * 0.7)


def test_only_the_two_times_are_touched_and_both_alike():
    seen = observe(LAPTOP, 64, 2 * LAPTOP.step_s(64))
    assert seen.overhead_s / LAPTOP.overhead_s == pytest.approx(
        seen.per_sample_s / LAPTOP.per_sample_s
    )
    assert replace(seen, overhead_s=0.01, per_sample_s=0.002) == LAPTOP


@pytest.mark.parametrize(
    ("batch", "step_s"), [(0, 0.1), (8, 0.0), (8, -1.0), (8, math.nan), (8, math.inf)]
)
def test_a_measurement_that_cannot_be_is_refused(batch, step_s):
    with pytest.raises(JobError, match="laptop"):
        observe(LAPTOP, batch, step_s)
