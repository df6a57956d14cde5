"""Fusion: where it puts a pupil, what it refuses, and how far it learns to go."""

from __future__ import annotations

import functools
from itertools import permutations

import pytest
import torch
from torch import nn

from coterie import combine
from coterie.errors import LessonError
from coterie.knowledge import Fusion, Learned
from coterie.knowledge.fusion import visited_mean
from tests.knowledge.conftest import NUM_INPUTS, Make

WEIGHTS = [12.0, 12.0]


def test_with_alpha_one_all_members_stand_at_their_mean(make: Make) -> None:
    everyone = [make(name, 10) for name in ("ann", "bob", "cid")]
    fusion = Fusion(part="*")
    lessons = [fusion.teach(each) for each in everyone]
    mean = torch.stack([each.vector() for each in everyone]).mean(0)
    for i, each in enumerate(everyone):
        others = lessons[:i] + lessons[i + 1 :]
        there = fusion.integrate(others, WEIGHTS, each).vector_N
        assert torch.allclose(there, mean, atol=1e-6)


def test_of_two_it_is_the_formula(make: Make) -> None:
    ann, bob = make("ann", 10), make("bob", 10)
    lesson = Fusion(0.25, "*").teach(bob)
    there = Fusion(0.25, "*").integrate([lesson], [1e12], ann).vector_N
    assert torch.allclose(there, ann.vector() + 0.25 * (bob.vector() - ann.vector()), atol=1e-5)


def test_the_order_of_teachers_changes_rounding_at_most(make: Make) -> None:
    ann, fusion = make("ann", 5), Fusion()
    lessons = [fusion.teach(make(name, 10)) for name in ("bob", "cid", "dan")]
    found = [
        fusion.integrate([lessons[i] for i in order], [(1.0, 2.0, 3.0)[i] for i in order], ann)
        for order in permutations(range(3))
    ]
    for change in found:
        assert torch.allclose(change.vector_N, found[0].vector_N, atol=1e-6)


def test_heads_stay_private_and_patterns_say_how_far(make: Make) -> None:
    ann, bob = make("ann", 10), make("bob", 10)
    fusion = Fusion({"*.bias": 1.0, "trunk.*": 0.5})
    lesson = fusion.teach(bob)
    assert set(lesson.arrays) == {"trunk.0.weight", "trunk.0.bias"}
    there = ann.layout.views(fusion.integrate([lesson], [1e12], ann).vector_N)
    mine, theirs = ann.layout.views(ann.vector()), bob.layout.views(bob.vector())
    assert torch.equal(there["head.weight"], mine["head.weight"])
    assert torch.equal(there["head.bias"], mine["head.bias"])
    assert torch.allclose(there["trunk.0.bias"], theirs["trunk.0.bias"], atol=1e-6)
    middle = (mine["trunk.0.weight"] + theirs["trunk.0.weight"]) / 2
    assert torch.allclose(there["trunk.0.weight"], middle, atol=1e-6)


def test_who_has_no_samples_takes_over_what_others_know(make: Make) -> None:
    bob = make("bob", 10)
    empty = (torch.zeros(0, NUM_INPUTS), torch.zeros(0, dtype=torch.long))
    new, fusion = make("new", train=empty), Fusion(part="*")
    there = fusion.integrate([fusion.teach(bob)], [12.0], new).vector_N
    assert torch.allclose(there, bob.vector())


def test_trunks_that_do_not_fit_are_refused_by_the_first_parameter_that_differs(make: Make) -> None:
    ann, wide = make("ann"), make("wide", width=9)
    with pytest.raises(LessonError, match=r"trunk.0.weight is \(8, 6\), elsewhere \(9, 6\)"):
        Fusion().check(Fusion().teach(wide), ann)
    deep = make("deep", trunk=lambda: nn.Sequential(nn.Identity(), nn.Linear(NUM_INPUTS, 8)))
    with pytest.raises(LessonError, match=r"trunk.0.weight is .*elsewhere missing"):
        Fusion().check(Fusion().teach(deep), ann)
    with pytest.raises(LessonError, match="expected a pattern that matches"):
        Fusion(part="body.*").teach(ann)


def test_a_robust_law_bears_one_wrong_row(make: Make) -> None:
    everyone = [make(name, 10) for name in ("ann", "bob", "cid", "dan")]
    fusion = Fusion(law=combine.median)
    lessons = [fusion.teach(each) for each in everyone[1:]]
    before = everyone[3].vector()
    everyone[3].place(1e6 * before)
    lessons[2] = fusion.teach(everyone[3])
    there = fusion.integrate(lessons, [12.0] * 3, everyone[0]).vector_N
    assert there.abs().max() < 10


def test_a_law_that_lacks_rows_refuses_in_a_sentence(make: Make) -> None:
    fusion = Fusion(law=functools.partial(combine.trimmed_mean, trim=2))
    ann, bob = make("ann"), make("bob")
    with pytest.raises(LessonError, match="expected rows that can be combined"):
        fusion.integrate([fusion.teach(bob)], [12.0], ann)


def test_a_share_of_the_way_that_is_none_is_refused() -> None:
    with pytest.raises(LessonError, match=r"expected an alpha of 0 to 1 for \*, found 1.5"):
        Fusion(1.5)


@pytest.mark.parametrize("by_layer", [0, 1])
def test_what_is_learned_is_no_worse_than_any_share_tried_and_leaves_the_pupil(
    make: Make, by_layer: int
) -> None:
    ann, bob = make("ann", 10), make("bob", 40)
    here, lesson = ann.vector(), Fusion(part="*").teach(bob)

    def utility(alpha: float | Learned) -> float:
        there = Fusion(alpha, "*").integrate([lesson], [12.0], ann).vector_N
        assert torch.equal(ann.vector(), here)
        ann.place(there)
        found = float(ann.held_out().mean())
        ann.place(here)
        return found

    learned = utility(Learned(by_layer=by_layer))
    assert learned >= max(utility(share) for share in Learned().shares) - 1e-6


def test_harm_is_learned_to_be_left_alone(make: Make) -> None:
    ann, eve = make("ann", 30), make("eve", 5)
    eve.place(-10 * eve.vector())
    lesson = Fusion(part="*").teach(eve)
    there = Fusion(Learned(), "*").integrate([lesson], [12.0], ann).vector_N
    before = float(ann.held_out().mean())
    ann.place(there)
    assert float(ann.held_out().mean()) >= before


def test_tables_are_believed_where_somebody_was() -> None:
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(4, 3, generator=rng) for _ in range(3)]
    visits = [torch.randint(0, 5, (4, 3), generator=rng).float() for _ in range(3)]
    alike = visited_mean(values, [torch.ones(4, 3)] * 3)
    assert torch.allclose(alike, torch.stack(values).mean(0), atol=1e-6)
    mine = [visits[0] + 1, torch.zeros(4, 3), torch.zeros(4, 3)]
    assert torch.allclose(visited_mean(values, mine), values[0], atol=1e-6)
    turned = visited_mean(values[::-1], visits[::-1])
    assert torch.allclose(visited_mean(values, visits), turned, atol=1e-6)
