"""What a member does between two meetings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from coterie.agents import effects as do
from coterie.errors import Torn
from coterie.transport import messages as say


def test_a_gradient_is_computed_alone_where_its_sum_cannot_begin(stage: Any) -> None:
    """News that came before the sum began must not end a life."""
    group = stage.two()
    group.tell(stage.block(1, 1, 8), "a")
    assert isinstance(group.waiting["a"], do.Stream)
    group.hub.withdraw("a")
    group.on_road.pop("a")
    group.cut.add("a")
    group.resume("a", Torn("a new membership was named"))
    assert group.of("a", say.Failed) == []
    assert group.workers["a"].contribution.round == 1
    group.tell(stage.term(2, "a", at_once=True), "a")
    assert group.workers["a"].round == 1


def test_memory_of_a_sum_that_broke_off_is_never_used_again(stage: Any) -> None:
    """The sum waits for a silent peer still, and is written once that peer is heard again."""
    group = stage.two()
    group.tell(stage.block(1, 1, 8), "a")
    streaming = group.waiting["a"]
    assert isinstance(streaming, do.Stream)
    begun: list[torch.Tensor] = []
    group.resume("a", (streaming.run(begun.append), False, 0.0))
    learner = group.workers["a"].learner
    left = {part.untyped_storage().data_ptr() for part in begun}
    rooms = [learner.room_to_tell() for _ in range(3)]
    assert begun
    assert left.isdisjoint(room.untyped_storage().data_ptr() for room in rooms)


def test_a_meeting_goes_on_while_members_walk_and_is_landed_on_the_way(stage: Any) -> None:
    group, sentence = stage.two(), "chain(Every(2, overlap=1), Reduce(), Outer(1.0))"
    group.tell(stage.block(1, 1, 32, strategy=sentence, every=2))
    assert [worker.round for worker in group.workers.values()] == [1, 1]
    assert all(worker.held == 2 for worker in group.workers.values())
    group.tell(say.Land(term=1))
    assert [worker.round for worker in group.workers.values()] == [2, 2]
    anchors = [worker.agreed_vector() for worker in group.workers.values()]
    assert torch.equal(*anchors)


@pytest.mark.parametrize("sentence", ["chain(Reduce())", "chain(Fp16(), Reduce())", "diloco(1)"])
def test_who_is_not_finite_brings_nothing_and_the_round_goes_on(stage: Any, sentence: str) -> None:
    group = stage.two()
    learner = group.workers["b"].learner
    whole = learner.task
    learner.task = broken = copy.copy(whole)
    object.__setattr__(broken, "loss", lambda *of: whole.loss(*of) * float("nan"))
    group.tell(stage.block(1, 1, 8, strategy=sentence))
    assert [m.round for m in group.of("b", say.Declined)] == [1]
    assert {m.cohort for m in group.of("a", say.Report)} == {("a",)}
    assert torch.equal(*[worker.agreed_vector() for worker in group.workers.values()])
