"""Samples and transitions of others: which are taught, and how they are learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.errors import LessonError
from coterie.knowledge import Evidence, Lesson, Open, Rules, Scholar, Study
from coterie.knowledge.experience import Samples, Transitions, first, spread
from tests.knowledge.conftest import NUM_INPUTS, Make


def test_a_teachers_samples_come_with_as_many_of_each_class_as_can_be(make: Make) -> None:
    targets = torch.tensor([0] * 9 + [1] * 2 + [2] * 5)
    chosen = spread(targets, 9, seed=3)
    assert targets[chosen].bincount().tolist() == [4, 2, 3] or sorted(
        targets[chosen].bincount().tolist()
    ) == [2, 3, 4]
    assert len(set(spread(targets, 99, seed=0).tolist())) == 16
    ann = make("ann", each=4)
    lesson = Samples(6).teach(ann)
    assert lesson.arrays["targets"].bincount().tolist() == [2, 2, 2]


def test_samples_of_others_teach_a_pupil_that_has_few(make: Make) -> None:
    bob = make("bob", each=20)
    lesson = Samples(60).teach(bob)
    gains = []
    for name in ("ann", "cid", "dan"):
        scores = []
        for lessons in ([], [lesson]):
            pupil = make(name, each=1)
            if lessons:
                Samples().check(lesson, pupil)
                Samples().integrate(lessons, [12.0], pupil).apply(pupil)
            for _ in range(40):
                pupil.step()
            scores.append(float(pupil.held_out().mean()))
        gains.append(scores[1] - scores[0])
    assert min(gains) > 0


def test_samples_go_by_the_names_of_classes_and_fit_or_are_refused(make: Make) -> None:
    ann = make("ann", each=2)
    turned = make("bob", classes=("blue", "pink", "red"))
    lesson = Samples().teach(turned)
    Samples().check(lesson, ann)
    strangers = Samples().teach(make("cid", classes=("x", "y", "z")))
    with pytest.raises(LessonError, match="samples of a class that ann has too"):
        Samples().check(strangers, ann)
    shape = Lesson(
        "eve",
        "t",
        "samples",
        0,
        {"inputs": torch.ones(2, 9), "targets": torch.tensor([0, 1])},
        Evidence(2),
        classes=ann.classes,
    )
    with pytest.raises(LessonError, match=r"samples of \(6,\) torch.float32, found \(9,\)"):
        Samples().check(shape, ann)
    wrong = Lesson(
        "eve",
        "t",
        "samples",
        0,
        {"inputs": torch.ones(2, NUM_INPUTS), "targets": torch.tensor([0, 7])},
        Evidence(2),
        classes=ann.classes,
    )
    with pytest.raises(LessonError, match="of the 3 classes that the lesson names"):
        Samples().check(wrong, ann)


class Walker(Scholar):
    """A scholar that also keeps transitions of a chain of places."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.kept: dict[str, Tensor] = {
            "state": torch.zeros(0, dtype=torch.long),
            "reward": torch.zeros(0),
            "priority": torch.zeros(0),
        }

    def transitions(self) -> Mapping[str, Tensor]:
        return self.kept

    def absorb(self, transitions: Mapping[str, Tensor]) -> None:
        self.kept = {name: torch.cat([self.kept[name], transitions[name]]) for name in self.kept}


def walker(make: Make, name: str, num: int) -> Walker:
    walks = Walker(name, make(name).course)
    surprise = torch.rand(num, generator=torch.Generator().manual_seed(num))
    walks.absorb({"state": torch.arange(num), "reward": torch.ones(num), "priority": surprise})
    return walks


def test_transitions_of_the_highest_priority_travel_and_are_absorbed(make: Make) -> None:
    ann, bob = walker(make, "ann", 10), walker(make, "bob", 50)
    teacher = Study(bob, [Transitions(part=0.2)])
    pupil = Study(ann, [Transitions()], Rules(Open()))
    lessons, _ = teacher.teach()
    events = pupil.learn(lessons)
    assert [event.kind for event in events] == ["lesson_taken"]
    assert len(ann.kept["state"]) == 20
    best = set(bob.kept["priority"].sort(descending=True).indices[:10].tolist())
    assert set(ann.kept["state"][10:].tolist()) == best
    assert pupil.learn([]) == []


def test_transitions_that_do_not_fit_are_refused(make: Make) -> None:
    ann = walker(make, "ann", 10)
    arrays = {"state": torch.ones(3), "reward": torch.ones(3), "priority": torch.ones(3)}
    lesson = Lesson("eve", "t", "transitions", 0, arrays, Evidence(3))
    with pytest.raises(LessonError, match=r"found state of .*float32.*int64"):
        Transitions().check(lesson, ann)
    uneven = {**ann.kept, "reward": torch.ones(2)}
    with pytest.raises(LessonError, match="arrays of equal length"):
        Transitions().check(Lesson("eve", "t", "transitions", 0, uneven, Evidence(3)), ann)
    with pytest.raises(LessonError, match="expected bob to keep transitions"):
        Transitions().teach(make("bob"))
    with pytest.raises(LessonError, match="transitions with a priority, found none"):
        Transitions().teach(walker(make, "new", 0))


def test_first_is_stable() -> None:
    arrays = {"x": torch.arange(4), "priority": torch.tensor([1.0, 2.0, 1.0, 2.0])}
    assert first(arrays, 3)["x"].tolist() == [1, 3, 0]
