"""Members of a new group come to stand at one place, whatever each has missed."""

from __future__ import annotations

from typing import Any

import torch

from coterie.transport import messages as say


def test_rounds_that_somebody_holds_a_part_of_stand(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 8), "a")
    group.tear("a")
    group.tell(stage.term(2, "a", "b", at_once=True))
    for name in "ab":
        assert [(m.round, m.stands) for m in group.of(name, say.Settled)][-1] == (0, 1)


def test_members_that_gossip_and_differ_do_not_heal_from_one_another(stage: Any) -> None:
    group, sentence = stage.two(), "chain(Every(1), Pairs(), Outer(0.7, 0.5))"
    group.tell(stage.block(1, 1, 24, strategy=sentence))
    before = [vector_N.clone() for vector_N in group.vectors()]
    group.tell(stage.term(2, "a", "b"))
    assert not any(m.healed for name in "ab" for m in group.of(name, say.Settled))
    assert all(map(torch.equal, before, group.vectors()))


def test_a_term_that_breaks_as_it_forms_is_told_and_the_next_is_joined(stage: Any) -> None:
    group = stage.group("a", "b")
    group.tell(stage.term(1, "a", "b"), "a")
    group.tear("a")
    assert group.of("a", say.TornRound) == [say.TornRound(term=1)]
    group.tell(stage.term(2, "a", at_once=True), "a")
    assert [m.term for m in group.of("a", say.Settled)] == [2]


def move(group: Any, name: str) -> None:
    """A member no longer holds what the others do."""
    learner = group.workers[name].learner
    learner.place(learner.vector() + 1.0)


def healed(group: Any) -> list[str]:
    return [name for name in group.lives if group.of(name, say.Settled)[-1].healed]


def test_of_members_that_differ_most_are_right_and_the_others_heal(stage: Any) -> None:
    for odd in "abc":
        group = stage.group("a", "b", "c")
        group.tell(stage.term(1, "a", "b", "c"))
        right_N = group.vectors()[0].clone()
        move(group, odd)
        group.tell(stage.term(2, "a", "b", "c", at_once=True))
        assert healed(group) == [odd]
        assert all(torch.equal(right_N, vector_N) for vector_N in group.vectors())


def test_the_digest_that_a_block_asks_for_is_told_after_its_last_round(stage: Any) -> None:
    group = stage.two()
    group.tell(stage.block(1, 1, 24, digest=True))
    told = {name: group.of(name, say.Report) for name in "ab"}
    for name in "ab":
        assert [m.digest is not None for m in told[name]] == [m.last_round == 3 for m in told[name]]
    assert told["a"][-1].digest == told["b"][-1].digest
    move(group, "b")
    group.tell(stage.block(1, 4, 32, digest=True))
    assert group.of("a", say.Report)[-1].digest != group.of("b", say.Report)[-1].digest


def test_a_term_named_at_once_breaks_off_a_meeting_that_goes_on(stage: Any) -> None:
    """Its member heard the order while it waited for one, so nothing else tears the meeting."""
    sentence = "chain(Every(2, overlap=1), Reduce(), Outer(1.0))"
    group = stage.two()
    group.tell(stage.block(1, 1, 16, every=2, strategy=sentence), "a")
    assert group.workers["a"].handle is not None
    group.tear("b")
    group.tell(stage.term(2, "a", at_once=True), "a")
    assert [m.term for m in group.of("a", say.Settled)] == [1, 2]
    assert group.workers["a"].contribution is None
    assert group.workers["a"].round == 1


def test_one_that_is_left_out_or_heals_forgets_what_it_told(stage: Any) -> None:
    group = stage.group("a", "b", "c")
    group.tell(stage.term(1, "a", "b", "c"))
    shares = {"a": 4, "b": 2, "c": 2}
    group.tell(stage.block(1, 1, 8, shares=shares))
    group.tell(stage.term(2, "a", "b", at_once=True))
    assert group.workers["a"].told
    assert not group.workers["c"].told


def test_members_that_are_to_step_alike_take_over_one_optimizer(stage: Any) -> None:
    group, walk = stage.two(), "chain(Every(2), Reduce(), Outer(1.0))"
    group.tell(stage.block(1, 1, 32, every=2, strategy=walk))
    group.tell(stage.term(2, "a", "b"))
    assert healed(group) == []  # of walks each has an optimizer of its own
    group.tell(stage.term(3, "a", "b", alike=True))
    assert healed(group) == ["b"]
    group.tell(stage.block(3, 3, 40))
    assert torch.equal(*group.vectors())
    group.tell(stage.term(4, "a", "b", alike=True))
    assert group.of("b", say.Settled)[-1].healed is False
