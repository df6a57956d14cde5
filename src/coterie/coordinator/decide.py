"""Which sentence, on which members, with which shares: every option is priced, the best is chosen.

The score is goodput: samples a second × progress kept by each × chance that a round is not torn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coterie.coordinator.candidates import candidates as candidates
from coterie.coordinator.candidates import candidates as worth_pricing
from coterie.coordinator.islands import road_s
from coterie.coordinator.model import extra_bytes, shares_of, solo_per_s, weigh
from coterie.coordinator.parallel import pipelines
from coterie.coordinator.prices import Cohort, Sentence, cohort_of, sentence_of
from coterie.coordinator.reasons import reasons
from coterie.coordinator.rivals import Weighed, best, rejected
from coterie.coordinator.shares import exact_shares
from coterie.errors import JobError
from coterie.types import Layout
from coterie.world import Decision, Link, Option, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

MOST_ONE_BY_ONE = 12  # devices: of more, those alike are left out together
ALIKE = 0.05  # relative, of speeds and of roads
FLAKY_WITHIN_S = 60  # a device that fails once in this time is left out as if half as fast

Members = tuple[str, ...]


def decide(
    world: World,
    layout: Layout,
    number: int,
    cause: str,
    candidates: Sequence[Strategy] | None = None,
    spare_bytes: Mapping[str, int] | None = None,
) -> Decision:
    """Choose the option of highest goodput, and say in numbers what spoke for and against it.

    `candidates` are the only sentences considered: one, when the user asked for it. `spare_bytes`
    is each device's memory left beside the model at its largest batch; a device not named has
    enough. Raises JobError when the devices cannot hold the batch, when members are not linked,
    or when no sentence fits into memory.

    >>> from coterie.world import Device
    >>> laptop, phone = Device("laptop", 0.01, 0.001, 512), Device("phone", 0.02, 0.004, 512)
    >>> world = World((laptop, phone), (Link("laptop", "phone", 1e-6, 1e9),), 128, 50_000)
    >>> decision = decide(world, Layout(("w",), ((10_000,),)), 1, "start")
    >>> decision.chosen.strategy, decision.chosen.shares
    ('chain(Reduce())', {'laptop': 105, 'phone': 23})
    """
    _check(world)
    strategies = tuple(worth_pricing(world) if candidates is None else candidates)
    if not strategies:
        raise JobError("expected a strategy to choose from, found none; name one or use 'auto'")
    weighed = _weigh(world, layout, strategies, spare_bytes or {})
    if candidates is None:
        weighed += [
            _weigh_one(sentence_of(each, layout), cohort_of(world, shares), spare_bytes or {})
            for each, shares in pipelines(world, layout).items()
        ]
    able = [each for each in weighed if not each.option.refused]
    if not able:
        nearest = best(weighed).option
        raise JobError(
            f"expected a strategy that fits these devices, found none: {nearest.strategy} "
            f"{nearest.refused}; {_mended(nearest)}"
        )
    chosen = best(able)
    if not chosen.option.goodput_per_s > 0:
        raise JobError(
            f"expected devices that get somewhere, found {chosen.option.round_s:.3g} s a round for "
            f"the best of them, {', '.join(chosen.option.shares)}; measure them again"
        )
    lead = "As asked, " if candidates is not None and len(strategies) == 1 else ""
    return Decision(
        number=number,
        cause=cause,
        world=world,
        chosen=chosen.option,
        rejected=rejected(weighed, able, chosen),
        reasons=tuple(reasons(world, able, chosen, lead)),
    )


def _check(world: World) -> None:
    """Refuse what no choice of members could mend."""
    exact_shares(world.batch, world.devices)
    if world.num_train < 1:
        raise JobError(
            f"expected 1 sample or more to learn from, found {world.num_train}; look at the data"
        )
    for device in world.devices:
        if not (math.isfinite(device.failures_per_s) and device.failures_per_s >= 0):
            raise JobError(
                f"expected {device.name!r} to fail 0 times a second or more, found "
                f"{device.failures_per_s}; count its failures again"
            )


def _mended(option: Option) -> str:
    if "members" in option.refused:
        return "start more agents, or ask for another strategy"
    if "no time" in option.refused:
        return "leave that device out, or ask for another strategy"
    return "lower the batch or leave that device out"


def _weigh(
    world: World, layout: Layout, strategies: Sequence[Strategy], spare_bytes: Mapping[str, int]
) -> list[Weighed]:
    """Every sentence on every set of members worth a look."""
    sentences = [sentence_of(strategy, layout) for strategy in strategies]
    weighed = []
    for members in _member_sets(world):
        here = world.only(members)
        cohorts = {
            paced: cohort_of(here, shares_of(here, paced), paced)
            for paced in {sentence.paced for sentence in sentences}
        }
        weighed += [_weigh_one(each, cohorts[each.paced], spare_bytes) for each in sentences]
    return weighed


def _member_sets(world: World) -> Iterable[Members]:
    """Everyone; without the farthest, one after the other; each of these without the slowest.

    At most n(n+1)/2 sets, not 2ⁿ. A slow processor never delays a step, shares see to that: what
    a member can cost is the meeting, by a slow road, by being one more or by failing in it. Of
    many, those that are alike are left out together, at least an eighth of all: 36 sets at most.
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


def _weigh_one(sentence: Sentence, cohort: Cohort, spare_bytes: Mapping[str, int]) -> Weighed:
    refused = _refused(sentence, cohort, spare_bytes)
    option = weigh(sentence, cohort)
    return Weighed(sentence, replace(option, refused=refused) if refused else option)


def _refused(sentence: Sentence, cohort: Cohort, spare_bytes: Mapping[str, int]) -> str:
    """Why some members cannot follow a sentence; nothing where they can."""
    needed, found = sentence.least, cohort.num_members
    if found < needed:
        return f"needs {needed} members, found {found}"
    room = sum(device.max_batch for device in cohort.world.devices)
    if sentence.paced and room < cohort.batch:  # whoever has a step holds too little
        return f"leaves no time for a step to some devices, and the others hold {room} samples"
    if not spare_bytes:
        return ""
    needed_bytes = extra_bytes(sentence.strategy, sentence.layout, found)
    tightest = min(cohort.shares, key=lambda name: spare_bytes.get(name, math.inf))
    if needed_bytes > spare_bytes.get(tightest, math.inf):
        return (
            f"needs {needed_bytes / 1e6:,.1f} MB beside the model, "
            f"found {spare_bytes[tightest] / 1e6:,.1f} MB spare on {tightest}"
        )
    return ""


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
