"""Behaviour as a currency, at its cheapest: where the mean of each class lies among features.

Legend of shape suffixes: B samples of a batch, C classes, D features of the pupil, E of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.combine import class_means
from coterie.errors import LessonError
from coterie.knowledge.align import Map, aligned
from coterie.knowledge.currency import Attended, evidence_of
from coterie.knowledge.lesson import Lesson
from coterie.knowledge.pupil import Moment, Pupil

MEANS, COUNTS = "means", "counts"


@dataclass(frozen=True, eq=False)
class Target:
    """Where samples of some classes are drawn to, and the map there where widths differ."""

    means_CE: Tensor  # a row for each of the pupil's classes
    known_C: Tensor  # which of them are known
    map: Map | None  # from the pupil's features; None: they are alike
    share: float


@dataclass(frozen=True)
class Prototypes:
    """Features of a sample are drawn to the mean that all know of its class.

    After Tan et al. 2022, FedProto. Means of members with features of one width are merged with
    the pupil's own, each class by its samples, and so are the mean of the pooled samples where
    features agree. A teacher of another width is heard through a linear map that the pupil fits
    to its own samples, so that architectures may differ. Classes are matched by name: one class
    in common is enough.

    >>> Prototypes(weight=0.5).name
    'prototypes'
    """

    weight: float = 1.0
    lasts_steps: int = 200
    rehearsal_steps: int = 5
    name: str = "prototypes"

    def teach(self, teacher: Pupil) -> Lesson:
        """The means of the teacher's own samples, of the classes that it has any of."""
        means_CD, count_C = own_means(teacher)
        there_C = count_C > 0
        if not bool(there_C.any()):
            raise LessonError(f"expected {teacher.name} to have samples to teach, found none")
        classes = [name for name, there in zip(teacher.classes, there_C, strict=True) if there]
        return Lesson(
            teacher.name,
            teacher.task,
            self.name,
            teacher.num_steps,
            {MEANS: means_CD[there_C].float(), COUNTS: count_C[there_C].float()},
            evidence_of(teacher),
            classes=tuple(classes),
        )

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Refuse means of no class that the pupil has, or that are not one row for each."""
        means, counts = lesson.arrays.get(MEANS), lesson.arrays.get(COUNTS)
        num = len(lesson.classes)
        if means is None or counts is None or means.dim() != 2 or not means.shape[1]:
            raise LessonError(
                f"expected {MEANS} of (classes, features) and {COUNTS}, found "
                f"{', '.join(lesson.arrays)} from {lesson.teacher}"
            )
        if len(means) != num or tuple(counts.shape) != (num,) or len(set(lesson.classes)) != num:
            raise LessonError(
                f"expected a mean and a count for each of {num} classes, found {len(means)} and "
                f"{tuple(counts.shape)} from {lesson.teacher}"
            )
        if not bool((counts >= 0).all()):
            raise LessonError(f"expected counts of at least 0, found less from {lesson.teacher}")
        if not set(lesson.classes) & set(pupil.classes):
            raise LessonError(
                f"expected a class that {pupil.name} has too, found none from {lesson.teacher}; "
                "call classes alike where they mean the same"
            )

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Attended:
        """The pull towards the merged means of those alike, and those of others each by its map."""
        with torch.no_grad():
            targets = self._targets(lessons, weights, pupil)

        def term(pupil: Pupil, moment: Moment) -> Tensor:
            return self.weight * pull(targets, moment)

        return Attended(self.name, term, self.rehearsal_steps)

    def _targets(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> list[Target]:
        own_CD, own_C = own_means(pupil)
        width = own_CD.shape[1]
        alike = [i for i, lesson in enumerate(lessons) if lesson.arrays[MEANS].shape[1] == width]
        others = [i for i in range(len(lessons)) if i not in alike]
        total = sum(weights) or float(len(weights))
        shares = [(weight if sum(weights) else 1.0) / total for weight in weights]
        targets = []
        if alike:
            rows = [(own_CD, own_C)]
            for i in alike:
                mean_CD, count_C = placed(lessons[i], pupil.classes)
                rows.append((mean_CD, weights[i] * count_C / count_C.sum().clamp(min=1e-12)))
            means_CD, known_C = merged(rows)
            targets.append(Target(means_CD, known_C, None, sum(shares[i] for i in alike)))
        for i in others:
            mean_CE, count_C = placed(lessons[i], pupil.classes)
            to = _map(pupil, mean_CE, count_C > 0)
            if to is not None:
                targets.append(Target(mean_CE, count_C > 0, to, shares[i]))
        if not targets:
            raise LessonError(
                f"expected samples of {pupil.name} to align features on, found none; give some"
            )
        return targets


def own_means(pupil: Pupil) -> tuple[Tensor, Tensor]:
    """A pupil's own class means, (C, D), and the samples behind them, (C,)."""
    inputs_B, targets_B = pupil.examples()
    with torch.no_grad():
        return class_means(pupil.features(inputs_B), targets_B, len(pupil.classes))


def merged(rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Means and counts of several as those of all their samples together, and which are known.

    >>> one = (torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, 0.0]))
    >>> two = (torch.tensor([[4.0], [9.0]]), torch.tensor([2.0, 1.0]))
    >>> merged([one, two])
    (tensor([[3.],
            [9.]]), tensor([True, True]))
    """
    total_C = torch.stack([count_C for _, count_C in rows]).sum(0)
    sum_CD = torch.stack([mean_CD * count_C[:, None] for mean_CD, count_C in rows]).sum(0)
    return sum_CD / total_C.clamp(min=1e-12)[:, None], total_C > 0


def placed(lesson: Lesson, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A lesson's means and counts in the order of one's own classes; zeros for those it lacks."""
    means, counts = lesson.arrays[MEANS].float(), lesson.arrays[COUNTS].float()
    mean_CE, count_C = means.new_zeros(len(classes), means.shape[1]), means.new_zeros(len(classes))
    where = {name: place for place, name in enumerate(lesson.classes)}
    for place, name in enumerate(classes):
        if name in where:
            mean_CE[place], count_C[place] = means[where[name]], counts[where[name]]
    return mean_CE, count_C


def pull(targets: Sequence[Target], moment: Moment) -> Tensor:
    """The mean squared distance of a batch's features to where they are drawn, over all targets."""
    pulls = []
    for target in targets:
        known_B = target.known_C[moment.targets_B]
        if not bool(known_B.any()):
            continue
        features_BD = moment.features_BD[known_B]
        there_BE = target.map(features_BD) if target.map else features_BD
        wanted_BE = target.means_CE[moment.targets_B[known_B]].to(there_BE)
        pulls.append(target.share * (there_BE - wanted_BE).square().mean())
    return torch.stack(pulls).sum() if pulls else moment.features_BD.sum() * 0


def _map(pupil: Pupil, mean_CE: Tensor, known_C: Tensor) -> Map | None:
    """From the pupil's features to a teacher's, by where the pupil's own samples should lie."""
    inputs_B, targets_B = pupil.examples()
    known_B = known_C[targets_B]
    if not bool(known_B.any()):
        return None
    return aligned(pupil.features(inputs_B[known_B]), mean_CE[targets_B[known_B]])
