"""Meetings inside one process: the meaning that every road must equal.

Legend of shape suffixes: N values of a vector, M members.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.sync.chain import chain
from coterie.sync.codecs import Int8
from coterie.sync.exchanges import Reduce
from coterie.transport.memory import Call, MemoryTransport
from coterie.types import Ctx, Layout, Message

NAMES = ("ann", "bob", "cy")
ROWS_MN = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ROWS = dict(zip(NAMES, ROWS_MN, strict=True))
WEIGHTS = {"ann": 5.0, "bob": 1.0, "cy": 10.0}
ORDERS = list(itertools.permutations(NAMES))

every_law = pytest.mark.parametrize("law", [Reduce(), Reduce(weighted=False)], ids=repr)


def hub_of(*members: str, term: int = 1) -> MemoryTransport:
    hub = MemoryTransport()
    hub.enter(term, members)
    return hub


def met(op: str, order: Sequence[str] = NAMES, rows: dict[str, Tensor] = ROWS) -> dict[str, Any]:
    """What a meeting of all gives to each, when they come in this order."""
    hub = hub_of(*NAMES)
    *early, last = order
    for name in early:
        assert hub.offer(name, Call(1, op, rows[name])) is None, "not all are there yet"
    results = hub.offer(last, Call(1, op, rows[last]))
    assert results is not None
    return results


def tensors(result: Any) -> list[Tensor]:
    return result if isinstance(result, list) else [result]


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    pairs = [
        pair
        for name in left
        for pair in zip(tensors(left[name]), tensors(right[name]), strict=True)
    ]
    return left.keys() == right.keys() and all(torch.equal(a, b) for a, b in pairs)


def messages() -> Iterator[Message]:
    return (Message(name, ROWS[name], WEIGHTS[name]) for name in NAMES)


def test_everybody_goes_home_with_the_sum_of_all() -> None:
    for total_N in met("total").values():
        torch.testing.assert_close(total_N, ROWS_MN.sum(0), rtol=0, atol=1e-14)


def test_everybody_goes_home_with_every_row_in_the_order_of_the_term() -> None:
    results = met("gather")
    assert tuple(results) == NAMES
    assert same(results, {name: list(ROWS_MN) for name in NAMES})


@pytest.mark.parametrize("op", ["total", "gather"])
def test_order_of_arrival_changes_no_bit(op: str) -> None:
    float32 = {name: row_N.float() for name, row_N in ROWS.items()}
    assert all(same(met(op, order, float32), met(op, rows=float32)) for order in ORDERS)


@every_law
def test_a_sum_of_scaled_rows_is_the_law(law: Reduce) -> None:
    scaled = {n: law.factor(WEIGHTS[n], list(WEIGHTS.values())) * ROWS[n] for n in NAMES}
    for total_N, agreed_N in zip(
        met("total", rows=scaled).values(), law.meet(list(messages())), strict=True
    ):
        torch.testing.assert_close(total_N, agreed_N, rtol=0, atol=1e-14)


@every_law
def test_a_gather_of_packets_is_the_law_of_what_they_hold(law: Reduce) -> None:
    strategy = chain(Int8(block=16), law)
    memory = strategy.init(Layout(("w",), ((50,),)), ROWS_MN[0])
    packets = {name: strategy.prepare(ROWS[name], memory, Ctx())[0] for name in NAMES}
    opened = {name: strategy.open(packets[name], ROWS[name]) for name in NAMES}
    expected_N, *_ = law.meet([Message(n, opened[n], WEIGHTS[n]) for n in NAMES])
    for gathered in met("gather", rows=packets).values():
        rows = [strategy.open(packet, ROWS_MN[0]) for packet in gathered]
        found = [Message(n, r, WEIGHTS[n]) for n, r in zip(NAMES, rows, strict=True)]
        assert torch.equal(law.meet(found)[0], expected_N)


@pytest.mark.parametrize("op", ["total", "gather", "pass:ann:bob"])
def test_what_is_taken_home_is_ones_own(op: str) -> None:
    hub = hub_of("ann", "bob")
    mine = {name: torch.ones(3) for name in ("ann", "bob")}
    hub.offer("ann", Call(1, op, mine["ann"]))
    results = hub.offer("bob", Call(1, op, mine["bob"]))
    assert results is not None
    expected = [vector_N.clone() for vector_N in tensors(results["bob"])]
    for vector_N in tensors(results["ann"]):
        vector_N.zero_()
    assert all(map(torch.equal, tensors(results["bob"]), expected))
    assert all(torch.equal(vector_N, torch.ones(3)) for vector_N in mine.values())


@pytest.mark.parametrize("first", ["ann", "bob"])
def test_a_vector_passes_from_one_to_another_and_to_nobody_else(first: str) -> None:
    hub, op = hub_of(*NAMES), "pass:ann:bob"
    vectors = {"ann": torch.arange(3.0), "bob": torch.zeros(3)}
    (second,) = vectors.keys() - {first}
    assert hub.offer(first, Call(1, op, vectors[first])) is None
    results = hub.offer(second, Call(1, op, vectors[second]))
    assert results is not None
    assert results.keys() == {"ann", "bob"}
    assert torch.equal(results["bob"], vectors["ann"])


def test_both_ways_at_once_do_not_meet() -> None:
    hub = hub_of("ann", "bob")
    assert hub.offer("ann", Call(1, "pass:ann:bob", torch.ones(1))) is None
    assert hub.offer("bob", Call(1, "pass:bob:ann", torch.ones(1))) is None


def test_a_term_is_formed_when_all_its_members_are_there() -> None:
    hub = hub_of("ann", "bob")
    assert hub.members(1) == ("ann", "bob")
    assert hub.offer("bob", Call(1, "form")) is None
    assert hub.offer("ann", Call(1, "form")) == {"ann": None, "bob": None}


def test_one_alone_is_answered_at_once() -> None:
    results = hub_of("ann").offer("ann", Call(1, "total", torch.ones(2)))
    assert results is not None
    assert torch.equal(results["ann"], torch.ones(2))


def test_terms_do_not_meet() -> None:
    hub = hub_of("ann", "bob")
    hub.enter(2, ("ann", "bob"))
    assert hub.offer("ann", Call(1, "total", torch.ones(1))) is None
    assert hub.offer("bob", Call(2, "total", torch.ones(1))) is None
    assert hub.offer("bob", Call(1, "total", torch.ones(1))) is not None


def test_nobody_meets_with_whom_has_withdrawn() -> None:
    hub = hub_of("ann", "bob")
    hub.offer("ann", Call(1, "total", torch.tensor([100.0])))
    hub.withdraw("ann")
    assert hub.offer("bob", Call(1, "total", torch.tensor([1.0]))) is None
    results = hub.offer("ann", Call(1, "total", torch.tensor([2.0])))
    assert results is not None
    assert results["bob"].tolist() == [3.0]


def test_withdrawing_takes_nobody_elses_call_back() -> None:
    hub = hub_of("ann", "bob")
    hub.offer("ann", Call(1, "total", torch.tensor([1.0])))
    hub.withdraw("bob")
    assert hub.offer("bob", Call(1, "total", torch.tensor([2.0]))) is not None


def test_a_torn_term_names_who_waited_and_leaves_the_next_alone() -> None:
    hub = hub_of(*NAMES)
    hub.enter(2, NAMES)
    hub.offer("ann", Call(1, "total", torch.ones(1)))
    hub.offer("bob", Call(1, "pass:bob:cy", torch.ones(1)))
    hub.offer("cy", Call(2, "total", torch.ones(1)))
    assert sorted(hub.tear(1)) == ["ann", "bob"]
    assert hub.tear(1) == []
    assert hub.offer("cy", Call(1, "pass:bob:cy", torch.ones(1))) is None
    assert hub.tear(2) == ["cy"]


def test_whoever_is_first_into_the_next_round_waits_for_the_others() -> None:
    hub = hub_of(*NAMES)
    for number, order in enumerate(ORDERS):
        results = [hub.offer(name, Call(1, "total", torch.tensor(10 * number))) for name in order]
        assert results == [None, None, dict.fromkeys(NAMES, 30 * number)]
