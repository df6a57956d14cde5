"""Predictions: the fit recovers what made the timings, and an option reads like its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.model import (
    equal_option,
    extra_bytes,
    fit_device,
    ideal_per_s,
    predict,
    solo_per_s,
)
from coterie.coordinator.progress import DOUBT
from coterie.coordinator.shares import exact_shares
from coterie.errors import JobError
from coterie.sync import recipes
from coterie.types import Layout
from coterie.world import Device, Link, World

LAYOUT = Layout(("w", "b"), ((1_000, 100), (1_000,)))
FAST = Device("fast", 0.01, 0.001, 512, failures_per_s=1e-3)
SLOW = Device("slow", 0.02, 0.004, 512, failures_per_s=2e-3)
WORLD = World((FAST, SLOW), (Link("fast", "slow", 0.001, 1e7),), batch=100, num_train=10_000)


@given(st.floats(0.0, 1.0), st.floats(1e-5, 0.1), st.sets(st.integers(1, 512), min_size=2))
def test_the_fit_recovers_an_affine_device(overhead_s, per_sample_s, sizes):
    true = Device("d", overhead_s, per_sample_s, 512)
    found = fit_device("d", [(size, true.step_s(size)) for size in sizes], 512)
    for size in sizes:
        assert found.step_s(size) == pytest.approx(true.step_s(size), rel=1e-6)
    assert found.overhead_s >= 0


timings = st.lists(st.tuples(st.integers(1, 512), st.floats(1e-6, 1e3)), min_size=1, max_size=12)


@given(timings)
def test_whatever_was_timed_a_is_not_negative_and_c_is_positive(timed):
    device = fit_device("d", timed, 512)
    assert device.overhead_s >= 0
    assert device.per_sample_s > 0


def test_one_slow_step_among_three_changes_nothing():
    steady = [(16, 0.1), (16, 0.1), (16, 0.1), (64, 0.3), (64, 0.3), (64, 0.3)]
    disturbed = [(16, 0.1), (16, 5.0), (16, 0.1), (64, 9.0), (64, 0.3), (64, 0.3)]
    assert fit_device("d", disturbed, 64) == fit_device("d", steady, 64)


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=9))
def test_however_often_a_size_was_timed_the_fit_lies_among_its_times(times_s):
    device = fit_device("d", [(32, time_s) for time_s in times_s], 64)
    assert min(times_s) * (1 - 1e-9) <= device.step_s(32) <= max(times_s) * (1 + 1e-9)


def test_a_negative_overhead_becomes_the_best_line_through_zero():
    device = fit_device("d", [(10, 0.5), (20, 2.0)], 64)
    assert device.overhead_s == 0
    assert device.per_sample_s == pytest.approx((10 * 0.5 + 20 * 2.0) / (10**2 + 20**2))


@pytest.mark.parametrize(
    "timed",
    [[(8, 0.5), (32, 0.4)], [(8, 0.4), (32, 0.4)], [(32, 0.4)]],
    ids=["falling", "flat", "one size"],
)
def test_without_a_rising_slope_all_is_put_into_c_of_the_largest_batch(timed):
    device = fit_device("d", timed, 64)
    assert (device.overhead_s, device.per_sample_s) == (0.0, 0.4 / 32)


@pytest.mark.parametrize(
    ("timed", "max_batch", "sentence"),
    [
        ([], 64, "found none"),
        ([(8, 0.0)], 64, "found 0.0 s on 8"),
        ([(8, math.nan)], 64, "found nan s"),
        ([(8, math.inf)], 64, "found inf s"),
        ([(0, 0.1)], 64, "on 0"),
        ([(8, 0.1)], 0, "found 0"),
    ],
)
def test_timings_that_cannot_be_are_refused(timed, max_batch, sentence):
    with pytest.raises(JobError, match=sentence):
        fit_device("d", timed, max_batch)


def test_an_option_reads_like_its_formula():
    strategy = recipes.local_sgd(8)
    option = predict(WORLD, LAYOUT, strategy, {"fast": 80, "slow": 20})
    walk_s, exchange_s = 8 * (0.02 + 0.004 * 20), strategy.price(LAYOUT, 2, WORLD.links)
    epoch_s = 12 * (walk_s + exchange_s) + 0.5 * walk_s + exchange_s  # the last round: half a walk
    assert option.strategy == repr(strategy)
    assert option.exchange_s == exchange_s > 0
    assert option.round_s == pytest.approx(epoch_s / 13, rel=1e-12)
    assert option.samples_per_round == pytest.approx(10_000 / 13, rel=1e-12)
    kept = strategy.prior.kept(1 / (0.8**2 + 0.2**2))  # as by 1.5 members of equal share
    assert option.efficiency == pytest.approx(kept * math.exp(-DOUBT * (1 - kept)))
    assert strategy.keeps() < kept < 1
    assert option.survival == pytest.approx(math.exp(-3e-3 * option.round_s), rel=1e-12)
    assert option.goodput_per_s == pytest.approx(
        10_000 / epoch_s * option.efficiency * option.survival, rel=1e-12
    )


@given(st.integers(1, 200), st.integers(1, 20_000))
def test_an_epoch_takes_its_steps_and_one_meeting_a_round(every, num_train):
    world, shares = replace(WORLD, num_train=num_train), {"fast": 80, "slow": 20}
    option = predict(world, LAYOUT, recipes.local_sgd(every), shares)
    num_rounds = math.ceil(num_train / (100 * every))
    epoch_s = num_train / 100 * (0.02 + 0.004 * 20) + num_rounds * option.exchange_s
    assert num_train / option.throughput_per_s == pytest.approx(epoch_s, rel=1e-9)


def test_what_meetings_were_measured_to_cost_is_added_to_each_where_members_meet():
    dear = replace(WORLD, meeting_s=0.25)
    for strategy in (recipes.all_reduce(), recipes.diloco_int8(32)):
        shares = {"fast": 80, "slow": 20}
        plain, learned = (predict(w, LAYOUT, strategy, shares) for w in (WORLD, dear))
        assert learned.exchange_s - plain.exchange_s == pytest.approx(0.25, rel=1e-12)
        assert learned.round_s - plain.round_s == pytest.approx(0.25, rel=1e-12)
    alone = predict(dear, LAYOUT, recipes.all_reduce(), {"fast": 100})
    assert alone.exchange_s == 0.0


def test_a_device_without_a_share_is_no_member():
    option = predict(WORLD, LAYOUT, recipes.all_reduce(), {"fast": 100, "slow": 0})
    assert option.shares == {"fast": 100}
    assert option.exchange_s == 0
    assert option.survival == pytest.approx(math.exp(-1e-3 * option.round_s), rel=1e-12)


def test_a_share_of_an_unknown_device_is_refused():
    with pytest.raises(JobError, match="gone"):
        predict(WORLD, LAYOUT, recipes.all_reduce(), {"fast": 50, "gone": 50})


def test_equal_shares_are_predicted_slower_than_exact_ones_on_unequal_devices():
    strategy = recipes.all_reduce()
    equal = equal_option(WORLD, LAYOUT, strategy)
    exact = predict(WORLD, LAYOUT, strategy, exact_shares(WORLD.batch, WORLD.devices))
    assert equal.shares == {"fast": 50, "slow": 50}
    assert exact.round_s < equal.round_s


def test_the_ideal_is_the_sum_of_solo_speeds_at_the_whole_batch():
    assert ideal_per_s(WORLD) == pytest.approx(100 / 0.11 + 100 / 0.42, rel=1e-12)
    assert ideal_per_s(WORLD) == solo_per_s(FAST, 100) + solo_per_s(SLOW, 100)


@given(st.integers(1, 512), st.floats(0, 1), st.floats(1e-6, 1))
def test_no_synchronous_option_is_predicted_above_the_ideal(batch, overhead_s, per_sample_s):
    world = World((FAST, Device("other", overhead_s, per_sample_s, 512)), WORLD.links, batch, 1)
    shares = exact_shares(batch, world.devices)
    alone = {name: share for name, share in shares.items() if share}
    step_s = max(world.device(name).step_s(share) for name, share in alone.items())
    assert batch / step_s <= ideal_per_s(world) * (1 + 1e-12)


def test_memory_beyond_plain_training_grows_with_what_a_sentence_keeps():
    vector_bytes = 4 * LAYOUT.size
    assert extra_bytes(recipes.all_reduce(), LAYOUT, 1) == 0
    assert extra_bytes(recipes.all_reduce(), LAYOUT, 4) == vector_bytes
    assert extra_bytes(recipes.diloco(32), LAYOUT, 4) == 3 * vector_bytes
    packed = recipes.diloco_int8(32)
    payload_bytes = packed.num_bytes(LAYOUT)
    assert extra_bytes(packed, LAYOUT, 4) == 4 * vector_bytes + 4 * payload_bytes
