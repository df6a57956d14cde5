"""What a lesson is worth in: how it is written, checked and taken up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from coterie.knowledge.lesson import Evidence, Lesson
from coterie.knowledge.pupil import Pupil, Term


@dataclass(frozen=True)
class Placed:
    """A change that is done at once: other parameters."""

    vector_N: Tensor
    shows_after = 0  # steps

    def apply(self, pupil: Pupil) -> None:
        """Set the pupil's parameters."""
        pupil.place(self.vector_N)


@dataclass(frozen=True)
class Attended:
    """A change that shows as the pupil walks on: a loss beside its own, under a key."""

    key: str
    term: Term
    shows_after: int = 5  # steps; less says little, more is dear

    def apply(self, pupil: Pupil) -> None:
        """Have the pupil attend to it."""
        pupil.attend(self.key, self.term)


@dataclass(frozen=True)
class Absorbed:
    """A change that shows as the pupil walks on: experience that it takes in."""

    absorb: Callable[[], None]
    shows_after: int = 5  # steps

    def apply(self, pupil: Pupil) -> None:
        """Have the pupil take it in."""
        self.absorb()


Change = Placed | Attended | Absorbed


class Currency(Protocol):
    """One way to teach. All its methods leave the pupil as it is; LessonError says what is wrong.

    `weights` say how much each lesson counts: evidence times trust, none of them negative.
    """

    @property
    def name(self) -> str:
        """As lessons call it."""

    @property
    def lasts_steps(self) -> int:
        """For how many of the pupil's steps a lesson counts once it was heard; 0: that once."""

    def teach(self, teacher: Pupil) -> Lesson:
        """What the teacher knows at present."""

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Raise LessonError for a lesson that this pupil cannot take up."""

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Change:
        """What the lessons, all of them checked, would change in the pupil."""


def evidence_of(teacher: Pupil) -> Evidence:
    """What stands behind all that a teacher says at present."""
    utility_S = teacher.held_out()
    utility = float(utility_S.mean()) if utility_S.numel() else None
    return Evidence(float(teacher.num_samples), utility)
