"""Adapting: a changed speed is learned in a few steps, stationary noise moves no share."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.adapt import observe, worth_resharing
from coterie.coordinator.shares import exact_shares
from coterie.errors import JobError
from coterie.world import Device, World

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


def num_reshared(world: World, true: World, noise: float, num_steps: int) -> int:
    """How often shares change when each step's times are seen with log-normal noise."""
    generator = random.Random(7)
    shares, num = exact_shares(world.batch, world.devices), 0
    for _ in range(num_steps):
        for name, share in shares.items():
            step_s = true.device(name).step_s(share) * generator.lognormvariate(0.0, noise)
            world = world.with_device(observe(world.device(name), share, step_s))
        wanted = exact_shares(world.batch, world.devices)
        if worth_resharing(world, shares, wanted):
            shares, num = wanted, num + 1
    return num


def cluster(*speeds: float) -> World:
    devices = tuple(slowed(replace(LAPTOP, name=f"d{i}"), f) for i, f in enumerate(speeds))
    return World(devices, (), batch=448, num_train=10_000)


def test_stationary_noise_does_not_make_shares_flap():
    world = cluster(1, 2, 4)
    assert num_reshared(world, world, noise=0.05, num_steps=200) <= 4  # 2 in 100 steps


def test_a_slowdown_does_change_shares():
    assert num_reshared(cluster(1, 2, 4), cluster(3, 2, 4), noise=0.05, num_steps=20) >= 1


def test_the_hysteresis_is_a_part_of_the_new_time():
    world = World((Device("a", 0.0, 1.0, 64), Device("b", 0.0, 1.0, 64)), (), 40, 100)
    now, then = {"a": 21, "b": 19}, {"a": 20, "b": 20}
    assert not worth_resharing(world, now, then)
    assert worth_resharing(world, now, then, hysteresis=0.04)
    assert not worth_resharing(world, then, now, hysteresis=0.0)
    assert not worth_resharing(world, then, then, hysteresis=0.0)


def test_shares_of_a_device_that_left_are_refused():
    with pytest.raises(JobError, match="gone"):
        worth_resharing(cluster(1, 2), {"gone": 448}, {"d0": 448})
