"""What a member is, between one order and the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.errors import TrainingError


def member(stage: Any) -> Any:
    return stage.group("a").workers["a"]


def test_the_digest_is_of_what_is_shared_alone(stage: Any) -> None:
    mine = member(stage)
    mine.adopt_strategy("chain(Only('weight'), Reduce())")
    before, vector_N = mine.digest(), mine.learner.vector()
    vector_N[-1] += 1.0  # of the bias
    mine.learner.place(vector_N)
    assert mine.digest() == before
    vector_N[0] += 1.0
    mine.learner.place(vector_N)
    assert mine.digest() != before


def test_another_sentence_begins_where_all_agreed_to_be(stage: Any) -> None:
    mine = member(stage)
    mine.adopt_strategy("diloco(2)")
    agreed_N = mine.agreed_vector().clone()
    mine.learner.place(agreed_N + 1.0)
    mine.adopt_strategy("all-reduce")
    assert mine.anchor_N is None
    assert torch.equal(mine.learner.vector(), agreed_N)


def test_what_a_sentence_remembers_outlives_another_quorum(stage: Any) -> None:
    mine, sentence = (
        member(stage),
        "chain(Every(2), Reduce(road='star', quorum={}), Outer(0.7, 0.9))",
    )
    mine.adopt_strategy(sentence.format(3))
    anchor_N, memory = mine.anchor_N, mine.memory
    mine.adopt_strategy(sentence.format(2))
    assert mine.sentence.exchange.quorum == 2
    assert mine.anchor_N is anchor_N
    assert mine.memory is memory


def test_a_state_that_was_damaged_on_the_way_is_refused(stage: Any) -> None:
    with pytest.raises(TrainingError, match="the state of b whole, found it damaged"):
        member(stage).inherit_whole(b"state", b"\x00" * 32, "b")


@pytest.mark.parametrize("strategy", ["all-reduce", "diloco-int8(1)", "streaming-diloco(4, 2, 1)"])
def test_a_snapshot_stays_what_it_was_while_its_member_goes_on(stage: Any, strategy: str) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 16, strategy=strategy))
    mine = group.workers["a"]
    taken = mine.snapshot()
    before = taken.to_bytes()
    group.tell(stage.block(1, 3, 32, strategy=strategy))
    assert mine.snapshot().to_bytes() != before
    assert taken.to_bytes() == before


def test_a_parameter_of_two_names_is_saved_as_agreed_by_both(stage: Any) -> None:
    mine = member(stage)
    mine.learner.model.alias = mine.learner.model.weight
    mine.adopt_strategy("diloco(2)")
    mine.learner.place(mine.learner.vector() + 1.0)  # it walks
    weights = mine.snapshot().weights
    assert torch.equal(weights["alias"], weights["weight"])
    assert torch.equal(weights["weight"].reshape(-1), mine.agreed_vector()[:6])
