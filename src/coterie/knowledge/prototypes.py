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
from coterie.knowledge.align import turned
from coterie.knowledge.currency import Attended, evidence_of
from coterie.knowledge.lesson import Lesson
from coterie.knowledge.pupil import Moment, Pupil

MEANS, COUNTS = "means", "counts"


@dataclass(frozen=True)
class Prototypes:
    """Features of a sample are drawn to the mean that all know of its class.

    After Tan et al. 2022, FedProto. Means of members with features of one width are merged with
    the pupil's own, each class by its samples, and so are the mean of the pooled samples where
    features agree. Means of another width are first laid over the pupil's own, by the turn and the
    scale that bring them nearest: so architectures may differ, and what is heard is how far
    classes lie from one another. Classes are matched by name.

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
        """The mean squared distance of a batch's features to the merged means of their classes."""
        own_CD, own_C = own_means(pupil)
        rows = [(own_CD, own_C)]
        for lesson, weight in zip(lessons, weights, strict=True):
            mean_CE, count_C = placed(lesson, pupil.classes)
            share_C = weight * count_C / count_C.sum().clamp(min=1e-12)
            rows.append((_laid_over(mean_CE, count_C, own_CD, own_C), share_C))
        means_CD, known_C = merged(rows)

        def term(pupil: Pupil, moment: Moment) -> Tensor:
            known_B = known_C[moment.targets_B]
            if not bool(known_B.any()):
                return moment.features_BD.sum() * 0
            wanted_BD = means_CD[moment.targets_B]
            away_BD = (moment.features_BD - wanted_BD)[known_B]
            return self.weight * away_BD.square().mean()

        return Attended(self.name, term, self.rehearsal_steps)


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


def _laid_over(mean_CE: Tensor, count_C: Tensor, own_CD: Tensor, own_C: Tensor) -> Tensor:
    """A teacher's means in the pupil's space: as they are, or turned where widths differ."""
    if mean_CE.shape[1] == own_CD.shape[1]:
        return mean_CE.to(own_CD)
    both_C = (count_C > 0) & (own_C > 0)
    return turned(mean_CE[both_C].to(own_CD), own_CD[both_C])(mean_CE.to(own_CD))
