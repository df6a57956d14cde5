"""What owners learn and all hold: told beside a meeting, and as torn or missed as the meeting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from coterie.agents import heads
from coterie.agents.learner import Setup
from coterie.leases import Lease, Part
from coterie.tasks import MultiTask, Supervised
from coterie.transport import messages as say

PRIVATE = "chain(Only('trunk.*'), Reduce())"
WALKS = "chain(Every(2), Only('trunk.*'), Reduce(), Outer(1.0))"
OWNED = (Part(24, {"a": 1}), Part(40, {"b": 1}))


def setup(_: str) -> Setup:
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for name, num in (("one", 24), ("two", 16)):
        inputs = torch.randn(num, 3, generator=generator)
        data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
        tasks.append(Supervised(name, lambda: nn.Linear(2, 1), data, data, loss=F.mse_loss))
    place = {"one": ["a"], "two": ["b"]}
    task = MultiTask("both", lambda: nn.Linear(3, 2), tasks, place=place)
    return Setup(task, lambda parameters: torch.optim.Adam(parameters, lr=0.1))


def owners(stage: Any) -> Any:
    group = stage.group("a", "b", setup=setup)
    group.tell(stage.term(1, "a", "b"))
    return group


def block(stage: Any, term: int = 1, first: int = 1, strategy: str = PRIVATE) -> say.Block:
    """A round of 3 samples of a's task and 2 of b's for each step."""
    every = 2 if "Every" in strategy else 1
    spans = ((0, 3 * every), (24, 24 + 2 * every))
    shares = {"a": 3, "b": 2}
    given = {"spans": spans, "shares": shares, "parts": OWNED, "every": every}
    return stage.block(term, first, 0, strategy=strategy, **given)  # type: ignore[no-any-return]


def offers_that_reach_one(group: Any, num: int) -> None:
    """From the `num`-th offer on the road on, b does not hear what a meeting comes to."""
    offer, count = group.hub.offer, [0]

    def counted(*given: Any) -> Any:
        count[0] += 1
        group.deaf = {"b"} if count[0] >= num else set()
        return offer(*given)

    group.hub.offer = counted


def reach_all(group: Any) -> None:
    del group.hub.offer
    group.deaf = set()


@pytest.mark.parametrize("strategy", [PRIVATE, WALKS])
def test_all_hold_the_heads_that_owners_learned(stage: Any, strategy: str) -> None:
    group = owners(stage)
    before = group.vectors()[0].clone()
    group.tell(block(stage, strategy=strategy))
    assert torch.equal(*group.vectors())
    for name, where in group.workers["a"].layout.slices():
        assert not torch.equal(before[where], group.vectors()[0][where]), name


@pytest.mark.parametrize("strategy", [PRIVATE, WALKS])
def test_who_missed_what_was_told_beside_is_given_it(stage: Any, strategy: str) -> None:
    undisturbed, group = owners(stage), owners(stage)
    undisturbed.tell(block(stage, strategy=strategy))
    offers_that_reach_one(group, 4)  # the second of two sums
    group.tell(block(stage, strategy=strategy))
    assert [worker.round for worker in group.workers.values()] == [1, 0]
    reach_all(group)
    group.tear("b")
    group.tell(stage.term(2, "a", "b", at_once=True))
    assert [worker.round for worker in group.workers.values()] == [1, 1]
    assert not any(m.healed for m in group.of("b", say.Settled))
    assert all(torch.equal(undisturbed.vectors()[0], vector) for vector in group.vectors())


@pytest.mark.parametrize("strategy", [PRIVATE, WALKS])
def test_a_round_torn_between_its_two_sums_counts_for_nothing_until_it_is_met_again(
    stage: Any, strategy: str
) -> None:
    undisturbed, group = owners(stage), owners(stage)
    undisturbed.tell(block(stage, strategy=strategy))
    offers_that_reach_one(group, 2)  # b does not hear of the first sum, and a waits for it
    group.tell(block(stage, strategy=strategy))
    assert [worker.round for worker in group.workers.values()] == [0, 0]
    reach_all(group)
    group.tear("a", "b")
    group.tell(stage.term(2, "a", "b", at_once=True))
    group.tell(block(stage, strategy=strategy))
    assert [worker.round for worker in group.workers.values()] == [1, 1]
    assert all(torch.equal(undisturbed.vectors()[0], vector) for vector in group.vectors())


def test_a_head_that_nobody_who_learns_it_was_heard_of_stays(stage: Any) -> None:
    group = owners(stage)
    group.tell(block(stage), "a")  # b dies before it has begun
    group.tear("a")
    before = dict(group.workers["a"].learner.weights())
    group.tell(stage.term(2, "a", at_once=True), "a")
    after = group.workers["a"].learner.weights()
    assert group.workers["a"].round == 1
    assert torch.equal(before["heads.two.weight"], after["heads.two.weight"])
    assert not torch.equal(before["heads.one.weight"], after["heads.one.weight"])


def test_steps_of_heads_are_as_long_in_a_walk_as_one_machine_takes_them(stage: Any) -> None:
    member = owners(stage).workers["a"]
    member.adopt_strategy(WALKS)
    laid = (24, 40)
    leases = {"a": Lease(((0, 6),), 3, laid), "b": Lease(((24, 28),), 2, laid)}
    assert heads.rates(member, 1, leases) == {
        "heads.one.weight": pytest.approx(0.6),
        "heads.one.bias": pytest.approx(0.6),
    }
    whole = {"a": Lease(((0, 6),), 3), "b": Lease(((6, 10),), 2)}
    assert set(heads.rates(member, 1, whole).values()) == {1.0}
    member.adopt_strategy("local-sgd(2)")  # which shares them
    assert heads.rates(member, 1, leases) == {}
    assert not heads.tells(member, 1)
