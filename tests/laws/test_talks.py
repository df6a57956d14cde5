"""A meeting held on a road against the pure law, for every sentence and any number of members.

Members' talks are driven in memory: what they ask of the road is collected from all and answered,
so that a talk in which members would wait for one another for ever cannot pass.
Legend of shape suffixes: N values of the flat vector, K those that a round shares.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.errors import TrainingError
from coterie.sync.chain import Landing, Memories, Strategy, chain
from coterie.sync.codecs import (
    E3M0,
    Bf16,
    ChunkTopK,
    Codec,
    ErrorFeedback,
    Fp16,
    Int4,
    Int8,
    Pack,
    PowerSGD,
    RandomK,
    Sign,
    Stochastic,
    TopK,
)
from coterie.sync.exchanges import Reduce
from coterie.sync.gossip import GRAPHS, Gossip, Neighbourly, Pairs
from coterie.sync.laws import CentredClip, Kin, Krum, Law, Mean, Median, MultiKrum, TrimmedMean
from coterie.sync.maps import Even
from coterie.sync.meetings import WEIGHT_BYTES, part_size
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Only
from coterie.sync.privacy import Noise
from coterie.sync.recipes import RECIPES
from coterie.sync.room import Agreed, Room
from coterie.sync.talk import Ask, Gather, Shuffle, Swap, Talk, Total
from coterie.types import Ctx, Layout, Message

VALUE_BYTES = 4
LAYOUT = Layout(("trunk.a", "trunk.b", "scale", "head"), ((5, 4), (2,), (), (4, 5)))
NUM = LAYOUT.size  # 43: no multiple of a block
MEMBERS = ("m3", "m0", "m4", "m1", "m2")  # a road has its own order
WEIGHTS = (7.0, 1.0, 3.0, 2.0, 5.0)
SCORES = (0.5, 0.125, 0.75, 1.0, 0.3125)

PACKS: tuple[Pack, ...] = (
    Fp16(),
    Bf16(),
    Int8(block=4),
    Int4(block=4),
    E3M0(block=4),
    Sign(block=4),
    Stochastic(8, block=4),
    Stochastic(4, block=4),
    Stochastic(16),
    TopK(0.2),
    ChunkTopK(8, 2),
    RandomK(0.25),
    PowerSGD(1),
)
LAWS: tuple[Law, ...] = (
    Mean(),
    Median(),
    TrimmedMean(0),
    TrimmedMean(1),
    Krum(0),
    MultiKrum(0, keep=2),
    CentredClip(),
    Kin(),
)
BY_RECIPE: dict[str, tuple[Any, ...]] = {
    "power-sgd": (1,),
    "tiers": (8, 2),
    "pipeline": (8, ("2",)),
    "private": (8, 1.0, 1.1),
}


def written(name: str) -> Strategy:
    """A recipe with arguments that it can be built with."""
    needed = inspect.signature(RECIPES[name]).parameters.values()
    plain = [8 for each in needed if each.default is inspect.Parameter.empty]
    return RECIPES[name](*BY_RECIPE.get(name, plain))


FEEDBACK = [chain(ErrorFeedback(pack), Reduce()) for pack in PACKS]  # type: ignore[arg-type]
SENTENCES: list[Strategy] = list(
    dict.fromkeys(
        [
            *map(written, RECIPES),
            *FEEDBACK,
            *(chain(pack, Reduce()) for pack in PACKS),
            *(chain(Reduce(law)) for law in LAWS),
            *(chain(Int8(block=4), Reduce(law)) for law in LAWS),
            *(chain(ErrorFeedback(E3M0(block=4)), Reduce(law)) for law in LAWS),
            *(chain(Every(4), Gossip(graph), Outer(1.0)) for graph in GRAPHS),
            chain(Every(4), Only("trunk.*"), Gossip("ring"), Outer(0.5)),
            chain(Every(4), Pairs(0.25), Outer(0.7, 0.5, nesterov=True)),
            chain(Every(4), Only("trunk.*"), Pairs(), Outer(1.0)),
            chain(Every(8, fragments=4), Reduce(), Outer(1.0)),
            chain(Every(8, fragments=2), ErrorFeedback(Int8(block=4)), Reduce(), Outer(1.0)),
            chain(Every(8, fragments=2), ErrorFeedback(PowerSGD(1)), Reduce(), Outer(1.0)),
            chain(Every(8, fragments=4), Reduce(Median()), Outer(1.0)),
            chain(Only("trunk.*"), ErrorFeedback(PowerSGD(1)), Reduce()),
            chain(Only("trunk.*"), Clip(1.0), Fp16(), Reduce(weighted=False)),
            chain(Clip(1.0), Noise(0.5), Reduce()),
            chain(Every(4), Even(), Int8(block=4), Reduce(weighted="score"), Outer(1.0)),
            chain(Reduce(weighted="score")),
            chain(ErrorFeedback(PowerSGD(1)), Reduce(weighted="score")),
            chain(Reduce(TrimmedMean(1), weighted=False)),
            chain(Reduce(weighted=False)),
        ]
    )
)
TALKED = [s for s in SENTENCES if s.exchange.road == "ring"]


@dataclass
class Met:
    """What came of a round: by member what was asked, brought, agreed, and remembered."""

    asks: dict[str, list[Ask]] = field(default_factory=dict)
    payloads: dict[str, Tensor] = field(default_factory=dict)
    agreed: dict[str, Agreed] = field(default_factory=dict)
    memories: dict[str, Memories] = field(default_factory=dict)
    rooms: dict[str, Room] = field(default_factory=dict)

    @property
    def vectors(self) -> list[Tensor]:
        return [each.vector_K for each in self.agreed.values()]

    @property
    def kinds(self) -> list[type[Ask]]:
        return [type(ask) for ask in next(iter(self.asks.values()))]


def shape_of(ask: Ask) -> tuple[Any, ...]:
    """What of an ask all members must have in common."""
    sent = ask.parts if isinstance(ask, Shuffle) else (ask.vector_N,)
    assert all(each.dim() == 1 for each in sent)
    among = () if isinstance(ask, Swap) else ask.among
    return type(ask), among, [each.numel() for each in sent], {each.dtype for each in sent}


def answered(asks: Mapping[str, Ask]) -> dict[str, Any]:
    """What a road answers, by member; it stacks and sums in the order of the term."""
    first, *others = asks.values()
    assert all(shape_of(ask) == shape_of(first) for ask in others), "members ask for other things"
    answers: dict[str, Any] = {}
    for seat, (name, ask) in enumerate(asks.items()):
        if isinstance(ask, Total):
            rows = [each.vector_N for each in asks.values() if isinstance(each, Total)]
            answers[name] = torch.stack(rows).sum(0)
        elif isinstance(ask, Gather):
            answers[name] = [e.vector_N.clone() for e in asks.values() if isinstance(e, Gather)]
        elif isinstance(ask, Shuffle):
            answers[name] = [
                each.parts[seat].clone() for each in asks.values() if isinstance(each, Shuffle)
            ]
        else:
            origin = asks[ask.origin]
            assert isinstance(origin, Swap)
            assert origin.to == name, "who is listened to speaks to another"
            answers[name] = origin.vector_N.clone()
    return answers


def driven(talks: Mapping[str, Talk[Any]]) -> tuple[dict[str, list[Ask]], dict[str, Any]]:
    """Drive all members' talks in step: by member what was asked, and what it came to."""
    said: dict[str, list[Ask]] = {name: [] for name in talks}
    answers, ends = dict.fromkeys(talks), {}
    while True:
        asks: dict[str, Ask] = {}
        for name, talk in talks.items():
            try:
                asks[name] = talk.send(answers[name])
            except StopIteration as end:
                ends[name] = end.value
        if not asks:
            return said, ends
        assert not ends, f"{', '.join(ends)} went home while {', '.join(asks)} still ask"
        for name, ask in asks.items():
            said[name].append(ask)
        answers = answered(asks)


def ctx_of(name: str, number: int) -> Ctx:
    generator = torch.Generator().manual_seed(1000 * number + int(name[1:]))
    return Ctx(round=number, generator=generator, num_steps=4, mean_steps=4.0, num_members=5)


def vector(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(NUM, generator=torch.Generator().manual_seed(seed))


def weights_of(strategy: Strategy, num: int, silent: int | None) -> dict[str, float]:
    scored = getattr(strategy.exchange, "weighted", True) == "score"
    weights = dict(zip(MEMBERS[:num], SCORES if scored else WEIGHTS, strict=False))
    if silent is not None:
        weights[MEMBERS[silent]] = 0.0
    return weights


def meet(
    strategy: Strategy,
    weights: Mapping[str, float],
    number: int = 1,
    memories: Mapping[str, Memories] | None = None,
    garbage: Mapping[str, Tensor] | None = None,
) -> Met:
    """Prepare and talk one round; `garbage` is brought in place of what a member prepared."""
    met, names = Met(), tuple(weights)
    planned = dict(zip(names, WEIGHTS, strict=False))
    talks = {}
    for name in names:
        delta_N, anchor_N = vector(100 * number + int(name[1:])), vector(7 + int(name[1:]))
        ctx = ctx_of(name, number)
        memory = memories[name] if memories else strategy.init(LAYOUT, delta_N)
        payload, memory = strategy.prepare(delta_N, anchor_N, memory, LAYOUT, ctx)
        met.payloads[name] = payload
        if garbage and name in garbage:
            payload = garbage[name][: payload.numel()].to(payload.dtype)
        room = strategy.room(name, names, planned, delta_N, LAYOUT, ctx)
        met.rooms[name] = room
        talks[name] = strategy.talk(Message(name, payload, weights[name]), memory, room, LAYOUT)
    met.asks, ends = driven(talks)
    for name, (agreed, memory) in ends.items():
        met.agreed[name], met.memories[name] = agreed, memory
    return met


def lawful(strategy: Strategy, met: Met, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """What the pure law makes of the payloads, opened."""
    rows = {
        name: strategy.open(payload, met.rooms[name].like_K, met.rooms[name].ctx)
        for name, payload in met.payloads.items()
    }
    messages = [Message(name, row, weights[name]) for name, row in rows.items()]
    exchange = strategy.exchange
    if isinstance(exchange, Neighbourly):
        number = next(iter(met.rooms.values())).ctx.round
        return dict(zip(rows, exchange.meet_in(messages, number), strict=True))
    return dict(zip(rows, exchange.meet(messages), strict=True))


def in_parts(room: Room, vector_K: Tensor) -> Tensor:
    """A vector after each owner has packed its part of it."""
    assert room.codec is not None
    size, rounded = part_size(room), []
    for part in vector_K.split(size):
        rounded.append(room.codec.decode(room.codec.encode(part, room.ctx), part, room.ctx))
    return torch.cat(rounded)


def gatherings(strategies: Sequence[Strategy]) -> list[tuple[Strategy, int, int | None]]:
    """Each sentence with numbers of members that it makes sense with, one silent or none."""
    cases: list[tuple[Strategy, int, int | None]] = []
    for strategy in strategies:
        least = strategy.exchange.least()
        cases += [(strategy, num, None) for num in (1, 2, 3, 5) if num >= least]
        if least < len(MEMBERS):
            cases.append((strategy, 5, 2))
    return cases


def ids(cases: Sequence[tuple[Strategy, int, int | None]]) -> list[Any]:
    names = [f"{s!r}-{num}{'' if silent is None else '-one-silent'}" for s, num, silent in cases]
    return [pytest.param(*case, id=name) for case, name in zip(cases, names, strict=True)]


GATHERINGS = gatherings(TALKED)
every_gathering = pytest.mark.parametrize(("strategy", "num", "silent"), ids(GATHERINGS))


def test_every_recipe_and_every_way_of_talking_is_among_them() -> None:
    assert {written(name) for name in RECIPES} <= set(SENTENCES)
    kinds = {tuple(meet(s, weights_of(s, 5, None)).kinds) for s in TALKED}
    assert kinds >= {(Total,), (Gather,), (Shuffle, Gather), (Total, Total), (Swap,)}


@pytest.mark.parametrize(("strategy", "num", "silent"), list(ids(GATHERINGS)))
def test_a_talk_comes_to_what_the_law_says(
    strategy: Strategy, num: int, silent: int | None
) -> None:
    weights = weights_of(strategy, num, silent)
    met = meet(strategy, weights)
    if strategy.sketch is not None:  # linear: as if one member brought the mean
        mean_K = next(iter(lawful(strategy, met, weights).values()))
        layout, like = strategy.shared(LAYOUT, 1), mean_K
        memory = strategy.sketch.init(layout, like)
        alone = strategy.sketch.talk(mean_K, 1.0, memory, layout, Ctx(round=1))
        _, ends = driven({"m0": alone})
        for found_K in met.vectors:
            torch.testing.assert_close(found_K, ends["m0"][0], rtol=1e-4, atol=1e-5)
        return
    heard = {name: weight for name, weight in weights.items() if weight or silent is None}
    spoken = Met(payloads={name: met.payloads[name] for name in heard}, rooms=met.rooms)
    if not strategy.exchange.agrees:
        if silent is None:
            expected = lawful(strategy, spoken, heard)
            for name, agreed in met.agreed.items():
                assert torch.equal(agreed.vector_K, expected[name])
        return
    expected_K = next(iter(lawful(strategy, spoken, heard).values()))
    room = next(iter(met.rooms.values()))
    exact = met.kinds == [Gather] or (met.kinds == [Shuffle, Gather] and room.pack is None)
    for found_K in met.vectors:
        if exact:
            assert torch.equal(found_K, expected_K)
        elif met.kinds == [Total]:
            torch.testing.assert_close(found_K, expected_K, rtol=1e-5, atol=1e-6)
        elif not isinstance(room.codec, Stochastic):
            torch.testing.assert_close(found_K, in_parts(room, expected_K), rtol=1e-5, atol=1e-6)


@every_gathering
def test_members_that_agree_go_home_with_the_same_to_the_bit(
    strategy: Strategy, num: int, silent: int | None
) -> None:
    weights = weights_of(strategy, num, silent)
    met = meet(strategy, weights)
    size = strategy.shared(LAYOUT, 1).size
    for agreed in met.agreed.values():
        assert agreed.vector_K.shape == (size,)
        assert agreed.vector_K.isfinite().all()
    if strategy.exchange.agrees:
        first, *others = met.agreed.values()
        assert all(torch.equal(first.vector_K, other.vector_K) for other in others)
        assert all(other.weights == first.weights for other in others)
        assert {m for m, w in first.weights.items() if w > 0} == {m for m in weights if weights[m]}


@every_gathering
def test_nothing_is_asked_for_beyond_the_bytes_announced(
    strategy: Strategy, num: int, silent: int | None
) -> None:
    fragments = strategy.walk.fragments if strategy.walk else 1
    weights, asked = weights_of(strategy, num, silent), []
    for number in range(1, fragments + 1):
        met = meet(strategy, weights, number)
        room, announced = met.rooms[MEMBERS[0]], strategy.num_bytes(LAYOUT)
        for asks in met.asks.values():
            if met.kinds == [Shuffle, Gather]:
                shuffled, gathered = asks
                assert isinstance(shuffled, Shuffle)
                assert isinstance(gathered, Gather)
                told = sum(part.nbytes for part in shuffled.parts) - num * WEIGHT_BYTES
                assert told <= num * gathered.vector_N.nbytes
                assert 2 * gathered.vector_N.nbytes < announced
                asked.append(announced)
                continue
            total = sum(ask.vector_N.nbytes for ask in asks if not isinstance(ask, Shuffle))
            marks = 1 if Gather in met.kinds else num if Total in met.kinds else len(asks)
            times = max(1, len(asks)) if Swap in met.kinds else 1
            asked.append((total - WEIGHT_BYTES * marks) // times if asks else announced)
            assert room.like_K.dtype == torch.float32
    assert max(asked) == strategy.num_bytes(LAYOUT)


@pytest.mark.parametrize(
    ("strategy", "num", "silent"), ids([case for case in GATHERINGS if case[2] is not None])
)
def test_who_weighs_nothing_is_heard_by_nobody(strategy: Strategy, num: int, silent: int) -> None:
    weights, quiet = weights_of(strategy, num, silent), MEMBERS[silent]
    plain = meet(strategy, weights)
    own = plain.payloads[quiet]
    other = torch.full_like(own, torch.nan) if own.is_floating_point() else own.flip(0)
    if strategy.pack is not None:  # what a codec made it can open, whatever the values
        ctx = ctx_of(quiet, 1)
        memory = strategy.init(LAYOUT, vector(9))
        other, _ = strategy.prepare(vector(9, 1e4), vector(9), memory, LAYOUT, ctx)
    spoiled = meet(strategy, weights, garbage={quiet: other})
    for name, agreed in spoiled.agreed.items():
        if name != quiet or strategy.exchange.agrees:
            assert torch.equal(agreed.vector_K, plain.agreed[name].vector_K)


@pytest.mark.parametrize("strategy", [s for s in TALKED if s.exchange.agrees], ids=repr)
def test_a_meeting_of_nobody_is_refused_by_all_alike(strategy: Strategy) -> None:
    with pytest.raises(TrainingError, match="brings finite values, found none"):
        meet(strategy, dict.fromkeys(MEMBERS, 0.0))


@pytest.mark.parametrize("strategy", TALKED, ids=repr)
def test_a_talk_writes_to_nothing_it_is_given_and_can_be_held_again(strategy: Strategy) -> None:
    weights = weights_of(strategy, 5, None)
    before = meet(strategy, weights, 1)
    fragments = strategy.walk.fragments if strategy.walk else 1
    number = 1 + fragments
    first = meet(strategy, weights, number, before.memories)
    again = meet(strategy, weights, number, before.memories)
    for name in weights:
        assert torch.equal(first.agreed[name].vector_K, again.agreed[name].vector_K)


def landed(strategy: Strategy, met: Met, name: str, memory: Memories, number: int) -> Memories:
    """The memory after a round that counts."""
    zeros_N = torch.zeros(NUM)
    mine = Landing(zeros_N, zeros_N, met.payloads[name])
    vector_K = met.agreed[name].vector_K
    return strategy.land(vector_K, mine, memory, LAYOUT, ctx_of(name, number))[1]


def lost(strategy: Strategy, memory: Memories, share: float, own_part: slice) -> Tensor:
    """What a member still owes: its share of its residual, and all of its own part's."""
    place = strategy.pieces.index(strategy.exchange)
    residual_N, _ = memory[place - 1]  # type: ignore[misc]
    second_N = memory[place]
    owed_N = share * residual_N  # type: ignore[operator]
    if isinstance(second_N, Tensor):
        assert not second_N[: own_part.start].any(), "lost by another owner"
        assert not second_N[own_part.stop :].any(), "lost by another owner"
        owed_N = owed_N + second_N
    assert isinstance(owed_N, Tensor)
    return owed_N


@pytest.mark.parametrize(
    ("strategy", "num", "silent"),
    ids([(s, n, i) for s in FEEDBACK for n, i in ((2, 1), (3, None), (5, 2))]),
)
def test_what_landed_and_what_is_owed_are_all_that_was_brought(
    strategy: Strategy, num: int, silent: int | None
) -> None:
    weights = weights_of(strategy, num, silent)
    share = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    brought_N, landed_N = torch.zeros(NUM), torch.zeros(NUM)
    memories = {name: strategy.init(LAYOUT, brought_N) for name in weights}
    for number in range(1, 13):
        met = meet(strategy, weights, number, memories)
        brought_N += sum(
            (part * vector(100 * number + int(name[1:])) for name, part in share.items()),
            torch.zeros(NUM),
        )
        landed_N += met.vectors[0]
        memories = {n: landed(strategy, met, n, met.memories[n], number) for n in weights}
    owed_N = torch.zeros(NUM)
    for seat, name in enumerate(weights):
        size = part_size(met.rooms[name])
        own_part = slice(seat * size, (seat + 1) * size)
        owed_N += lost(strategy, memories[name], share[name], own_part)
    torch.testing.assert_close(landed_N + owed_N, brought_N, rtol=1e-4, atol=1e-4)
    assert owed_N.norm() < 12 * brought_N.norm(), "what is owed must not run away"


def test_half_floats_in_parts_are_near_to_gathering() -> None:
    strategy = chain(Fp16(), Reduce())
    weights = weights_of(strategy, 5, None)
    met = meet(strategy, weights)
    assert met.kinds == [Shuffle, Gather]
    exact_K = next(iter(lawful(strategy, met, weights).values()))
    torch.testing.assert_close(met.vectors[0], exact_K, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("num", [1, 2, 5])
@pytest.mark.parametrize("sketch", [PowerSGD(4), RandomK(1.0)], ids=repr)
def test_a_sketch_that_leaves_nothing_out_is_all_reduce(
    sketch: PowerSGD | RandomK, num: int
) -> None:
    sketched, plain = chain(ErrorFeedback(sketch), Reduce()), chain(Reduce())
    weights = weights_of(plain, num, None)
    left, right = meet(sketched, weights), meet(plain, weights)
    torch.testing.assert_close(left.vectors[0], right.vectors[0], rtol=1e-6, atol=1e-6)


def test_parts_that_members_own_move_fewer_bytes_than_gathering() -> None:
    strategy = chain(Int8(block=4), Reduce())
    asks = meet(strategy, weights_of(strategy, 5, None)).asks["m0"]
    shuffled, gathered = asks
    assert isinstance(shuffled, Shuffle)
    assert isinstance(gathered, Gather)
    sent = sum(part.nbytes for part in shuffled.parts) + 4 * gathered.vector_N.nbytes
    assert sent < 4 * strategy.num_bytes(LAYOUT)


def test_a_codec_that_cannot_be_cut_is_gathered() -> None:
    strategy = chain(TopK(0.9), Reduce())
    assert meet(strategy, weights_of(strategy, 5, None)).kinds == [Gather]
    assert isinstance(strategy.pack, Codec)
    assert not strategy.pack.divisible


@pytest.mark.parametrize("graph", GRAPHS)
def test_gossip_keeps_the_mean_of_where_all_stand(graph: str) -> None:
    strategy = chain(Every(4), Gossip(graph), Outer(1.0))
    for number in range(1, 5):
        met = meet(strategy, weights_of(strategy, 5, None), number)
        stood_K = torch.stack(list(met.payloads.values())).mean(0)
        torch.testing.assert_close(torch.stack(met.vectors).mean(0), stood_K)


def test_a_whole_circle_of_exponential_peers_hears_everybody() -> None:
    """After log2(n) rounds among a power of two of members, all hold the plain mean."""
    exchange = Gossip("exponential")
    rows = [Message(f"m{i}", torch.tensor([float(i)]), 1.0) for i in range(4)]
    for number in (1, 2):
        mixed = exchange.meet_in(rows, number)
        rows = [replace(m, payload=row) for m, row in zip(rows, mixed, strict=True)]
    assert [float(message.payload) for message in rows] == [1.5] * 4
