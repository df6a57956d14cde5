"""When to decide anew: a large gain changes a plan, noise does not, what is measured is learned."""

from __future__ import annotations

import math

import pytest

from coterie.coordinator.decide import decide
from coterie.coordinator.model import predict
from coterie.coordinator.replan import (
    KEEP_GAIN,
    RECONSIDER_S,
    at_first,
    everyone,
    followed,
    steady,
    turn,
)
from coterie.coordinator.shares import exact_shares
from coterie.sync import recipes
from coterie.transport import messages as say
from coterie.types import Layout
from coterie.world import Device, Link, World

LAYOUT = Layout(("w",), ((1_000, 1_000),))
ENDLESS = {"epochs": 1e4}
THREE_OF_A_SLOW_MACHINE = ((0.01031, 8.519e-4), (0.0138, 2.2291e-3), (0.03043, 4.7207e-3))


def world(bytes_per_s, per_sample_s=(0.001, 0.001, 0.002)):
    devices = tuple(Device(f"d{i}", 0.001, c, 512) for i, c in enumerate(per_sample_s))
    pairs = (("d0", "d1"), ("d0", "d2"), ("d1", "d2"))
    return World(devices, tuple(Link(a, b, 1e-4, bytes_per_s) for a, b in pairs), 128, 100_000)


def all_together(w, strategy):
    return predict(w, LAYOUT, strategy, exact_shares(w.batch, w.devices))


def test_a_small_gain_keeps_the_strategy_under_way():
    decision = decide(world(1e9), LAYOUT, 2, "speeds have changed")
    now = recipes.all_reduce_fp16()
    kept = steady(decision, LAYOUT, now)
    gain = decision.chosen.goodput_per_s / all_together(decision.world, now).goodput_per_s - 1
    assert 0 < gain < KEEP_GAIN
    assert kept.chosen.strategy == repr(now)
    assert kept.rejected[0] == decision.chosen
    assert f"would bring {gain:.1%} more" in kept.reasons[0]


def test_a_large_gain_changes_the_strategy_under_way():
    decision = decide(world(1e6), LAYOUT, 2, "the road got slow")
    assert steady(decision, LAYOUT, recipes.all_reduce()) == decision
    gain = decision.chosen.goodput_per_s
    assert gain > (1 + KEEP_GAIN) * all_together(decision.world, recipes.all_reduce()).goodput_per_s


def test_no_member_is_left_out_for_a_small_gain():
    near = world(1e9, per_sample_s=(0.001, 0.001, 0.055))
    decision = decide(near, LAYOUT, 1, "first plan", candidates=(recipes.all_reduce(),))
    kept = steady(decision, LAYOUT, None)
    together = all_together(near, recipes.all_reduce())
    assert decision.chosen.shares.keys() == {"d0", "d1"}
    assert decision.chosen.goodput_per_s < (1 + KEEP_GAIN) * together.goodput_per_s
    assert kept.chosen.shares.keys() == {"d0", "d1", "d2"}


def test_another_sentence_for_everybody_goes_before_leaving_one_out():
    """A walk hides a device's overhead that every step of an all-reduce would wait for."""
    devices = tuple(Device(f"d{i}", o, c, 512) for i, (o, c) in enumerate(THREE_OF_A_SLOW_MACHINE))
    near, far = Link("d0", "d1", 6e-4, 5.4e7), Link("d0", "d2", 8e-4, 2.3e7)
    slow = World(devices, (near, far, Link("d1", "d2", 7e-3, 3.7e7)), 256, 1_437)
    layout = Layout(("w",), ((50_000,),))
    decision = decide(slow, layout, 1, "first plan")
    assert decision.chosen.shares.keys() == {"d0", "d1"}
    kept = steady(decision, layout, None)
    assert kept.chosen.shares.keys() == {"d0", "d1", "d2"}
    assert kept.chosen in decision.rejected
    assert kept.chosen.goodput_per_s > decision.chosen.goodput_per_s / (1 + KEEP_GAIN)


def test_a_member_is_left_out_for_a_large_gain():
    far = world(1e9)
    slow_roads = tuple(Link(a, "d2", 0.2, 1e6) for a in ("d0", "d1"))
    decision = decide(far.with_links(slow_roads), LAYOUT, 1, "", candidates=(recipes.all_reduce(),))
    assert decision.chosen.shares.keys() == {"d0", "d1"}
    assert steady(decision, LAYOUT, None) == decision


def test_the_first_choice_stands_where_it_is_that_of_all():
    decision = decide(world(1e9), LAYOUT, 1, "first plan")
    assert steady(decision, LAYOUT, None) == decision


@pytest.mark.parametrize("slow_s", [0.06, 0.022])
def test_together_a_little_more_than_alone_is_at_first_no_reason_to_meet(slow_s):
    near = world(1e9, per_sample_s=(0.001, slow_s, slow_s))
    decision = decide(near, LAYOUT, 1, "first plan", candidates=(recipes.all_reduce(),))
    first = at_first(decision, LAYOUT)
    assert first.chosen.shares.keys() == {"d0"}
    assert decision.chosen.goodput_per_s < (1 + KEEP_GAIN) * first.chosen.goodput_per_s
    assert first.chosen not in first.rejected
    assert decision.chosen in (first.chosen, first.rejected[0])


def test_one_device_alone_is_not_chosen_where_others_help_a_lot():
    decision = decide(world(1e9), LAYOUT, 1, "first plan")
    assert at_first(decision, LAYOUT) == steady(decision, LAYOUT, None)


def test_what_losses_say_of_progress_is_told_when_another_sentence_gets_under_way(play):
    p = play(until=ENDLESS, strategy="local-sgd(8)")
    p.until_training()
    run = p.run
    for begun, falls in ((run.strategy, 0.1), (recipes.all_reduce(), 0.8)):
        run.strategy = begun
        turn(run)
        for _ in range(60):
            run.progress.saw(5 - falls * math.log(run.progress.useful + 100), 100)
    run.strategy = recipes.all_reduce_int8()
    turn(run)
    told = [fields for kind, fields in run.log if kind == "kept"]
    assert [each["strategy"] for each in told] == ["chain(Every(8), Reduce(), Outer(1.0))"]
    assert told[0]["measured"] < told[0]["believed"]
    assert "keeps 0." in told[0]["text"]
    assert run.world.learned == run.progress.learned != ()


def test_steady_speeds_never_change_a_plan(play):
    p = play(until=ENDLESS, strategy="auto")
    p.pace_s = 0.01
    p.until_training()
    p.until_true(lambda: p.now_s > 10 * RECONSIDER_S)
    assert len(p.of("decision")) == len(p.memberships) == 1
    assert p.of("pace")


def test_a_changed_speed_changes_the_shares_and_says_why(play):
    p = play(until=ENDLESS)
    p.pace_s = 0.01
    p.until_training()
    before = dict(p.run.plan.shares)
    p.per_sample_s["b"] = 0.03
    p.until_true(lambda: len(p.of("decision")) > 1)
    p.until_true(lambda: p.now_s > p.run.reconsidered_s + 6 * RECONSIDER_S or p.now_s > 60)
    after = p.run.plan.shares
    assert p.of("decision")[1]["cause"] == "measured speeds have changed"
    assert after["b"] < 0.6 * before["b"]
    assert sum(after.values()) == 32
    assert len(p.memberships) == 1


def test_dear_meetings_lengthen_the_walks(play):
    p = play(until=ENDLESS, strategy="auto")
    p.num_train = 64_000
    p.until_training()
    short = p.run.strategy.every
    p.meeting_s = 0.5
    p.until_true(lambda: len(p.of("decision")) > 1 and p.now_s > 30)
    assert p.run.strategy.every > 4 * short
    assert p.run.plan.shares.keys() == {"a", "b", "c"}


def test_an_optimizer_that_needs_a_closure_only_walks(play):
    p = play(2, strategy="auto")
    for name in "ab":
        p.hello(name)
        p.say(name, p.ready(needs_closure=name == "b"))
    p.until(say.Block)
    assert p.run.strategy.walks
    assert all(s.walks for s in followed(p.run))


def test_an_optimizer_that_needs_a_closure_refuses_a_strategy_without_walks(play):
    p = play(1)
    p.hello("a")
    p.say("a", p.ready(needs_closure=True))
    with pytest.raises(AssertionError, match="expected a strategy that walks"):
        p.until(say.Block)


def test_an_optimizer_whose_rates_fall_gets_no_momentum_outside(play):
    p = play(2, strategy="auto")
    for name in "ab":
        p.hello(name)
        p.say(name, p.ready().model_copy(update={"rates_fall": True}))
    p.until(say.Block)
    assert p.run.strategy.momentum == 0
    assert any(s.walks for s in followed(p.run))
    assert not any(s.momentum for s in followed(p.run))


@pytest.mark.parametrize("strategy", ["diloco(8)", "fed-adam(8)"])
def test_an_optimizer_whose_rates_fall_refuses_a_strategy_with_momentum(play, strategy):
    p = play(1, strategy=strategy)
    p.hello("a")
    p.say("a", p.ready().model_copy(update={"rates_fall": True}))
    with pytest.raises(AssertionError, match="expected a strategy without momentum"):
        p.until(say.Block)


def test_everyone_is_at_work_unless_somebody_is_missing_or_new(play):
    p = play(until=ENDLESS, strategy="auto")
    p.per_sample_s["c"] = 1.0
    p.enter().until(say.Block)
    assert p.run.left_out == {"c"}
    assert everyone(p.run)
    p.kill("c")
    assert not everyone(p.run)
    p.hello("d")
    assert not everyone(p.run)


def test_what_a_decision_came_to_is_told_when_the_next_is_taken(play):
    p = play(until=ENDLESS).until_training()
    p.until_true(lambda: p.run.ledger.committed > 200)
    p.kill("c")
    p.until_true(lambda: len(p.of("decision")) == 2)
    (outcome,) = p.of("outcome")
    assert outcome["decision"] == 1
    assert outcome["predicted_per_s"] == p.of("decision")[0]["chosen"]["throughput_per_s"]
    assert outcome["error"] == pytest.approx(0.0, abs=0.1)


def test_a_stop_takes_no_further_decision(play):
    p = play(until=ENDLESS).until_training()
    p.stop()
    p.kill("c")
    p.to_the_end()
    assert len(p.of("decision")) == 1


def test_islands_that_a_newcomer_is_not_on_are_given_up_for_what_is_best():
    decision = decide(world(1e6), LAYOUT, 2, "d2 came")
    assert steady(decision, LAYOUT, recipes.tiers(8, (("d0",), ("d1",)))) == decision
