"""Sets of members worth a look: few, however many devices there are."""

from __future__ import annotations

from itertools import pairwise

from coterie.coordinator.cohorts import member_sets
from coterie.world import Device, Link, World


def test_of_a_thousand_devices_few_sets_are_worth_a_look() -> None:
    devices = [Device(f"d{i:03}", 0.005, 0.0005 * 1.01**i, 512) for i in range(1_000)]
    ring = tuple(
        Link(a.name, b.name, 1e-4 * (1 + i), 1e8) for i, (a, b) in enumerate(pairwise(devices))
    )
    sets = list(member_sets(World(tuple(devices), ring, 2_000, 100_000)))
    assert 2 < len(sets) <= 36
    assert len(sets[0]) == 1_000
