"""Which members are worth a look: everyone, and without those who may cost more than they bring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from coterie.coordinator.islands import road_s
from coterie.coordinator.model import solo_per_s
from coterie.world import Link, World

MOST_ONE_BY_ONE = 12  # devices: of more, those alike are left out together
ALIKE = 0.05  # relative, of speeds and of roads
FLAKY_WITHIN_S = 60  # a device that fails once in this time is left out as if half as fast

Members = tuple[str, ...]


def member_sets(world: World) -> Iterable[Members]:
    """Everyone; without the farthest, one after the other; each of these without the slowest.

    At most n(n+1)/2 sets, not 2ⁿ. A slow processor never delays a step, shares see to that: what
    a member can cost is the meeting, by a slow road, by being one more or by failing in it. Of
    many, those that are alike are left out together, at least an eighth of all: 36 sets at most.

    >>> from coterie.world import Device
    >>> pc, pi = Device("pc", 0.01, 0.001, 512), Device("pi", 0.02, 0.004, 512)
    >>> list(member_sets(World((pc, pi), (Link("pc", "pi", 0.0, 1e6),), 64, 1_000)))
    [('pc', 'pi'), ('pc',)]
    """
    everyone = tuple(device.name for device in world.devices)
    many = len(everyone) > MOST_ONE_BY_ONE
    speed = {
        device.name: solo_per_s(device, world.batch) / (1 + FLAKY_WITHIN_S * device.failures_per_s)
        for device in world.devices
    }

    def slowest(members: Members) -> Members:
        if many:
            return _worst_of_many(members, {n: 1 / speed[n] for n in members}, len(everyone))
        return (min(members, key=speed.__getitem__),)

    def farthest(members: Members) -> Members:
        links = world.only(members).links
        if many:
            return _worst_of_many(members, _nearest_s(members, links), len(everyone))
        return (max(members, key=lambda name: (_reach_s(name, links), -speed[name])),)

    near_sets = _peel(world, everyone, farthest)
    return dict.fromkeys(each for near in near_sets for each in _peel(world, near, slowest))


def _peel(world: World, members: Members, worst: Callable[[Members], Members]) -> Iterator[Members]:
    """Leave out the worst, one after the other, as long as the rest can hold the batch."""
    room = {device.name: max(0, device.max_batch) for device in world.devices}
    while members and sum(room[name] for name in members) >= world.batch:
        yield members
        left_out = set(worst(members))
        members = tuple(name for name in members if name not in left_out)


def _worst_of_many(members: Members, badness: Mapping[str, float], num_all: int) -> Members:
    """The worst eighth of all, with whoever is as bad as the last of them."""
    last = sorted((badness[name] for name in members), reverse=True)[: -(-num_all // 8)][-1]
    return tuple(name for name in members if badness[name] * (1 + ALIKE) >= last)


def _nearest_s(members: Members, links: Sequence[Link]) -> dict[str, float]:
    """Seconds to send a probe over the best of each member's links."""
    nearest = dict.fromkeys(members, math.inf)
    for link in links:
        seconds = road_s(link)
        for end in (link.a, link.b):
            nearest[end] = min(nearest[end], seconds)
    return nearest


def _reach_s(name: str, links: Sequence[Link]) -> float:
    """Seconds to send a probe over each of a member's links."""
    return sum(road_s(link) for link in links if name in (link.a, link.b))
