"""What a job would come to on a described cluster, and what another cluster would change.

until epochs: epochs · num_train / throughput     until steps: steps / every · round_s
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from coterie.cluster import Cluster
from coterie.coordinator import explain
from coterie.coordinator.account import as_event
from coterie.coordinator.decide import decide
from coterie.coordinator.replan import steady
from coterie.errors import JobError
from coterie.sync.reading import parse
from coterie.types import Layout
from coterie.world import Decision, Option, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

FASTER = 10.0  # the roads that are imagined
HERE = "a described cluster"
NOTABLE = 0.01  # of goodput: what brings less is said to bring nothing

MakeWorld = Callable[[Cluster], World]


@dataclass(frozen=True)
class Question:
    """A job, as far as planning it needs to know."""

    layout: Layout
    until: Mapping[str, float]
    asked: Strategy | None  # the sentence that the user wants; None leaves it to the coordinator


@dataclass(frozen=True)
class Change:
    """Another cluster than the described one, and what it would bring."""

    what: str
    goodput_per_s: float | None  # None where it cannot be done
    gain: float | None  # relative, of goodput
    epoch_s: float | None
    refused: str = ""


@dataclass(frozen=True)
class Forecast:
    """What would be done, how long it would take, what else there could be."""

    decision: Decision
    epoch_s: float
    until_s: Mapping[str, float | None]  # by key of `until`; None for a metric
    machines: tuple[Change, ...] = ()  # one more and one less of each kind
    roads: tuple[Change, ...] = ()  # each road so many times as fast, and all of them

    @property
    def bottleneck(self) -> Change | None:
        """The one road whose speed-up would bring most, where that is worth a word."""
        single = [change for change in self.roads if (change.gain or 0.0) >= NOTABLE]
        return max(single, key=lambda change: change.gain or 0.0, default=None)

    def as_dict(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {
            "decision": as_event(self.decision),
            "epoch_s": self.epoch_s,
            "until_s": dict(self.until_s),
            "machines": [asdict(change) for change in self.machines],
            "roads": [asdict(change) for change in self.roads],
            "bottleneck": self.bottleneck.what if self.bottleneck else None,
        }


def forecast(cluster: Cluster, make_world: MakeWorld, question: Question) -> Forecast:
    """Decide on the cluster as it is described, and on every other that is a small change of it.

    `make_world` says what the job finds on a cluster. Raises JobError where it cannot run there.

    >>> from coterie.inventory import Links, Machine, Road
    >>> pc = Machine(name="pc", count=2, overhead_ms=10, per_sample_ms=1)
    >>> cluster = Cluster(machines=[pc], links=Links(default=Road(mbit_per_s=1000)))
    >>> told = forecast(cluster, lambda c: c.world(64, 6_400, 10), Question(
    ...     Layout(("w",), ((10,),)), {"epochs": 3.0}, parse("all-reduce")))
    >>> round(told.epoch_s, 3), round(told.until_s["epochs"], 3)
    (4.2, 12.6)
    >>> [f"{change.what}: {change.gain:+.0%}" for change in told.machines]
    ['one more pc: +31%', 'one pc less: -43%']
    """
    here = outlook(make_world(cluster), question)
    now, world = here.decision.chosen, here.decision.world

    def changed(what: str, make: Callable[[], Cluster | None]) -> Change:
        try:
            other = make()
            if other is None:
                raise JobError("nobody would be left")
            then = _decided(make_world(other), question).chosen
        except JobError as error:
            return Change(what, None, None, None, str(error))
        gain = then.goodput_per_s / now.goodput_per_s - 1
        return Change(what, then.goodput_per_s, gain, _epoch_s(then, world))

    machines, roads = [], []
    for kind in cluster.machines:
        for more, what in ((1, f"one more {kind.name}"), (-1, f"one {kind.name} less")):
            imagine = partial(cluster.counting, kind.name, kind.count + more)
            machines.append(changed(what, imagine))
    if len(now.shares) > 1 or cluster.num_machines > 1:
        imagined = cluster.faster_roads(FASTER)
        roads = [changed(what, partial(lambda other: other, other)) for what, other in imagined]
    return replace(here, machines=tuple(machines), roads=tuple(roads))


def outlook(world: World, question: Question, number: int = 1, cause: str = HERE) -> Forecast:
    """What would be done on a world and how long it would take; nothing of other worlds."""
    decision = _decided(world, question, number, cause)
    chosen = decision.chosen
    return Forecast(
        decision,
        _epoch_s(chosen, world),
        {key: _until_s(key, limit, chosen, world) for key, limit in question.until.items()},
    )


def sentences(told: Forecast) -> Iterator[str]:
    """A forecast in plain words, one sentence each."""
    event = {"kind": "decision", **as_event(told.decision)}
    decided = explain.sentences(explain.explain([event]))
    yield from decided[:-1]  # nothing came of it yet
    yield f"Time: {_span(told.epoch_s)} a data epoch of {told.decision.world.num_train:,} samples."
    yield from _failure_words(told.decision)
    for key, seconds in told.until_s.items():
        if seconds is None:
            yield f"Until {key}: how many epochs that takes is not known beforehand; simulate it."
        else:
            yield f"Until {key}: {_span(seconds)}."
    yield from (_change_words(change) for change in told.machines)
    yield from _road_words(told)


def _decided(world: World, question: Question, number: int = 1, cause: str = HERE) -> Decision:
    asked = (question.asked,) if question.asked else None
    best = decide(world, question.layout, number, cause, asked)
    return steady(best, question.layout, None)  # as a run would at its beginning


def _epoch_s(option: Option, world: World) -> float:
    return world.num_train / option.throughput_per_s


def _until_s(key: str, limit: float, option: Option, world: World) -> float | None:
    match key:
        case "epochs":
            return limit * _epoch_s(option, world)
        case "steps":
            return limit / parse(option.strategy).every * option.round_s
        case "minutes":
            return limit * 60
    return None


def _failure_words(decision: Decision) -> Iterator[str]:
    members = decision.world.only(tuple(decision.chosen.shares)).devices
    every_s = 1 / sum(device.failures_per_s for device in members)
    yield (
        f"Failures: a member is lost every {_span(every_s)} on average; its samples are learned "
        "by the others."
    )


def _change_words(change: Change) -> str:
    lead = change.what[:1].upper() + change.what[1:]
    if change.gain is None:
        return f"{lead}: impossible: {change.refused.rstrip('.')}."
    if abs(change.gain) < NOTABLE:
        return f"{lead}: no change."
    return f"{lead}: {_gain_words(change)}."


def _gain_words(change: Change) -> str:
    """Goodput, and the time of the same progress: an epoch is not worth the same to every walk."""
    assert change.gain is not None
    assert change.goodput_per_s is not None
    goodput, part = change.goodput_per_s, max(0.0, 1 + change.gain)
    within = f"{1 / part:.2f} of the time" if part > 1e-3 else "over 1,000 times the time"
    return (
        f"goodput {goodput:,.{0 if goodput >= 100 else 2}f} samples/s "
        f"({100 * change.gain:+.0f} %), the same progress in {within}"
    )


def _road_words(told: Forecast) -> Iterator[str]:
    worst = told.bottleneck
    if worst is not None:
        yield f"Bottleneck: {worst.what}; {FASTER:g} times as fast, {_gain_words(worst)}."
    elif told.roads:
        yield f"Bottleneck: no link; none of them {FASTER:g} times as fast would change anything."


def _span(seconds: float) -> str:
    """Seconds in the unit a person would choose.

    >>> _span(0.0214), _span(12.34), _span(187), _span(7500), _span(900_000)
    ('21.4 ms', '12.3 s', '3.1 min', '2.1 h', '10.4 days')
    """
    for limit, unit_s, unit in ((1, 1e-3, "ms"), (100, 1, "s"), (6000, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit_s:.1f} {unit}"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.1f} days"
