"""The grammar of a sentence, and a delta's way through it.

Legend of shape suffixes: N all values of the flat vector, K those that are shared.
"""

from __future__ import annotations

import re

import pytest
import torch

from coterie.errors import JobError, StrategyError
from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import ErrorFeedback, Fp16, Int8
from coterie.sync.exchanges import Payload, Reduce
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Only, Piece
from coterie.types import Ctx, Layout
from coterie.world import Link

LAYOUT = Layout(("trunk.a", "head", "trunk.b"), ((2,), (3,), (1, 2)))
DELTA_N = torch.arange(1.0, 8.0)
FULL = chain(Every(4), Clip(9.0), Only("trunk.*"), ErrorFeedback(Int8()), Reduce(), Outer(0.5, 0.9))


@pytest.mark.parametrize(
    "strategy",
    [
        chain(Reduce()),
        chain(Clip(1.0), Int8(), Reduce(), Clip(1.0)),
        chain(Every(1), Reduce(), Outer(1.0)),
        chain(Every(8), Only("a.*"), Only("*.b"), Clip(1.0), Reduce(), Clip(2.0), Outer(1.0)),
        FULL,
    ],
    ids=repr,
)
def test_a_sentence_prints_as_it_is_written(strategy: Strategy) -> None:
    assert repr(strategy) == f"chain({', '.join(map(repr, strategy.pieces))})"


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((), "found none in chain(), so nothing meets"),
        ((Clip(1.0),), "found none in chain(Clip(1.0)), so nothing meets"),
        ((Reduce(), Reduce()), "found 2 in chain(Reduce(), Reduce())"),
        ((Clip(1.0), Every(2), Reduce(), Outer(1.0)), "Every(2) away from the start; put it first"),
        ((Every(2), Every(2), Reduce(), Outer(1.0)), "put it first, and only once"),
        ((Reduce(), Every(2)), "local? map* pack? exchange map*, found Every(2)"),
        ((Int8(), Clip(1.0), Reduce()), "found Int8() away from the exchange"),
        ((Reduce(), Int8()), "found Int8() away from the exchange"),
        ((Fp16(), ErrorFeedback(Int8()), Reduce()), "put one pack just before it"),
        ((Reduce(), Only("trunk.*")), "found Only('trunk.*') after the exchange; put it before"),
        ((Every(2), Outer(1.0), Reduce()), "found Outer(1.0) before the exchange; put it after"),
        ((Every(2), Reduce()), "did you mean chain(Every(2), Reduce(), Outer(1.0))?"),
        (
            (Reduce(), Outer(0.5)),
            "did you mean chain(Every(8), Reduce(), Outer(0.5)), or chain(Reduce())?",
        ),
        ((Every(2), Reduce(), Outer(1.0), Outer(1.0)), "expected one outer optimizer, found 2"),
        (("Reduce()",), "expected pieces in a chain, found 'Reduce()'"),
        ((Reduce,), "expected pieces in a chain, found <class"),
    ],
)
def test_what_is_no_sentence_is_refused_with_advice(
    pieces: tuple[Piece, ...], message: str
) -> None:
    with pytest.raises(StrategyError, match=re.escape(message)):
        chain(*pieces)


def test_a_strategy_cannot_be_built_around_the_grammar() -> None:
    with pytest.raises(StrategyError, match="nothing meets"):
        Strategy(())


def test_a_strategy_says_what_it_is_made_of() -> None:
    assert (FULL.every, FULL.walks) == (4, True)
    assert (FULL.exchange, FULL.pack) == (Reduce(), ErrorFeedback(Int8()))
    plain = chain(Reduce())
    assert (plain.every, plain.walks, plain.pack) == (1, False, None)
    assert chain(Every(1), Reduce(), Outer(1.0)).walks


def test_memory_is_one_value_for_each_piece_of_its_narrowed_layout() -> None:
    memory = FULL.init(LAYOUT, DELTA_N)
    sizes = [len(own) if isinstance(own, torch.Tensor) else None for own in memory]
    assert sizes == [None, None, 7, 4, None, 4]


def test_prepare_only_moves_the_memory_before_the_exchange() -> None:
    memory = FULL.init(LAYOUT, DELTA_N)
    _, after = FULL.prepare(DELTA_N, memory, Ctx())
    moved = [old is not new for old, new in zip(memory, after, strict=True)]
    assert moved == [False, False, False, True, False, False]


def test_land_only_moves_the_memory_after_the_exchange() -> None:
    memory = FULL.init(LAYOUT, DELTA_N)
    _, after = FULL.land(torch.ones(4), DELTA_N, LAYOUT, memory, Ctx())
    moved = [old is not new for old, new in zip(memory, after, strict=True)]
    assert moved == [False, False, False, False, False, True]


def test_a_round_that_is_refused_can_be_played_again() -> None:
    memory, delta_N = FULL.init(LAYOUT, DELTA_N), DELTA_N.clone()
    first, _ = FULL.prepare(delta_N, memory, Ctx())
    FULL.land(torch.ones(4), delta_N, LAYOUT, memory, Ctx())
    again, _ = FULL.prepare(delta_N, memory, Ctx())
    assert torch.equal(first, again)
    assert torch.equal(delta_N, DELTA_N)
    fresh = FULL.init(LAYOUT, DELTA_N)
    for own, untouched in zip(memory, fresh, strict=True):
        assert own is untouched is None or torch.equal(own, untouched)  # type: ignore[arg-type]


def test_a_dense_payload_is_the_delta_and_opens_as_itself() -> None:
    strategy = chain(Reduce())
    payload, _ = strategy.prepare(DELTA_N, strategy.init(LAYOUT, DELTA_N), Ctx())
    assert torch.equal(payload, DELTA_N)
    assert strategy.open(payload, DELTA_N) is payload


@pytest.mark.parametrize("strategy", [chain(Reduce()), chain(Int8(), Reduce()), FULL], ids=repr)
def test_what_travels_has_the_bytes_announced(strategy: Strategy) -> None:
    payload, _ = strategy.prepare(DELTA_N, strategy.init(LAYOUT, DELTA_N), Ctx())
    assert payload.numel() * payload.element_size() == strategy.num_bytes(LAYOUT)


def test_a_packed_payload_opens_to_the_shared_row() -> None:
    payload, _ = FULL.prepare(DELTA_N, FULL.init(LAYOUT, DELTA_N), Ctx())
    row_K = FULL.open(payload, torch.zeros(FULL.narrowed(LAYOUT).size))
    direction_K = DELTA_N[[0, 1, 5, 6]] * 9.0 / DELTA_N.norm()
    torch.testing.assert_close(row_K, direction_K, rtol=0.01, atol=0.05)


def test_landing_replaces_what_is_shared_and_leaves_what_is_private() -> None:
    strategy = chain(Every(2), Only("trunk.*"), Reduce(), Outer(0.5))
    memory = strategy.init(LAYOUT, DELTA_N)
    agreed_K, own_N = torch.tensor([10.0, 20.0, 30.0, 40.0]), DELTA_N.clone()
    update_N, _ = strategy.land(agreed_K, own_N, LAYOUT, memory, Ctx())
    assert update_N.tolist() == [5, 10, 3, 4, 5, 15, 20]
    assert torch.equal(own_N, DELTA_N)


def test_a_pattern_that_matches_nothing_is_refused_before_anybody_trains() -> None:
    with pytest.raises(JobError, match="the names are trunk"):
        chain(Only("tronk.*"), Reduce()).init(LAYOUT, DELTA_N)


def test_payload_tells_the_exchange_what_can_be_added() -> None:
    assert chain(Reduce()).payload(LAYOUT) == Payload(28, summable=True)
    assert chain(Only("trunk.*"), Fp16(), Reduce()).payload(LAYOUT) == Payload(8, summable=False)


def test_price_is_the_exchanges_price_of_the_payload() -> None:
    links = (Link("a", "b", 0.25, 28.0),)
    assert chain(Reduce()).price(LAYOUT, 2, links) == 2 * 0.25 + 1.0
    assert chain(Reduce()).price(LAYOUT, 1, ()) == 0.0


def test_keeps_is_the_product_over_pieces() -> None:
    strategy = chain(Every(8), Int8(), Reduce(), Outer(1.0))
    assert strategy.keeps() == pytest.approx(Every(8).keeps() * Int8().keeps())
    assert chain(Reduce()).keeps() == 1.0


def test_nesterov_regains_half_of_what_a_long_walk_loses() -> None:
    def keeps(num_steps: int) -> float:
        return chain(Every(num_steps), Reduce(), Outer(0.7, 0.9, nesterov=True)).keeps()

    assert 1 - keeps(32) == pytest.approx((1 - Every(32).keeps()) / 2)
    assert keeps(16) == Every(16).keeps()


def test_strategies_are_values() -> None:
    assert chain(Every(8), Reduce(), Outer(1.0)) == chain(Every(8), Reduce(), Outer(1.0))
    assert len({chain(Reduce()), chain(Reduce()), chain(Int8(), Reduce())}) == 2
