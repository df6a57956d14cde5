"""Why: what speaks for and against a choice, in a few plain sentences with their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coterie.coordinator import rivals
from coterie.coordinator.listing import named, shared
from coterie.coordinator.model import ideal_per_s
from coterie.coordinator.parallel import why_stages
from coterie.coordinator.rivals import Weighed
from coterie.coordinator.shares import equal_shares, paced_batch, step_s
from coterie.sync.teams import Pipeline
from coterie.world import Option, World


def reasons(world: World, able: Sequence[Weighed], chosen: Weighed, lead: str) -> Iterator[str]:
    """Three to six sentences; fewer where one device is all there is."""
    yield _what(world, chosen, lead)
    if chosen.walks or chosen.sentence.strategy.pack is not None:
        yield from _against_every_step(able, chosen)
    yield _why_shares(world, chosen)
    yield from _why_islands(chosen)
    yield from _against_longer(world, able, chosen)
    if chosen.num_members < len(world.devices):
        yield _why_left_out(world, able, chosen)
    elif chosen.num_members > 1:
        yield from _against_alone(able, chosen)


def _what(world: World, chosen: Weighed, lead: str) -> str:
    option, ideal = chosen.option, ideal_per_s(world)
    return (
        f"{lead}{option.strategy} takes {_round(option)}: {option.throughput_per_s:,.0f} "
        f"samples/s, {option.throughput_per_s / ideal:.2f} of the {ideal:,.0f} that all devices "
        "reach alone."
    )


def _round(option: Option) -> str:
    """How long a round is, and what of it the meeting; work + exchange − hidden = round."""
    hidden = f" ({_time(option.hidden_s)} of it while they compute)" if option.hidden_s > 0 else ""
    return f"{_time(option.round_s)} a round, of which {_time(option.exchange_s)} exchange{hidden}"


def _against_every_step(able: Sequence[Weighed], chosen: Weighed) -> Iterator[str]:
    plain = rivals.every_step(able, chosen)
    if plain is not None:
        yield (
            f"{plain.option.strategy} would exchange at every step: {_round(plain.option)}, and "
            f"{_part(plain.option, chosen)}."
        )


def _why_shares(world: World, chosen: Weighed) -> str:
    shares = chosen.option.shares
    listed = shared(shares)
    devices = world.only(tuple(shares)).devices
    team = chosen.sentence.team
    if isinstance(team, Pipeline) and team.crew and world.chain:
        return why_stages(team, world)
    if len(devices) == 1:
        return f"One device learns alone ({listed} samples a step), so that nothing is exchanged."
    if chosen.sentence.paced:
        return (
            f"Steps of {paced_batch(world.batch, devices)} samples for all, as many as each has "
            f"time for: of {world.batch} samples {listed}."
        )
    equal = equal_shares(world.batch, devices)
    return (
        f"Shares of {listed} samples let all finish a step within "
        f"{_time(step_s(shares, devices))}; equal shares would take "
        f"{_time(step_s(equal, devices))}."
    )


def _why_islands(chosen: Weighed) -> Iterator[str]:
    islands = chosen.sentence.islands
    if islands is not None and chosen.num_members > 1:
        teams = islands.teams(tuple(chosen.members))
        listed = "; ".join(map(named, teams))
        yield (
            f"Links inside {len(teams)} islands ({listed}) are fast against those between: every "
            "gradient is averaged inside, and only walks between them."
        )


def _against_longer(world: World, able: Sequence[Weighed], chosen: Weighed) -> Iterator[str]:
    longer, num_steps = rivals.longer(able, chosen), 2 * chosen.every
    if chosen.num_members == 1:
        return
    if longer is not None:
        alike = longer.kind == chosen.kind
        who = f"Walks of {longer.every} steps" if alike else longer.option.strategy
        yield f"{who} {_bargain(chosen.option, longer.option)}."
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


def _why_left_out(world: World, able: Sequence[Weighed], chosen: Weighed) -> str:
    shares = chosen.option.shares
    names = [device.name for device in world.devices if device.name not in shares]
    lead = f"{named(names)} {'is' if len(names) == 1 else 'are'} left out: "
    more = rivals.with_more(able, chosen)
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


def _against_alone(able: Sequence[Weighed], chosen: Weighed) -> Iterator[str]:
    alone = rivals.alone(able)
    if alone is not None:
        (name,) = alone.option.shares
        yield f"{name} alone would reach {_part(alone.option, chosen)}."


def _part(option: Option, chosen: Weighed) -> str:
    return f"{option.goodput_per_s / chosen.option.goodput_per_s:.2f} of the chosen goodput"


def _time(seconds: float) -> str:
    """Three digits or so, in the unit a reader expects.

    >>> _time(0.0123), _time(0.131), _time(75.0)
    ('12.3 ms', '131 ms', '75.0 s')
    """
    if seconds >= 1:
        return f"{seconds:,.1f} s"
    return f"{1000 * seconds:.{1 if seconds < 0.1 else 0}f} ms"
