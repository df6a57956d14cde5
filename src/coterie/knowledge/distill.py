"""Behaviour as a currency on inputs that all have: what a teacher says of them, or makes of them.

Legend of shape suffixes: U inputs of the pool, C classes, D features of the pupil, E of a teacher.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.errors import LessonError
from coterie.knowledge.align import aligned
from coterie.knowledge.currency import Attended, evidence_of
from coterie.knowledge.lesson import Lesson
from coterie.knowledge.pupil import Moment, Pupil

LOGITS, FEATURES = "logits", "features"


@dataclass(frozen=True, eq=False)
class Pool:
    """Inputs without answers that all members have alike, (U, ...); its digest says so.

    >>> Pool(torch.zeros(3, 2)).digest == Pool(torch.zeros(3, 2)).digest
    True
    """

    inputs_U: Tensor
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not len(self.inputs_U):
            raise LessonError("expected inputs in the pool, found none; give some to all members")
        data = self.inputs_U.detach().cpu().contiguous()
        told = hashlib.sha256(repr((data.dtype, tuple(data.shape))).encode())
        told.update(data.reshape(-1).view(torch.uint8).numpy().data)
        object.__setattr__(self, "digest", told.hexdigest()[:16])

    def check(self, lesson: Lesson, name: str) -> Tensor:
        """The array of a lesson that has a row for each input of this pool; LessonError if not."""
        if lesson.basis != self.digest:
            raise LessonError(
                f"expected a lesson about the pool {self.digest}, found one about "
                f"{lesson.basis or 'none'} from {lesson.teacher}; give all members the same inputs"
            )
        found = lesson.arrays.get(name)
        num = len(self.inputs_U)
        if found is None or found.dim() != 2 or len(found) != num or not found.shape[1]:
            shape = "none" if found is None else tuple(found.shape)
            raise LessonError(f"expected {name} of ({num}, …), found {shape} from {lesson.teacher}")
        if not found.is_floating_point():
            raise LessonError(f"expected {name} to be numbers, found {found.dtype}")
        return found


@dataclass(frozen=True)
class Labels:
    """A pupil learns what its teachers, on the mean, say of a pool of unlabelled inputs.

    After Li and Wang 2019, FedMD, and Hinton et al. 2015, Distilling the Knowledge in a Neural
    Network. Predictions are softmax(scale × logits); their mean, with the pupil's own, is
    sharpened to p^power. With scale and power 1, whom a pupil agrees with teaches it nothing.

    >>> Labels(Pool(torch.zeros(3, 2))).name
    'labels'
    """

    pool: Pool
    weight: float = 1.0
    scale: float = 1.5
    power: float = 2.0
    batch: int = 20
    lasts_steps: int = 200
    rehearsal_steps: int = 5
    name: str = "labels"

    def teach(self, teacher: Pupil) -> Lesson:
        """The teacher's logits on the pool."""
        with torch.no_grad():
            logits_UC = teacher.predictions(self.pool.inputs_U)
        return Lesson(
            teacher.name,
            teacher.task,
            self.name,
            teacher.num_steps,
            {LOGITS: logits_UC.float()},
            evidence_of(teacher),
            basis=self.pool.digest,
            classes=teacher.classes,
        )

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Refuse what is of another pool, or does not tell all of the pupil's classes."""
        logits_UC = self.pool.check(lesson, LOGITS)
        if logits_UC.shape[1] != len(lesson.classes):
            raise LessonError(
                f"expected logits of {len(lesson.classes)} classes, found {logits_UC.shape[1]} "
                f"from {lesson.teacher}"
            )
        if missing := [name for name in pupil.classes if name not in lesson.classes]:
            raise LessonError(
                f"expected labels of all classes that {pupil.name} has, found none of "
                f"{missing[0]} from {lesson.teacher}; teach it by prototypes"
            )

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Attended:
        """Cross-entropy with the agreed labels on a few inputs of the pool in each step."""
        with torch.no_grad():
            own_UC = self._told(pupil.predictions(self.pool.inputs_U))
        told = [own_UC, *(self._told(_columns(lesson, pupil)).to(own_UC) for lesson in lessons)]
        counts = torch.tensor([float(pupil.num_samples), *weights]).to(own_UC)
        shares = (counts if float(counts.sum()) else torch.ones_like(counts)).view(-1, 1, 1)
        mean_UC = (torch.stack(told) * shares).sum(0) / shares.sum()
        soft_UC = mean_UC**self.power / (mean_UC**self.power).sum(1, keepdim=True)

        def term(pupil: Pupil, moment: Moment) -> Tensor:
            drawn = torch.randperm(len(soft_UC))[: self.batch]
            logits_BC = pupil.predictions(self.pool.inputs_U[drawn])
            return self.weight * F.cross_entropy(self.scale * logits_BC, soft_UC[drawn])

        return Attended(self.name, term, self.rehearsal_steps)

    def _told(self, logits_UC: Tensor) -> Tensor:
        return torch.softmax(self.scale * logits_UC, dim=1)


@dataclass(frozen=True)
class Hints:
    """A pupil's features of a pool are drawn to tell, by a linear map, what a teacher's tell.

    Romero et al. 2015, FitNets: Hints for Thin Deep Nets, with the map in closed form and held
    until the next lesson. Widths and architectures may differ, and so may the classes.

    >>> Hints(Pool(torch.zeros(3, 2))).name
    'hints'
    """

    pool: Pool
    weight: float = 1.0
    batch: int = 20
    lasts_steps: int = 200
    rehearsal_steps: int = 5
    name: str = "hints"

    def teach(self, teacher: Pupil) -> Lesson:
        """The teacher's features of the pool."""
        with torch.no_grad():
            features_UE = teacher.features(self.pool.inputs_U)
        return Lesson(
            teacher.name,
            teacher.task,
            self.name,
            teacher.num_steps,
            {FEATURES: features_UE.float()},
            evidence_of(teacher),
            basis=self.pool.digest,
        )

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Refuse what is of another pool."""
        self.pool.check(lesson, FEATURES)

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Attended:
        """The mean squared error of what the maps tell, in units of each teacher's variance."""
        total = sum(weights) or float(len(weights))
        shares = [(weight if sum(weights) else 1.0) / total for weight in weights]
        with torch.no_grad():
            own_UD = pupil.features(self.pool.inputs_U)
        hints = [lesson.arrays[FEATURES].to(own_UD) for lesson in lessons]
        maps = [aligned(own_UD, hint_UE) for hint_UE in hints]
        spread = [float(hint_UE.var(0, unbiased=False).mean()) + 1e-12 for hint_UE in hints]

        def term(pupil: Pupil, moment: Moment) -> Tensor:
            drawn = torch.randperm(len(own_UD))[: self.batch]
            features_BD = pupil.features(self.pool.inputs_U[drawn])
            errors = [
                share / size * (to(features_BD) - hint_UE[drawn]).square().mean()
                for to, hint_UE, share, size in zip(maps, hints, shares, spread, strict=True)
            ]
            return self.weight * torch.stack(errors).sum()

        return Attended(self.name, term, self.rehearsal_steps)


def _columns(lesson: Lesson, pupil: Pupil) -> Tensor:
    """A lesson's logits in the order of the pupil's classes."""
    where = [lesson.classes.index(name) for name in pupil.classes]
    return lesson.arrays[LOGITS].float()[:, where]
