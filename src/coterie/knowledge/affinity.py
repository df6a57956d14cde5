"""Who helps whom, measured: by what one knows of another's samples, and by what a lesson gains.

Legend of shape suffixes: B samples, N parameters, C classes, S held-out samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.errors import JobError, LessonError, NotFinite
from coterie.knowledge.align import similarity
from coterie.knowledge.currency import Currency
from coterie.knowledge.gate import likelihood, walked
from coterie.knowledge.graph import Graph, gathered
from coterie.knowledge.lesson import Lesson
from coterie.knowledge.pupil import Pupil

Row = dict[str, tuple[float, float]]  # of one pupil: help and its error, by teacher
LEAST = 1e-3  # of what a pupil itself knows, to measure others by


def cross_loss(pupils: Sequence[Pupil]) -> Graph:
    """How much of what each knows of its own samples the others know, by their predictions.

    1: as much as the pupil itself; 0: no more than how frequent classes are; below: they mislead.
    After Fifty et al. 2021, Efficiently Identifying Task Groupings, on losses in place of their
    change, at the temperature that suits each best. Zero is what a predictor without inputs would
    know, so that related, unrelated and mixed tasks are told apart by a fixed point. Take it after
    some tens of steps alone, before anything was shared; classes go by name, and a teacher that
    lacks one is unknown.

    >>> from coterie.knowledge.scholar import Course, Linear, Scholar
    >>> data = (torch.eye(4), torch.arange(4) % 2)
    >>> odd = (torch.eye(4), 1 - torch.arange(4) % 2)
    >>> courses = [Course(name, lambda: torch.nn.Linear(4, 3), it, it, ("even", "odd"),
    ...            Linear(3, 2), lambda p: torch.optim.Adam(p, lr=0.05))
    ...            for name, it in (("a", data), ("b", data), ("c", odd))]
    >>> scholars = [Scholar(course.task, course) for course in courses]
    >>> for scholar in scholars:
    ...     losses = [scholar.step() for _ in range(30)]
    >>> cross_loss(scholars).groups()
    (('a', 'b'), ('c',))
    """
    return gathered(
        "cross loss",
        {
            pupil.name: {
                teacher.name: found
                for teacher in pupils
                if (found := known_of(pupil, teacher.predictions, teacher.classes)) is not None
            }
            for pupil in pupils
        },
    )


def cross_loss_row(pupil: Pupil, lessons: Iterable[Lesson]) -> Row:
    """One pupil's measurements of teachers, by lessons in all their parameters: `Fusion(part="*")`.

    What members that lie apart send to one another for `gathered`; the pupil is left as it was.
    Its own network is measured too. A lesson that does not fit is left out, and so is unknown.
    """
    row: Row = {}
    own = known_of(pupil, pupil.predictions, pupil.classes)
    if own is not None:
        row[pupil.name] = own
    here_N = pupil.vector()
    shapes = dict(zip(pupil.layout.names, pupil.layout.shapes, strict=True))
    try:
        pupil_losses = _losses(pupil, pupil.predictions, pupil.classes)
        for lesson in lessons:
            if {n: tuple(a.shape) for n, a in lesson.arrays.items()} != shapes:
                continue
            pupil.place(torch.cat([lesson.arrays[n].reshape(-1) for n in shapes]).to(here_N))
            found = _known_beside(pupil, pupil_losses, pupil.predictions, pupil.classes)
            if found is not None:
                row[lesson.teacher] = found
    finally:
        pupil.place(here_N)
    return row


def known_of(
    pupil: Pupil, predict: Callable[[Tensor], Tensor], classes: Sequence[str]
) -> tuple[float, float] | None:
    """How much of what a pupil knows of its samples a predictor knows; None: not to be told."""
    own_B = _losses(pupil, pupil.predictions, pupil.classes)
    return _known_beside(pupil, own_B, predict, classes)


def feature_agreement(pupils: Sequence[Pupil]) -> Graph:
    """Linear CKA of the features that teacher and pupil have of the pupil's samples.

    Networks that began alike agree whatever they learned, so that this tells less of who should
    share than `cross_loss` does. The error is that of two halves of the samples.
    """

    def compared(pupil: Pupil, teacher: Pupil) -> tuple[float, float]:
        inputs_B, _ = pupil.examples()
        with torch.no_grad():
            mine, theirs = pupil.features(inputs_B), teacher.features(inputs_B)
        half = [similarity(mine[at::2], theirs[at::2]) for at in (0, 1)]
        return similarity(mine, theirs), abs(half[0] - half[1]) / 2

    return _pairwise("feature agreement", pupils, compared)


@runtime_checkable
class Graded(Protocol):
    """A pupil that tells the gradient of its loss on some samples."""

    def gradient(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """As one vector of the layout's size; nothing is stepped."""


def gradient_agreement(pupils: Sequence[Pupil], part: str = "trunk.*", draws: int = 4) -> Graph:
    """The cosine of gradients on what is shared, mean and error over parts of their samples.

    Yu et al. 2020, Gradient Surgery. It is meant for pupils that stand at the same parameters.
    """
    parts = {pupil.name: _gradients(pupil, part, draws) for pupil in pupils}

    def compared(pupil: Pupil, teacher: Pupil) -> tuple[float, float]:
        mine, theirs = parts[pupil.name], parts[teacher.name]
        if mine[0].numel() != theirs[0].numel():
            return math.nan, math.nan
        cosines = torch.stack(
            [F.cosine_similarity(a, b, dim=0) for a, b in zip(mine, theirs, strict=True)]
        )
        return float(cosines.mean()), float(cosines.std() / math.sqrt(draws))

    return _pairwise("gradient agreement", pupils, compared)


def look_ahead(pupils: Sequence[Pupil], currency: Currency, num_steps: int = 5) -> Graph:
    """What one lesson of each teacher, by itself, gains each pupil after a short walk.

    In held-out utility, against the same walk without it. It is the measure nearest to what is
    wanted, and the dearest: a walk for every two members. All are left as they were.
    """
    return gathered("look ahead", {p.name: gains(p, pupils, currency, num_steps) for p in pupils})


def gains(pupil: Pupil, teachers: Sequence[Pupil], currency: Currency, num_steps: int) -> Row:
    """One pupil's part of `look_ahead`; teachers that cannot teach it are left out."""
    row: Row = {}
    start = pupil.snapshot()
    without_S = walked(pupil, num_steps)
    for teacher in teachers:
        if teacher.name == pupil.name:
            continue
        pupil.restore(start)
        try:
            lesson = currency.teach(teacher)
            currency.check(lesson, pupil)
            weight = lesson.evidence.num_samples
            currency.integrate([lesson], [weight], pupil).apply(pupil)
        except LessonError:
            continue
        try:
            row[teacher.name] = _gain(without_S, walked(pupil, num_steps))
        except NotFinite:
            row[teacher.name] = (-1.0, 0.0)  # as far as one can be told: it breaks the pupil
    pupil.restore(start)
    return row


def _pairwise(
    measure: str,
    pupils: Sequence[Pupil],
    compare: Callable[[Pupil, Pupil], tuple[float, float]],
) -> Graph:
    rows = {p.name: {t.name: compare(p, t) for t in pupils} for p in pupils}
    return gathered(measure, rows)


def _losses(
    pupil: Pupil, predict: Callable[[Tensor], Tensor], classes: Sequence[str]
) -> Tensor | None:
    """The loss of a predictor on each of a pupil's samples, (B,); None where it lacks a class."""
    inputs_B, targets_B = pupil.examples()
    if not len(targets_B):
        raise JobError(f"expected {pupil.name} to have samples to measure others by, found none")
    used = sorted(set(targets_B.tolist()))
    if not {pupil.classes[c] for c in used} <= set(classes):
        return None
    column = {c: list(classes).index(pupil.classes[c]) for c in used}
    wanted_B = torch.tensor([column[c] for c in targets_B.tolist()], device=targets_B.device)
    with torch.no_grad():
        return -likelihood(predict(inputs_B), wanted_B).double()


def _known_beside(
    pupil: Pupil,
    own_B: Tensor | None,
    predict: Callable[[Tensor], Tensor],
    classes: Sequence[str],
) -> tuple[float, float] | None:
    theirs_B = _losses(pupil, predict, classes)
    if theirs_B is None or own_B is None or not bool(theirs_B.isfinite().all()):
        return None
    targets_B = pupil.examples()[1]
    part_C = targets_B.bincount(minlength=len(pupil.classes)).double() / len(targets_B)
    blind_B = -part_C[targets_B].log()
    scale = float((blind_B - own_B).mean())
    if not scale > LEAST:  # it knows nothing itself as yet
        return None
    return _gain(-blind_B / scale, -theirs_B / scale)


def _gain(before_S: Tensor, after_S: Tensor) -> tuple[float, float]:
    gained_S = after_S.double() - before_S.double()
    if not len(gained_S):
        return math.nan, math.nan
    error = float(gained_S.std()) / math.sqrt(len(gained_S)) if len(gained_S) > 1 else 0.0
    return float(gained_S.mean()), error


def _gradients(pupil: Pupil, part: str, draws: int) -> list[Tensor]:
    if not isinstance(pupil, Graded):
        raise JobError(
            f"expected {pupil.name} to tell gradients, found a {type(pupil).__name__} without; "
            "measure by cross_loss"
        )
    shared = pupil.layout.select(part).names
    inputs_B, targets_B = pupil.examples()
    found = []
    for at in range(draws):
        views = pupil.layout.views(pupil.gradient(inputs_B[at::draws], targets_B[at::draws]))
        found.append(torch.cat([views[name].reshape(-1) for name in shared]))
    return found
