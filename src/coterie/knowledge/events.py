"""What became of lessons, as values that a log can write."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class LessonTaken:
    """A lesson went into a pupil, with what the lessons taken up together gained it.

    >>> print(LessonTaken("bob", 40, "ann", "parameters", 370, 0.02, 0.01, 0.5).line())
    bob took a lesson in parameters from ann at step 40: held-out utility +0.02 ± 0.01, 370 bytes
    """

    kind: ClassVar[str] = "lesson_taken"
    pupil: str
    num_steps: int  # of the pupil
    teacher: str
    currency: str
    num_bytes: int
    gain: float  # of held-out utility, by all lessons of this moment and currency
    gain_error: float  # its standard error
    weight: float  # of this lesson among them, 0 to 1

    def line(self) -> str:
        """The event in words."""
        return (
            f"{self.pupil} took a lesson in {self.currency} from {self.teacher} at step "
            f"{self.num_steps}: held-out utility {self.gain:+.3g} ± {self.gain_error:.2g}, "
            f"{self.num_bytes:,} bytes"
        )

    def fields(self) -> dict[str, Any]:
        """What an event log writes beside the kind."""
        return asdict(self)


@dataclass(frozen=True)
class LessonRefused:
    """A lesson did not go into a pupil, and why.

    >>> print(LessonRefused("bob", 40, "eve", "labels", 9, "it would do harm").line())
    bob refused a lesson in labels from eve at step 40: it would do harm
    """

    kind: ClassVar[str] = "lesson_refused"
    pupil: str
    num_steps: int
    teacher: str
    currency: str
    num_bytes: int
    reason: str

    def line(self) -> str:
        """The event in words."""
        return (
            f"{self.pupil} refused a lesson in {self.currency} from {self.teacher} at step "
            f"{self.num_steps}: {self.reason}"
        )

    def fields(self) -> dict[str, Any]:
        """What an event log writes beside the kind."""
        return asdict(self)


@dataclass(frozen=True)
class BoardFailed:
    """A board could not be written or read; the pupil learns on by itself.

    >>> print(BoardFailed("bob", 40, "the line is down").line())
    bob could not reach the board at step 40, and learns on alone: the line is down
    """

    kind: ClassVar[str] = "board_failed"
    pupil: str
    num_steps: int
    reason: str

    def line(self) -> str:
        """The event in words."""
        return (
            f"{self.pupil} could not reach the board at step {self.num_steps}, and learns on "
            f"alone: {self.reason}"
        )

    def fields(self) -> dict[str, Any]:
        """What an event log writes beside the kind."""
        return asdict(self)


Event = LessonTaken | LessonRefused | BoardFailed
