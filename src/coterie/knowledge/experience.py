"""Experience as a currency: samples and transitions that others learn from as from their own.

Legend of shape suffixes: B samples of a batch, K samples of a lesson, T transitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from coterie.errors import LessonError
from coterie.knowledge.currency import Absorbed, Attended, evidence_of
from coterie.knowledge.lesson import Lesson
from coterie.knowledge.pupil import Moment, Pupil

INPUTS, TARGETS, PRIORITY = "inputs", "targets", "priority"


@dataclass(frozen=True)
class Samples:
    """A pupil replays a few samples of its teachers in each step.

    They leave the teacher as they are: for members that may show one another their data. Which
    ones is drawn anew for each lesson, equally many of each class as far as there are.

    >>> Samples(num_samples=20).name
    'samples'
    """

    num_samples: int = 64
    weight: float = 1.0
    batch: int = 16
    lasts_steps: int = 200
    rehearsal_steps: int = 5
    name: str = "samples"

    def teach(self, teacher: Pupil) -> Lesson:
        """Some of the teacher's samples."""
        inputs_B, targets_B = teacher.examples()
        if not len(targets_B):
            raise LessonError(f"expected {teacher.name} to have samples to teach, found none")
        chosen_K = spread(targets_B, self.num_samples, teacher.num_steps)
        return Lesson(
            teacher.name,
            teacher.task,
            self.name,
            teacher.num_steps,
            {INPUTS: inputs_B[chosen_K], TARGETS: targets_B[chosen_K].long()},
            evidence_of(teacher),
            classes=teacher.classes,
        )

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Refuse samples of another shape, or of none of the pupil's classes."""
        inputs, targets = lesson.arrays.get(INPUTS), lesson.arrays.get(TARGETS)
        if inputs is None or targets is None or targets.dim() != 1 or len(inputs) != len(targets):
            raise LessonError(
                f"expected {INPUTS} with as many {TARGETS}, found {', '.join(lesson.arrays)} "
                f"from {lesson.teacher}"
            )
        wanted = pupil.examples()[0]
        if inputs.shape[1:] != wanted.shape[1:] or inputs.dtype != wanted.dtype:
            raise LessonError(
                f"expected samples of {tuple(wanted.shape[1:])} {wanted.dtype}, found "
                f"{tuple(inputs.shape[1:])} {inputs.dtype} from {lesson.teacher}"
            )
        if not len(targets) or not 0 <= int(targets.min()) <= int(targets.max()) < len(
            lesson.classes
        ):
            raise LessonError(
                f"expected samples of the {len(lesson.classes)} classes that the lesson names, "
                f"found others from {lesson.teacher}"
            )
        if not len(_known(lesson, pupil)[1]):
            raise LessonError(
                f"expected samples of a class that {pupil.name} has too, found none from "
                f"{lesson.teacher}; call classes alike where they mean the same"
            )

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Attended:
        """The pupil's own loss on samples of the lessons, each drawn as often as it counts."""
        told = [_known(lesson, pupil) for lesson in lessons]
        inputs_K = torch.cat([inputs for inputs, _ in told])
        targets_K = torch.cat([targets for _, targets in told])
        chance_K = torch.cat(
            [
                torch.full((len(targets),), (weight if sum(weights) else 1.0) / len(targets))
                for (_, targets), weight in zip(told, weights, strict=True)
            ]
        )

        def term(pupil: Pupil, moment: Moment) -> Tensor:
            drawn = torch.multinomial(chance_K, self.batch, replacement=True)
            return self.weight * pupil.loss(inputs_K[drawn], targets_K[drawn])

        return Attended(self.name, term, self.rehearsal_steps)


@runtime_checkable
class Replaying(Protocol):
    """A pupil that learns from transitions which it keeps."""

    def transitions(self) -> Mapping[str, Tensor]:
        """Those it may teach, T rows in each array; `priority` is how much each surprised it."""

    def absorb(self, transitions: Mapping[str, Tensor]) -> None:
        """Learn from, or keep to learn from, transitions as if they were its own."""


@dataclass(frozen=True)
class Transitions:
    """A pupil absorbs what surprised its teachers most: states, actions, rewards and so on.

    After Gerstgrasser et al. 2023, SUPER: a few transitions of the highest temporal-difference
    error teach more for their bytes than all. Arrays are as the pupil's own are called and
    shaped, with T rows; states and actions must mean the same to all.

    >>> Transitions(part=0.1).name
    'transitions'
    """

    part: float = 0.1  # of the teacher's, those of the highest priority
    most: int = 4096
    lasts_steps: int = 0
    rehearsal_steps: int = 5
    name: str = "transitions"

    def teach(self, teacher: Pupil) -> Lesson:
        """The teacher's transitions of the highest priority."""
        arrays = _replaying(teacher).transitions()
        if PRIORITY not in arrays or not len(arrays[PRIORITY]):
            raise LessonError(
                f"expected {teacher.name} to have transitions with a {PRIORITY}, found none"
            )
        num = min(self.most, max(1, round(self.part * len(arrays[PRIORITY]))))
        return Lesson(
            teacher.name,
            teacher.task,
            self.name,
            teacher.num_steps,
            first(arrays, num),
            evidence_of(teacher),
        )

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Refuse transitions that are not shaped as the pupil's own."""
        wanted, found = _replaying(pupil).transitions(), lesson.arrays
        for name in sorted({*wanted, *found}):
            mine, theirs = (
                (tuple(arrays[name].shape[1:]), arrays[name].dtype) if name in arrays else "none"
                for arrays in (wanted, found)
            )
            if mine != theirs:
                raise LessonError(
                    f"expected transitions as {pupil.name} has them, found {name} of {theirs}, "
                    f"not {mine}, from {lesson.teacher}"
                )
        if len({len(array) for array in found.values()}) > 1:
            raise LessonError(f"expected arrays of equal length, found others: {lesson.teacher}")

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Absorbed:
        """All of them, in the teachers' order; a teacher that counts for nothing is left out."""
        heard = [lesson for lesson, weight in zip(lessons, weights, strict=True) if weight > 0]
        if not heard:
            raise LessonError("expected a teacher that counts for something, found none")
        arrays = {
            name: torch.cat([lesson.arrays[name] for lesson in heard]) for name in heard[0].arrays
        }
        absorb: Callable[[Mapping[str, Tensor]], None] = _replaying(pupil).absorb
        return Absorbed(lambda: absorb(arrays), self.rehearsal_steps)


def first(arrays: Mapping[str, Tensor], num: int) -> dict[str, Tensor]:
    """The rows of the highest priority, highest first; earlier ones first where equal.

    >>> first({"reward": torch.tensor([1, 2, 3]), "priority": torch.tensor([0.1, 0.9, 0.5])}, 2)
    {'reward': tensor([2, 3]), 'priority': tensor([0.9000, 0.5000])}
    """
    order_T = arrays[PRIORITY].sort(descending=True, stable=True).indices[:num]
    return {name: array[order_T] for name, array in arrays.items()}


def spread(targets_B: Tensor, num: int, seed: int) -> Tensor:
    """Places of `num` samples at most, drawn so that each class has as many as it can.

    >>> chosen = spread(torch.tensor([0, 0, 0, 0, 1]), 3, seed=0)
    >>> sorted(torch.tensor([0, 0, 0, 0, 1])[chosen].tolist())
    [0, 0, 1]
    """
    rng = torch.Generator().manual_seed(seed)
    order_B = torch.randperm(len(targets_B), generator=rng)
    turns: dict[int, int] = {}
    turn_B = []
    for target in targets_B[order_B].tolist():
        turn_B.append(turns.get(target, 0))
        turns[target] = turn_B[-1] + 1
    return order_B[torch.tensor(turn_B).sort(stable=True).indices[:num]]


def _known(lesson: Lesson, pupil: Pupil) -> tuple[Tensor, Tensor]:
    """A lesson's samples of classes that the pupil has, with the places of those classes."""
    there = {name: place for place, name in enumerate(pupil.classes)}
    place_C = torch.tensor([there.get(name, -1) for name in lesson.classes], dtype=torch.long)
    targets_K = place_C[lesson.arrays[TARGETS]]
    known_K = targets_K >= 0
    return lesson.arrays[INPUTS][known_K], targets_K[known_K]


def _replaying(pupil: Pupil) -> Replaying:
    if isinstance(pupil, Replaying):
        return pupil
    raise LessonError(
        f"expected {pupil.name} to keep transitions, found a {type(pupil).__name__}; "
        "give it the methods transitions and absorb, or another currency"
    )
