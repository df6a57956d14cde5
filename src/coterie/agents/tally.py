"""What a member brings to a round, and what it did since it last told.

Legend: N trainable parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from coterie.leases import Lease
from coterie.transport.messages import Report
from coterie.types import Ctx


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
    packing_s: float = 0.0  # of making the payload: part of a meeting, for no step takes it
    stumbled: bool = False  # whether its island took a step without it

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
        self.exchange_s += mine.packing_s

    def skip(self, number: int, cohort: tuple[str, ...]) -> None:
        """Add a round in which nobody had anything to learn."""
        self.first_round = self.first_round or number
        self.last_round, self.cohort = number, cohort

    def report(self, term: int) -> Report | None:
        """All of it as a message; None if no round was committed.

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
        )
