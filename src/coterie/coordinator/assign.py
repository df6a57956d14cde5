"""Which task learns on which devices, where several want them: a small mixed-integer program.

maximise   U = Σ priority · utility(task, devices) · keeps · x[task, devices],  x in {0, 1}
such that  each task is given one set of devices or none, and each device one task or none
keeps      = 1 where a task stays where it is, or is new
           = max(age_s − num_restarts · restart_s, 0) / (age_s + restart_s) where it moves

The form is Sia's (Jayaram Subramanya et al. 2023); the solver is HiGHS, loaded when it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from coterie.coordinator.model import solo_per_s
from coterie.coordinator.shares import check_times
from coterie.errors import JobError
from coterie.world import World

ALL_SETS = 6  # devices, up to which every set of them is weighed: 63 sets
MOST_CUTS = 12  # of a row of many devices or islands: 78 runs
SOLVE_S = 10.0  # then the best found so far is taken
MOST = 1e300  # that one choice is worth: sums of several stay finite
PLENTY = 1e-9  # of the largest value: what is worth less than this part of it is worth nothing

T = TypeVar("T")
Members = tuple[str, ...]
Utility = Callable[[str, Members], float]


@dataclass(frozen=True)
class Claim:
    """A task that wants devices, and where it learns now, if it does."""

    task: str
    priority: float = 1.0
    on: Members = ()
    age_s: float = 0.0  # since it began
    num_restarts: int = 0  # that it has suffered since

    def keeps(self, devices: Members, restart_s: float) -> float:
        """The part of its utility that a task keeps on these devices, where moving costs time.

        >>> Claim("digits", on=("a",), age_s=90.0).keeps(("a", "b"), restart_s=10.0)
        0.9
        """
        if not self.on or set(devices) == set(self.on):
            return 1.0
        return max(self.age_s - self.num_restarts * restart_s, 0.0) / (self.age_s + restart_s)


@dataclass(frozen=True)
class Assignment:
    """The devices of each task that was given some, and why others were given none."""

    placed: Mapping[str, Members]
    unplaced: Mapping[str, str]
    total: float  # U


def assign(
    world: World,
    claims: Sequence[Claim],
    utility: Utility,
    restart_s: float = 0.0,
    sets: Sequence[Members] | None = None,
) -> Assignment:
    """Devices for tasks, so that the sum of priority × utility is largest.

    `utility` says what a task brings on some devices, in whatever unit all tasks share; 0 or less
    means that it cannot run there. A task without devices is named in `unplaced`. `sets` are those
    that may be given; by default `device_sets` of the world. Raises JobError for priorities below
    0, for two of one task, and for utilities that are no finite numbers.

    >>> from coterie.world import Device
    >>> devices = tuple(Device(name, 0.0, 0.01, 64) for name in "abc")
    >>> claims = [Claim("digits", priority=2.0), Claim("cats")]
    >>> found = assign(World(devices, (), 8, 100), claims, lambda task, on: len(on) ** 0.5)
    >>> {task: len(on) for task, on in found.placed.items()}
    {'digits': 2, 'cats': 1}
    """
    _check(world, claims, restart_s)
    values = {
        (claim.task, devices): value
        for devices in (device_sets(world) if sets is None else sets)
        for claim in claims
        if (value := _value(claim, devices, utility, restart_s)) > 0
    }
    chosen = _solve(values)
    placed = {c.task: chosen[c.task] for c in claims if c.task in chosen}
    able = {task for task, _ in values}
    return Assignment(
        placed=placed,
        unplaced={c.task: _why_none(c, c.task in able) for c in claims if c.task not in placed},
        total=math.fsum(values[pair] for pair in placed.items()),
    )


def device_sets(world: World, islands: Sequence[Members] = ()) -> tuple[Members, ...]:
    """The sets of devices worth a look, each in the order of names.

    All of up to six devices. Of more: neighbours in speed on one island, for a step waits for the
    slowest; islands as a whole, one or several; and everybody. n devices have n(n+1)/2 such runs;
    of more than twelve, those next to each other are kept together, so that there are twelve.

    >>> from coterie.world import Device
    >>> seven = tuple(Device(name, 0.0, 0.01, 64) for name in "abcdefg")
    >>> len(device_sets(World(seven[:6], (), 8, 100))), len(device_sets(World(seven, (), 8, 100)))
    (63, 28)
    """
    names = [device.name for device in world.devices]
    if len(names) <= ALL_SETS:
        sizes = range(1, len(names) + 1)
        return tuple(each for size in sizes for each in combinations(sorted(names), size))
    on_one = {name for island in islands for name in island}
    rest = tuple(name for name in names if name not in on_one)
    known = [tuple(n for n in island if n in names) for island in islands]
    whole = [island for island in (*known, rest) if island]
    speed = {d.name: solo_per_s(d, world.batch) for d in world.devices}
    found = [run for island in whole for run in _runs(sorted(island, key=lambda n: -speed[n]))]
    found += [sum(several, ()) for several in _runs(whole)]
    return tuple(dict.fromkeys(tuple(sorted(each)) for each in found))


def _runs(ordered: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Neighbours in a row, from one cut to another."""
    num_cuts = min(MOST_CUTS, len(ordered))
    cuts = [len(ordered) * number // num_cuts for number in range(num_cuts + 1)]
    for first, after in combinations(cuts, 2):
        yield tuple(ordered[first:after])


def _value(claim: Claim, devices: Members, utility: Utility, restart_s: float) -> float:
    brings = utility(claim.task, devices)
    if not math.isfinite(brings):
        raise JobError(
            f"expected a finite utility of {claim.task!r} on {', '.join(devices)}, found {brings}; "
            "return 0 where a task cannot run"
        )
    value = claim.priority * brings * claim.keeps(devices, restart_s)
    if value > MOST:
        raise JobError(
            f"expected a priority that can be reckoned with, found {claim.priority:g} of "
            f"{claim.task!r}; write smaller numbers, for only their ratios count"
        )
    return value


def _solve(values: Mapping[tuple[str, Members], float]) -> dict[str, Members]:
    """One choice per task, one task per device: the choices of the largest sum."""
    most = max(values.values(), default=0.0)
    pairs = [pair for pair, value in values.items() if value > PLENTY * most]
    if not pairs:
        return {}
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    tasks = sorted({task for task, _ in pairs})
    devices = sorted({name for _, on in pairs for name in on})
    takes = [[task == mine for mine, _ in pairs] for task in tasks]
    takes += [[name in on for _, on in pairs] for name in devices]
    solved = milp(
        -np.array([values[pair] / most for pair in pairs]),
        integrality=np.ones(len(pairs), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(np.array(takes, dtype=float), ub=1),
        options={"time_limit": SOLVE_S},
    )
    if solved.x is None:
        raise JobError(
            f"expected an assignment of {len(tasks)} tasks within {SOLVE_S:.0f} s, found none; "
            "ask for fewer tasks at once"
        )
    return {task: on for (task, on), x in zip(pairs, solved.x, strict=True) if x > 0.5}


def _why_none(claim: Claim, able: bool) -> str:
    if claim.priority == 0:
        return "its priority is 0"
    return "other tasks bring more on every device" if able else "it fits on no set of devices"


def _check(world: World, claims: Sequence[Claim], restart_s: float) -> None:
    if not world.devices:
        raise JobError("expected at least one device for the tasks, found none; add a device")
    for device in world.devices:
        check_times(device)
    if not (math.isfinite(restart_s) and restart_s >= 0):
        raise JobError(f"expected a restart to take 0 s or more, found {restart_s}; measure it")
    names = {device.name for device in world.devices}
    seen: dict[str, Claim] = {}
    for claim in claims:
        _check_claim(claim, names)
        if claim.task in seen:
            raise JobError(
                f"expected one priority of {claim.task!r}, found {seen[claim.task].priority:g} and "
                f"{claim.priority:g}; name the task once"
            )
        seen[claim.task] = claim
    if claims and not any(claim.priority > 0 for claim in claims):
        raise JobError(
            "expected a priority above 0 of at least one task, found 0 everywhere; raise one"
        )


def _check_claim(claim: Claim, names: set[str]) -> None:
    if not (math.isfinite(claim.priority) and claim.priority >= 0):
        raise JobError(
            f"expected a finite priority of 0 or more of {claim.task!r}, found {claim.priority:g}; "
            "write 0 for a task that may wait, 1 for the others"
        )
    if not (math.isfinite(claim.age_s) and claim.age_s >= 0 and claim.num_restarts >= 0):
        raise JobError(
            f"expected an age and a number of restarts of 0 or more of {claim.task!r}, found "
            f"{claim.age_s} s and {claim.num_restarts}; count them again"
        )
    if gone := sorted(set(claim.on) - names):
        raise JobError(
            f"expected {claim.task!r} on devices that are here, found it on {', '.join(gone)}; "
            "leave out who has gone"
        )
