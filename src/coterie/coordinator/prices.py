"""What a meeting costs, and what of it is hidden: pure functions that read like their formulas.

exchange_s = price of the exchange + packing and opening + meeting_s as it was measured
hidden_s   = of the price, what goes on while members compute
             walks:     min(price, overlap · step_s)
             gradients: (1 − 1/k) · min(price, BACKWARD · step_s), summed in k buckets

Of k buckets the first is there after a k-th of the backward pass, and the last is summed when all
is computed: whichever end of the queue counts, that is what is left. On islands a sum inside each
is part of a step; between them their first members meet, and tell the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from coterie.coordinator import shares as sharing
from coterie.coordinator.parallel import passing_s
from coterie.sync.exchanges import Exchange, Pace, Reduce, slowest
from coterie.sync.fragments import buckets, split
from coterie.sync.pieces import Every, Piece, Prior
from coterie.sync.room import Payload
from coterie.sync.teams import Islands, Pipeline
from coterie.types import Layout
from coterie.world import Device, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

BYTES_PER_VALUE = 4  # vectors that travel or are averaged are float32
BACKWARD = 2 / 3  # of a step's time: twice the products of the forward pass
INSIDE = Reduce()  # how members of an island average each gradient


@dataclass(frozen=True)
class Sentence:
    """A strategy for a layout, with all that its price depends on looked up once."""

    strategy: Strategy
    layout: Layout
    written: str
    kind: str  # what sets it apart whatever the length of its walk
    exchange: Exchange
    team: Piece | None
    islands: Islands | None
    sharing: tuple[bool, bool]  # whether steps differ in number; whether all pass through a crew
    every: int
    overlap: int
    paced: bool
    prior: Prior  # of the progress that it keeps
    least: int  # members that it makes sense with
    payloads: tuple[Payload, ...]  # of each fragment
    codec_s: tuple[tuple[float, float], ...]  # to pack and to open one of each
    num_buckets: int  # in which gradients are summed while they come
    whole: Payload  # every gradient, dense
    shared: Payload  # what is agreed on, dense


@dataclass(frozen=True)
class Cohort:
    """Members with their shares, and all that is the same whatever they say."""

    world: World  # of those with a share
    shares: Mapping[str, int]
    batch: int
    step_s: float
    pace: Pace  # of the slowest road among them
    failures_per_s: float
    cores: float  # of whoever has least
    spread: float  # among how many equal members their shares would be spread as wide

    @property
    def num_members(self) -> int:
        """Who meets."""
        return len(self.shares)


@lru_cache(maxsize=1024)
def sentence_of(strategy: Strategy, layout: Layout) -> Sentence:
    """Look up what the price of a strategy depends on.

    >>> from coterie.sync import recipes
    >>> sentence = sentence_of(recipes.streaming_diloco(16, 4, 1), Layout(("w",), ((8,),)))
    >>> sentence.every, sentence.overlap, len(sentence.payloads)
    (4, 1, 4)
    """
    walk, team = strategy.walk, strategy.team
    sizes = [strategy.narrowed(part).size for part in split(layout, walk.fragments if walk else 1)]
    pack_ns, open_ns = strategy.pack.takes_ns() if strategy.pack else (0.0, 0.0)
    return Sentence(
        strategy=strategy,
        layout=layout,
        written=repr(strategy),
        kind=str([_apart(piece) for piece in strategy.pieces]),
        exchange=strategy.exchange,
        team=team,
        islands=team if isinstance(team, Islands) else None,
        sharing=(walk is not None and walk.paced, isinstance(team, Pipeline) and bool(team.crew)),
        every=strategy.every,
        overlap=strategy.overlap,
        paced=walk is not None and walk.paced,
        prior=strategy.prior,
        least=strategy.least,
        payloads=strategy.payloads(layout),
        codec_s=tuple((1e-9 * size * pack_ns, 1e-9 * size * open_ns) for size in sizes),
        num_buckets=len(buckets(layout, BYTES_PER_VALUE)) if strategy.plain and not walk else 1,
        whole=Payload(BYTES_PER_VALUE * layout.size, summable=True),
        shared=Payload(BYTES_PER_VALUE * sum(sizes), summable=True),
    )


def _apart(piece: object) -> object:
    if not isinstance(piece, Every):
        return piece
    return type(piece).__name__, piece.fragments, piece.overlap > 0


def cohort_of(world: World, shares: Mapping[str, int], paced: bool = False) -> Cohort:
    """Those with a share: others neither meet nor tear a round by failing.

    Paced, `step_s` is that of as many samples on average. Raises JobError where one of several
    members has no link.

    >>> devices = (Device("a", 0.25, 0.25, 64), Device("b", 9.0, 1.0, 64))
    >>> cohort_of(World(devices, (), 3, 100), {"a": 3, "b": 0}).step_s
    1.0
    """
    members = {name: share for name, share in shares.items() if share > 0}
    cohort = world.only(tuple(members))
    alone = len(members) == 1
    return Cohort(
        world=cohort,
        shares=members,
        batch=sum(members.values()),
        step_s=(_paced_s if paced else sharing.step_s)(members, world.devices),
        pace=Pace(0.0, 1.0) if alone else slowest(cohort.links, len(members)),
        failures_per_s=sum(device.failures_per_s for device in cohort.devices),
        cores=min(device.cores for device in cohort.devices),
        spread=spread(members.values()),
    )


def spread(shares: Iterable[int]) -> float:
    """Among how many equal members shares would be spread as wide: 1 / Σ pᵢ².

    >>> spread((8, 8)), spread((16, 0))
    (2.0, 1.0)
    """
    given = list(shares)
    return sum(given) ** 2 / sum(share * share for share in given)


def _paced_s(shares: Mapping[str, int], devices: Sequence[Device]) -> float:
    batch = sharing.paced_batch(sum(shares.values()), devices)
    return max(shares.get(d.name, 0) / batch * d.step_s(batch) for d in devices)


def step_s(sentence: Sentence, cohort: Cohort) -> float:
    """Seconds of a step on the whole batch: with the sum inside an island, or through stages."""
    staged_s = passing_s(sentence.team, cohort.shares, cohort.world)
    if staged_s is not None:
        return staged_s
    if sentence.islands is None:
        return cohort.step_s
    return max(
        sharing.step_s({name: cohort.shares[name] for name in team}, cohort.world.devices)
        + _inside_s(sentence.whole, team, cohort)
        + (cohort.world.meeting_s if len(team) > 1 else 0.0)  # of a sum, beyond its price
        for team in sentence.islands.teams(tuple(cohort.shares))
    )


def roads_s(sentence: Sentence, cohort: Cohort) -> list[float]:
    """Seconds on the road of the meeting about each fragment; alone they are free."""
    if cohort.num_members == 1:
        return [0.0] * len(sentence.payloads)
    if sentence.islands is not None:
        return [_between_s(sentence, sentence.islands, cohort)]
    at, num, pace = sentence.exchange.price_at, cohort.num_members, cohort.pace
    return [at(payload, num, pace) for payload in sentence.payloads]


def _between_s(sentence: Sentence, islands: Islands, cohort: Cohort) -> float:
    """The first members meet, tell the others, and all say whether they stumbled."""
    teams = islands.teams(tuple(cohort.shares))
    heads = tuple(team[0] for team in teams)
    (payload,) = sentence.payloads
    meeting_s = sentence.exchange.price(payload, len(heads), cohort.world.only(heads).links)
    telling_s = max(_inside_s(sentence.shared, team, cohort) for team in teams)
    word = Payload(BYTES_PER_VALUE * cohort.num_members, summable=True)
    return meeting_s + telling_s + INSIDE.price_at(word, cohort.num_members, cohort.pace)


def _inside_s(payload: Payload, team: tuple[str, ...], cohort: Cohort) -> float:
    return INSIDE.price(payload, len(team), cohort.world.only(team).links)


def codec_s(sentence: Sentence, num_members: int, cores: float = 1.0) -> float:
    """Seconds in which a member packs and opens what a meeting takes; 0 where nothing is packed.

    One core does it, or the part of one that a machine grants.

    >>> from coterie.sync import recipes
    >>> million = sentence_of(recipes.all_reduce_fp16(), Layout(("w",), ((1_000_000,),)))
    >>> round(codec_s(million, num_members=2), 6), round(codec_s(million, 2, cores=0.25), 6)
    (0.0042, 0.0168)
    """
    return mean_s(
        [
            packed * packing_s + opened * opening_s
            for payload, (packing_s, opening_s) in zip(
                sentence.payloads, sentence.codec_s, strict=True
            )
            for packed, opened in (sentence.exchange.passes(payload, num_members),)
        ]
    ) / min(1.0, cores)


def hidden_s(sentence: Sentence, road_s: Sequence[float], one_step_s: float) -> float:
    """Seconds of a meeting on the road, on average, in which members compute.

    >>> from coterie.sync import recipes
    >>> walk = sentence_of(recipes.streaming_diloco(16, 4, 2), Layout(("w",), ((8,),)))
    >>> hidden_s(walk, [0.5, 3.0], one_step_s=1.0)
    1.25
    """
    if sentence.num_buckets > 1:
        return streamed_s(sentence.num_buckets, mean_s(road_s), one_step_s)
    return mean_s([min(each, sentence.overlap * one_step_s) for each in road_s])


def streamed_s(num_parts: int, road_s: float, step_s: float) -> float:
    """Seconds of a sum that pass while a step is computed whose parts are summed as they come.

    >>> streamed_s(4, road_s=2.0, step_s=1.5)
    0.75
    """
    return (1 - 1 / num_parts) * min(road_s, BACKWARD * step_s)


def mean_s(seconds: Sequence[float]) -> float:
    """Of the meetings about all fragments; of one alone that itself.

    >>> mean_s([1.0, 2.0])
    1.5
    """
    return sum(seconds) / len(seconds)
