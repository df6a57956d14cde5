"""Who hears whom where members differ, and what they make of it."""

from __future__ import annotations

import pytest
import torch

from coterie.errors import StrategyError
from coterie.sync.gossip import GRAPHS, Gossip, Neighbourly, Pairs
from coterie.sync.room import Payload, Room
from coterie.sync.talk import Swap
from coterie.types import Ctx, Layout, Message
from coterie.world import Link

EXCHANGES: list[Neighbourly] = [*map(Gossip, GRAPHS), Pairs()]


def test_neighbours_are_those_of_the_graph() -> None:
    assert Gossip("ring").shifts(5, 1) == (1, 4)
    assert Gossip("ring").shifts(2, 1) == (1,)
    assert Gossip("complete").shifts(4, 3) == (1, 2, 3)
    assert [Gossip("exponential").shifts(6, number) for number in (1, 2, 3, 4)] == [
        (1,),
        (2,),
        (4,),
        (1,),
    ]
    assert Pairs().shifts(7, 3) == (1,)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=repr)
@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 8, 9])
def test_nobody_hears_itself_or_anybody_twice(exchange: Neighbourly, num: int) -> None:
    for number in range(1, 9):
        shifts = exchange.shifts(num, number)
        assert len({shift % num for shift in shifts}) == len(shifts)
        assert all(shift % num for shift in shifts)
        assert bool(shifts) == (num > 1)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=repr)
def test_seats_are_all_members_whatever_their_order(exchange: Neighbourly) -> None:
    names = ["m3", "m0", "m2", "m1"]
    for number in (1, 2, 7):
        assert sorted(exchange.seats(names, number)) == sorted(names)
        assert exchange.seats(names, number) == exchange.seats(names[::-1], number)


def test_pairs_meet_others_from_round_to_round() -> None:
    names = [f"m{i}" for i in range(6)]
    assert len({tuple(Pairs().seats(names, number)) for number in range(1, 20)}) > 10


def test_the_delta_of_a_mixture_is_the_way_to_it() -> None:
    anchor, delta = torch.tensor([5.0]), torch.tensor([2.0])
    stands = Gossip().bring(delta, anchor)
    assert stands.tolist() == [3.0]
    assert Gossip().land(stands, anchor).tolist() == [2.0]


def test_pairs_move_by_their_mean_delta_and_towards_their_mean_anchor() -> None:
    mine, other = (
        Pairs().bring(torch.tensor([delta]), torch.tensor([anchor]))
        for delta, anchor in ((1.0, 10.0), (3.0, 4.0))
    )
    assert Pairs(0.5).mixture(mine, [other]).tolist() == [2.0 + 0.5 * (10.0 - 7.0)]
    assert Pairs(1.0).mixture(mine, [other]).tolist() == [2.0 + 1.0 * (10.0 - 7.0)]


def test_pairs_show_twice_as_much() -> None:
    layout = Layout(("a", "b"), ((2,), (3,)))
    shown = Pairs().shown(layout)
    assert (shown.size, len(set(shown.names))) == (10, 4)


def test_who_brings_nothing_is_not_listened_to() -> None:
    room = Room("a", ("a", "b"), {"a": 1.0, "b": 1.0}, torch.zeros(1), None, Ctx(round=1))
    talk = Gossip("ring").talk(Message("a", torch.tensor([4.0]), 1.0), None, room)
    ask = next(talk)
    assert isinstance(ask, Swap)
    assert (ask.to, ask.origin, ask.vector_N.tolist()) == ("b", "b", [4.0, 1.0])
    with pytest.raises(StopIteration) as end:
        talk.send(torch.tensor([torch.nan, 0.0]))
    assert end.value.value.vector_K.tolist() == [4.0]
    assert end.value.value.weights == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("exchange", "swaps"),
    [(Gossip("exponential"), 1), (Gossip("ring"), 2), (Gossip("complete"), 3), (Pairs(), 1)],
    ids=repr,
)
def test_each_swap_has_its_price(exchange: Neighbourly, swaps: int) -> None:
    links = [Link("a", b, 0.5, 100.0) for b in "bcd"]
    assert exchange.price(Payload(50, summable=False), 4, links) == pytest.approx(swaps * 1.0)
    assert exchange.price(Payload(50, summable=False), 1, []) == 0.0


@pytest.mark.parametrize("pull", [0.0, -0.5, 1.5, True, "1"])
def test_a_pull_that_cannot_be_is_refused(pull: object) -> None:
    with pytest.raises(StrategyError, match="a pull above 0"):
        Pairs(pull)  # type: ignore[arg-type]
