"""The grammar of a sentence, and a delta's way through it.

Legend of shape suffixes: N all values of the flat vector, K those that are shared.
"""

from __future__ import annotations

import pytest
import torch

from coterie.errors import JobError, StrategyError
from coterie.sync.chain import Landing, Memories, Strategy, chain
from coterie.sync.codecs import ErrorFeedback, Fp16, Int8, PowerSGD, RandomK, TopK
from coterie.sync.exchanges import Reduce
from coterie.sync.gossip import Gossip, Pairs
from coterie.sync.laws import Krum, Median
from coterie.sync.maps import Prox
from coterie.sync.outer import Outer
from coterie.sync.pieces import Clip, Every, Only
from coterie.sync.privacy import Noise
from coterie.sync.room import Payload
from coterie.sync.teams import Islands, Pipeline
from coterie.types import Ctx, Layout
from coterie.world import Link

LAYOUT = Layout(("trunk.a", "head", "trunk.b"), ((2,), (3,), (1, 2)))
DELTA_N = torch.arange(1.0, 8.0)
ANCHOR_N = torch.full((7,), 10.0)
FULL = chain(Every(4), Clip(9.0), Only("trunk.*"), ErrorFeedback(Int8()), Reduce(), Outer(0.5, 0.9))


def prepared(
    strategy: Strategy, memory: Memories | None = None, number: int = 1
) -> tuple[torch.Tensor, Memories]:
    memory = strategy.init(LAYOUT, DELTA_N) if memory is None else memory
    return strategy.prepare(DELTA_N, ANCHOR_N, memory, LAYOUT, Ctx(round=number))


def landed(
    strategy: Strategy, agreed_K: torch.Tensor, memory: Memories | None = None, number: int = 1
) -> tuple[torch.Tensor, Memories]:
    memory = strategy.init(LAYOUT, DELTA_N) if memory is None else memory
    mine = Landing(DELTA_N, ANCHOR_N, agreed_K)
    return strategy.land(agreed_K, mine, memory, LAYOUT, Ctx(round=number))


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
    residual_K, inner = memory[3]  # type: ignore[misc]
    assert (len(residual_K), inner) == (4, None)  # type: ignore[arg-type]
    sizes = [len(own) if isinstance(own, torch.Tensor) else None for own in memory]
    assert sizes == [None, None, 7, None, None, 4]


def test_with_fragments_there_is_a_memory_for_each() -> None:
    strategy = chain(Every(4, fragments=2), Reduce(), Outer(1.0, 0.9))
    memory = strategy.init(LAYOUT, DELTA_N)
    parts = [strategy.part(LAYOUT, number) for number in (1, 2, 3)]
    assert parts[0] == parts[2] != parts[1]
    assert [len(own[-1]) for own in memory] == [part.size for part in parts[:2]]  # type: ignore[arg-type,index]


def test_a_round_about_a_fragment_leaves_the_memory_of_the_others() -> None:
    strategy = chain(Every(4, fragments=2), ErrorFeedback(Int8()), Reduce(), Outer(1.0, 0.9))
    before = strategy.init(LAYOUT, DELTA_N)
    _, after = prepared(strategy, before, number=2)
    assert after[0] is before[0]
    assert after[1] is not before[1]
    size = strategy.part(LAYOUT, 2).size
    update_F, last = landed(strategy, torch.ones(size), after, number=2)
    assert update_F.tolist() == [1.0] * size
    assert last[0] is before[0]
    assert last[1] is not after[1]


def test_prepare_only_moves_the_memory_before_the_exchange() -> None:
    memory = FULL.init(LAYOUT, DELTA_N)
    _, after = prepared(FULL, memory)
    moved = [old is not new for old, new in zip(memory, after, strict=True)]
    assert moved == [False, False, False, True, False, False]


def test_land_only_moves_the_memory_after_the_exchange() -> None:
    memory = FULL.init(LAYOUT, DELTA_N)
    _, after = landed(FULL, torch.ones(4), memory)
    moved = [old is not new for old, new in zip(memory, after, strict=True)]
    assert moved == [False, False, False, False, False, True]


def test_a_round_that_is_refused_can_be_played_again() -> None:
    memory, before_N = FULL.init(LAYOUT, DELTA_N), DELTA_N.clone()
    first, _ = prepared(FULL, memory)
    landed(FULL, torch.ones(4), memory)
    again, _ = prepared(FULL, memory)
    assert torch.equal(first, again)
    assert torch.equal(before_N, DELTA_N)
    fresh = FULL.init(LAYOUT, DELTA_N)
    torch.testing.assert_close(memory[2:4], fresh[2:4], rtol=0, atol=0)
    torch.testing.assert_close(memory[5], fresh[5], rtol=0, atol=0)


def test_a_dense_payload_is_the_delta_and_opens_as_itself() -> None:
    payload, _ = prepared(chain(Reduce()))
    assert torch.equal(payload, DELTA_N)
    assert chain(Reduce()).open(payload, DELTA_N, Ctx()) is payload


@pytest.mark.parametrize(
    "strategy",
    [
        chain(Reduce()),
        chain(Int8(), Reduce()),
        chain(ErrorFeedback(TopK(0.3)), Reduce()),
        chain(Every(2), Gossip("ring"), Outer(1.0)),
        chain(Every(2), Only("trunk.*"), Pairs(), Outer(1.0)),
        FULL,
    ],
    ids=repr,
)
def test_what_travels_has_the_bytes_announced(strategy: Strategy) -> None:
    payload, _ = prepared(strategy)
    assert payload.nbytes == strategy.num_bytes(LAYOUT)


def test_a_packed_payload_opens_to_the_shared_row() -> None:
    payload, _ = prepared(FULL)
    row_K = FULL.open(payload, torch.zeros(FULL.narrowed(LAYOUT).size), Ctx())
    direction_K = DELTA_N[[0, 1, 5, 6]] * 9.0 / DELTA_N.norm()
    torch.testing.assert_close(row_K, direction_K, rtol=0.01, atol=0.05)


def test_landing_replaces_what_is_shared_and_leaves_what_is_private() -> None:
    strategy, before_N = chain(Every(2), Only("trunk.*"), Reduce(), Outer(0.5)), DELTA_N.clone()
    update_N, _ = landed(strategy, torch.tensor([10.0, 20.0, 30.0, 40.0]))
    assert update_N.tolist() == [5, 10, 3, 4, 5, 15, 20]
    assert torch.equal(before_N, DELTA_N)


def test_a_sketchs_residual_is_what_the_agreement_left_out() -> None:
    strategy = chain(ErrorFeedback(RandomK(0.5)), Reduce())
    wanted_N, memory = prepared(strategy)
    agreed_N = torch.ones(7)
    mine = Landing(DELTA_N, ANCHOR_N, wanted_N)
    _, after = strategy.land(agreed_N, mine, memory, LAYOUT, Ctx(round=1))
    assert torch.equal(after[0][0], DELTA_N - agreed_N)  # type: ignore[index,arg-type]


def test_where_members_differ_they_show_where_they_stand() -> None:
    strategy = chain(Every(2), Gossip(), Outer(1.0))
    payload, _ = prepared(strategy)
    assert torch.equal(payload, ANCHOR_N - DELTA_N)
    update_N, _ = landed(strategy, payload)  # heard nobody: it lands where it walked to
    assert torch.equal(update_N, DELTA_N)


def test_a_newcomer_takes_over_what_was_agreed_and_no_residual() -> None:
    memory = FULL.init(LAYOUT, DELTA_N)
    _, memory = prepared(FULL, memory)
    _, memory = landed(FULL, torch.ones(4), memory)
    taken = FULL.inherit(memory, LAYOUT, DELTA_N)
    assert taken[5] is memory[5]
    assert not taken[3][0].any()  # type: ignore[index,union-attr]
    assert memory[3][0].any()  # type: ignore[index,union-attr]


def test_a_newcomer_takes_over_the_memory_of_every_fragment() -> None:
    strategy = chain(Every(4, fragments=2), Reduce(), Outer(1.0, 0.9))
    memory = strategy.init(LAYOUT, DELTA_N)
    _, memory = landed(strategy, torch.ones(strategy.part(LAYOUT, 2).size), memory, number=2)
    taken = strategy.inherit(memory, LAYOUT, DELTA_N)
    assert [own[-1].sum() for own in taken] == [0.0, strategy.part(LAYOUT, 2).size]  # type: ignore[index,union-attr]


def test_a_server_veils_a_mean_by_what_one_member_can_change() -> None:
    mean = Reduce(weighted=False, road="star")
    private = chain(Every(2), Clip(3.0), mean, Noise(2.0), Outer(1.0))
    told_K = private.veil(torch.zeros(20_000), 4, torch.Generator().manual_seed(0))
    assert float(told_K.std()) == pytest.approx(2.0 * 3.0 / 4, rel=0.03)
    plain_K = torch.zeros(2)
    assert chain(Reduce()).veil(plain_K, 4, torch.Generator()) is plain_K


def test_what_stands_after_the_meeting_begins_behind_a_servers_noise() -> None:
    mean = Reduce(weighted=False, road="star")
    private = chain(Every(2), Clip(3.0), mean, Noise(2.0), Outer(1.0))
    assert private.pieces[private.after :] == (Outer(1.0),)
    assert FULL.pieces[FULL.after :] == (Outer(0.5, 0.9),)


def test_a_strategy_knows_its_company() -> None:
    prox = chain(Every(4), Prox(0.1), Reduce(), Outer(1.0))
    assert (prox.pull, FULL.pull) == (0.1, 0.0)
    streamed = chain(Every(8, fragments=2, overlap=1), Reduce(), Outer(1.0))
    assert (streamed.every, streamed.overlap, FULL.overlap) == (4, 1, 0)
    island = chain(Every(4), Islands(2), Reduce(), Outer(1.0))
    assert (island.team, FULL.team) == (Islands(2), None)
    assert chain(Reduce(Krum(1))).least == 5
    assert chain(Every(2), Pipeline(("1", "2")), Reduce(), Outer(1.0)).least == 3
    assert chain(Reduce(road="star", quorum=3)).least == 3


def test_only_plain_gradients_can_begin_to_meet_during_the_backward_pass() -> None:
    assert chain(Reduce()).plain
    assert chain(Reduce(weighted=False)).plain
    others = [chain(Clip(1.0), Reduce()), chain(Reduce(Median())), chain(Reduce(road="star"))]
    assert not any(strategy.plain for strategy in [*others, FULL])


def test_a_server_packs_its_answers_with_what_keeps_every_value() -> None:
    assert FULL.downlink == Int8()
    assert chain(ErrorFeedback(TopK(0.1)), Reduce()).downlink is None
    assert chain(Reduce()).downlink is None


def test_a_sketch_is_found_inside_feedback() -> None:
    assert chain(ErrorFeedback(PowerSGD(1)), Reduce()).sketch == PowerSGD(1)
    assert chain(PowerSGD(1), Reduce()).sketch == PowerSGD(1)
    assert FULL.sketch is None


def test_noise_alone_makes_what_is_drawn_a_secret() -> None:
    assert chain(Clip(1.0), Noise(1.0), Reduce()).secret
    assert not FULL.secret


def test_a_pattern_that_matches_nothing_is_refused_before_anybody_trains() -> None:
    with pytest.raises(JobError, match="the names are trunk"):
        chain(Only("tronk.*"), Reduce()).init(LAYOUT, DELTA_N)


def test_payload_tells_the_exchange_what_can_be_added() -> None:
    assert chain(Reduce()).payload(LAYOUT) == Payload(28, summable=True)
    packed = chain(Only("trunk.*"), Fp16(), Reduce())
    assert packed.payload(LAYOUT) == Payload(8, summable=False, divisible=True, grain_bytes=16)
    assert chain(TopK(0.3), Reduce()).payload(LAYOUT) == Payload(24, summable=False)
    assert chain(RandomK(0.3), Reduce()).payload(LAYOUT) == Payload(12, True, num_sums=2)
    by_value = chain(Reduce(Median()))
    assert by_value.payload(LAYOUT) == Payload(28, summable=False, divisible=True, grain_bytes=4)
    assert chain(Reduce(Krum())).payload(LAYOUT) == Payload(28, summable=False)
    fragments = chain(Every(4, fragments=2), Reduce(), Outer(1.0))
    assert fragments.payload(LAYOUT) == Payload(16, summable=True)
    assert sorted(payload.num_bytes for payload in fragments.payloads(LAYOUT)) == [12, 16]
    assert chain(Every(4), Pairs(), Outer(1.0)).payload(LAYOUT).num_bytes == 56


def test_what_meets_in_parts_is_priced_so() -> None:
    links = [Link("a", "b", 0.0, 1.0), Link("b", "c", 0.0, 1.0)]
    part_bytes = 4 * 3  # of seven values, three to a member
    assert chain(Reduce(Median())).price(LAYOUT, 3, links) == pytest.approx(4 * part_bytes / 0.9)
    assert chain(Reduce(Krum())).price(LAYOUT, 3, links) == pytest.approx(2 * 28 / 0.9)


def test_price_is_the_exchanges_price_of_the_payload() -> None:
    links = (Link("a", "b", 0.25, 28.0),)
    assert chain(Reduce()).price(LAYOUT, 2, links) == pytest.approx(2 * 0.25 + 1.0 / 0.9)
    assert chain(Reduce()).price(LAYOUT, 1, ()) == 0.0


def test_keeps_is_the_product_over_pieces() -> None:
    strategy = chain(Every(8), Int8(), Reduce(), Outer(1.0))
    assert strategy.keeps() == pytest.approx(Every(8).keeps() * Int8().keeps())
    assert chain(Reduce()).keeps() == 1.0


def test_nesterov_regains_half_of_what_a_long_walk_loses() -> None:
    def keeps(num_steps: int) -> float:
        return chain(Every(num_steps), Reduce(), Outer(0.7, 0.9, nesterov=True)).keeps()

    kept = Outer(0.7, 0.9, nesterov=True).keeps()
    assert 1 - keeps(128) / kept == pytest.approx((1 - Every(128).keeps()) / 2)
    assert keeps(16) == pytest.approx(Every(16).keeps() * kept)


def test_strategies_are_values() -> None:
    assert chain(Every(8), Reduce(), Outer(1.0)) == chain(Every(8), Reduce(), Outer(1.0))
    assert len({chain(Reduce()), chain(Reduce()), chain(Int8(), Reduce())}) == 2
