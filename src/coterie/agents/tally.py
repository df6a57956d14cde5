"""What a member brings to a round, and what it did since it last told.

Legend: N trainable parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coterie.leases import Lease
from coterie.transport.messages import Report
from coterie.types import Ctx

STRETCH_S = 0.1  # from the end of one stretch of computing to that of the next, at least
NUM_TOLD = 2  # stretches: two that agree are believed

Stretch = tuple[int, int, float]  # samples, steps, seconds


@dataclass(frozen=True)
class Contribution:
    """What a member brings to one round; kept until the round is committed, whoever leaves."""

    round: int
    num_samples: int
    num_steps: int
    loss_sum: float
    compute_s: float
    weight: float  # what it counts in the meeting; none where it was declined
    own_N: Tensor  # its gradient, or anchor − here
    payload: Tensor
    memory: tuple[Any, ...]
    ctx: Ctx
    leases: Mapping[str, Lease]  # of all members
    trust: Mapping[str, float] = field(default_factory=dict)  # what samples of some count for
    declined: str = ""  # why it brings nothing
    stumbled: bool = False  # whether its island took a step without it
    beside_P: Tensor | None = None  # what it tells beside what is shared: see `heads`
    pack_s: float = 0.0  # to make ready what it tells

    def weights(self, cohort: tuple[str, ...]) -> dict[str, float]:
        """The samples that each of these members was to bring, by what they count for."""
        samples = {member: float(self.leases[member].num_samples) for member in cohort}
        return {member: num * self.trust.get(member, 1.0) for member, num in samples.items()}


@dataclass
class Tally:
    """What was done since the last report."""

    first_round: int = 0
    last_round: int = 0
    cohort: tuple[str, ...] = ()
    num_samples: int = 0
    num_steps: int = 0
    loss_sum: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0
    gap_s: float = 0.0
    since_s: float = 0.0
    digest: int | None = None
    norms: tuple[float, float, float, float, float] | None = None  # see Report
    restates: bool = False  # see Report
    stretches: list[Stretch] = field(default_factory=list)
    _begun_s: float = 0.0  # the last of them
    _ended_s: float = 0.0

    @property
    def _is_short(self) -> bool:
        return bool(self.stretches) and self._ended_s - self._begun_s < STRETCH_S

    def time(self, samples: int, steps: int, seconds: float, now_s: float) -> None:
        """Note what was computed until now: a stretch of its own once the last one is long enough.

        >>> tally = Tally(since_s=1.0)
        >>> for now_s in (1.05, 1.2, 1.35):
        ...     tally.time(8, 1, 0.05, now_s)
        >>> tally.stretches
        [(16, 2, 0.1), (8, 1, 0.05)]
        """
        if self._is_short:
            self.stretches[-1] = _joined(self.stretches[-1], (samples, steps, seconds))
        else:
            self._begun_s = self._ended_s if self.stretches else self.since_s
            self.stretches.append((samples, steps, seconds))
        self._ended_s = now_s

    def take_longer(self, seconds: float) -> None:
        """Note what the last step took besides."""
        self.compute_s += seconds
        if self.stretches:
            self.stretches[-1] = _joined(self.stretches[-1], (0, 0, seconds))

    def _latest(self) -> tuple[Stretch, ...]:
        """The last stretches, none of them short, unless that is all there is."""
        if self._is_short and len(self.stretches) > 1:
            *before, last, short = self.stretches
            return (*before, _joined(last, short))[-NUM_TOLD:]
        return tuple(self.stretches[-NUM_TOLD:])

    def goes_on(self, number: int, cohort: tuple[str, ...]) -> bool:
        """Whether a round can be told together with those before: it follows, by the same members.

        >>> Tally(1, 2, ("a", "b")).goes_on(3, ("a",))
        False
        """
        follows = number == self.last_round + 1 and set(cohort) == set(self.cohort)
        return not self.last_round or follows

    def count(self, mine: Contribution, cohort: tuple[str, ...]) -> None:
        """Add a round that was committed together with `cohort`."""
        self.first_round = self.first_round or mine.round
        self.last_round, self.cohort = mine.round, cohort
        self.num_samples += mine.num_samples
        self.num_steps += mine.num_steps
        self.loss_sum += mine.loss_sum
        self.compute_s += mine.compute_s

    def skip(self, number: int, cohort: tuple[str, ...]) -> None:
        """Add a round in which nobody had anything to learn."""
        self.first_round = self.first_round or number
        self.last_round, self.cohort = number, cohort

    def report(
        self, term: int, granted: Callable[[], float | None] = lambda: None
    ) -> Report | None:
        """All of it as a message, and what cores are granted now; None if no round was committed.

        >>> Tally().report(term=1) is None
        True
        """
        if not self.last_round:
            return None
        return Report(
            term=term,
            first_round=self.first_round,
            last_round=self.last_round,
            cohort=self.cohort,
            num_samples=self.num_samples,
            num_steps=self.num_steps,
            loss=self.loss_sum / max(1, self.num_samples),
            compute_s=self.compute_s,
            exchange_s=self.exchange_s,
            gap_s=self.gap_s,
            digest=self.digest,
            norms=self.norms,
            stretches=self._latest(),
            cores=granted(),
            restates=self.restates,
        )


def _joined(one: Stretch, other: Stretch) -> Stretch:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
