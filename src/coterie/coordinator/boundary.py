"""What is done between two rounds: measuring against other arms, scoring, saving."""

from __future__ import annotations

from typing import Any

from coterie.coordinator.rounds import Wait, drained, few_left, issue, issued_steps
from coterie.coordinator.run import Run, Saving
from coterie.coordinator.shares import equal_shares
from coterie.coordinator.survival import checkpoint_interval_s as interval_s
from coterie.coordinator.survival import failures_per_s
from coterie.transport import messages as say
from coterie.transport.parcels import Assembly

EVALUATION_PART = 0.02  # of the time, at most
EVALUATE_WITHIN_S = 60.0  # where an epoch takes longer than this
WINDOW_S = 2.5  # of a comparison arm: short and often, for machines are noisy


def compare(run: Run) -> Wait:
    """Run the arms that the run is measured against: free solo steps, and equal shares."""
    yield from drained(run)
    for arm in run.job.baselines:
        if run.torn or run.stopping:
            break
        yield from (alone(run) if arm == "solo" else equally(run))
    run.paces.clear()
    run.gauge.mark("ours", run.decisions[-1].number)


def alone(run: Run) -> Wait:
    """Every member steps freely on the whole batch, meeting nobody, on a scratch copy."""
    run.gauge.mark("solo", 0)
    before = {name: flow.num_rounds for name, flow in run.solo.items()}
    run.tell_term(say.Probe(sizes=(run.job.batch,), seconds=WINDOW_S / 2))
    began_s = run.now_s
    # Whoever dies meanwhile: the others step to the end, and can form no group before.
    yield lambda: all(
        run.solo[n].num_rounds > before.get(n, 0) for n in run.term.members if n in run.healthy
    )
    run.asides.append((began_s, run.now_s))
    solo_per_s = sum(run.members[n].solo_per_s for n in run.term.members if n in run.members)
    run.event("window", arm="solo", per_s=solo_per_s, seconds=WINDOW_S / 2)


def equally(run: Run) -> Wait:
    """Train with equal shares for a while: real rounds, at the pace of the slowest."""
    run.gauge.mark("equal", 0)
    shares = equal_shares(run.job.batch, run.world.only(run.term.members).devices)
    until_s = run.now_s + WINDOW_S
    while run.now_s < until_s and not (run.torn or run.stopping or run.reached()):
        first = issue(run, shares)
        yield lambda first=first: run.torn or few_left(run, first)  # type: ignore[misc]
    yield from drained(run)
    flow = run.gauge.arms["equal"]
    run.event("window", arm="equal", per_s=flow.per_s, seconds=flow.seconds)


def evaluation_due(run: Run) -> bool:
    """After an epoch or a while, unless scoring would take more than its part of the time.

    A script scores by itself.
    """
    if run.job.script is not None:
        return False
    since_s = run.now_s - run.scored_s
    if run.ledger.num_epochs <= run.scored_epoch and since_s < EVALUATE_WITHIN_S:
        return False
    cost_s = run.scores.seconds if run.scores else 0.0
    return since_s >= cost_s / EVALUATION_PART


def evaluate(run: Run) -> Wait:
    """Have the fastest member score the agreed model at a boundary."""
    if not run.apart:
        yield from drained(run)
    if run.torn or not run.term.members:
        return
    world = run.world.only(run.term.members)
    fastest = min(world.devices, key=lambda d: (d.per_sample_s, d.name)).name
    before = run.scores
    wanted = 0 if run.apart else run.ledger.committed  # rounds of members apart do not compare
    run.tell(fastest, say.Evaluate(term=run.term.number))
    yield (
        lambda: (
            run.torn
            or (run.scores is not None and run.scores is not before and run.scores.round >= wanted)
        )
    )
    if not run.torn:
        run.scored_s, run.scored_epoch = run.now_s, run.ledger.num_epochs


def save_due(run: Run) -> bool:
    """Once in a while, and only if anything was learned since."""
    if run.saving is not None or run.ledger.next_round - 1 <= run.saved_round:
        return False
    since_s = run.now_s - run.saved_s
    if run.job.checkpoint_every_s != "auto":
        return since_s >= run.job.checkpoint_every_s
    if run.fewer_since_saved and len(run.healthy) == 1:
        return True  # all that was learned lies on one machine
    rate_per_s = failures_per_s(run.num_kills + run.num_suspected, run.member_s)
    return since_s >= interval_s(run.save_cost_s, len(run.term.members), rate_per_s)


def save(run: Run) -> None:
    """Ask every member for its state after the rounds given out; training goes on meanwhile."""
    run.saved_s, run.fewer_since_saved = run.now_s, False
    ticket = run.ledger.next_round - 1
    num_files = len(run.term.members) + 1
    meta = _meta(run, ticket)
    run.saving = Saving(ticket, meta["num_steps"], num_files, meta, Assembly())
    for rank, name in enumerate(run.term.members):
        run.tell(name, say.Save(term=run.term.number, ticket=ticket, whole=rank == 0))


def _meta(run: Run, ticket: int) -> dict[str, Any]:
    """What a checkpoint after round `ticket` holds beside the members' files."""
    ledger, layout = run.ledger, run.layout
    assert layout is not None
    return {
        "round": ticket,
        "num_steps": issued_steps(run),
        # An epoch that is given out whole is learned whole by the time this state is reached.
        "num_epochs": ledger.num_epochs + sum(not free for free in ledger.free.values()),
        "num_train": ledger.num_train,
        "free": {str(epoch): [list(span) for span in free] for epoch, free in ledger.free.items()},
        "in_parts": sorted(ledger.in_parts),
        "layout": {"names": list(layout.names), "shapes": [list(s) for s in layout.shapes]},
        "strategy": repr(run.strategy),
        "members": list(run.term.members),
        "metrics": run.scores.metrics if run.scores else {},
        "job": run.job.model_dump(by_alias=True, mode="json"),
    }
