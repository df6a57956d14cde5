"""What is no sentence is refused when it is written, with what to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

from coterie.errors import StrategyError, TrainingError
from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import (
    E3M0,
    Bf16,
    ChunkTopK,
    Codec,
    ErrorFeedback,
    Fp16,
    Int4,
    Int8,
    PowerSGD,
    RandomK,
    Sign,
    Stochastic,
    TopK,
)
from coterie.sync.exchanges import Reduce
from coterie.sync.gossip import Gossip, Pairs
from coterie.sync.laws import Median
from coterie.sync.maps import Discount, Even, Prox
from coterie.sync.outer import DelayedNesterov, Outer, OuterAdam
from coterie.sync.pieces import Clip, DyLU, Every, Only, Piece
from coterie.sync.privacy import Noise
from coterie.sync.server import Push
from coterie.sync.teams import Islands, Pipeline
from coterie.types import Ctx, Layout

MEAN = Reduce(weighted=False, road="star")
NAMED = Islands((("a",), ("b", "c")))


@pytest.mark.parametrize(
    "strategy",
    [
        chain(Clip(1.0), Int8(), Reduce(), Clip(1.0)),
        chain(Every(8), Only("a.*"), Only("*.b"), Clip(1.0), Reduce(), Clip(2.0), Outer(1.0)),
        chain(Every(8), Prox(0.1), Even(), Clip(1.0), Reduce(Median()), OuterAdam(0.1)),
        chain(Every(8), Islands(2), ErrorFeedback(PowerSGD()), Reduce(), Outer(1.0)),
        chain(Every(8), NAMED, Reduce(), Outer(1.0)),
        chain(Every(8), Pipeline(("1",)), Reduce(), Outer(1.0)),
        chain(Every(8), Pipeline(("1",), crew=("b", "a")), Reduce(), Outer(1.0)),
        chain(Every(8, fragments=4, overlap=1), ErrorFeedback(Int4()), Reduce(), Outer(1.0)),
        chain(DyLU(8), ErrorFeedback(TopK()), Push(), Discount(), DelayedNesterov(0.7)),
        chain(Every(8), Clip(1.0), Noise(1.0), Reduce(), Outer(1.0)),
        chain(Every(8), Clip(1.0), MEAN, Noise(1.0), Outer(1.0)),
        chain(Clip(1.0), MEAN, Noise(1.0)),
        chain(Every(1), Only("a"), Gossip("ring"), Clip(1.0), Outer(1.0)),
        chain(RandomK(0.5), Reduce()),
    ],
    ids=repr,
)
def test_what_is_a_sentence_is_let_through(strategy: Strategy) -> None:
    assert Strategy(strategy.pieces) == strategy


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((), "found none in chain(), so nothing meets"),
        ((Clip(1.0),), "found none in chain(Clip(1.0)), so nothing meets"),
        ((Reduce(), Reduce()), "found 2 in chain(Reduce(), Reduce())"),
        ((Every(2), Reduce(), Gossip(), Outer(1.0)), "found 2 in chain(Every(2)"),
        ((Clip(1.0), Every(2), Reduce(), Outer(1.0)), "Every(2) away from the start, in"),
        ((Every(2), Every(2), Reduce(), Outer(1.0)), "each local word only once"),
        ((Every(2), DyLU(2), Reduce(), Outer(1.0)), "each local word only once"),
        ((Every(2), Islands(2), Pipeline(("1",)), Reduce(), Outer(1.0)), "keep one of each"),
        ((Islands(2), Reduce()), "did you mean chain(Every(8), Islands(2), Reduce())?"),
        ((Prox(0.1), Every(2), Reduce(), Outer(1.0)), "expected Every(...) before Prox(0.1)"),
        ((Reduce(), Every(2)), "local* map* pack? exchange map*, found Every(2) after"),
        ((Int8(), Clip(1.0), Reduce()), "found Int8() away from the exchange"),
        ((Reduce(), Int8()), "found Int8() away from the exchange"),
        ((Fp16(), ErrorFeedback(Int8()), Reduce()), "put one pack just before it"),
        ((Reduce(), Only("trunk.*")), "found Only('trunk.*') after the exchange; put it before"),
        ((Every(2), Reduce(), Even(), Outer(1.0)), "found Even() after the exchange"),
        ((Every(2), Discount(), Push(), Outer(1.0)), "found Discount() before the exchange"),
        ((Every(2), Outer(1.0), Reduce()), "found Outer(1.0) before the exchange; put it after"),
        (("Reduce()",), "expected pieces in a chain, found 'Reduce()'"),
        ((Reduce,), "expected pieces in a chain, found <class"),
        ((Median(), Reduce()), "expected pieces in a chain, found Median()"),
    ],
)
def test_words_out_of_order_are_refused(pieces: tuple[Piece, ...], message: str) -> None:
    with pytest.raises(StrategyError, match=re.escape(message)):
        chain(*pieces)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((Every(2), Reduce()), "did you mean chain(Every(2), Reduce(), Outer(1.0))?"),
        ((Every(2), Gossip()), "did you mean chain(Every(2), Gossip(), Outer(1.0))?"),
        (
            (Reduce(), Outer(0.5)),
            "did you mean chain(Every(8), Reduce(), Outer(0.5)), or chain(Reduce())?",
        ),
        ((Every(2), Reduce(), Outer(1.0), Outer(1.0)), "expected one outer optimizer, found 2"),
        ((Every(2), Push(), Outer(1.0), OuterAdam(1.0)), "expected one outer optimizer, found 2"),
    ],
)
def test_a_walk_has_one_outer_optimizer_and_a_gradient_none(
    pieces: tuple[Piece, ...], message: str
) -> None:
    with pytest.raises(StrategyError, match=re.escape(message)):
        chain(*pieces)


@pytest.mark.parametrize("pack", [Int8(), ErrorFeedback(Sign()), RandomK()], ids=repr)
@pytest.mark.parametrize("exchange", [Gossip(), Pairs()], ids=repr)
def test_members_that_do_not_agree_pack_nothing(pack: Piece, exchange: Piece) -> None:
    with pytest.raises(StrategyError, match=re.escape(f"leave out {pack}")):
        chain(Every(2), pack, exchange, Outer(1.0))


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((Gossip(),), "expected a walk with Gossip()"),
        ((Pairs(),), "expected a walk with Pairs()"),
        ((Push(),), "expected a walk before Push()"),
        ((Every(2), Reduce(), Discount(), Outer(1.0)), "expected Push() with Discount"),
        ((Every(2), Gossip(), Discount(), Outer(1.0)), "expected Push() with Discount"),
        ((PowerSGD(), Reduce(Median())), "with the mean of Reduce()"),
        ((PowerSGD(), Reduce(road="star")), "whose sums are made on the ring road"),
        ((Every(2), ErrorFeedback(RandomK()), Push(), Outer(1.0)), "made on the ring road"),
        ((Every(4, fragments=2), Gossip(), Outer(1.0)), "fragments and overlap with an exchange"),
        ((Every(4, overlap=1), Push(), Outer(1.0)), "fragments and overlap with an exchange"),
        ((Every(4, overlap=1), MEAN, Outer(1.0)), "fragments and overlap with an exchange"),
        ((Every(4, fragments=2), Islands(2), Reduce(), Outer(1.0)), "walked by each member alone"),
        ((Every(4, overlap=1), Only("a"), Reduce(), Outer(1.0)), "walked by each member alone"),
        ((Every(4), Islands(2), Gossip(), Outer(1.0)), "teams that meet on the ring road"),
        ((Every(4), Islands(2), Push(), Outer(1.0)), "teams that meet on the ring road"),
        ((Every(4), Pipeline(("1",)), MEAN, Outer(1.0)), "teams that meet on the ring road"),
        ((Every(4), Islands(2), Prox(0.1), Reduce(), Outer(1.0)), "leave out Prox(...)"),
    ],
)
def test_words_that_cannot_stand_together_are_refused(
    pieces: tuple[Piece, ...], message: str
) -> None:
    with pytest.raises(StrategyError, match=re.escape(message)):
        chain(*pieces)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((Noise(1.0), Reduce()), "Clip(1.0) before it"),
        ((MEAN, Noise(1.0)), "Clip(1.0) before it"),
        ((Clip(1.0), Even(), Noise(1.0), Reduce()), "nothing between that may lift the norm"),
        ((Clip(1.0), ErrorFeedback(Int8()), MEAN, Noise(1.0)), "nothing between that may lift"),
        ((Clip(1.0), Reduce(), Noise(1.0)), "right behind an unweighted mean on the star road"),
        ((Clip(1.0), Reduce(road="star"), Noise(1.0)), "right behind an unweighted mean"),
        ((Clip(1.0), Reduce(weighted=False), Noise(1.0)), "right behind an unweighted mean"),
        (
            (Clip(1.0), Reduce(Median(), weighted=False, road="star"), Noise(1.0)),
            "right behind an unweighted mean",
        ),
        ((Clip(1.0), MEAN, Clip(1.0), Noise(1.0)), "right behind an unweighted mean"),
        ((Clip(1.0), Noise(1.0), MEAN, Noise(1.0)), "Clip(1.0) before it"),
        ((Clip(1.0), Noise(1.0), Clip(1.0), MEAN, Noise(1.0)), "expected noise once"),
    ],
)
def test_noise_that_would_promise_nothing_is_refused(
    pieces: tuple[Piece, ...], message: str
) -> None:
    walk = (Every(2),) if any(isinstance(piece, Even) for piece in pieces) else ()
    outer = (Outer(1.0),) if walk else ()
    with pytest.raises(StrategyError, match=re.escape(message)):
        chain(*walk, *pieces, *outer)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: Every(0), "at least one"),
        (lambda: Every(10, fragments=3), "divides the walk"),
        (lambda: Every(10, fragments=0), "divides the walk"),
        (lambda: Every(8, overlap=8), "an overlap of 0 up to 7 steps"),
        (lambda: Every(8, fragments=4, overlap=2), "an overlap of 0 up to 1 steps"),
        (lambda: Every(8, overlap=-1), "an overlap of 0"),
        (lambda: Every(8, mix=1.0), "a mix from 0"),
        (lambda: DyLU(0), "at least one"),
        (lambda: Reduce(quorum=2), "only on the star road"),
        (lambda: Push(max_staleness=0), "at least one update"),
        (lambda: Gossip("star"), "a graph of exponential, ring, complete"),
        (lambda: Pairs(0.0), "a pull above 0"),
        (lambda: Islands((("a", "b"), ("b",))), "every one once"),
        (lambda: Islands(0), "a number of islands"),
        (lambda: Islands(()), "a number of islands"),
        (lambda: Pipeline(()), "names of the modules"),
        (lambda: Pipeline(("1", "1")), "each once"),
        (lambda: Pipeline(("1",), micro_batches=0), "at least one micro-batch"),
        (lambda: TopK(0.0), "density above 0"),
        (lambda: ChunkTopK(8, 9), "no more than it has"),
        (lambda: Noise(0.0), "above zero"),
        (lambda: ErrorFeedback(Clip(1.0)), "a codec inside"),
        (lambda: ErrorFeedback(ErrorFeedback(Int8())), "a codec inside"),
    ],
)
def test_a_word_that_cannot_be_is_refused_on_its_own(
    write: Callable[[], object], message: str
) -> None:
    with pytest.raises(StrategyError, match=message) as refused:
        write()
    assert re.search("expected .* found .*; ?", str(refused.value), re.DOTALL)


CODECS: list[Codec] = [
    Fp16(),
    Bf16(),
    Int8(),
    Int4(),
    E3M0(),
    Sign(),
    Stochastic(),
    Stochastic(16),
    TopK(0.5),
    ChunkTopK(8, 2),
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_packed(codec: Codec, broken: float) -> None:
    delta_N = torch.ones(10)
    delta_N[7] = broken
    with pytest.raises(TrainingError, match=re.escape(f"finite values to pack with {codec}")):
        codec.encode(delta_N, Ctx())


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("num_bytes", [-1, 1])
def test_a_packet_of_another_length_is_not_opened(codec: Codec, num_bytes: int) -> None:
    like_N = torch.zeros(10)
    packed = torch.zeros(codec.packet_bytes(10) + num_bytes, dtype=torch.uint8)
    with pytest.raises(TrainingError, match=f"expected a packet of {codec.packet_bytes(10)} bytes"):
        codec.decode(packed, like_N, Ctx())


@pytest.mark.parametrize("sketch", [RandomK(0.5), PowerSGD(1)], ids=repr)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_not_agreed_on(sketch: RandomK | PowerSGD, broken: float) -> None:
    layout, delta_N = Layout(("w",), ((4, 5),)), torch.full((20,), broken)
    talk = sketch.talk(delta_N, 1.0, sketch.init(layout, delta_N), layout, Ctx())
    with pytest.raises(TrainingError, match="finite values"):
        next(talk)
