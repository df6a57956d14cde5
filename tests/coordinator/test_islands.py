"""Islands are found where they were planted, and nowhere else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.islands import islands, road_s
from coterie.world import Device, Link, World


def planted(sizes: list[int], fast: float, slow: float, noise: float, seed: int) -> World:
    """Rooms of so many members; each link's speed is off by up to a factor of 1 + `noise`."""
    rng = random.Random(seed)
    rooms = [f"{chr(97 + room)}{i}" for room, size in enumerate(sizes) for i in range(size)]
    links = [
        Link(a, b, 1e-4, (fast if a[0] == b[0] else slow) * (1 + noise) ** rng.uniform(-1, 1))
        for i, a in enumerate(rooms)
        for b in rooms[i + 1 :]
    ]
    rng.shuffle(links)
    devices = tuple(Device(name, 0.0, 0.1, 64) for name in rng.sample(rooms, len(rooms)))
    return World(devices, tuple(links), 64, 1_000)


def rooms_of(world: World) -> set[tuple[str, ...]]:
    names = sorted(device.name for device in world.devices)
    return {tuple(name for name in names if name[0] == room) for room in {n[0] for n in names}}


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4).filter(lambda sizes: max(sizes) > 1),
    st.floats(4.0, 1e4),
    st.floats(0.0, 0.25),
    st.integers(0, 1_000),
)
def test_planted_rooms_are_found_whatever_their_sizes_and_the_noise(sizes, times, noise, seed):
    world = planted(sizes, times * 1e6, 1e6, noise, seed)
    assert set(islands(world)) == rooms_of(world)


@given(st.integers(1, 12), st.floats(0.0, 0.3), st.floats(1e3, 1e10), st.integers(0, 1_000))
def test_where_links_are_alike_there_are_none(num, noise, rate, seed):
    assert islands(planted([num], rate, rate, noise, seed)) == ()


def test_a_chain_of_ever_slower_links_has_none():
    names = "abcdef"
    links = tuple(
        Link(a, b, 0.0, 1e9 / 3 ** (j - i))
        for i, a in enumerate(names)
        for j, b in enumerate(names[i + 1 :], i + 1)
    )
    world = World(tuple(Device(name, 0.0, 0.1, 64) for name in names), links, 64, 1_000)
    assert islands(world) == ()


@pytest.mark.parametrize("broken", [0.0, -1.0, float("nan")])
def test_links_that_are_missing_or_dead_make_no_islands_and_no_errors(broken):
    world = planted([2, 2], 1e8, 1e6, 0.0, 1)
    assert islands(World(world.devices, (), 64, 1_000)) == ()
    assert islands(World((), (), 64, 1_000)) == ()
    dead = Link("a0", "b0", 1e-4, broken)
    assert road_s(dead) == float("inf")
    assert set(islands(world.with_links((dead,)))) == rooms_of(world)
    apart = islands(world.with_links((Link("a0", "a1", 1e-4, broken),)))
    assert set(apart) == {("a0",), ("a1",), ("b0", "b1")}
