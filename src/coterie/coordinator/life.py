"""What the coordinator does, in order: a run read from top to bottom.

Each `yield` hands over a condition to wait for; whoever drives the coordinator calls back when
something was heard. A member may be lost at any of these points: `torn` then ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from coterie.coordinator.account import log_final, progress
from coterie.coordinator.boundary import compare, evaluate, evaluation_due, save, save_due
from coterie.coordinator.perceive import links_are_doubtful
from coterie.coordinator.replan import choose, close_decision, everyone, reconsider
from coterie.coordinator.rounds import (
    Wait,
    drained,
    few_left,
    issue,
    issue_apart,
    last_epoch,
)
from coterie.coordinator.run import Run
from coterie.coordinator.terms import (
    doubt_links,
    give_up_server,
    grow,
    keep_membership,
    link_up,
    new_term,
    newcomers,
    regroup,
    served,
)
from coterie.coordinator.trial import rival, try_out
from coterie.errors import JoinError, StrategyError, TrainingError
from coterie.transport import messages as say

WINDOWS_AT = (0.0, 0.2, 0.6, 0.8)  # fractions of the run at which comparison arms are run
GATHER_AGAIN_S = 20.0  # for all to come to a run that goes on from its checkpoint by itself
REUNITE_S = 5.0  # for members to come back to a coordinator that was restarted
LEAVE_S = 3.0  # for everybody to say goodbye
END_S = 60.0  # and for their scripts to come to an end before


def life(run: Run) -> Wait:
    """Gather, measure, decide, train, finish."""
    stages = (reunite,) if run.reuniting else (gather, perceive, found, link_up, plan)
    for stage in stages:
        if not run.stopping:
            yield from stage(run)
    windows = [at for at in WINDOWS_AT if at >= run.fraction()] if run.job.baselines else []
    concluded = was_concluded(run)
    while not concluded:
        yield from learn(run, windows)
        concluded = yield from conclude(run)
    yield from finish(run)


def learn(run: Run, windows: list[float]) -> Wait:
    """Train until an end is reached or wanted, whoever comes or goes."""
    while (run.torn and run.plan) or not (run.stopping or run.reached()):
        if run.torn:
            yield from regroup(run)
        elif newcomers(run):
            yield from grow(run)
        elif windows and run.fraction() >= windows[0] and everyone(run):
            windows.pop(0)
            yield from compare(run)
        elif evaluation_due(run):
            yield from evaluate(run)
        elif save_due(run):
            yield from (drained(run) if run.apart else ())
            save(run)
        else:
            yield from go_on(run)


# -- before the first round ----------------------------------------------------------------------


def gather(run: Run) -> Wait:
    """Wait until every agent has built the task."""
    deadline_s = run.now_s + run.job.agents.join_timeout_s
    patient_until_s = run.now_s + GATHER_AGAIN_S

    def here() -> int:
        return sum(member.state == "ready" for member in run.members.values())

    def served() -> bool:
        return run.hub is not None or not run.by_star

    def enough() -> bool:  # of those who were lost, some may be lost for good
        waited = run.by_itself and run.now_s > patient_until_s
        return here() >= (1 if waited else run.num_agents)

    yield (lambda: (enough() and served()) or run.now_s > deadline_s or bool(run.stopping))
    if run.stopping:
        return
    if not served():
        raise JoinError(
            f"expected the server of the star road within {run.job.agents.join_timeout_s:g} s, "
            "found none; see the run's log, or raise agents.join_timeout_s"
        )
    if not enough():
        raise JoinError(
            f"expected {run.num_agents} agents within {run.job.agents.join_timeout_s:g} s, found "
            f"{here()} ({', '.join(sorted(run.members)) or 'none'}); start the others, or raise "
            "agents.join_timeout_s"
        )


def perceive(run: Run) -> Wait:
    """Have every agent time the task itself at two batch sizes."""
    run.probing = True  # whoever is ready from now on is told so at once
    run.tell_all(run.probe())
    yield lambda: all(m.device for m in run.members.values()) or bool(run.stopping)
    if not run.members:
        raise TrainingError("expected agents to measure, found that all have died")


def found(run: Run) -> Wait:
    """Form the first group, of everybody: all hold the first weights, or those resumed from."""
    yield from served(run)
    run.healthy = set(run.members)
    yield from new_term(run, sorted(run.members), at_once=False)


def plan(run: Run) -> Wait:
    """Decide for the first time; the run's clock begins."""
    quorum = run.asked.exchange.quorum if run.asked else 0
    if quorum > run.num_agents:  # of those, some may be lost already
        raise StrategyError(
            f"expected at least the {quorum} members that {run.asked} waits for, found "
            f"{run.num_agents}; lower the quorum, or start more agents"
        )
    run.began_s = run.saved_s = run.scored_s = run.reconsidered_s = run.now_s
    assert run.layout is not None
    told = {"sources": run.sources} if run.sources else {}
    run.event("layout", names=run.layout.names, shapes=run.layout.shapes, **told)
    run.event("books", **run.ledger.books())
    choose(run, "first plan")
    yield from keep_membership(run)


def reunite(run: Run) -> Wait:
    """After the death of a coordinator: members come back, tell where they stand, and meet anew."""
    run.began_s = run.now_s - run.elapsed_before_s
    run.saved_s = run.scored_s = run.reconsidered_s = run.now_s
    run.scored_epoch = run.ledger.num_epochs
    deadline_s = run.now_s + REUNITE_S

    def holders() -> set[str]:
        return {name for name, member in run.members.items() if member.holds}

    def all_here() -> bool:
        awaited = set(run.term.members) - run.gone
        return holders() >= awaited and (run.hub is not None or not run.by_star)

    yield lambda: all_here() or run.now_s > deadline_s or bool(run.stopping)
    run.reuniting, run.healthy = False, holders()
    if run.by_star and run.hub is None and not {say.HUB} & run.gone:
        give_up_server(run, f"not heard of for {REUNITE_S:.0f} s")
    newest = max((run.members[name].round for name in run.healthy), default=-1)
    if run.apart and run.healthy:
        newest = run.ledger.committed  # the server's, and members' own rounds do not compare
    if was_concluded(run):
        return
    if newest < run.ledger.committed:
        run.bereft = True
        raise TrainingError(
            f"expected a member back that holds round {run.ledger.committed}, found "
            f"{', '.join(sorted(run.healthy)) or 'none'} within {REUNITE_S:g} s; "
            "resume from a checkpoint"
        )
    run.torn, run.why_torn = True, "the coordinator came back"


def was_concluded(run: Run) -> bool:
    """Whether a run's coordinator died after all was learned, scored and saved."""
    saved = run.ledger.idle and run.saved_round == run.ledger.committed
    return saved and run.began_s > 0 and bool(run.reached())


def go_on(run: Run) -> Wait:
    """Give out the next block, and wait until it is the only one under way."""
    if run.job.script is not None and run.ledger.next_epoch >= last_epoch(run) and not run.apart:
        yield from drained(run)
        yield from turn(run)  # who learned the pass ends it: nobody is exchanged before
        return
    changed = reconsider(run)
    if links_are_doubtful(run):
        yield from doubt_links(run)
        changed = reconsider(run) or changed
    if changed:
        yield from keep_membership(run)
    if option := rival(run):
        yield from try_out(run, option)
    if run.torn or run.stopping:
        return
    if run.apart:
        yield from go_on_apart(run)
        return
    assert run.plan is not None
    first = issue(run, run.plan.shares)
    if first > run.ledger.next_round - 1:  # every epoch asked for is given out
        yield from drained(run)
        yield from turn(run)
    else:
        yield lambda: run.torn or bool(run.stopping) or few_left(run, first)


def turn(run: Run) -> Wait:
    """Have scripts end their pass over the data, and wait until one of them begins another."""
    if run.job.script is None or run.torn or run.stopping or run.reached():
        return
    data_epoch = run.ledger.num_epochs + len(run.ledger.free)
    run.awaited = set(run.term.members)
    run.tell_term(say.Turn(term=run.term.number, data_epoch=data_epoch, epoch_loss=run.epoch_loss))
    yield (
        lambda: (
            run.torn
            or bool(run.stopping)
            or bool(run.reached())
            or bool(newcomers(run))
            or run.passes > data_epoch
        )
    )


def go_on_apart(run: Run) -> Wait:
    """Keep every member busy, whoever is ahead, until one of them runs out of rounds."""
    before = len(run.ledger.issued)
    issue_apart(run)
    if len(run.ledger.issued) > before:
        before = len(run.ledger.issued)
        yield lambda: run.torn or bool(run.stopping) or len(run.ledger.issued) < before
    else:  # every epoch asked for is given out
        yield lambda: run.torn or bool(run.stopping) or run.ledger.idle
        yield from turn(run)


def conclude(run: Run) -> Generator[Callable[[], bool], None, bool]:
    """Score and save the last state; whether that was done: a death may free samples once more."""
    if run.plan is None:
        return True
    yield from drained(run)
    scored_round = run.scores.round if run.scores else -1
    is_scored = run.job.script is not None or scored_round >= run.ledger.committed
    if not run.torn and not run.stopping and not is_scored:
        yield from evaluate(run)
    if run.torn:
        return False
    save(run)
    yield lambda: run.torn or run.saving is None
    return not run.torn and run.saved_round == run.ledger.committed


def finish(run: Run) -> Wait:
    """Tell what it came to, and let everybody go."""
    close_decision(run)
    run.ledger.close()
    log_final(run)
    run.event("progress", **progress(run))
    run.leaving = True
    run.tell_all(say.Stop(reason=run.stopping or run.reached()))
    deadline_s = run.now_s + (LEAVE_S if run.job.script is None else END_S)
    yield lambda: not run.members or run.now_s > deadline_s
