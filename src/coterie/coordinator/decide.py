"""Which sentence, on which members, with which shares: every option is priced, the best is chosen.

The score is goodput: samples a second × progress kept by each × chance that a round is not torn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coterie.coordinator.candidates import candidates as worth_pricing
from coterie.coordinator.cohorts import member_sets
from coterie.coordinator.listing import named
from coterie.coordinator.model import extra_bytes, shares_for, weigh
from coterie.coordinator.parallel import pipelines
from coterie.coordinator.prices import Cohort, Sentence, cohort_of, sentence_of
from coterie.coordinator.reasons import reasons
from coterie.coordinator.rivals import Weighed, best, rejected, soonest
from coterie.coordinator.shares import exact_shares
from coterie.errors import JobError
from coterie.types import Layout
from coterie.world import Decision, Option, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy


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

    >>> from coterie.world import Device, Link
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
    is_asked = candidates is not None and len(strategies) == 1
    chosen = (soonest if is_asked else best)(able)
    _check_gets_on(chosen.option)
    return Decision(
        number=number,
        cause=cause,
        world=world,
        chosen=chosen.option,
        rejected=rejected(weighed, able, chosen),
        reasons=tuple(reasons(world, able, chosen, "As asked, " * is_asked)),
    )


def best_together(
    world: World, layout: Layout, candidates: Sequence[Strategy] | None = None
) -> Option | None:
    """The best of what all devices of a world do together; None where not all have a part in it.

    Raises JobError as `decide` does, where devices cannot hold the batch or are not linked.

    >>> from coterie.world import Device
    >>> alone = World((Device("laptop", 0.25, 0.25, 64),), (), 3, 300)
    >>> option = best_together(alone, Layout(("w",), ((10,),)))
    >>> option.shares if option else "nobody"
    {'laptop': 3}
    """
    _check(world)
    strategies = worth_pricing(world) if candidates is None else candidates
    sentences = [sentence_of(strategy, layout) for strategy in strategies]
    able = [each for each in _weigh_all(world, sentences, {}) if not each.option.refused]
    whole = [each for each in able if each.num_members == len(world.devices)]
    return best(whole).option if whole else None


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


def _check_gets_on(option: Option) -> None:
    if not option.goodput_per_s > 0:
        raise JobError(
            f"expected devices that get somewhere, found rounds of {option.round_s:.3g} s on "
            f"{named(option.shares)}, of which {option.survival:.0%} see no failure; measure them "
            "again"
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
    worlds = (world.only(members) for members in member_sets(world))
    return [each for here in worlds for each in _weigh_all(here, sentences, spare_bytes)]


def _weigh_all(
    here: World, sentences: Sequence[Sentence], spare_bytes: Mapping[str, int]
) -> Iterator[Weighed]:
    """Every sentence, with the batch shared among all devices of a world."""
    cohorts: dict[tuple[bool, bool], Cohort] = {}
    for each in sentences:
        if each.sharing not in cohorts:
            shares = shares_for(each.strategy, here)
            cohorts[each.sharing] = cohort_of(here, shares, each.paced)
        yield _weigh_one(each, cohorts[each.sharing], spare_bytes)


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
    if room < cohort.batch:  # paced, a device may be without a step, and the others hold too little
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
