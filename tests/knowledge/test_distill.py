"""What teachers say of a pool, and make of it: laws, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.errors import LessonError
from coterie.knowledge import Currency, Evidence, Lesson, Moment, Scholar
from coterie.knowledge.distill import Hints, Labels, Pool
from tests.knowledge.conftest import NUM_INPUTS, Make, samples

POOL = Pool(samples(99, 10)[0])
PLAIN = Labels(POOL, scale=1.0, power=1.0, batch=30)


def slope(pupil: Scholar, currency: Currency, lessons: list[Lesson]) -> Tensor:
    """The gradient of what the lessons add to the pupil's loss."""
    inputs, targets = pupil.examples()
    change = currency.integrate(lessons, [12.0] * len(lessons), pupil)
    loss = change.term(pupil, Moment(inputs, targets, pupil.features(inputs)))  # type: ignore[union-attr]
    parameters = list(pupil.model.parameters())
    parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts])


def test_who_says_what_the_pupil_says_teaches_it_nothing(make: Make) -> None:
    ann, twin = make("ann", 20), make("ann", 20)
    assert slope(ann, PLAIN, [PLAIN.teach(twin)]).abs().max() < 1e-6
    assert slope(ann, Hints(POOL), [Hints(POOL).teach(twin)]).abs().max() < 0.02
    assert slope(ann, PLAIN, [PLAIN.teach(make("bob", 20))]).abs().max() > 1e-3


def test_labels_are_the_sharpened_mean_of_predictions(make: Make) -> None:
    ann, bob, labels = make("ann", 10), make("bob", 30), Labels(POOL, batch=30)
    lesson = Lesson.from_bytes(labels.teach(bob).to_bytes())
    change = labels.integrate([lesson], [24.0], ann)
    with torch.no_grad():
        mine, theirs = (torch.softmax(1.5 * p.predictions(POOL.inputs_U), 1) for p in (ann, bob))
        mean = (12 * mine + 24 * theirs) / 36
        soft = mean**2 / (mean**2).sum(1, keepdim=True)
        wanted = -(soft * torch.log_softmax(1.5 * ann.predictions(POOL.inputs_U), 1)).sum(1).mean()
        found = change.term(ann, Moment(torch.ones(0), torch.ones(0), torch.ones(0)))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_classes_go_by_name_and_none_may_be_missing(make: Make) -> None:
    ann = make("ann", 20)
    turned = make("ann", 20, classes=("green", "blue", "red"))
    lesson = PLAIN.teach(turned)
    PLAIN.check(lesson, ann)
    with torch.no_grad():
        told = turned.predictions(POOL.inputs_U)[:, [2, 0, 1]]
    same = Lesson("x", "t", "labels", 0, {"logits": told}, Evidence(12), POOL.digest, ann.classes)
    assert torch.allclose(slope(ann, PLAIN, [lesson]), slope(ann, PLAIN, [same]), atol=1e-6)
    with pytest.raises(LessonError, match="found none of red from bob"):
        PLAIN.check(PLAIN.teach(make("bob", classes=("green", "blue", "pink"))), ann)


@pytest.mark.parametrize("currency", [Labels(POOL), Hints(POOL)], ids=["labels", "hints"])
def test_a_pupil_without_samples_learns_of_teachers_of_any_width(
    make: Make, currency: Labels | Hints
) -> None:
    teacher = make("wide", 80, width=12, each=20)
    empty = (torch.zeros(0, NUM_INPUTS), torch.zeros(0, dtype=torch.long))
    new = make("new", train=empty, held_out=samples(5, 20))
    lesson = currency.teach(teacher)
    currency.check(lesson, new)
    before = new.held_out().mean()
    currency.integrate([lesson], [1.0], new).apply(new)
    losses = [new.step() for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    if isinstance(currency, Labels):
        assert new.held_out().mean() > before + 0.3


def test_what_is_of_another_pool_or_shape_is_refused(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    other = Pool(POOL.inputs_U + 1)
    with pytest.raises(LessonError, match=f"about the pool {POOL.digest}, found one about"):
        PLAIN.check(Labels(other).teach(bob), ann)
    few = Lesson("eve", "t", "hints", 0, {"features": torch.ones(2, 3)}, Evidence(1), POOL.digest)
    with pytest.raises(LessonError, match=r"expected features of \(30, …\), found \(2, 3\)"):
        Hints(POOL).check(few, ann)
    with pytest.raises(LessonError, match="inputs in the pool, found none"):
        Pool(torch.zeros(0, 2))


def test_hints_draw_features_to_tell_what_the_teachers_tell(make: Make) -> None:
    wide, hints = make("wide", 60, width=12, each=30), Hints(POOL, weight=5.0, batch=30)
    lesson = hints.teach(wide)
    errors = []
    for taught in ([], [lesson]):
        ann = make("ann")
        for each in taught:
            hints.integrate([each], [1.0], ann).apply(ann)
        for _ in range(60):
            ann.step()
        nothing = Moment(torch.ones(0), torch.ones(0), torch.ones(0))
        errors.append(hints.integrate([lesson], [1.0], ann).term(ann, nothing).item())
    assert errors[1] < 0.7 * errors[0]
