"""Who helps whom, on members that see the same classes and members that see them exchanged."""

from __future__ import annotations

import pytest
import torch

from coterie.errors import JobError
from coterie.knowledge import Fusion, Scholar
from coterie.knowledge.affinity import (
    cross_loss,
    cross_loss_row,
    feature_agreement,
    gradient_agreement,
    look_ahead,
)
from coterie.knowledge.graph import Graph, gathered
from tests.knowledge.conftest import Make

NAMES = ("ann", "bob", "cid", "dan")


def sizes(found: Graph) -> list[int]:
    return [len(group) for group in found.groups()]


def members(make: Make, turns: tuple[int, ...], steps: int = 40) -> list[Scholar]:
    return [make(name, steps, turn=turn, each=8) for name, turn in zip(NAMES, turns, strict=False)]


def test_two_opposed_groups_are_found(make: Make) -> None:
    found = cross_loss(members(make, (0, 1, 0, 1)))
    assert found.groups() == (("ann", "cid"), ("bob", "dan"))


def test_all_kin_are_one_group_and_strangers_are_none(make: Make) -> None:
    assert sizes(cross_loss(members(make, (0, 0, 0, 0)))) == [4]
    assert sizes(cross_loss(members(make, (0, 1, 2)))) == [1, 1, 1]


def test_members_apart_measure_the_same_by_lessons_and_stay_as_they_were(make: Make) -> None:
    everyone = members(make, (0, 1, 0, 1))
    together = cross_loss(everyone)
    whole = Fusion(part="*")
    lessons = [whole.teach(each) for each in everyone]
    before = [each.vector() for each in everyone]
    rows = {each.name: cross_loss_row(each, lessons) for each in everyone}
    apart = gathered("cross loss", rows)
    assert torch.allclose(torch.tensor(apart.help_MM), torch.tensor(together.help_MM), atol=1e-5)
    for each, vector in zip(everyone, before, strict=True):
        assert torch.equal(each.vector(), vector)


def test_a_lesson_that_does_not_fit_and_a_class_that_is_lacking_are_unknown(make: Make) -> None:
    ann, wide = make("ann", 30), make("wide", 30, width=9)
    other = make("cid", 30, classes=("red", "green", "pink"))
    whole = Fusion(part="*")
    assert set(cross_loss_row(ann, [whole.teach(wide)])) == {"ann"}
    found = cross_loss([ann, wide, other])
    where = found.names.index
    assert found.help_MM[where("wide")][where("ann")] > 0
    assert found.help_MM[where("cid")][where("ann")] != found.help_MM[where("cid")][where("ann")]


def test_who_has_learned_nothing_yet_or_has_no_samples_cannot_measure(make: Make) -> None:
    ann, new = make("ann", 30), make("new")
    new.place(torch.zeros_like(new.vector()))
    found = cross_loss([ann, new])
    assert found.groups() == (("ann",), ("new",)) or found.groups() == (("new",), ("ann",))
    empty = make("empty", train=tuple(part[:0] for part in ann.course.train))
    with pytest.raises(JobError, match="expected empty to have samples to measure others by"):
        cross_loss([ann, empty])


def test_looking_ahead_measures_what_a_lesson_gains_and_leaves_all_as_they_were(
    make: Make,
) -> None:
    everyone = members(make, (0, 0, 1), steps=20)
    eve = everyone[2]
    eve.place(-20 * eve.vector())
    before = [(each.vector(), each.num_steps) for each in everyone]
    found = look_ahead(everyone, Fusion(part="*"), num_steps=1)
    ann, bob, cid = (found.names.index(name) for name in NAMES[:3])
    assert found.help_MM[cid][ann] < 0 > found.help_MM[cid][bob]
    assert found.help_MM[bob][ann] > found.help_MM[cid][ann]
    for each, (vector, steps) in zip(everyone, before, strict=True):
        assert torch.equal(each.vector(), vector)
        assert each.num_steps == steps


def test_gradients_of_kin_agree_and_of_opposed_ones_do_not(make: Make) -> None:
    everyone = members(make, (0, 0, 1), steps=0)
    start = members(make, (0,), steps=10)[0].vector()
    for each in everyone:
        each.place(start)
    found = gradient_agreement(everyone, part="*")
    assert found.help_MM[0][0] == pytest.approx(1, abs=1e-6)
    assert found.help_MM[0][1] > found.help_MM[0][2]


def test_features_agree_with_themselves_and_through_a_turn(make: Make) -> None:
    ann, bob = make("ann", 20), make("bob", 20)
    found = feature_agreement([ann, bob])
    assert found.help_MM[0][0] == pytest.approx(1, abs=1e-6)
    assert 0.3 < found.help_MM[0][1] <= 1
