"""What the coordinator does, in order: a run read from top to bottom.

Each `yield` hands over a condition to wait for; whoever drives the coordinator calls back when
something was heard. A member may be lost at any of these points: `torn` then ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from coterie.coordinator import decide as choices
from coterie.coordinator.adapt import worth_resharing
from coterie.coordinator.shares import equal_shares, exact_shares
from coterie.errors import JoinError, TrainingError
from coterie.sync.recipes import parse
from coterie.transport import messages as say
from coterie.world import Decision, Option

if TYPE_CHECKING:
    from coterie.coordinator.coordinator import Coordinator

Wait = Generator[Callable[[], bool], None, None]

BLOCK_S = 0.5  # a block of rounds lasts about so long: how soon a new plan takes effect
EVALUATION_PART = 0.03  # of the time, at most
EVALUATE_WITHIN_S = 60.0  # where an epoch takes longer than this
RESHARE_S = 2.0  # between two looks at the shares
KEEP_GAIN = 1.05  # a new strategy must promise this much more to replace the one under way
WINDOW_S = 4.0  # of a comparison arm
WINDOWS_AT = (0.0, 0.75)  # fractions of the run at which comparison arms are run


def life(c: Coordinator) -> Wait:
    """Gather, measure, decide, train, finish."""
    for stage in (gather, perceive, found, link_up, plan):
        if not c.stopping:
            yield from stage(c)
    windows = list(WINDOWS_AT) if c.job.baselines else []
    while not (c.stopping or c.reached()):
        if c.torn:
            yield from regroup(c)
        elif newcomers(c):
            yield from grow(c)
        elif windows and c.fraction() >= windows[0] and everyone(c):
            windows.pop(0)
            yield from compare(c)
        elif evaluation_due(c):
            yield from evaluate(c)
        elif save_due(c):
            save(c)
        else:
            yield from go_on(c)
    yield from finish(c)


# -- before the first round ------------------------------------------------------------------------


def gather(c: Coordinator) -> Wait:
    """Wait until every agent has built the task."""
    deadline_s = c.now_s + c.job.agents.join_timeout_s

    def here() -> int:
        return sum(member.state == "ready" for member in c.members.values())

    yield lambda: here() >= c.num_agents or c.now_s > deadline_s or bool(c.stopping)
    if c.stopping:
        return
    if here() < c.num_agents:
        raise JoinError(
            f"expected {c.num_agents} agents within {c.job.agents.join_timeout_s:g} s, found "
            f"{here()} ({', '.join(sorted(c.members)) or 'none'}); start the others, or raise "
            "agents.join_timeout_s"
        )


def perceive(c: Coordinator) -> Wait:
    """Have every agent time the task itself at two batch sizes."""
    c.tell_all(c.probe())
    yield lambda: all(m.device for m in c.members.values()) or bool(c.stopping)
    if not c.members:
        raise TrainingError("expected agents to measure, found that all have died")


def found(c: Coordinator) -> Wait:
    """Form the first group, of everybody."""
    yield from new_term(c, sorted(c.members), at_once=False)


def link_up(c: Coordinator) -> Wait:
    """Have the members of the term probe the links among them, where one is not known yet."""
    pairs = {frozenset(pair) for pair in combinations(c.term.members, 2)}
    if c.torn or pairs <= c.links.keys():
        return
    c.linked.clear()
    c.tell_term(say.ProbeLinks(term=c.term.number))
    yield lambda: c.torn or bool(c.stopping) or c.linked >= set(c.term.members)


def plan(c: Coordinator) -> Wait:
    """Decide for the first time; the run's clock begins."""
    c.began_s = c.saved_s = c.scored_s = c.reshared_s = c.now_s
    choose(c, "first plan")
    yield from keep_membership(c)


# -- deciding ----------------------------------------------------------------------------------------


def choose(c: Coordinator, cause: str) -> None:
    """Decide on what is believed now; a running strategy is kept unless another is well ahead."""
    if c.stopping or c.torn:
        return
    asked = None if c.job.strategy == "auto" else (parse(c.job.strategy),)
    assert c.layout is not None
    world, number = c.world, len(c.decisions) + 1
    decision = choices.decide(world, c.layout, number, cause, asked or closures(c))
    if c.strategy is not None and repr(c.strategy) != decision.chosen.strategy:
        decision = kept_unless_well_ahead(c, decision)
    close_decision(c)
    c.decisions.append(decision)
    adopt(c, decision.chosen)
    c.decided(decision)


def kept_unless_well_ahead(c: Coordinator, decision: Decision) -> Decision:
    """The decision, or one for the strategy under way if the gain would not pay for a change."""
    assert c.layout is not None and c.strategy is not None
    best = decision.chosen
    kept = choices.decide(decision.world, c.layout, decision.number, decision.cause, (c.strategy,))
    gain = best.goodput_per_s / kept.chosen.goodput_per_s
    if gain >= KEEP_GAIN:
        return decision
    reason = (
        f"{best.strategy} would bring {gain - 1:.1%} more, less than the {KEEP_GAIN - 1:.0%} "
        f"that a change must promise: {kept.chosen.strategy} is kept."
    )
    return replace(kept, rejected=(best, *decision.rejected), reasons=(reason, *kept.reasons))


def closures(c: Coordinator) -> Any:
    """The sentences an optimizer can follow: one that needs a closure cannot take a gradient."""
    if not any(m.ready and m.ready.needs_closure for m in c.members.values()):
        return None
    return [s for s in choices.candidates(c.world) if s.walks]


def adopt(c: Coordinator, option: Option) -> None:
    """Make an option the plan from the next block on."""
    c.plan, c.strategy = option, parse(option.strategy)
    c.left_out = {m for m in c.members if m not in option.shares}
    if len(option.shares) == c.num_agents or c.full_plan is None:
        c.full_plan = option
    c.gauge.mark("ours" if everyone(c) else "fewer", len(c.decisions))


def everyone(c: Coordinator) -> bool:
    """Whether all agents of the job are in the term."""
    return len(c.members) == c.num_agents and set(c.term.members) >= set(c.members) - c.left_out


def close_decision(c: Coordinator) -> None:
    """Tell what the decision under way came to against what it promised."""
    if not c.decisions:
        return
    decision = c.decisions[-1]
    achieved = c.gauge.decisions[decision.number]
    if achieved.round_s and achieved.per_s and achieved.num_rounds >= 3:
        predicted = decision.chosen
        c.event(
            "outcome",
            decision=decision.number,
            predicted_round_s=predicted.round_s,
            achieved_round_s=achieved.round_s,
            predicted_per_s=predicted.throughput_per_s,
            achieved_per_s=achieved.per_s,
            error=predicted.throughput_per_s / achieved.per_s - 1,
        )


# -- rounds ------------------------------------------------------------------------------------------


def go_on(c: Coordinator) -> Wait:
    """Give out the next block, and wait until it is the only one under way."""
    reshare(c)
    assert c.plan is not None
    first = issue(c, c.plan.shares)
    yield lambda: c.torn or bool(c.stopping) or c.ledger.committed >= first - 1
    if first > c.ledger.next_round - 1:  # every epoch asked for is given out
        yield lambda: c.torn or bool(c.stopping) or c.ledger.idle


def issue(c: Coordinator, shares: Mapping[str, int]) -> int:
    """Tell the members of the term their next rounds; the number of the first."""
    assert c.plan is not None and c.strategy is not None
    every = c.strategy.every
    num_rounds = max(1, round(BLOCK_S / c.plan.round_s))
    left = c.job.until.get("steps", float("inf")) - issued_steps(c)
    if left < every * num_rounds:
        num_rounds, every = (int(left // every), every) if left >= every else (1, int(left))
    first = c.ledger.next_round
    if every < 1:
        return first
    grant = c.ledger.grant(shares, every, num_rounds, c.job.until.get("epochs", float("inf")))
    if grant is not None:
        c.tell_term(
            say.Block(
                term=c.term.number,
                first_round=grant.first_round,
                data_epoch=grant.data_epoch,
                spans=grant.spans,
                shares=dict(shares),
                every=every,
                strategy=repr(c.strategy),
                epoch_loss=c.epoch_loss,
            )
        )
    return first


def issued_steps(c: Coordinator) -> int:
    """Optimizer steps committed or given out."""
    return c.ledger.num_steps + sum(r.num_steps for r in c.ledger.issued.values())


def reshare(c: Coordinator) -> None:
    """New shares, if what was measured since promises a clear gain."""
    if c.plan is None or c.now_s < c.reshared_s + RESHARE_S or c.left_out:
        return
    c.reshared_s = c.now_s
    world = c.world.only(c.term.members)
    shares = exact_shares(c.job.batch, world.devices)
    if set(shares) == set(c.term.members) and worth_resharing(world, c.plan.shares, shares):
        choose(c, "measured speeds have changed")


def drained(c: Coordinator) -> Wait:
    """Wait until every round given out is committed."""
    yield lambda: c.torn or c.ledger.idle


# -- membership --------------------------------------------------------------------------------------


def new_term(c: Coordinator, members: Iterable[str], at_once: bool) -> Wait:
    """Name a new membership, and wait until its members have built their group and agree."""
    living = [name for name in members if name in c.members]
    if not living:
        raise TrainingError("expected a member that holds the trained model, found that all died")
    c.torn, c.torn_at_s = False, None
    c.settled.clear()
    c.term = say.Term(
        number=c.term.number + 1,
        members=tuple(living),
        store=c.members[living[0]].hello.store,
        at_once=at_once,
    )
    c.event("term", number=c.term.number, members=list(living))
    c.tell_all(c.term)
    yield lambda: c.torn or c.settled.keys() >= set(c.term.members)


def regroup(c: Coordinator) -> Wait:
    """Members are gone: the healthy ones settle on a round, and what the dead held is free."""
    c.pauses.append({})
    healthy = [name for name in c.term.members if name in c.healthy]
    before = set(c.term.members)
    yield from new_term(c, healthy, at_once=True)
    if c.torn:
        return
    c.ledger.settle(next(iter(c.settled.values())), c.term.members)
    yield from link_up(c)
    lost = sorted(before - set(c.term.members))
    choose(c, f"{' and '.join(lost)} was lost" if lost else "a meeting broke off")
    yield from keep_membership(c)


def newcomers(c: Coordinator) -> list[str]:
    """Measured agents that are not in the term, and were not left out on purpose."""
    return [
        name
        for name, member in sorted(c.members.items())
        if member.device and name not in c.term.members and name not in c.left_out
    ]


def grow(c: Coordinator) -> Wait:
    """Take newcomers in at a boundary: they heal from the freshest member."""
    arriving = newcomers(c)
    yield from drained(c)
    if c.torn:
        return
    yield from new_term(c, [*c.term.members, *arriving], at_once=False)
    yield from link_up(c)
    if not c.torn:
        choose(c, f"{' and '.join(arriving)} came in")
        yield from keep_membership(c)


def keep_membership(c: Coordinator) -> Wait:
    """If the plan wants others than the term has, name a term of those."""
    while c.plan and not c.torn and not c.stopping and set(c.term.members) != set(c.plan.shares):
        wanted = sorted(c.plan.shares, key=lambda m: (m not in c.term.members, m))
        yield from new_term(c, wanted, at_once=False)


# -- comparing, scoring, saving ----------------------------------------------------------------------


def compare(c: Coordinator) -> Wait:
    """Run the arms that the run is measured against: free solo steps, and equal shares."""
    yield from drained(c)
    for arm in c.job.baselines:
        if c.torn or c.stopping:
            break
        yield from (alone(c) if arm == "solo" else equally(c))
    c.gauge.mark("ours", len(c.decisions))


def alone(c: Coordinator) -> Wait:
    """Every member steps freely on the whole batch, meeting nobody, on a scratch copy."""
    c.gauge.mark("solo", 0)
    before = {name: flow.num_rounds for name, flow in c.solo.items()}
    c.tell_term(say.Probe(sizes=(c.job.batch,), seconds=WINDOW_S / 2))
    yield lambda: c.torn or all(
        c.solo[n].num_rounds > before.get(n, 0) for n in c.term.members if n in c.members
    )
    solo_per_s = sum(c.members[n].solo_per_s for n in c.term.members if n in c.members)
    c.event("window", arm="solo", per_s=solo_per_s, seconds=WINDOW_S / 2)


def equally(c: Coordinator) -> Wait:
    """Train with equal shares for a while: real rounds, at the pace of the slowest."""
    c.gauge.mark("equal", 0)
    shares = equal_shares(c.job.batch, c.world.only(c.term.members).devices)
    until_s = c.now_s + WINDOW_S
    while c.now_s < until_s and not (c.torn or c.stopping or c.reached()):
        first = issue(c, shares)
        yield lambda first=first: c.torn or c.ledger.committed >= first - 1  # type: ignore[misc]
    yield from drained(c)
    flow = c.gauge.arms["equal"]
    c.event("window", arm="equal", per_s=flow.per_s, seconds=flow.seconds)


def evaluation_due(c: Coordinator) -> bool:
    """After an epoch or a while, unless scoring would take more than its part of the time."""
    since_s = c.now_s - c.scored_s
    if c.ledger.num_epochs <= c.scored_epoch and since_s < EVALUATE_WITHIN_S:
        return False
    cost_s = c.scores.seconds if c.scores else 0.0
    return since_s >= cost_s / EVALUATION_PART


def evaluate(c: Coordinator) -> Wait:
    """Have the fastest member score the agreed model at a boundary."""
    yield from drained(c)
    if c.torn or not c.term.members:
        return
    world = c.world.only(c.term.members)
    fastest = min(world.devices, key=lambda d: (d.per_sample_s, d.name)).name
    c.scores_wanted = c.ledger.committed
    c.tell(fastest, say.Evaluate(term=c.term.number))
    yield lambda: c.torn or (c.scores is not None and c.scores.round >= c.scores_wanted)
    c.scored_s, c.scored_epoch = c.now_s, c.ledger.num_epochs


def save_due(c: Coordinator) -> bool:
    """Once in a while, and only if anything was learned since."""
    return (
        c.saving is None
        and c.now_s - c.saved_s >= c.job.checkpoint_every_s
        and c.ledger.next_round - 1 > c.saved_round
    )


def save(c: Coordinator) -> None:
    """Ask every member for its state after the rounds given out; training goes on meanwhile."""
    c.saved_s = c.now_s
    ticket = c.ledger.next_round - 1
    c.begin_saving(ticket, issued_steps(c))
    for rank, name in enumerate(c.term.members):
        c.tell(name, say.Save(term=c.term.number, ticket=ticket, whole=rank == 0))


def finish(c: Coordinator) -> Wait:
    """Settle what is under way, score and save the last state, and let everybody go."""
    while c.plan and not c.saved_last:
        if c.torn:
            yield from regroup(c)
            continue
        yield from drained(c)
        if not c.torn and not c.stopping and (c.scores is None or c.scores.round < c.ledger.committed):
            yield from evaluate(c)
        if not c.torn:
            save(c)
            yield lambda: c.torn or c.saving is None
            c.saved_last = c.saving is None and not c.torn
    close_decision(c)
    c.close_books()
    c.tell_all(say.Stop(reason=c.stopping or c.reached()))
    deadline_s = c.now_s + 3.0
    yield lambda: not c.members or c.now_s > deadline_s
