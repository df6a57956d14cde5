"""What was achieved: samples and seconds, by arm of comparison and by decision."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, median_high

RECENT = 20  # reports that the live figure looks back on

Stretch = tuple[int, float]  # the batch and the seconds of its steps


@dataclass
class Flow:
    """Samples and rounds committed in some seconds."""

    num_samples: int = 0
    num_rounds: int = 0
    seconds: float = 0.0

    def add(self, num_samples: int, num_rounds: int, seconds: float) -> None:
        """Add an interval."""
        self.num_samples += num_samples
        self.num_rounds += num_rounds
        self.seconds += seconds

    @property
    def per_s(self) -> float | None:
        """Samples a second, once anything was timed."""
        return self.num_samples / self.seconds if self.seconds else None

    @property
    def round_s(self) -> float | None:
        """Seconds a round, once anything was timed."""
        return self.seconds / self.num_rounds if self.num_rounds else None


@dataclass
class Pace:
    """What a member reported of its own work of late; medians, for machines stutter.

    >>> pace = Pace()
    >>> for step_s in (1.0, 9.0, 1.2):
    ...     pace.add(batch=8, step_s=step_s, meeting_s=0.5)
    >>> pace.batch, pace.step_s, pace.meeting_s
    (8, 1.2, 0.5)
    """

    num_steps: int = 0
    _reports: list[tuple[int, float, float]] = field(default_factory=list)
    _stretches: list[Stretch] = field(default_factory=list)

    def add(
        self,
        batch: int,
        step_s: float,
        meeting_s: float,
        num_steps: int = 1,
        stretches: Sequence[Stretch] = (),
    ) -> None:
        """Take in a report: its mean batch, seconds of a step and of a meeting, its last steps."""
        self._reports.append((batch, step_s, meeting_s))
        self._stretches += stretches or [(batch, step_s)]
        self.num_steps += num_steps

    @property
    def num_reports(self) -> int:
        """How much the medians stand on."""
        return len(self._reports)

    def latest(self, num: int) -> list[Stretch]:
        """The last stretches of computing."""
        return self._stretches[-num:]

    def latest_meetings(self, num: int) -> list[float]:
        """Seconds of a meeting in each of the last reports."""
        return [meeting_s for _, _, meeting_s in self._reports[-num:]]

    def last(self) -> Pace:
        """The last report alone."""
        return Pace(_reports=self._reports[-1:], _stretches=self._stretches[-1:])

    @property
    def batch(self) -> int:
        """Samples of a step."""
        return median_high(batch for batch, _, _ in self._reports)

    @property
    def step_s(self) -> float:
        """Seconds of a step's own work."""
        return median(step_s for _, step_s, _ in self._reports)

    @property
    def meeting_s(self) -> float:
        """Seconds of a meeting, waiting for others included."""
        return median(meeting_s for _, _, meeting_s in self._reports)


@dataclass
class Gauge:
    """Adds up intervals between commits; one that spans a change of conditions is left out.

    >>> gauge = Gauge()
    >>> gauge.mark("ours", decision=1)
    >>> for now_s in range(3):
    ...     gauge.commit(float(now_s), num_samples=50 * now_s, num_rounds=now_s)
    >>> gauge.arms["ours"].per_s, gauge.decisions[1].round_s
    (50.0, 1.0)
    """

    arms: dict[str, Flow] = field(default_factory=lambda: defaultdict(Flow))
    decisions: dict[int, Flow] = field(default_factory=lambda: defaultdict(Flow))
    arm: str = ""
    decision: int = 0
    _last: tuple[float, int, int] | None = None
    _recent: deque[tuple[int, int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def mark(self, arm: str, decision: int) -> None:
        """Conditions change: what follows belongs to this arm and this decision."""
        self.arm, self.decision, self._last = arm, decision, None

    def commit(self, now_s: float, num_samples: int, num_rounds: int) -> None:
        """So many samples and rounds are committed by now, since the run began."""
        if self._last is not None:
            last_s, last_samples, last_rounds = self._last
            flow = (num_samples - last_samples, num_rounds - last_rounds, now_s - last_s)
            self._recent.append(flow)
            self.arms[self.arm].add(*flow)
            if self.arm != "equal":
                self.decisions[self.decision].add(*flow)
        self._last = (now_s, num_samples, num_rounds)

    def recent_per_s(self) -> float:
        """Samples a second of late."""
        seconds = sum(s for _, _, s in self._recent)
        return sum(n for n, _, _ in self._recent) / seconds if seconds else 0.0

    def typical_round_s(self) -> float:
        """The median length of late rounds."""
        return median(s / max(1, n) for _, n, s in self._recent) if self._recent else 0.0
