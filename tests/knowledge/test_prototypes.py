"""Class means as lessons: merged they are those of the pooled samples, and drawn to they help."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.combine import class_means
from coterie.errors import LessonError
from coterie.knowledge import Evidence, Lesson, Moment, Pupil
from coterie.knowledge.prototypes import Prototypes, merged, own_means, placed
from tests.knowledge.conftest import Make, samples


def moment(pupil: Pupil) -> Moment:
    inputs, targets = pupil.examples()
    return Moment(inputs, targets, pupil.features(inputs))


def pulled(pupil: Pupil, lessons: list[Lesson], weights: list[float]) -> Tensor:
    return Prototypes().integrate(lessons, weights, pupil).term(pupil, moment(pupil))


def test_merged_prototypes_are_class_means_of_the_pooled_samples(make: Make) -> None:
    data = [samples(seed, each) for seed, each in ((1, 4), (2, 6), (3, 2))]
    members = [make(name, train=it) for name, it in zip(("ann", "bob", "cid"), data, strict=True)]
    lessons = [Lesson.from_bytes(Prototypes().teach(m).to_bytes()) for m in members]
    found, known = merged([placed(lesson, members[0].classes) for lesson in lessons])
    pooled = torch.cat([inputs for inputs, _ in data])
    targets = torch.cat([targets for _, targets in data])
    with torch.no_grad():
        wanted, _ = class_means(members[0].features(pooled), targets, 3)
    assert bool(known.all())
    assert torch.allclose(found, wanted, atol=1e-6)


def test_the_pull_is_the_squared_distance_to_what_all_know(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    lesson = Prototypes().teach(bob)
    means, _ = merged([own_means(ann), placed(lesson, ann.classes)])
    features, targets = ann.features(ann.examples()[0]), ann.examples()[1]
    wanted = (features - means[targets]).square().mean()
    assert torch.allclose(pulled(ann, [lesson], [12.0]), wanted, atol=1e-6)


def test_classes_go_by_name_whatever_their_order_and_their_task(make: Make) -> None:
    ann = make("ann")
    bob = make("bob", classes=("blue", "violet", "red"))
    mean, count = placed(Prototypes().teach(bob), ann.classes)
    theirs, _ = own_means(bob)
    assert torch.equal(mean[0], theirs[2])
    assert torch.equal(mean[2], theirs[0])
    assert count.tolist() == [4, 0, 4]
    stranger = make("cid", classes=("one", "two", "three"))
    with pytest.raises(LessonError, match="expected a class that ann has too"):
        Prototypes().check(Prototypes().teach(stranger), ann)


def test_a_class_that_nobody_else_knows_is_drawn_to_where_it_is_itself(make: Make) -> None:
    ann, bob = make("ann"), make("bob", classes=("violet", "white", "red"))
    lesson = Prototypes().teach(bob)
    Prototypes().check(lesson, ann)
    assert bool(pulled(ann, [lesson], [12.0]).isfinite())


def test_means_of_another_width_count_as_those_they_are_a_turn_of(make: Make) -> None:
    ann, bob = make("ann"), make("bob", 20)
    same = Prototypes().teach(bob)
    wide = make("wide", width=12)
    turn, _ = torch.linalg.qr(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))
    ann.place(bob.vector())
    own, _ = own_means(ann)
    arrays = {"means": 3 * own @ turn.T + 1, "counts": same.arrays["counts"]}
    told = Lesson("wide", "t", "prototypes", 0, arrays, same.evidence, classes=ann.classes)
    mine = Lesson(
        "bob", "t", "prototypes", 0, {**arrays, "means": own}, same.evidence, classes=ann.classes
    )
    assert torch.allclose(pulled(ann, [told], [12.0]), pulled(ann, [mine], [12.0]), atol=1e-5)
    true = Prototypes().teach(wide)
    Prototypes().check(true, ann)
    assert pulled(ann, [true], [12.0]).item() > 0


def test_another_width_with_one_class_in_common_tells_nothing(make: Make) -> None:
    ann, wide = make("ann"), make("wide", width=12, classes=("red", "pink", "grey"))
    with pytest.raises(LessonError, match="two classes or more in common to align"):
        pulled(ann, [Prototypes().teach(wide)], [12.0])


def test_a_boast_of_counts_is_held_to_the_weight_of_the_lesson(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    true = Prototypes().teach(bob)
    boast = Lesson(
        "bob",
        "colours",
        "prototypes",
        0,
        {"means": true.arrays["means"], "counts": true.arrays["counts"] * 1e9},
        true.evidence,
        classes=true.classes,
    )
    assert torch.allclose(pulled(ann, [boast], [12.0]), pulled(ann, [true], [12.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"means": torch.ones(3)}, "expected means of"),
        ({"means": torch.ones(2, 8), "counts": torch.ones(3)}, "for each of 3 classes, found 2"),
        ({"means": torch.ones(3, 8), "counts": -torch.ones(3)}, "counts of at least 0"),
    ],
)
def test_what_is_no_row_for_each_class_is_refused(
    make: Make, arrays: dict[str, Tensor], words: str
) -> None:
    ann = make("ann")
    lesson = Lesson("eve", "t", "prototypes", 0, arrays, Evidence(1), classes=ann.classes)
    with pytest.raises(LessonError, match=words):
        Prototypes().check(lesson, ann)
