"""Trying a rival of the sentence under way for a few rounds, where the model cannot tell them."""

from __future__ import annotations

from coterie.coordinator.adapt import is_jump
from coterie.coordinator.gauge import Flow
from coterie.coordinator.model import predict
from coterie.coordinator.replan import KEEP_GAIN, choose, everyone, linked, turn
from coterie.coordinator.rounds import BLOCK_S, Wait, drained, few_left, issue
from coterie.coordinator.run import Run
from coterie.coordinator.terms import keep_membership
from coterie.sync.reading import parse
from coterie.world import Option

TRIED_PART = 0.03  # of the time, at most, that trials may take
TRIED_ROUNDS = 4  # of which the first is not timed
TRIED_S = 1.5  # at least
LATE = 0.9  # of the run, beyond which nothing is won by knowing better
TRIAL = 0  # the number of no decision


def rival(run: Run) -> Option | None:
    """An option that is worth a trial, if the time spent on trials leaves room for one now."""
    barred = run.asked or run.job.deterministic or run.apart or run.stopping or run.torn
    if barred or run.plan is None or not run.decisions or run.fraction() > LATE:
        return None
    usual = run.gauge.decisions[run.decisions[-1].number].per_s
    if not usual or is_jump(usual, run.plan.throughput_per_s):
        return None  # first of all the model has to learn
    alike = (o for o in run.decisions[-1].rejected if o.shares.keys() == run.plan.shares.keys())
    options = [option for option in alike if not option.refused and _affordable(run, option)]
    if not options or not everyone(run):
        return None
    return run.bandit.worth_trying(options, run.plan, run.now_s)


def try_out(run: Run, option: Option) -> Wait:
    """Train by it for a few rounds, and note what it brings; real rounds, nothing is lost."""
    assert run.plan is not None
    assert run.strategy is not None
    plan, strategy, began_s = run.plan, run.strategy, run.now_s
    yield from drained(run)
    if not (run.torn or run.stopping):
        run.plan, run.strategy = option, parse(option.strategy)
        yield from keep_membership(run)
        run.gauge.mark("trial", TRIAL)
        turn(run)
        yield from _rounds(run, option)
        run.plan, run.strategy = plan, strategy
        turn(run)
        yield from keep_membership(run)
    flow = run.gauge.decisions.pop(TRIAL, Flow())
    run.tried_s += run.now_s - began_s
    run.paces.clear()
    decision = run.decisions[-1]
    run.gauge.mark("ours" if everyone(run) else "fewer", decision.number)
    usual = run.gauge.decisions[decision.number]
    if run.torn or not flow.per_s or not usual.per_s:
        return
    # What is wrong of both alike, as of devices and roads, is no merit of either.
    both = usual.per_s / plan.throughput_per_s / run.bandit.factor(plan.strategy, run.now_s)
    run.bandit.tried(option.strategy, flow.per_s, option.throughput_per_s * both, run.now_s)
    gain = flow.per_s * _keeps(run, option) / (usual.per_s * _keeps(run, plan)) - 1
    _tell(run, option, flow.per_s, gain)
    if gain > KEEP_GAIN and not run.stopping:
        choose(run, f"{option.strategy} did better when it was tried")
        yield from keep_membership(run)


def _keeps(run: Run, option: Option) -> float:
    """By what is known now, the trial's own losses included."""
    assert run.layout is not None
    strategy = parse(option.strategy)
    return predict(linked(run), run.layout, strategy, option.shares).efficiency


def _affordable(run: Run, option: Option) -> bool:
    assert run.plan is not None
    # Blocks under way, and those given out ahead, have to end before and after.
    around_s = 2 * max(BLOCK_S, run.plan.round_s) + 2 * max(BLOCK_S, option.round_s)
    cost_s = max(TRIED_S, TRIED_ROUNDS * option.round_s) + around_s + _agreeing_s(run, option)
    return run.tried_s + cost_s <= TRIED_PART * run.elapsed_s


def _agreeing_s(run: Run, option: Option) -> float:
    """To agree on all that a member is, on the way to gradients: weights, and two moments of each.

    One tells the others, one after the other, by the slowest of their links.
    """
    assert run.strategy is not None
    assert run.layout is not None
    if parse(option.strategy).walks == run.strategy.walks:
        return 0.0
    links = run.world.only(tuple(option.shares)).links
    slowest = min((link.bytes_per_s for link in links), default=float("inf"))
    return (len(option.shares) - 1) * 12 * run.layout.size / slowest


def _rounds(run: Run, option: Option) -> Wait:
    until_s = run.now_s + max(TRIED_S, TRIED_ROUNDS * option.round_s)
    while run.now_s < until_s and not (run.torn or run.stopping or run.reached()):
        first = issue(run, option.shares)
        if first > run.ledger.next_round - 1:  # every epoch asked for is given out
            break
        yield lambda first=first: run.torn or few_left(run, first)  # type: ignore[misc]
    yield from drained(run)


def _tell(run: Run, option: Option, achieved_per_s: float, gain: float) -> None:
    more = "more" if gain > 0 else "less"
    run.event(
        "trial",
        decision=run.decisions[-1].number,
        strategy=option.strategy,
        predicted_per_s=option.throughput_per_s,
        achieved_per_s=achieved_per_s,
        gain=gain,
        seconds=run.tried_s,
        text=(
            f"{option.strategy} was tried: {achieved_per_s:,.0f} samples/s where "
            f"{option.throughput_per_s:,.0f} were predicted, {abs(gain):.0%} {more} goodput than "
            "the sentence under way"
        ),
    )
