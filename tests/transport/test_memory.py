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

from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import Int8, TopK
from coterie.sync.exchanges import Reduce
from coterie.sync.talk import Gather, Shuffle, Total
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


def asked(ask: Any) -> Call:
    """A talk's ask as a member's call."""
    match ask:
        case Total(vector_N, among):
            return Call(1, "total", vector_N, among)
        case Gather(vector_N, among):
            return Call(1, "gather", vector_N, among)
        case Shuffle(parts, among):
            return Call(1, "shuffle", among=among, parts=parts)
    raise AssertionError(ask)


def agreed(strategy: Strategy) -> dict[str, Tensor]:
    """What the members of a sentence agree on in memory."""
    layout, ctx, talks = Layout(("w",), ((50,),)), Ctx(round=1), {}
    memory = strategy.init(layout, ROWS_MN[0])
    for name, row_N in ROWS.items():
        payload, _ = strategy.prepare(row_N, row_N, memory, layout, ctx)
        room = strategy.room(name, NAMES, WEIGHTS, row_N, layout, ctx)
        talks[name] = strategy.talk(Message(name, payload, WEIGHTS[name]), memory, room, layout)
    hub, asks, outcome = hub_of(*NAMES), {name: next(talk) for name, talk in talks.items()}, {}
    while asks:
        results = [hub.offer(name, asked(ask)) for name, ask in asks.items()][-1]
        assert results is not None
        for name in tuple(asks):
            try:
                asks[name] = talks[name].send(results[name])
            except StopIteration as end:
                outcome[name] = end.value[0].vector_K
                del asks[name]
    return outcome


@every_law
@pytest.mark.parametrize("packs", [(), (Int8(block=16),), (TopK(0.5),)], ids=repr)
def test_a_talk_in_memory_is_the_law(law: Reduce, packs: tuple[Any, ...]) -> None:
    """As a sum, by gathering or in parts: to the last bit where nothing is packed twice."""
    strategy, layout, ctx = chain(*packs, law), Layout(("w",), ((50,),)), Ctx(round=1)
    memory = strategy.init(layout, ROWS_MN[0])
    packets = {n: strategy.prepare(r, r, memory, layout, ctx)[0] for n, r in ROWS.items()}
    rows = {name: strategy.open(packets[name], ROWS[name], ctx) for name in NAMES}
    expected_N, *_ = law.meet([Message(n, rows[n], WEIGHTS[n]) for n in NAMES])
    found = agreed(strategy)
    assert same(found, dict.fromkeys(NAMES, found["ann"]))
    loss = 2 * ROWS_MN.abs().max().item() / 127 if packs else 1e-14
    torch.testing.assert_close(found["ann"], expected_N, rtol=0, atol=loss)


def test_a_part_of_everybodys_goes_to_each() -> None:
    hub = hub_of(*NAMES)
    parts = {n: tuple(torch.tensor([10 * i + j]) for j in range(3)) for i, n in enumerate(NAMES)}
    for name in NAMES:
        results = hub.offer(name, Call(1, "shuffle", parts=parts[name]))
    assert results is not None
    assert [part.item() for part in results["bob"]] == [1, 11, 21]


def test_all_swap_at_once() -> None:
    hub, next_one = hub_of(*NAMES), dict(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True))
    before = {after: name for name, after in next_one.items()}
    for name in NAMES:
        results = hub.offer(
            name, Call(1, "swap", ROWS[name], to=next_one[name], origin=before[name])
        )
    assert results is not None
    assert all(torch.equal(results[name], ROWS[before[name]]) for name in NAMES)


def test_some_of_a_term_meet_without_the_others() -> None:
    hub, some = hub_of(*NAMES), ("ann", "cy")
    assert hub.offer("bob", Call(1, "total", torch.ones(1))) is None
    assert hub.offer("cy", Call(1, "total", torch.ones(1), among=some)) is None
    results = hub.offer("ann", Call(1, "total", torch.ones(1), among=some))
    assert results is not None
    assert {name: total.item() for name, total in results.items()} == {"ann": 2.0, "cy": 2.0}


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


def test_whoever_is_first_into_the_next_round_waits_for_the_others() -> None:
    hub = hub_of(*NAMES)
    for number, order in enumerate(ORDERS):
        results = [hub.offer(name, Call(1, "total", torch.tensor(10 * number))) for name in order]
        assert results == [None, None, dict.fromkeys(NAMES, 30 * number)]
