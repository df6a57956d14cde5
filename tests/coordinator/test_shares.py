"""Shares: exact against a brute-force oracle, deterministic, and clear about what cannot be."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.shares import equal_shares, exact_shares, step_s
from coterie.errors import JobError
from coterie.world import Device

times_s = st.floats(0.0, 10.0, allow_subnormal=False)
clusters = st.lists(
    st.tuples(times_s, st.floats(1e-6, 1.0), st.integers(1, 40)), min_size=1, max_size=8
).map(lambda rows: [Device(f"d{i}", a, c, cap) for i, (a, c, cap) in enumerate(rows)])


def room(devices: Sequence[Device]) -> int:
    return sum(device.max_batch for device in devices)


def earliest_finish_s(total: int, devices: Sequence[Device]) -> float:
    """The oracle: the total-th of all finish times that any device could give any sample."""
    return sorted(d.step_s(k) for d in devices for k in range(1, d.max_batch + 1))[total - 1]


@given(clusters, st.data())
def test_the_latest_finisher_is_as_early_as_it_can_be(devices, data):
    total = data.draw(st.integers(1, room(devices)))
    shares = exact_shares(total, devices)
    assert sum(shares.values()) == total
    assert all(0 <= shares[d.name] <= d.max_batch for d in devices)
    assert step_s(shares, devices) == earliest_finish_s(total, devices)


@given(clusters, st.data())
def test_another_order_of_devices_changes_no_share(devices, data):
    total = data.draw(st.integers(1, room(devices)))
    shuffled = data.draw(st.permutations(devices))
    assert exact_shares(total, devices) == exact_shares(total, shuffled)
    assert equal_shares(total, devices) == equal_shares(total, shuffled)


@given(clusters, st.data())
def test_equal_shares_keep_within_one_of_each_other_below_the_caps(devices, data):
    total = data.draw(st.integers(1, room(devices)))
    shares = equal_shares(total, devices)
    largest = max(shares.values())
    assert sum(shares.values()) == total
    for device in devices:
        assert shares[device.name] >= min(device.max_batch, largest - 1)
        assert shares[device.name] <= device.max_batch


@given(clusters, st.data())
def test_exact_shares_are_never_slower_than_equal_ones(devices, data):
    total = data.draw(st.integers(1, room(devices)))
    exact, equal = exact_shares(total, devices), equal_shares(total, devices)
    assert step_s(exact, devices) <= step_s(equal, devices)


def test_equal_devices_get_equal_shares_and_ties_go_by_name():
    devices = [Device(name, 0.01, 0.002, 64) for name in ("c", "a", "b")]
    assert exact_shares(10, devices) == {"a": 4, "b": 3, "c": 3}


def test_a_device_whose_overhead_outlasts_the_others_drops_out():
    devices = [Device("fast", 0.0, 0.001, 512), Device("slow", 5.0, 0.0001, 512)]
    assert exact_shares(256, devices) == {"fast": 256, "slow": 0}


def test_a_full_memory_passes_the_rest_on_to_slower_devices():
    devices = [Device("fast", 0.0, 0.001, 10), Device("slow", 1.0, 0.1, 512)]
    assert exact_shares(15, devices) == {"fast": 10, "slow": 5}


def test_a_batch_that_exactly_fills_every_memory_is_shared():
    devices = [Device("a", 0.0, 0.3, 7), Device("b", 0.1, 0.1, 5)]
    assert exact_shares(12, devices) == {"a": 7, "b": 5}


def test_samples_too_short_for_the_float_beside_the_overhead_still_add_up():
    devices = [Device("a", 1.0, 1e-20, 10**6), Device("b", 1.0, 1e-20, 10**6)]
    assert sum(exact_shares(1_500_000, devices).values()) == 1_500_000


def test_floats_that_round_do_not_cost_a_sample():
    devices = [Device("a", 0.1, 0.1, 100), Device("b", 0.3, 0.7, 100)]
    generator = random.Random(3)
    for _ in range(100):
        total = generator.randint(1, 200)
        shares = exact_shares(total, devices)
        assert step_s(shares, devices) == earliest_finish_s(total, devices)


def test_a_step_without_samples_takes_no_time():
    assert step_s({}, []) == 0.0
    assert step_s({"a": 0}, [Device("a", 1.0, 1.0, 8)]) == 0.0


def test_a_share_of_an_absent_device_is_refused():
    with pytest.raises(JobError, match="found a share of gone"):
        step_s({"gone": 4}, [Device("here", 0.0, 1.0, 8)])


@pytest.mark.parametrize("share", [exact_shares, equal_shares])
@pytest.mark.parametrize(
    ("total", "devices", "sentence"),
    [
        (8, [], "found none"),
        (0, [Device("a", 0.0, 1.0, 8)], "found 0"),
        (64, [Device("a", 0.0, 1.0, 8), Device("b", 0.0, 1.0, 9)], "batch of 64.*room for 17"),
        (4, [Device("a", 0.0, 1.0, 8), Device("a", 0.0, 2.0, 8)], "found a twice"),
        (4, [Device("a", -0.1, 1.0, 8)], "found -0.1 s"),
        (4, [Device("a", math.nan, 1.0, 8)], "found nan s"),
        (4, [Device("a", math.inf, 1.0, 8)], "found inf s"),
        (4, [Device("a", 0.0, 0.0, 8)], "and 0.0 s"),
        (4, [Device("a", 0.0, math.nan, 8)], "and nan s"),
        (4, [Device("a", 0.0, math.inf, 8)], "and inf s"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_a_sentence(share, total, devices, sentence):
    with pytest.raises(JobError, match=sentence):
        share(total, devices)
