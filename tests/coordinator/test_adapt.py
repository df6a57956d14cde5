"""Adapting: a changed speed is learned in a few steps, both its terms, and noise costs little."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.adapt import as_believed, observe, timed
from coterie.coordinator.line import Line
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


def observed(line: Line, true: Device, num_steps: int, batch: int = 64) -> Line:
    for _ in range(num_steps):
        line = observe(line, batch, true.step_s(batch))
    return line


def error(line: Line, true: Device, batch: int = 64) -> float:
    return abs(line.at(batch) / true.step_s(batch) - 1)


@given(st.integers(1, 512), st.integers(1, 512))
def test_what_was_predicted_changes_nothing(first, batch):
    believed = timed(LAPTOP, first)
    seen = as_believed(LAPTOP, observe(believed, batch, LAPTOP.step_s(batch)))
    assert seen.overhead_s == pytest.approx(LAPTOP.overhead_s, abs=1e-9)
    assert seen.per_sample_s == pytest.approx(LAPTOP.per_sample_s)


@given(st.floats(0.01, 100.0))
def test_a_changed_speed_is_learned_and_never_overshot(factor):
    true = slowed(LAPTOP, factor)
    seen, before = timed(LAPTOP, 64), LAPTOP.step_s(64)
    for _ in range(30):
        seen = observe(seen, 64, true.step_s(64))
        low, high = sorted((before, true.step_s(64)))
        assert low * (1 - 1e-9) <= seen.at(64) <= high * (1 + 1e-9)
        before = seen.at(64)
    assert error(seen, true) < 0.01


@given(st.floats(0.3, 3.0), st.integers(1, 512))
def test_one_batch_size_scales_both_terms_alike_however_it_is_measured(factor, batch):
    seen = observed(timed(LAPTOP, batch), slowed(LAPTOP, factor), num_steps=7, batch=batch)
    assert seen.a / LAPTOP.overhead_s == pytest.approx(seen.c / LAPTOP.per_sample_s)


def test_a_threefold_slowdown_is_known_to_ten_per_cent_after_five_steps():
    true = slowed(LAPTOP, 3.0)
    assert error(observed(timed(LAPTOP, 64), true, num_steps=1), true) < 0.25
    assert error(observed(timed(LAPTOP, 64), true, num_steps=5), true) < 0.10


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_two_batch_sizes_tell_both_terms_whatever_the_probe_said(spread):
    true = Device("laptop", 0.05, 0.0015, 512)
    line, generator = timed(LAPTOP, 64), random.Random(5)
    for _ in range(150):
        for batch in (64, 120):
            line = observe(line, batch, true.step_s(batch) * generator.lognormvariate(0, spread))
    assert error(LAPTOP_LINE, true, batch=16) > 0.4
    for batch in (16, 64, 120, 256):
        assert error(line, true, batch) < 0.02 + 3 * spread


LAPTOP_LINE = timed(LAPTOP, 64)


def test_a_term_that_is_learned_survives_a_slowdown_of_the_machine():
    true = Device("laptop", 0.05, 0.0015, 512)
    line = LAPTOP_LINE
    for _ in range(100):
        line = observe(observe(line, 64, true.step_s(64)), 120, true.step_s(120))
    slow = slowed(true, 3.0)
    assert error(observed(line, slow, num_steps=10, batch=120), slow, batch=32) < 0.05


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(1e-4, 10.0)), max_size=40))
def test_no_measurement_makes_a_device_that_cannot_be(measured):
    line = LAPTOP_LINE
    for batch, seconds in measured:
        line = observe(line, batch, seconds)
        assert line.a >= 0
        assert line.c > 0


def test_a_jump_weighs_more_than_noise():
    predicted_s = LAPTOP.step_s(64)
    noise = observe(LAPTOP_LINE, 64, 1.6 * predicted_s).at(64) / predicted_s
    jump = observe(LAPTOP_LINE, 64, 1.7 * predicted_s).at(64) / predicted_s
    assert noise == pytest.approx(1 + 0.2 * 0.6)
    assert jump == pytest.approx(1 + 0.7 * 0.7)


def test_stationary_noise_costs_a_few_per_cent_of_a_step():
    true = [slowed(replace(LAPTOP, name=f"d{i}"), factor) for i, factor in enumerate((1, 2, 4))]
    generator, shares = random.Random(7), exact_shares(448, true)
    lines = {device.name: timed(device, shares[device.name]) for device in true}
    for _ in range(200):
        for device in true:
            batch = shares[device.name]
            seconds = device.step_s(batch) * generator.lognormvariate(0.0, 0.05)
            lines[device.name] = observe(lines[device.name], batch, seconds)
        shares = exact_shares(448, [as_believed(device, lines[device.name]) for device in true])
    assert step_s(shares, true) <= 1.05 * step_s(exact_shares(448, true), true)


def test_nothing_but_the_two_times_is_touched():
    seen = as_believed(LAPTOP, observe(LAPTOP_LINE, 64, 2 * LAPTOP.step_s(64)))
    assert replace(seen, overhead_s=0.01, per_sample_s=0.002) == LAPTOP


@pytest.mark.parametrize(
    ("batch", "step_s"), [(0, 0.1), (8, 0.0), (8, -1.0), (8, math.nan), (8, math.inf)]
)
def test_a_measurement_that_cannot_be_is_refused(batch, step_s):
    with pytest.raises(JobError, match="leave this measurement out"):
        observe(LAPTOP_LINE, batch, step_s)
