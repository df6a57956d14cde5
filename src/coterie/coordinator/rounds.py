"""Rounds are given out in blocks: long enough to cost nothing, short enough to change a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping

from coterie.coordinator.run import Run
from coterie.transport import messages as say

Wait = Generator[Callable[[], bool], None, None]

BLOCK_S = 0.5  # a block of rounds lasts about so long


def issue(run: Run, shares: Mapping[str, int]) -> int:
    """Tell the members of the term their next rounds; the number of the first."""
    assert run.plan is not None
    assert run.strategy is not None
    every = run.strategy.every
    num_rounds = max(1, round(BLOCK_S / run.plan.round_s))
    left = run.job.until.get("steps", float("inf")) - issued_steps(run)
    left = math.ceil(left) if math.isfinite(left) else left
    if left < every * num_rounds:
        num_rounds, every = (int(left // every), every) if left >= every else (1, int(left))
    first = run.ledger.next_round
    if every < 1:
        return first
    grant = run.ledger.grant(shares, every, num_rounds, run.job.until.get("epochs", float("inf")))
    if grant is not None:
        run.tell_term(
            say.Block(
                term=run.term.number,
                first_round=grant.first_round,
                data_epoch=grant.data_epoch,
                spans=grant.spans,
                shares=dict(shares),
                every=every,
                strategy=repr(run.strategy),
                epoch_loss=run.epoch_loss,
            )
        )
    return first


def issued_steps(run: Run) -> int:
    """Optimizer steps committed or given out."""
    return run.ledger.num_steps + sum(r.num_steps for r in run.ledger.issued.values())


def drained(run: Run) -> Wait:
    """Wait until every round given out is committed."""
    yield lambda: run.torn or run.ledger.idle
