"""Shares equal the optimum of the mixed-integer program, solved by HiGHS, on 1,000 instances."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from coterie.coordinator.shares import exact_shares, step_s
from coterie.world import Device

NUM_INSTANCES = 400  # benchmarks/bench_oracles.py has the thousand


def instance(seed: int) -> tuple[int, list[Device]]:
    """Whole microseconds as times, so that the solver's tolerances cannot blur the optimum.

    Every third has overheads that make devices drop out, every fourth almost no room to spare.
    """
    generator = random.Random(seed)
    num_devices = generator.randint(2, 16)
    longest_overhead = 50_000 if seed % 3 == 0 else 2_000
    devices = [
        Device(
            f"d{i:02}",
            overhead_s=float(generator.randint(0, longest_overhead)),
            per_sample_s=float(generator.randint(10, 1_000)),
            max_batch=generator.randint(4, 128),
        )
        for i in range(num_devices)
    ]
    room = sum(device.max_batch for device in devices)
    total = room - generator.randint(0, 3) if seed % 4 == 0 else generator.randint(1, room)
    return total, devices


def optimum(total: int, devices: list[Device]) -> float:
    """Minimise T over (T, x, z): T ≥ a·z + c·x, x ≤ cap·z, Σx = total, x whole, z in {0, 1}."""
    n = len(devices)
    a, c, cap = (
        np.array([getattr(device, field) for device in devices], dtype=float)
        for field in ("overhead_s", "per_sample_s", "max_batch")
    )
    column, square = np.ones((n, 1)), np.zeros((n, n))
    finishes = LinearConstraint(np.hstack([column, -np.diag(c), -np.diag(a)]), lb=0)
    holds = LinearConstraint(np.hstack([0 * column, np.eye(n), -np.diag(cap)]), ub=0)
    shared = LinearConstraint(np.hstack([[0], np.ones(n), square[0]]), total, total)
    solved = milp(
        np.hstack([[1], np.zeros(2 * n)]),
        integrality=np.hstack([[0], np.ones(2 * n)]),
        bounds=Bounds(0, np.hstack([[np.inf], cap, np.ones(n)])),
        constraints=[finishes, holds, shared],
        options={"mip_rel_gap": 0, "time_limit": 10},
    )
    assert solved.status == 0, solved.message
    share = np.round(solved.x[1 : n + 1]).astype(int)
    assert share.sum() == total
    return max(device.step_s(int(b)) for device, b in zip(devices, share, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, NUM_INSTANCES, 100))
def test_shares_equal_the_mixed_integer_optimum(first):
    for seed in range(first, first + 100):
        total, devices = instance(seed)
        found = step_s(exact_shares(total, devices), devices)
        assert found == pytest.approx(optimum(total, devices), rel=1e-9), f"instance {seed}"


def test_the_instances_cover_devices_that_drop_out_and_memories_that_fill():
    num_dropped = num_full = 0
    for total, devices in map(instance, range(100)):
        shares = exact_shares(total, devices)
        num_dropped += 0 in shares.values()
        num_full += any(shares[device.name] == device.max_batch for device in devices)
    assert num_dropped > 10
    assert num_full > 10
