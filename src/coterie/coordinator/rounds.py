"""Rounds are given out in blocks: long enough to cost nothing, short enough to change a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping

from coterie.coordinator.account import put_on_record
from coterie.coordinator.owners import parts_of
from coterie.coordinator.run import Run
from coterie.coordinator.shares import paced_batch
from coterie.transport import messages as say

Wait = Generator[Callable[[], bool], None, None]

BLOCK_S = 0.3  # a block of rounds lasts about so long
AHEAD_S = 0.15  # before its end the next is given out
DIGEST_S = 2.0  # between two looks at whether members still hold the same
ON_RECORD = ("term", "first_round", "data_epoch", "spans", "shares", "every", "batch", "parts")
ROUNDS_AHEAD = 2  # of a member that waits for nobody


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
    if run.ledger.freed:  # the record is to know what is free before it is given out again
        put_on_record(run)
    batch = steps_on(run)
    parts = parts_of(run, shares)
    grant = run.ledger.grant(shares, every, num_rounds, last_epoch(run), batch, parts)
    if grant is not None:
        run.alike = run.alike and not run.strategy.walks
        block = say.Block(
            term=run.term.number,
            first_round=grant.first_round,
            data_epoch=grant.data_epoch,
            spans=grant.spans,
            shares=dict(shares),
            every=every,
            strategy=repr(run.strategy),
            batch=batch,
            epoch_loss=run.epoch_loss,
            trust={name: trust for name, trust in run.trust.items() if name in shares},
            digest=_digest_due(run),
            tells=_tells(run, grant.first_round, grant.last_round),
            parts=grant.parts,
            hands_out=not run.restates,
        )
        # On record before anybody hears it: a coordinator that comes after this one knows it too.
        run.event("block", **block.model_dump(include=set(ON_RECORD)))
        run.tell_term(block)
    return first


def few_left(run: Run, first: int) -> bool:
    """Whether the next block is due: of the one that began at `first` hardly a round is left.

    All who met in the newest round must have told of it: whoever is slow tells last.
    """
    last = run.ledger.next_round - 1
    wanted = first - 1 if first >= last else _tells(run, first, last)
    newest = min(wanted, max(run.told.values(), default=0))
    heard = all(run.told.get(name, 0) >= newest for name in run.company if _meets(run, name))
    return run.ledger.committed >= wanted and heard


def _tells(run: Run, first: int, last: int) -> int:
    """The round of a block after which members tell what they did: the next block comes in time."""
    assert run.plan is not None
    return max(first, last - max(1, int(AHEAD_S / run.plan.round_s)))


def _meets(run: Run, name: str) -> bool:
    return name in run.members and name in run.term.members


def last_epoch(run: Run) -> float:
    """How many passes over the data may be given out; of scripts, those that they have begun."""
    limit = run.job.until.get("epochs", float("inf"))
    return limit if run.job.script is None else min(limit, run.passes)


def _digest_due(run: Run) -> bool:
    """Whether members are asked once more whether they still hold the same."""
    if run.apart or run.now_s < run.checked_s + DIGEST_S:
        return False
    run.checked_s = run.now_s
    return True


def steps_on(run: Run) -> int | None:
    """The batch of every member's steps, where they differ in number; None where in size."""
    assert run.strategy is not None
    if run.strategy.walk is None or not run.strategy.walk.paced:
        return None
    return paced_batch(run.job.batch, run.world.only(run.term.members).devices)


def issue_apart(run: Run) -> None:
    """Give each member that has less than a round ahead of it a block of its own."""
    assert run.plan is not None
    for name, share in run.plan.shares.items():
        ahead = sum(name in issued.leases for issued in run.ledger.issued.values())
        if name in run.members and name in run.term.members and ahead < ROUNDS_AHEAD:
            issue(run, {name: share})


def issue_again(run: Run) -> None:
    """Tell members apart what they were given and have not brought: one may not have heard it."""
    for number, issued in run.ledger.issued.items():
        for name, lease in issued.leases.items():
            if lease.num_samples:
                block = say.Block(
                    term=run.term.number,
                    first_round=number,
                    data_epoch=issued.data_epoch,
                    spans=lease.spans,
                    shares={name: lease.num_samples},
                    every=1,
                    strategy=repr(run.strategy),
                    batch=lease.batch,
                    epoch_loss=run.epoch_loss,
                )
                run.tell_term(block)


def issued_steps(run: Run) -> int:
    """Optimizer steps committed or given out."""
    return run.ledger.num_steps + sum(r.num_steps for r in run.ledger.issued.values())


def drained(run: Run) -> Wait:
    """Wait until every round given out is committed."""
    for name in () if run.apart else run.term.members:
        if name in run.members:  # of the last rounds of a block nobody tells unasked
            run.tell(name, say.Land(term=run.term.number))
    yield lambda: run.torn or run.ledger.idle
