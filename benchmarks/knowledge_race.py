"""Arms that learn side by side: the same samples at the same step, and a clock for each arm.

All arms of a race begin at the same weights and take turns every few steps, so that whatever
else the machine does befalls them alike. Clocks count CPU seconds of learning and sharing; looking
at held-out images is on nobody's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.knowledge_student import Student
from benchmarks.knowledge_sums import Curve

LOOK_EVERY = 10  # steps

Share = Callable[[Sequence[Student], int], int]  # after so many steps; the bytes that travelled


class Arm(Protocol):
    """A way to learn several tasks."""

    num_bytes: int

    def step(self) -> None:
        """Learn the samples whose turn it is."""

    def accuracies(self) -> list[float]:
        """How each task does on held-out images."""


def alone(students: Sequence[Student], num_steps: int) -> int:
    """Nobody shares."""
    return 0


@dataclass
class Agents:
    """Students of a task each, and a way to share after a step."""

    students: Sequence[Student]
    share: Share = alone
    num_bytes: int = 0

    def step(self) -> None:
        """A step of each on its own samples; then they share, if they do."""
        for student in self.students:
            student.step()
        self.num_bytes += self.share(self.students, self.students[0].num_steps)

    def accuracies(self) -> list[float]:
        """Of each at its own task."""
        return [student.accuracy() for student in self.students]


def race(arms: Mapping[str, Arm], num_steps: int) -> dict[str, Curve]:
    """The curve of each arm over so many steps, a look every ten."""
    names = list(arms)
    spent_s = dict.fromkeys(names, 0.0)
    told: dict[str, list[tuple[int, float, tuple[float, ...]]]] = {name: [] for name in names}
    for number, start in enumerate(range(0, num_steps, LOOK_EVERY)):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            began_s = time.process_time()
            done = min(start + LOOK_EVERY, num_steps)
            for _ in range(start, done):
                arms[name].step()
            spent_s[name] += time.process_time() - began_s
            told[name].append((done, spent_s[name], tuple(arms[name].accuracies())))
    return {
        name: Curve(*zip(*looks, strict=True), num_bytes=arms[name].num_bytes)
        for name, looks in told.items()
    }
