"""When to decide anew, and what a decision changes; the choice itself is `decide`'s arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from coterie.coordinator import decide as choices
from coterie.coordinator.account import as_event
from coterie.coordinator.candidates import candidates as worth_pricing
from coterie.coordinator.compensate import compensate, shunned
from coterie.coordinator.fixed import fixed_decision
from coterie.coordinator.listing import named
from coterie.coordinator.model import equal_option, predict, shares_for
from coterie.coordinator.noise import Advice, advise
from coterie.coordinator.owners import decided, hand_over, placed
from coterie.coordinator.perceive import fold, has_jumped, scatter
from coterie.coordinator.prices import cohort_of, sentence_of
from coterie.coordinator.progress import Stretch, believed
from coterie.coordinator.quorum import tell_quorum, within_reach
from coterie.coordinator.run import Run
from coterie.errors import JobError, StrategyError
from coterie.sync.chain import Strategy
from coterie.sync.reading import parse
from coterie.types import Layout
from coterie.world import Decision, Option, World

RECONSIDER_S = 2.0  # between two looks at what was measured
KEEP_GAIN = 0.05  # a change must promise this much more
TELL_LOG_RATIO = 0.3  # by which the noise scale has changed, before it is told again
SHARE_GAIN = 0.02  # and this much, where members and strategy stay: new shares cost nothing


def choose(run: Run, cause: str) -> None:
    """Decide on what is believed now, and make it the plan from the next block on."""
    if run.stopping or run.torn:
        return
    world = linked(run)
    asked = (within_reach(run.asked, len(world.devices)),) if run.asked else None
    if asked:
        _refuse_unfollowed(run, asked[0])
    assert run.layout is not None
    number = run.decisions[-1].number + 1 if run.decisions else 1
    if run.job.deterministic and run.asked:
        speeds = run.job.agents.speeds
        decision = fixed_decision(world, run.layout, (number, cause), run.asked, speeds)
    else:
        best = choices.decide(world, run.layout, number, cause, asked or followed(run))
        free = run.strategy is None and not run.asked
        under_way = asked[0] if asked and run.strategy else run.strategy
        kept = at_first(best, run.layout) if free else steady(best, run.layout, under_way)
        decision = settled(run, kept)
    decision = decided(run, decision)
    if advice := advice_of(run):
        decision = replace(decision, reasons=(*decision.reasons, str(advice)))
    close_decision(run)
    run.decisions.append(decision)
    adopt(run, decision)
    tell_quorum(run)
    run.event("decision", **as_event(decision))
    hand_over(run, decision)


def linked(run: Run) -> World:
    """What is believed of members and of those left out: newcomers have no known links yet.

    Whoever is left out for what it brought is not asked.
    """
    present = {*run.term.members, *run.left_out} - shunned(run)
    return run.world.only(tuple(sorted(present)))


def advice_of(run: Run) -> Advice | None:
    """What gradients say of the batch, where members meet at every step; else they do not tell."""
    if run.layout is None or run.strategy is None:
        return None
    return advise(run.noise, linked(run), run.layout, run.strategy)


def tell_noise(run: Run) -> None:
    """Put on record what gradients say of the batch, whenever that has changed a good deal."""
    scale = run.noise.scale
    told = run.told_scale
    if scale is None or (told is not None and abs(math.log(scale / told)) < TELL_LOG_RATIO):
        return
    if (advice := advice_of(run)) and run.decisions:
        run.told_scale = scale
        told_of = {"signal": run.noise.signal, "variance": run.noise.variance}
        number = run.decisions[-1].number
        run.event("noise", decision=number, text=str(advice), **asdict(advice), **told_of)


def steady(decision: Decision, layout: Layout, under_way: Strategy | None) -> Decision:
    """The decision, unless staying as we are, all together, is about as good.

    What is measured is noisy: neither the strategy under way nor a member is given up for less.
    """
    best = decision.chosen
    try:
        same = _all_together(decision, layout, under_way)
    except JobError:  # who came since is on none of the islands that are under way
        return decision
    gain = best.goodput_per_s / same.goodput_per_s - 1 if same.goodput_per_s else math.inf
    if gain >= KEEP_GAIN or same == best or len(same.shares) < parse(same.strategy).least:
        return decision
    return _rather(decision, same)


def at_first(decision: Decision, layout: Layout) -> Decision:
    """One device alone, if together little more is promised; else everybody, if about as good.

    No meeting and no prior can disappoint who is alone.
    """
    options = (decision.chosen, *decision.rejected)
    alone = [option for option in options if len(option.shares) == 1 and not option.refused]
    found = max(alone, key=lambda option: option.goodput_per_s, default=None)
    if found and decision.chosen.goodput_per_s < (1 + KEEP_GAIN) * found.goodput_per_s:
        return _rather(decision, found)
    return steady(decision, layout, None)


def _rather(decision: Decision, other: Option) -> Decision:
    """The decision for another option, for the best is hardly better."""
    best = decision.chosen
    if other == best:
        return decision
    gain = best.goodput_per_s / other.goodput_per_s - 1
    reason = (
        f"{best.strategy} on {named(best.shares)} would bring {gain:.1%} more, less than the "
        f"{KEEP_GAIN:.0%} that a change must promise: {other.strategy} on "
        f"{named(other.shares)} it is."
    )
    pace = (
        f"It takes {1e3 * other.round_s:.1f} ms a round: {other.throughput_per_s:,.0f} samples/s."
    )
    rest = tuple(option for option in decision.rejected if option != other)
    return replace(decision, chosen=other, rejected=(best, *rest), reasons=(reason, pace))


def settled(run: Run, decision: Decision) -> Decision:
    """The decision, unless a rival on the same members did clearly better when it was tried."""

    def goodput_per_s(option: Option) -> float:
        return option.goodput_per_s * run.bandit.factor(option.strategy, run.now_s)

    chosen = decision.chosen
    alike = [o for o in decision.rejected if o.shares.keys() == chosen.shares.keys()]
    best = max((o for o in alike if not o.refused), key=goodput_per_s, default=chosen)
    gain = goodput_per_s(best) / goodput_per_s(chosen) - 1
    if gain < KEEP_GAIN:
        return decision
    others = (o for o in decision.rejected if o != best)
    reason = (
        f"{best.strategy} is expected to bring {gain:.0%} more than {chosen.strategy}, by what "
        "was seen when they were tried."
    )
    reasons = (reason, *decision.reasons[1:])
    return replace(decision, chosen=best, rejected=(chosen, *others), reasons=reasons)


def _all_together(decision: Decision, layout: Layout, under_way: Strategy | None) -> Option:
    """Everybody by the strategy under way; at first by whichever suits all best."""
    best, world = decision.chosen, decision.world
    if under_way is None:
        able = [option for option in (best, *decision.rejected) if not option.refused]
        whole = [option for option in able if len(option.shares) == len(world.devices)]
        if whole:
            return max(whole, key=lambda option: option.goodput_per_s)
    strategy = under_way or parse(best.strategy)
    return predict(world, layout, strategy, shares_for(strategy, world))


def followed(run: Run) -> Sequence[Strategy] | None:
    """The sentences that the optimizer can follow, where it cannot follow all.

    One that needs a closure cannot take a gradient; one whose rates fall, no momentum outside.
    """
    only_walks, only_light = _needs(run)
    if not (only_walks or only_light):
        return None
    worth = worth_pricing(run.world)
    return [s for s in worth if s.walks >= only_walks and not (only_light and s.momentum)]


def _needs(run: Run) -> tuple[bool, bool]:
    told = [member.ready for member in run.members.values() if member.ready]
    return any(r.needs_closure for r in told), any(r.rates_fall for r in told)


def _refuse_unfollowed(run: Run, asked: Strategy) -> None:
    only_walks, only_light = _needs(run)
    if only_walks and not asked.walks:
        raise StrategyError(
            f"expected a strategy that walks, such as local-sgd(8), found {run.job.strategy}: this "
            "optimizer evaluates the loss itself, and cannot step on a gradient agreed on"
        )
    if only_light and asked.momentum:
        raise StrategyError(
            "expected a strategy without momentum after its meetings, such as local-sgd(8), found "
            f"{run.job.strategy}: rates of this optimizer fall, and what overshoots early does not "
            "come back; choose another strategy, or an optimizer such as torch.optim:SGD"
        )


def adopt(run: Run, decision: Decision) -> None:
    """Make a decision the plan from the next block on."""
    option = decision.chosen
    run.plan, run.strategy = option, parse(option.strategy)
    assert run.layout is not None
    equal = equal_option(decision.world.only(tuple(option.shares)), run.layout, run.strategy)
    run.equal_per_s = equal.throughput_per_s
    considered = {d.name for d in decision.world.devices} | (shunned(run) & run.members.keys())
    run.left_out = considered - option.shares.keys()
    if len(option.shares) == run.num_agents or run.with_all is None:
        run.with_all = decision
    run.paces.clear()
    run.gauge.mark("ours" if everyone(run) else "fewer", decision.number)
    turn(run)


def turn(run: Run) -> None:
    """Read progress anew from here on, and tell what losses so far said of it."""
    assert run.plan is not None
    assert run.layout is not None
    assert run.strategy is not None
    sentence = sentence_of(run.strategy, run.layout)
    prior = believed(sentence, cohort_of(run.world, run.plan.shares, sentence.paced))
    for stretch, learned in run.progress.turn(Stretch(sentence.written, sentence.kind, prior)):
        kept = min(1.0, stretch.prior * learned.factor)
        run.event(
            "kept",
            decision=run.decisions[-1].number,
            strategy=stretch.written,
            believed=stretch.prior,
            measured=kept,
            doubt=learned.doubt,
            num_reports=learned.num_reports,
            text=(
                f"{stretch.written} keeps {kept:.2f} of the progress, give or take "
                f"{learned.doubt:.0%}, by {learned.num_reports} reports of losses; "
                f"{stretch.prior:.2f} was believed"
            ),
        )


def everyone(run: Run) -> bool:
    """Whether every agent of the job is at work, but for those left out on purpose."""
    planned = run.left_out | (run.plan.shares.keys() if run.plan else set())
    return len(run.members) == run.num_agents and run.members.keys() == planned


def close_decision(run: Run) -> None:
    """Tell what the decision under way came to against what it promised."""
    if not run.decisions:
        return
    decision = run.decisions[-1]
    achieved = run.gauge.decisions[decision.number]
    if achieved.round_s and achieved.per_s and achieved.num_rounds >= 3:
        predicted = decision.chosen
        run.event(
            "outcome",
            decision=decision.number,
            predicted_round_s=predicted.round_s,
            achieved_round_s=achieved.round_s,
            predicted_per_s=predicted.throughput_per_s,
            achieved_per_s=achieved.per_s,
            error=predicted.throughput_per_s / achieved.per_s - 1,
        )


def reconsider(run: Run) -> bool:
    """Fold in what was measured, and decide anew if that promises a clear gain; whether it did."""
    if run.plan is None:
        return False
    if run.now_s < run.reconsidered_s + RECONSIDER_S and not has_jumped(run):
        return False
    if cause := compensate(run):
        choose(run, cause)
        return True
    run.reconsidered_s = run.now_s
    fold(run)
    tell_noise(run)
    if run.job.deterministic:
        return False
    world, layout, strategy = linked(run), run.layout, run.strategy
    assert layout is not None
    assert strategy is not None
    asked = (strategy,) if run.asked else None
    best = settled(run, choices.decide(world, layout, 0, "", asked or followed(run))).chosen
    best, _ = placed(run, world, layout, best)
    now = predict(world.only(run.term.members), layout, strategy, run.plan.shares)
    same = best.strategy == now.strategy and best.shares.keys() == run.plan.shares.keys()
    wanted = max(SHARE_GAIN if same else KEEP_GAIN, scatter(run))  # less than noise is no gain
    known = [run.bandit.factor(option.strategy, run.now_s) for option in (best, now)]
    if best.goodput_per_s * known[0] < (1 + wanted) * now.goodput_per_s * known[1]:
        return False
    choose(run, "measured speeds have changed")
    return True
