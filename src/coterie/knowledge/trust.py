"""How far a pupil believes its teachers: a value that grows with lessons taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Record:
    """Lessons of one teacher that were taken and refused, the older ones counting less.

    >>> Record(taken=2.0, refused=1.0)
    Record(taken=2.0, refused=1.0)
    """

    taken: float = 0.0
    refused: float = 0.0


@dataclass(frozen=True)
class Trust:
    """What is believed of each teacher, 0 to 1; who falls below `least` is not heard for a while.

    (1 + taken) / (1 + taken + refused): believed at first, and half after one refusal. Each
    lesson, heard or not, makes the older ones count `fading` of before, so that a teacher who was
    shut out is tried again after some.

    >>> trust = Trust()
    >>> for _ in range(4):
    ...     trust = trust.after("eve", Record(refused=1.0))
    >>> trust.hears("ann"), trust.hears("eve"), round(trust.of("eve"), 2)
    (True, False, 0.23)
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    least: float = 0.3
    fading: float = 0.9

    def of(self, teacher: str) -> float:
        """How far a teacher is believed."""
        record = self.records.get(teacher, Record())
        return (1 + record.taken) / (1 + record.taken + record.refused)

    def hears(self, teacher: str) -> bool:
        """Whether lessons of a teacher are looked at."""
        return self.of(teacher) >= self.least

    def after(self, teacher: str, lesson: Record) -> Trust:
        """What is believed once one more lesson was taken, refused or (an empty record) unheard."""
        before = self.records.get(teacher, Record())
        now = Record(
            self.fading * before.taken + lesson.taken, self.fading * before.refused + lesson.refused
        )
        return replace(self, records={**self.records, teacher: now})
