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
