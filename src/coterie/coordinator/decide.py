"""Which sentence, on which members, with which shares: every option is priced, the best is chosen.

The score is goodput: samples a second × progress kept by each × chance that a round is not torn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from coterie.coordinator.cohorts import member_sets
from coterie.coordinator.listing import named, shared
from coterie.coordinator.model import (
    extra_bytes,
    ideal_per_s,
    predict,
    shares_for,
)
from coterie.coordinator.parallel import pipelines, why_stages
from coterie.coordinator.shares import equal_shares, exact_shares, step_s
from coterie.errors import JobError
from coterie.sync import recipes
from coterie.sync.teams import Pipeline
from coterie.types import Layout
from coterie.world import Decision, Option, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

LONGEST_WALK = 512  # steps: beyond what the priors of progress were read from
SHORTEST_DILOCO = 16  # steps: below, Nesterov outside wins nothing back
MOST_REJECTED = 12


@dataclass(frozen=True)
class _Weighed:
    """A sentence on some members, with what it is predicted to bring."""

    strategy: Strategy
    option: Option

    @property
    def kind(self) -> tuple[object, ...]:
        """What sets it apart from others whatever the length of its walk."""
        pieces = self.strategy.pieces
        return (self.strategy.team, *(piece for piece in pieces if piece.kind != "local"))

    @property
    def num_members(self) -> int:
        return len(self.option.shares)


def candidates(world: World) -> tuple[Strategy, ...]:
    """The sentences worth pricing: meeting every step, or after walks of 2, 4, 8, ... 512 steps.

    A walk is never so long that members would not meet in a data epoch.

    >>> [s.every for s in candidates(World((), (), batch=64, num_train=300))]
    [1, 1, 1, 2, 4, 5]
    """
    return tuple(_sentences(world))


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
    strategies = tuple(_sentences(world) if candidates is None else candidates)
    if not strategies:
        raise JobError("expected a strategy to choose from, found none; name one or use 'auto'")
    exact_shares(world.batch, world.devices)  # refuses what no choice of members could mend
    weighed = _weigh(world, layout, strategies, spare_bytes or {})
    if candidates is None:
        weighed += [
            _weigh_one(world, layout, each, shares, spare_bytes or {})
            for each, shares in pipelines(world, layout).items()
        ]
    able = [each for each in weighed if not each.option.refused]
    if not able:
        nearest = _best(weighed).option
        raise JobError(
            f"expected a strategy that fits these devices, found none: {nearest.strategy} "
            f"{nearest.refused}; {_mended(nearest)}"
        )
    chosen = _best(able)
    lead = "As asked, " if candidates is not None and len(strategies) == 1 else ""
    return Decision(
        number=number,
        cause=cause,
        world=world,
        chosen=chosen.option,
        rejected=_rejected(weighed, able, chosen),
        reasons=tuple(_reasons(world, able, chosen, lead)),
    )


def _mended(option: Option) -> str:
    if "members" in option.refused:
        return "start more agents, or ask for another strategy"
    return "lower the batch or leave that device out"


def _sentences(world: World) -> Iterator[Strategy]:
    yield recipes.all_reduce()
    yield recipes.all_reduce_fp16()
    yield recipes.all_reduce_int8()
    num_steps = 2
    while num_steps <= LONGEST_WALK and num_steps * world.batch <= world.num_train:
        yield recipes.local_sgd(num_steps)
        if num_steps >= SHORTEST_DILOCO:
            yield recipes.diloco(num_steps)
            yield recipes.diloco_int8(num_steps)
        num_steps *= 2
    once_an_epoch = math.ceil(world.num_train / world.batch)
    if num_steps // 2 < once_an_epoch < min(num_steps, LONGEST_WALK):
        yield recipes.local_sgd(once_an_epoch)


def _weigh(
    world: World, layout: Layout, strategies: Sequence[Strategy], spare_bytes: Mapping[str, int]
) -> list[_Weighed]:
    """Every sentence on every set of members worth a look."""
    weighed = []
    for members in member_sets(world):
        cohort = world.only(members)
        shares: dict[bool, Mapping[str, int]] = {}  # by whether steps differ in number or in size
        for each in strategies:
            paced = each.walk is not None and each.walk.paced
            if paced not in shares:
                shares[paced] = shares_for(each, cohort)
            weighed.append(_weigh_one(cohort, layout, each, shares[paced], spare_bytes))
    return weighed


def _weigh_one(
    world: World,
    layout: Layout,
    strategy: Strategy,
    shares: Mapping[str, int],
    spare_bytes: Mapping[str, int],
) -> _Weighed:
    option = predict(world, layout, strategy, shares)
    needed_bytes = extra_bytes(strategy, layout, len(option.shares))
    tightest = min(option.shares, key=lambda name: spare_bytes.get(name, math.inf))
    if needed_bytes > spare_bytes.get(tightest, math.inf):
        refused = (
            f"needs {needed_bytes / 1e6:,.1f} MB beside the model, "
            f"found {spare_bytes[tightest] / 1e6:,.1f} MB spare on {tightest}"
        )
        option = replace(option, refused=refused)
    if len(option.shares) < strategy.least:
        needed, found = strategy.least, len(option.shares)
        option = replace(option, refused=f"needs {needed} members, found {found}")
    return _Weighed(strategy, option)


def _best(weighed: Sequence[_Weighed]) -> _Weighed:
    """The highest goodput; among equals the first, which is the simpler sentence."""
    return max(weighed, key=lambda each: each.option.goodput_per_s)


def _rejected(
    weighed: Sequence[_Weighed], able: Sequence[_Weighed], chosen: _Weighed
) -> tuple[Option, ...]:
    """What a reader would ask about: other kinds, the next walks, other members; then refused."""
    others = (each for each in able if each.kind != chosen.kind)
    asked_about = [*_one_of_each_kind(others), *_neighbours(able, chosen)]
    unique = {(o.strategy, tuple(o.shares)): o for o in (each.option for each in asked_about)}
    unique.pop((chosen.option.strategy, tuple(chosen.option.shares)), None)
    by_goodput = sorted(unique.values(), key=lambda option: -option.goodput_per_s)
    refused = _one_of_each_kind(each for each in weighed if each.option.refused)
    return (*by_goodput, *(each.option for each in refused))[:MOST_REJECTED]


def _one_of_each_kind(weighed: Iterable[_Weighed]) -> list[_Weighed]:
    best: dict[tuple[object, ...], _Weighed] = {}
    for each in sorted(weighed, key=lambda each: -each.option.goodput_per_s):
        best.setdefault(each.kind, each)
    return list(best.values())


def _neighbours(able: Sequence[_Weighed], chosen: _Weighed) -> list[_Weighed]:
    """The next walks, the best alone, and the best with more members."""
    found = (
        _shorter(able, chosen),
        _longer(able, chosen),
        _first([each for each in able if each.num_members == 1]),
        _with_more(able, chosen),
    )
    return [each for each in found if each is not None]


def _longer(able: Sequence[_Weighed], chosen: _Weighed) -> _Weighed | None:
    """The next longer walk of the same members: of the same kind, or the best of any."""
    longer = [
        each
        for each in able
        if each.strategy.every > chosen.strategy.every
        and each.option.shares == chosen.option.shares
    ]
    alike = [each for each in longer if each.kind == chosen.kind]
    return min(alike, key=lambda each: each.strategy.every) if alike else _first(longer)


def _shorter(able: Sequence[_Weighed], chosen: _Weighed) -> _Weighed | None:
    """The next shorter walk of the same kind and members."""
    shorter = [
        each
        for each in able
        if each.strategy.every < chosen.strategy.every
        and each.kind == chosen.kind
        and each.option.shares == chosen.option.shares
    ]
    return max(shorter, key=lambda each: each.strategy.every, default=None)


def _with_more(able: Sequence[_Weighed], chosen: _Weighed) -> _Weighed | None:
    return _first([each for each in able if each.num_members > chosen.num_members])


def _first(weighed: Sequence[_Weighed]) -> _Weighed | None:
    return _best(weighed) if weighed else None


def _reasons(world: World, able: Sequence[_Weighed], chosen: _Weighed, lead: str) -> Iterator[str]:
    """Three to five sentences; fewer where one device is all there is."""
    yield _what(world, chosen, lead)
    if chosen.strategy.every > 1 or chosen.strategy.pack is not None:
        yield from _against_every_step(able, chosen)
    yield _why_shares(world, chosen)
    yield from _against_longer(world, able, chosen)
    if chosen.num_members < len(world.devices):
        yield _why_left_out(world, able, chosen)
    elif chosen.num_members > 1:
        yield from _against_alone(able, chosen)


def _what(world: World, chosen: _Weighed, lead: str) -> str:
    option, ideal = chosen.option, ideal_per_s(world)
    return (
        f"{lead}{option.strategy} takes {_time(option.round_s)} a round, of which "
        f"{_time(option.exchange_s)} exchange: {option.throughput_per_s:,.0f} samples/s, "
        f"{option.throughput_per_s / ideal:.2f} of the {ideal:,.0f} that all devices reach alone."
    )


def _against_every_step(able: Sequence[_Weighed], chosen: _Weighed) -> Iterator[str]:
    plain = [each for each in able if each.strategy.every == 1 and each.strategy.pack is None]
    alike = (each.option for each in plain if each.option.shares == chosen.option.shares)
    for option in islice(alike, 1):  # sets that differ by a member without a share are alike
        yield (
            f"{option.strategy} would exchange at every step: {_time(option.round_s)} a round, of "
            f"which {_time(option.exchange_s)} exchange, and {_part(option, chosen)}."
        )


def _why_shares(world: World, chosen: _Weighed) -> str:
    shares = chosen.option.shares
    listed = shared(shares)
    devices = world.only(tuple(shares)).devices
    team = chosen.strategy.team
    if isinstance(team, Pipeline) and team.crew and world.chain:
        return why_stages(team, world)
    if len(devices) == 1:
        return f"One device learns alone ({listed} samples a step), so that nothing is exchanged."
    equal = equal_shares(world.batch, devices)
    return (
        f"Shares of {listed} samples let all finish a step within "
        f"{_time(step_s(shares, devices))}; equal shares would take "
        f"{_time(step_s(equal, devices))}."
    )


def _against_longer(world: World, able: Sequence[_Weighed], chosen: _Weighed) -> Iterator[str]:
    longer, num_steps = _longer(able, chosen), 2 * chosen.strategy.every
    if chosen.num_members == 1:
        return
    if longer is not None:
        yield f"Walks of {longer.strategy.every} steps {_bargain(chosen.option, longer.option)}."
    elif num_steps * world.batch > world.num_train:
        yield (
            f"Walks of {num_steps} steps would outlast a data epoch of {world.num_train:,} "
            "samples: members would not meet in it."
        )


def _bargain(now: Option, then: Option) -> str:
    saved = 1 - now.throughput_per_s / then.throughput_per_s
    cost = 1 - then.efficiency * then.survival / (now.efficiency * now.survival)
    if saved <= 0:
        return "would save no time"
    return (
        f"would save {100 * saved:.1f} % of the time but are expected to cost "
        f"{100 * cost:.1f} % of the progress"
    )


def _why_left_out(world: World, able: Sequence[_Weighed], chosen: _Weighed) -> str:
    shares = chosen.option.shares
    names = [device.name for device in world.devices if device.name not in shares]
    lead = f"{named(names)} {'is' if len(names) == 1 else 'are'} left out: "
    more = _with_more(able, chosen)
    if more is not None:
        return (
            f"{lead}the best with more devices, {more.option.strategy} on "
            f"{named(more.option.shares)}, would reach {_part(more.option, chosen)}."
        )
    soonest = min((world.device(name) for name in names), key=lambda device: device.step_s(1))
    others_s = step_s(shares, world.only(tuple(shares)).devices)
    return (
        f"{lead}a step on a single sample takes {soonest.name} {_time(soonest.step_s(1))}, "
        f"the others finish theirs within {_time(others_s)}."
    )


def _against_alone(able: Sequence[_Weighed], chosen: _Weighed) -> Iterator[str]:
    alone = _first([each for each in able if each.num_members == 1])
    if alone is not None:
        (name,) = alone.option.shares
        yield f"{name} alone would reach {_part(alone.option, chosen)}."


def _part(option: Option, chosen: _Weighed) -> str:
    return f"{option.goodput_per_s / chosen.option.goodput_per_s:.2f} of the chosen goodput"


def _time(seconds: float) -> str:
    """Three digits or so, in the unit a reader expects.

    >>> _time(0.0123), _time(0.131), _time(75.0)
    ('12.3 ms', '131 ms', '75.0 s')
    """
    if seconds >= 1:
        return f"{seconds:,.1f} s"
    return f"{1000 * seconds:.{1 if seconds < 0.1 else 0}f} ms"
