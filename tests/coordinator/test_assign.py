"""Assignment is as good as brute force, and what cannot be placed is named, not raised."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import cache

import pytest

from coterie.coordinator.assign import Claim, assign, device_sets
from coterie.errors import JobError
from coterie.world import Device, World

NUM_INSTANCES = 40


def world(*per_sample_s: float) -> World:
    devices = (Device(f"d{i}", 0.0, c, 64) for i, c in enumerate(per_sample_s))
    return World(tuple(devices), (), 8, 1_000)


def instance(seed: int):
    """A world, claims and a table of utilities: diminishing returns, noise, misfits, moves."""
    generator = random.Random(seed)
    here = world(*(generator.uniform(0.001, 0.01) for _ in range(generator.randint(1, 4))))
    tasks = [f"t{i}" for i in range(generator.randint(1, 4))]
    table = {}
    for task in tasks:
        bend = generator.uniform(0.3, 1.0)
        for on in device_sets(here):
            speed = sum(1 / here.device(name).per_sample_s for name in on)
            fits = generator.random() > 0.2
            table[task, on] = speed**bend * generator.uniform(0.7, 1.3) if fits else 0.0
    claims = [
        Claim(
            task,
            priority=generator.choice([0.5, 1.0, 3.0]),
            on=generator.choice([(), *device_sets(here)]),
            age_s=generator.uniform(0, 200),
            num_restarts=generator.randint(0, 3),
        )
        for task in tasks
    ]
    return here, claims, table


def brute_force(here, claims, table, restart_s):
    sets = device_sets(here)

    @cache
    def best(index, free):
        if index == len(claims):
            return 0.0
        claim, found = claims[index], best(index + 1, free)
        for on in sets:
            if free.issuperset(on) and table[claim.task, on] > 0:
                mine = claim.priority * table[claim.task, on] * claim.keeps(on, restart_s)
                found = max(found, mine + best(index + 1, free - set(on)))
        return found

    return best(0, frozenset(device.name for device in here.devices))


def test_the_assignment_equals_brute_force():
    for seed in range(NUM_INSTANCES):
        here, claims, table = instance(seed)
        ours = assign(here, claims, lambda task, on: table[task, on], restart_s=20.0)  # noqa: B023
        assert ours.total >= 0.999 * brute_force(here, claims, table, 20.0), f"instance {seed}"
        given = [name for on in ours.placed.values() for name in on]
        assert len(given) == len(set(given))
        assert ours.placed.keys() | ours.unplaced.keys() == {c.task for c in claims}
        assert all(table[pair] > 0 for pair in ours.placed.items())


def test_the_fast_device_goes_to_the_task_that_matters_more():
    here = world(0.001, 0.01)

    def speed(task, on):
        return sum(1 / here.device(name).per_sample_s for name in on) ** 0.5

    ours = assign(here, [Claim("low"), Claim("high", priority=5.0)], speed)
    assert ours.placed == {"low": ("d1",), "high": ("d0",)}


def test_a_task_does_not_move_for_less_than_the_move_costs():
    here = world(0.01, 0.01)
    at_home = [Claim("old", on=("d1",), age_s=100.0)]

    def slightly_better(task, on):
        return {("d0",): 1.05, ("d1",): 1.0}.get(on, 0.0)

    assert assign(here, at_home, slightly_better, restart_s=10.0).placed == {"old": ("d1",)}
    assert assign(here, at_home, slightly_better, restart_s=1.0).placed == {"old": ("d0",)}


def test_who_is_not_placed_is_told_why():
    def only_small(task, on):
        return 0.0 if task == "huge" else 1.0

    claims = [Claim("huge", 9.0), Claim("first", 2.0), Claim("second"), Claim("idle", 0.0)]
    ours = assign(world(0.01), claims, only_small)
    assert ours.placed == {"first": ("d0",)}
    assert ours.unplaced == {
        "huge": "it fits on no set of devices",
        "second": "other tasks bring more on every device",
        "idle": "its priority is 0",
    }


def test_of_many_devices_tasks_keep_to_their_islands():
    here = world(*[0.01] * 4, *[0.02] * 4)
    islands = [("d0", "d1", "d4", "d5"), ("d2", "d3", "d6", "d7")]

    def near(task, on):
        return 1.0 + len(on) if any(set(on) <= set(island) for island in islands) else 1.0

    placed = assign(here, [Claim("x"), Claim("y")], near, sets=device_sets(here, islands)).placed
    assert sorted(placed.values()) == sorted(islands)
    assert tuple(f"d{i}" for i in range(8)) in device_sets(here, islands)


@pytest.mark.parametrize("num", [13, 400])
def test_of_very_many_devices_neighbours_stay_together_and_nobody_is_forgotten(num):
    sets = device_sets(world(*(0.001 * (i + 1) for i in range(num))))
    assert len(sets) == 78
    shortest = [on for on in sets if len(on) <= -(-num // 12)]
    assert len(set(sum(shortest, ()))) == num


@pytest.mark.parametrize(
    ("here", "claims", "sentence"),
    [
        (world(), [Claim("x")], "at least one device"),
        (world(0.01), [Claim("x", -1.0)], "priority of 0 or more of 'x', found -1; write 0"),
        (world(0.01), [Claim("x", float("nan"))], "found nan"),
        (world(0.01), [Claim("x", 1.0), Claim("x", 2.0)], "one priority of 'x', found 1 and 2"),
        (world(0.01), [Claim("x", 0.0)], "found 0 everywhere"),
        (world(0.01), [Claim("x", on=("d7",))], "found it on d7"),
        (world(0.0), [Claim("x")], "'d0' to take a finite time"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(here, claims, sentence):
    with pytest.raises(JobError, match=sentence):
        assign(here, claims, lambda task, on: 1.0)


def test_a_utility_that_is_no_number_is_refused_in_words():
    with pytest.raises(JobError, match="finite utility of 'x' on d0, found nan"):
        assign(world(0.01), [Claim("x")], lambda task, on: float("nan"))
    with pytest.raises(JobError, match="can be reckoned with, found 1e\\+308 of 'x'"):
        assign(world(0.01), [Claim("x", 1e308)], lambda task, on: 10.0)


def test_no_task_needs_no_device():
    assert assign(world(0.01), [], lambda task, on: 1.0).placed == {}


def test_the_solver_is_loaded_only_when_it_is_asked():
    code = (
        "import sys; from coterie.coordinator import assign; "
        "print({'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
