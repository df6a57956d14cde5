"""A worker's life, order by order, without a coordinator: what it tells, holds and heals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.agents import effects as do
from coterie.agents.stream import Stream
from coterie.transport import messages as say
from coterie.transport.parcels import Assembly


def test_a_block_is_learned_together_and_told(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 24))
    assert [m.round for m in group.of("b", say.Settled)] == [0]
    (report,) = group.of("b", say.Report)
    assert (report.first_round, report.last_round, report.cohort) == (1, 3, ("a", "b"))
    assert (report.num_samples, report.num_steps) == (9, 3)
    assert torch.equal(*group.vectors())


def test_orders_of_an_earlier_term_are_void(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.term(2, "a", "b"))
    group.tell(say.Evaluate(term=1))
    group.tell(say.Save(term=1, ticket=0, whole=True))
    group.tell(stage.term(1, "a", "b"))
    assert group.of("a", say.Scores) == group.of("a", say.State) == []
    group.tell(say.Evaluate(term=2), "a")
    assert len(group.of("a", say.Scores)) == 1


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "chain(Fp16(), Reduce())"])
def test_a_torn_round_is_retried_with_the_same_contribution(stage: Any, strategy: str) -> None:
    """b dies before it has contributed: a goes on with what it had computed already."""
    group = stage.two()
    group.tell(stage.block(1, 1, 16, strategy=strategy), "a")
    group.tear("a")
    assert [m.term for m in group.of("a", say.TornRound)] == [1]
    held = group.workers["a"].contribution
    before = held.own_N.clone()
    group.tell(stage.term(2, "a", at_once=True), "a")
    (report,) = group.of("a", say.Report)
    # The second round of the broken term is void: only the one after the settled round counts.
    assert (report.first_round, report.last_round, report.cohort) == (1, 1, ("a",))
    alone, learner = stage.group("a"), group.workers["a"].learner
    lease = stage.block(1, 1, 16).rounds()[0]["a"]
    (batch,) = Stream(40, 0).batches(0, lease)
    _, own_N = alone.workers["a"].learner.gradient(batch)
    assert torch.equal(before, own_N)
    assert learner.num_steps == 1
    if "Fp16" not in strategy:
        alone.workers["a"].learner.apply(own_N)
        assert torch.equal(group.vectors()[0], alone.vectors()[0])


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "diloco-int8(2)"])
def test_a_member_that_missed_an_outcome_is_given_it_and_does_not_heal(
    stage: Any, strategy: str
) -> None:
    group = stage.two()
    every = 2 if "diloco" in strategy else 1
    group.deaf = {"b"}
    group.tell(stage.block(1, 1, 8 * every, strategy=strategy, every=every))
    assert [worker.round for worker in group.workers.values()] == [1, 0]
    num_steps = group.workers["b"].learner.num_steps
    group.deaf = set()
    group.tear("b")
    group.tell(stage.term(2, "a", "b", at_once=True))
    assert [m.healed for m in group.of("b", say.Settled)] == [False, False]
    assert [worker.round for worker in group.workers.values()] == [1, 1]
    assert group.workers["b"].learner.num_steps == num_steps + (every == 1)
    assert torch.equal(*group.vectors())
    # Told with whom it was learned, so that nobody's samples are learned again.
    assert {m.cohort for m in group.of("b", say.Report)} <= {("a", "b")}


def test_whoever_begins_a_round_that_stands_meets_as_those_who_hold_it(stage: Any) -> None:
    """a has brought its part of round 1, b has not begun it: both have to speak alike."""
    group = stage.two()
    group.tell(stage.block(1, 1, 8), "a")
    group.tear("a")
    group.tell(stage.term(2, "a", "b", at_once=True))
    assert [m.stands for m in group.of("b", say.Settled)] == [0, 1]
    group.tell(stage.block(1, 1, 8), "b")
    assert [worker.round for worker in group.workers.values()] == [1, 1]
    assert torch.equal(*group.vectors())
    undisturbed = stage.two()
    undisturbed.tell(stage.block(1, 1, 8))
    assert torch.allclose(group.vectors()[0], undisturbed.vectors()[0], atol=1e-6)


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "diloco(1)"])
def test_a_newcomer_takes_over_all_that_is_agreed(stage: Any, strategy: str) -> None:
    group = stage.group("a", "b", "c")
    group.tell(stage.term(1, "a", "b"), "a", "b")
    group.tell(stage.block(1, 1, 24, strategy=strategy))
    group.tell(stage.term(2, "a", "b", "c"))
    assert [m.healed for m in group.of("c", say.Settled)] == [True]
    assert [m.healed for m in group.of("b", say.Settled)] == [False, False]
    group.tell(stage.block(2, 4, 40, strategy=strategy, shares={"a": 3, "b": 3, "c": 2}))
    first, second, third = group.vectors()
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_skipped_round_has_no_outcome_to_give(stage: Any) -> None:
    """Only the dead c had work in round 2: a has skipped it, b is torn before it could."""
    group = stage.group("a", "b", "c")
    group.tell(stage.term(1, "a", "b", "c"))
    group.tell(stage.block(1, 1, 8, shares={"a": 4, "b": 4, "c": 1}))
    only_c = stage.block(1, 2, 9, spans=((8, 9),), shares={"a": 1, "b": 1, "c": 100})
    assert [m for m, lease in only_c.rounds()[0].items() if lease.num_samples] == ["c"]
    group.tell(only_c, "a", "b")
    del group.lives["c"]
    group.tear("a", "b")
    group.deaf = {"b"}  # a alone hears that the second group has settled
    group.tell(stage.term(2, "a", "b", at_once=True))
    while group.workers["a"].round < 2 and isinstance(group.waiting.get("b"), do.Form):
        group.resume("b", None)
    assert [group.workers[name].round for name in "ab"] == [2, 1]
    group.deaf = set()
    group.tear("b")
    group.tell(stage.term(3, "a", "b", at_once=True))
    assert [group.workers[name].round for name in "ab"] == [2, 2]
    assert torch.equal(*group.vectors())


def test_a_member_that_is_left_out_drops_what_it_held(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 16), "b")
    group.tear("b")
    group.tell(stage.term(2, "a", at_once=True), "b")
    assert group.workers["b"].contribution is None
    assert group.of("b", say.Report) == []
    assert isinstance(group.waiting["b"], do.Hear)


def test_one_that_missed_the_term_it_was_left_out_of_comes_in_with_nothing(stage: Any) -> None:
    """The order to leave was lost with its line: what it holds was given out anew meanwhile."""
    group = stage.two()
    group.tell(stage.block(1, 1, 16), "b")
    group.tear("b")
    group.tell(stage.term(2, "a", at_once=True), "a")
    group.tell(stage.term(3, "a", "b"), "a")
    group.tell(stage.term(3, "a", "b", at_once=True, anew=True), "b")
    assert group.workers["b"].contribution is None
    assert [m.stands for m in group.of("b", say.Settled) if m.term == 3] == [0]
    assert group.of("b", say.Report) == []


def test_what_comes_in_while_it_waits_for_a_term_is_done_afterwards(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 8), "a")
    group.tear("a")
    group.tell(say.Evaluate(term=2), "a")
    assert group.of("a", say.Scores) == []
    group.tell(stage.term(2, "a", at_once=True), "a")
    assert [m.round for m in group.of("a", say.Scores)] == [1]


def test_a_saved_member_is_adopted_bit_for_bit(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 24, strategy="all-reduce-int8"))
    group.tell(say.Save(term=1, ticket=3, whole=True))
    assembly = Assembly()
    for piece in group.of("b", say.State):
        assembly.add(piece)
    assert sorted(assembly.files) == ["model.safetensors", "state/b.safetensors"]
    taken, again = group.workers["b"].snapshot(), stage.group("b").workers["b"]
    again.adopt(taken)
    assert again.snapshot().to_bytes() == taken.to_bytes()


def test_a_peer_inherits_what_is_agreed_and_not_the_residual(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 24, strategy="diloco-int8(1)"))
    taken, peer = group.workers["b"].snapshot(), stage.group("c").workers["c"]
    peer.inherit(taken)
    _, residual, _, momentum = peer.snapshot().memory
    lost_N, of_parts = residual
    assert not lost_N.any()
    assert of_parts is None or not of_parts.any()
    assert torch.equal(momentum, taken.memory[3])
    assert taken.memory[1][0].any()


def test_a_stop_is_answered_with_a_goodbye(stage: Any) -> None:
    group = stage.two()
    life = group.lives["a"]
    group.tell(say.Stop(reason="done"), "a")
    assert isinstance(group.told["a"][-1], say.Bye)
    assert "a" not in group.lives
    assert next(life, "ended") == "ended"


def test_a_stop_at_once_ends_a_broken_round(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 8), "a")
    group.tear("a")
    group.tell(say.Stop(reason="failed", at_once=True), "a")
    assert isinstance(group.told["a"][-1], say.Bye)


def broken(stage: Any, *names: str) -> Any:
    """a and b, and what these hold is no number any more."""
    group = stage.two()
    for name in names:
        learner = group.workers[name].learner
        learner.place(learner.vector() * float("nan"))
    return group


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "chain(Fp16(), Reduce())", "diloco(1)"])
def test_where_nobody_brings_anything_finite_the_run_ends_with_the_reason(
    stage: Any, strategy: str
) -> None:
    group = broken(stage, "a", "b")
    group.tell(stage.block(1, 1, 8, strategy=strategy))
    for name in "ab":
        (declined,) = group.of(name, say.Declined)
        (failed,) = group.of(name, say.Failed)
        assert (declined.round, declined.in_a_row) == (1, 1)
        assert failed.reason.startswith(f"{name}: expected a finite loss, found nan at step 1")


def test_a_save_tells_how_long_it_stood_still_and_packs_meanwhile(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 24))
    life = group.workers["a"]._save(say.Save(term=1, ticket=3, whole=False))
    assert life.send(None) == do.Now()
    assert life.send(1.0) == do.Now()
    assert life.send(1.25) == do.Tell(say.Saved(ticket=3, pause_s=0.25))
    packed = life.send(None)
    assert isinstance(packed, do.TellMeanwhile)
    assert {piece.file for piece in packed.make()} == {"state/a.safetensors"}
