"""What a member brings to a round, and what it did since it last told.

Legend: N trainable parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from coterie.transport.messages import Report


@dataclass(frozen=True)
class Contribution:
    """What a member brings to one round; kept until the round is committed, whoever leaves."""

    round: int
    num_samples: int
    num_steps: int
    loss_sum: float
    compute_s: float
    own_N: Tensor
    payload: Tensor
    memory: tuple[Any, ...]
    anchor_N: Tensor | None  # where the walk began; None where gradients travel


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

    def count(self, mine: Contribution, cohort: tuple[str, ...]) -> None:
        """Add a round that was committed together with `cohort`."""
        self.first_round = self.first_round or mine.round
        self.last_round, self.cohort = mine.round, cohort
        self.num_samples += mine.num_samples
        self.num_steps += mine.num_steps
        self.loss_sum += mine.loss_sum
        self.compute_s += mine.compute_s

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
        )
