"""Pipelines as something to choose: which cuts, on whom, and what a step through them takes.

A pipeline alone steps on the whole batch, as one machine would: its members meet only to hold the
same model again, so that a long walk costs no progress. What crosses its cuts are activations and
their gradients, not the gradients of all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from coterie.coordinator.shares import check_times
from coterie.errors import JobError
from coterie.sync.chain import chain
from coterie.sync.exchanges import Reduce
from coterie.sync.outer import Outer
from coterie.sync.pieces import Every
from coterie.sync.teams import Pipeline
from coterie.types import Layout
from coterie.world import World

if TYPE_CHECKING:
    from coterie.coordinator.split import Split
    from coterie.sync.chain import Strategy

MICRO_BATCHES = (4, 16)  # few cost little overhead, many let stages wait less
WALKS = (8, 64, 512, 4096)  # steps, as far as an epoch allows
MOST_SPLIT = 6  # devices, the fastest: a decision takes milliseconds
VECTORS = 4  # of all parameters that a member holds beside its stage: model, anchor, walk, meeting
BYTES_PER_VALUE = 4


def pipelines(world: World, layout: Layout) -> dict[Strategy, dict[str, int]]:
    """Sentences of one pipeline each, with its crew's shares: the cuts of the shortest step.

    None where the model is no chain, fits on no two devices, or devices are not linked.

    >>> from coterie.world import Device, Layer, Link
    >>> devices = tuple(Device(name, 0.0, 0.01, 64) for name in "ab")
    >>> layers = tuple(Layer(name, 1.0, 1_000, 100, 100) for name in "0123")
    >>> world = World(devices, (Link("a", "b", 0.0, 1e6),), 8, 64, chain=layers)
    >>> pipelines(world, Layout(("w",), ((1_000,),)))
    {chain(Every(8), Pipeline(('2',), crew=('a', 'b')), Reduce(), Outer(1.0)): {'a': 4, 'b': 4}}
    """
    found = _quickest(_narrowed(world), BYTES_PER_VALUE * layout.size)
    if found is None:
        return {}
    steps = math.ceil(world.num_train / world.batch)
    team = Pipeline(found.cuts, micro_batches=found.micro_batches, crew=found.crew)
    walks = dict.fromkeys(min(walk, steps) for walk in WALKS)
    shares = pipeline_shares(world.batch, found.crew)
    return {chain(Every(walk), team, Reduce(), Outer(1.0)): shares for walk in walks}


def pipeline_shares(total: int, members: tuple[str, ...]) -> dict[str, int]:
    """Whose samples a crew learns: all go through all stages, so that they are cut evenly.

    >>> pipeline_shares(8, ("c", "a", "b"))
    {'c': 3, 'a': 3, 'b': 2}
    """
    each, over = divmod(total, len(members))
    return {name: each + (at < over) for at, name in enumerate(members)}


def passing_s(cut: object, shares: Mapping[str, int], cohort: World) -> float | None:
    """Seconds of a step through the slowest of a sentence's pipelines.

    None where it has none, where too few are left for one, or where layers are unknown.
    Σ stages and hand-overs of a micro-batch + (m − 1) · the longest: see `split`.
    """
    if not isinstance(cut, Pipeline) or len(shares) < cut.least or not _knows(cohort, cut):
        return None
    crews = {cut.crew_of(name, tuple(shares)) for name in shares}
    return max(_team_s(cut, team, sum(shares[n] for n in crew), cohort) for team, crew in crews)


def passage_s(
    cut: object, team: tuple[str, ...], name: str, batch: int, world: World
) -> tuple[float, float] | None:
    """Seconds in which a batch goes through a team, and those that one of it computes.

    None where that is no pipeline, or its layers are unknown.

    >>> from coterie.world import Device, Layer, Link
    >>> layers = tuple(Layer(name, 1.0, 1_000, 100, 100) for name in "0123")
    >>> devices = Device("a", 0.0, 0.01, 64), Device("b", 0.0, 0.01, 64)
    >>> world = World(devices, (Link("a", "b", 0.0, 1e9),), 8, 64, chain=layers)
    >>> cut = Pipeline(("1",), micro_batches=4, crew=("a", "b"))
    >>> [round(seconds, 3) for seconds in passage_s(cut, ("a", "b"), "b", 8, world)]
    [0.065, 0.06]
    """
    if not isinstance(cut, Pipeline) or not _knows(world, cut):
        return None
    micro_batches = max(1, min(cut.micro_batches, batch))
    own_s = list(_stages_s(cut, team, math.ceil(batch / micro_batches), world))[::2]
    return _team_s(cut, team, batch, world), micro_batches * own_s[team.index(name)]


def is_whole(cut: object, members: tuple[str, ...]) -> bool:
    """Whether members are one pipeline, so that each step is on the whole batch.

    >>> is_whole(Pipeline(("2",)), ("a", "b", "c")), is_whole(Pipeline(("2",)), tuple("abcd"))
    (True, False)
    """
    return isinstance(cut, Pipeline) and cut.least <= len(members) < 2 * cut.least


def why_stages(cut: Pipeline, world: World) -> str:
    """Who holds what, and what travels instead of gradients.

    >>> from coterie.world import Layer
    >>> layers = tuple(Layer(name, 1.0, 250_000, 100, 512) for name in "0123")
    >>> why_stages(Pipeline(("2",), crew=("a", "b")), World((), (), 8, 64, chain=layers))[:36]
    "Stages: a before '2', b from '2' on;"
    """
    sent = {then.name: layer.sent_bytes for layer, then in pairwise(world.chain)}
    first, *others = cut.crew
    listed = [f"{first} before {cut.cuts[0]!r}"]
    listed += [f"{name} from {at!r} on" for name, at in zip(others, cut.cuts, strict=False)]
    most = max(sent.get(at, 0.0) for at in cut.cuts)
    whole = sum(layer.num_bytes for layer in world.chain)
    return (
        f"Stages: {', '.join(listed)}; a sample's {most / 1e3:,.1f} kB cross each cut there and "
        f"back, where gradients of all parameters would be {whole / 1e3:,.0f} kB a step."
    )


def _narrowed(world: World) -> World:
    """The fastest devices, and only what a split depends on: the same world is split once."""
    fastest = sorted(world.devices, key=lambda d: (d.per_sample_s, d.name))[:MOST_SPLIT]
    near = world.only(tuple(device.name for device in fastest))
    return replace(near, num_train=0, meeting_s=0.0)


@lru_cache(maxsize=8)
def _quickest(world: World, model_bytes: int) -> Split | None:
    """The split of two stages or more whose step is shortest, over the numbers of micro-batches."""
    if len(world.devices) < 2 or len(world.chain) < 2 or world.batch < len(world.devices):
        return None
    found = list(_splits(world, VECTORS * model_bytes))
    return min(found, key=lambda each: each.step_s, default=None)


def _splits(world: World, taken_bytes: int) -> Iterator[Split]:
    from coterie.coordinator.split import quickest_split  # numpy: only for a model that is a chain

    known = {d.name: d.memory_bytes for d in world.devices if d.memory_bytes is not None}
    room_bytes = {name: max(0, num_bytes - taken_bytes) for name, num_bytes in known.items()}
    for micro_batches in MICRO_BATCHES:
        if micro_batches > world.batch:
            continue
        try:
            yield quickest_split(world, micro_batches, room_bytes, least_stages=2)
        except JobError:  # no such split: whoever asks for none is not told why
            continue


def _knows(world: World, cut: Pipeline) -> bool:
    """Whether the world has the layers at which a pipeline is cut."""
    return {layer.name for layer in world.chain}.issuperset(cut.cuts)


def _team_s(cut: Pipeline, team: tuple[str, ...], batch: int, cohort: World) -> float:
    micro_batches = max(1, min(cut.micro_batches, batch))
    taken_s = [*_stages_s(cut, team, math.ceil(batch / micro_batches), cohort)]
    return math.fsum(taken_s) + (micro_batches - 1) * max(taken_s)


def _stages_s(
    cut: Pipeline, team: tuple[str, ...], num_samples: int, cohort: World
) -> Iterator[float]:
    """Seconds of each stage on a micro-batch, and of each hand-over between them."""
    names = [layer.name for layer in cohort.chain]
    starts = [0, *map(names.index, cut.cuts), len(names)]
    work = math.fsum(layer.per_sample_s for layer in cohort.chain)
    links = {frozenset((link.a, link.b)): link for link in cohort.links if link.bytes_per_s > 0}
    for at, name in enumerate(team):
        device = cohort.device(name)
        check_times(device)
        inside = cohort.chain[starts[at] : starts[at + 1]]
        part = math.fsum(layer.per_sample_s for layer in inside) / work
        yield part * device.step_s(num_samples)
        if at + 1 < len(team):
            link = links.get(frozenset((name, team[at + 1])))
            sent_bytes = num_samples * inside[-1].sent_bytes
            passing_s = sent_bytes / link.bytes_per_s if link else math.inf
            yield 2 * ((link.latency_s if link else 0.0) + passing_s)
