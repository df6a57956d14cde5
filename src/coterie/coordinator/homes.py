"""On which agent each learner of a task lives: the assignment of `assign`, one place at a time.

An agent that holds k learners gives each a part of its time. Progress has diminishing returns, so
what a learner brings is sqrt(its steps a second), and the k-th one that an agent takes adds
sqrt(k) − sqrt(k−1) of what a single one would: with places numbered so, the sum that `assign` makes
largest is the whole's. It is multiplied by the chance that the agent lives on, and a little more
where kin live, for lessons on one agent cost no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coterie.coordinator.assign import Claim, assign
from coterie.world import Device, World

HORIZON_S = 600.0  # over which an agent is to live
KIN_BONUS = 0.05  # of its utility, for living where all of its kin do
RESTART_S = 1.0  # that a move costs a learner: its state travels, and caches are cold

_MARK = "#"  # no agent's name has it: between an agent and the number of a place on it


@dataclass(frozen=True)
class Learner:
    """One that wants a home, and where it has one.

    >>> Learner("digits", "digits").priority
    1.0
    """

    name: str
    task: str
    priority: float = 1.0
    home: str = ""
    age_s: float = 0.0  # since it came there


@dataclass(frozen=True)
class Host:
    """An agent, and the seconds that a step of each task takes there; tasks it cannot learn lack.

    >>> Host("pi", {"digits": 0.25}).step_s["digits"]
    0.25
    """

    name: str
    step_s: Mapping[str, float]
    failures_per_s: float = 0.0


@dataclass(frozen=True)
class Homes:
    """Where each learner is to live, and why some can live nowhere."""

    of: Mapping[str, str]
    homeless: Mapping[str, str] = field(default_factory=dict)


def homes(
    learners: Sequence[Learner],
    hosts: Sequence[Host],
    kin: Sequence[Sequence[str]] = (),
    restart_s: float = RESTART_S,
) -> Homes:
    """A home for each learner, so that Σ priority × utility is largest; moves have to be worth it.

    >>> fast, slow = Host("fast", {"a": 0.1, "b": 0.1}), Host("slow", {"a": 0.8, "b": 0.8})
    >>> homes([Learner("a", "a"), Learner("b", "b")], [fast, slow]).of
    {'a': 'fast', 'b': 'fast'}
    >>> sorted(homes([Learner(name, "b") for name in "xyz"], [fast, slow]).of.values())
    ['fast', 'fast', 'slow']
    """
    if not learners or not hosts:
        return Homes({}, {each.name: "no agent is here" for each in learners})
    known = {host.name: host for host in hosts}
    world, places = _places(hosts, len(learners))
    relatives = {name: group for group in kin for name in group}
    lives = {each.name: each.home for each in learners}
    by_name = {each.name: each for each in learners}

    def utility(name: str, place: tuple[str, ...]) -> float:
        host, number = _of(place[0])
        step_s = known[host].step_s.get(by_name[name].task)
        if step_s is None:
            return 0.0
        near = _near(relatives.get(name, ()), name, host, lives)
        survives = math.exp(-known[host].failures_per_s * HORIZON_S)
        share = math.sqrt(number) - math.sqrt(number - 1)
        share *= _keeps(by_name[name], host, restart_s if lives[name] in known else 0.0)
        return share * survives * (1 + KIN_BONUS * near) / math.sqrt(max(step_s, 1e-6))

    claims = [Claim(each.name, each.priority) for each in learners]
    found = assign(world, claims, utility, sets=[(place,) for place in places])
    return Homes(
        of={name: _of(place[0])[0] for name, place in found.placed.items()},
        homeless=dict(found.unplaced),
    )


def _places(hosts: Sequence[Host], num_learners: int) -> tuple[World, list[str]]:
    names = [f"{host.name}{_MARK}{k}" for host in hosts for k in range(1, num_learners + 1)]
    devices = tuple(Device(name, 0.0, 1.0, 1) for name in names)
    return World(devices, (), 1, 1), names


def _keeps(learner: Learner, host: str, restart_s: float) -> float:
    """The part of its utility that a learner keeps on an agent, where moving costs time."""
    lives = (learner.home,) if restart_s else ()
    return Claim(learner.name, on=lives, age_s=learner.age_s).keeps((host,), restart_s)


def _of(place: str) -> tuple[str, int]:
    host, _, number = place.rpartition(_MARK)
    return host, int(number)


def _near(group: Sequence[str], name: str, host: str, lives: Mapping[str, str]) -> float:
    """Which part of its kin live on an agent."""
    others = [other for other in group if other != name]
    return sum(lives.get(other) == host for other in others) / len(others) if others else 0.0
