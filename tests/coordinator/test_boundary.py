"""Between two rounds: comparing, scoring and saving disturb nothing and are never half done."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from coterie.coordinator.boundary import EVALUATION_PART, WINDOW_S
from coterie.coordinator.run import Resume
from coterie.coordinator.survival import LEAST_S, PAUSED_PART
from coterie.leases import unlearned
from coterie.transport import messages as say

ENDLESS = {"epochs": 1e4}


def test_the_fastest_member_scores_at_a_boundary(play):
    p = play(until=ENDLESS)
    p.per_sample_s["b"] = 0.0005
    p.enter()
    name, _ = p.until(say.Evaluate)
    assert name == "b"
    assert p.run.ledger.idle
    told = len(p.orders_of(say.Block))
    p.until_true(lambda: p.of("scores"))
    assert p.of("scores")[0]["round"] == p.run.ledger.committed
    assert len(p.orders_of(say.Block)) > told


def test_scoring_takes_no_more_than_its_part_of_the_time(play):
    p = play(until=ENDLESS)
    p.scoring_s, p.pace_s = 0.5, 0.01
    p.enter()
    p.until_true(lambda: p.now_s > 60.0)
    assert 3 <= len(p.of("scores")) <= 1 + p.now_s * EVALUATION_PART / p.scoring_s


def test_a_long_epoch_is_scored_once_in_a_while(play):
    p = play(until=ENDLESS)
    p.num_train, p.pace_s = 10**6, 0.05
    p.enter()
    p.until_true(lambda: len(p.of("scores")) == 2)
    assert p.run.ledger.num_epochs == 0
    assert 120.0 <= p.now_s < 130.0


def test_scores_of_an_earlier_round_do_not_answer(play):
    p = play(until=ENDLESS).enter()
    name, order = p.until(say.Evaluate)
    p.orders.remove((name, order))
    told = len(p.told)
    p.say(name, say.Scores(round=3, metrics={"accuracy": 0.1}, seconds=0.1))
    assert len(p.told) == told
    p.say(name, say.Scores(round=p.run.ledger.committed, metrics={}, seconds=0.1))
    assert len(p.told) > told


def test_a_score_that_died_with_its_member_is_asked_of_another(play):
    p = play(until=ENDLESS).enter()
    name, _ = p.until(say.Evaluate)
    committed = p.run.ledger.committed
    p.kill(name)
    other, _ = p.until(say.Evaluate)
    assert other != name
    assert p.run.ledger.committed == committed


def test_saving_goes_on_while_training_does(play):
    p = play(until=ENDLESS, checkpoint_every_s=1.0).enter()
    p.until(say.Save, to="c")
    blocks, ticket = len(p.orders_of(say.Block)), p.run.saving.ticket
    assert [order.whole for order in p.orders_of(say.Save)] == [True, False, False]
    late = next(each for each in p.orders if each[0] == "c" and isinstance(each[1], say.Save))
    p.orders.remove(late)
    p.until_true(lambda: len(p.orders_of(say.Block)) > blocks)
    assert not p.checkpoints
    p.orders.append(late)
    p.until_true(lambda: p.checkpoints)
    assert p.checkpoints[0].meta["round"] == p.run.saved_round == ticket
    assert p.checkpoints[0].files.keys() == {"model", "state/a", "state/b", "state/c"}


def test_states_are_saved_at_their_own_pace_and_only_where_anything_was_learned(play):
    p = play(until=ENDLESS, checkpoint_every_s=2.0)
    p.pace_s = 0.01
    p.enter()
    p.until_true(lambda: p.now_s > 30.0)
    assert 10 <= len(p.checkpoints) <= 15
    rounds = [point.meta["round"] for point in p.checkpoints]
    assert rounds == sorted(set(rounds))


def saved_at_s(p, until_s):
    """When members were asked for their states, up to a time."""
    asked, times = 0, []
    while p.now_s < until_s:
        p.answer()
        if (now := len(p.orders_of(say.Save, to="a"))) > asked:
            asked = now
            times.append(p.now_s)
    return times


def test_the_interval_follows_what_a_save_costs(play):
    """Young 1974: sqrt(2 · 0.1 s · a day / 3) is 76 s; the first save tells what it costs."""
    p = play(until=ENDLESS, checkpoint_every_s="auto")
    p.pace_s, p.saving_s = 0.01, 0.1
    p.enter()
    first, *later = saved_at_s(p, 300.0)
    assert first == pytest.approx(LEAST_S, abs=2.0)
    gaps_s = [b - a for a, b in pairwise([first, *later])]
    assert gaps_s == [pytest.approx(76.0, abs=2.0)] * 3
    assert [point.pause_s for point in p.checkpoints] == [0.1] * 4


def test_saves_that_cost_much_keep_to_their_part_of_the_time(play):
    p = play(until=ENDLESS, checkpoint_every_s="auto")
    p.pace_s, p.saving_s = 0.05, 9.0
    p.enter()
    first, second = saved_at_s(p, 1000.0)
    assert second - first == pytest.approx(9.0 / PAUSED_PART, abs=5.0)


def test_losses_that_are_counted_shorten_the_interval(play):
    p = play(until=ENDLESS, checkpoint_every_s="auto")
    p.pace_s, p.saving_s = 0.01, 0.1
    p.enter()
    saved_at_s(p, 20.0)
    for _ in range(3):
        p.kill("c")
        p.wait(1.0)
        p.enter("c")
        p.until_true(lambda: "c" in p.run.term.members)
    times = saved_at_s(p, 150.0)
    assert times[-1] - times[-2] == pytest.approx(38.0, abs=3.0)  # four losses in a day


@pytest.mark.parametrize("num_killed", [1, 2])
def test_what_lies_on_one_machine_alone_is_saved_at_once(play, num_killed):
    p = play(until=ENDLESS, checkpoint_every_s="auto")
    p.saving_s = 1.0
    p.enter()
    saved_at_s(p, 10.0)
    p.kill(*"cb"[:num_killed])
    killed_s = p.now_s
    asked = len(p.orders_of(say.Save, to="a"))
    p.until_true(lambda: len(p.run.term.members) == 3 - num_killed)
    saved_at_s(p, killed_s + 5.0)
    assert len(p.orders_of(say.Save, to="a")) - asked == (num_killed == 2)


def test_a_pause_of_an_order_that_broke_off_counts_for_nothing(play):
    p = play(until=ENDLESS, checkpoint_every_s="auto").enter()
    p.say("a", say.Saved(ticket=7, pause_s=9.0))
    assert p.run.save_cost_s == 0.0


@pytest.mark.parametrize("death", ["of a member", "of none"])
def test_a_checkpoint_that_broke_off_is_taken_again(play, death):
    p = play(until=ENDLESS, checkpoint_every_s=1.0).enter()
    p.until(say.Save, to="c")
    if death == "of a member":
        p.kill("c")
    else:
        p.orders = type(p.orders)(each for each in p.orders if not isinstance(each[1], say.Save))
        p.say("a", say.TornRound(term=1))
        p.wait(1.5)
    p.until_true(lambda: len(p.checkpoints) == 2)
    members = ["a", "b"] if death == "of a member" else ["a", "b", "c"]
    assert all(point.meta["members"] == members for point in p.checkpoints)


def test_the_death_of_one_that_is_not_saved_does_not_spoil_the_last_state(play):
    p = play(strategy="auto")
    p.per_sample_s["c"] = 1.0  # left out
    p.enter().until(say.Save)
    p.enter("d")
    p.kill("d", "c")
    p.to_the_end()
    assert [point.meta["members"] for point in p.checkpoints] == [["a", "b"]]


def resumed(p, play, **words):
    """Another run that goes on from the newest checkpoint."""
    point = p.checkpoints[-1]
    meta = json.loads(json.dumps(point.meta))  # as a file holds it
    return meta, play(2, resume=Resume({}, meta), **words).enter()


def test_the_death_of_one_that_is_not_saved_leaves_a_checkpoint_under_way_alone(play):
    p = play(strategy="auto", until=ENDLESS, checkpoint_every_s=1.0)
    p.per_sample_s["c"] = 1.0  # left out
    p.enter().until(say.Save)
    ticket = p.run.saving.ticket
    p.kill("c")
    p.until_true(lambda: p.checkpoints)
    assert p.checkpoints[0].meta["round"] == ticket


def learned(p):
    """By data epoch, the positions on record."""
    found = {}
    for event in p.of("committed"):
        spans = [span for lease in event["leases"].values() for span in lease]
        positions = [q for start, stop in spans for q in range(start, stop)]
        found.setdefault(event["data_epoch"], []).extend(positions)
    return found


def test_a_run_that_was_finished_goes_on_with_the_next_epoch(play):
    p = play(until={"epochs": 2.0}).enter().to_the_end()
    meta, q = resumed(p, play, until={"epochs": 3.0})
    assert unlearned(meta, 640) == (2, {})
    q.to_the_end()
    assert {epoch: sorted(found) for epoch, found in learned(q).items()} == {2: list(range(640))}
    assert (q.run.ledger.num_epochs, q.run.ledger.num_steps) == (3, 60)


@pytest.mark.parametrize("at", range(1, 8))
def test_what_a_checkpoint_left_and_what_a_resumed_run_learns_make_whole_epochs(play, at):
    p = play(until=ENDLESS, checkpoint_every_s=0.25)
    p.pace_s = 0.005
    p.enter()
    p.until_true(lambda: len(p.orders_of(say.Save, to="a")) >= at)
    p.until_true(lambda: p.run.saving is None)
    point = p.checkpoints[-1]
    p.until_true(lambda: p.run.ledger.committed > point.meta["round"] + 1)
    before = [e for e in p.of("committed") if e["first_round"] <= point.meta["round"]]
    p.events, p.checkpoints = before, [point]
    last = point.meta["num_epochs"] + 2
    _, q = resumed(p, play, until={"epochs": float(last)})
    q.to_the_end()
    mine, theirs = learned(p), learned(q)
    for epoch in range(last):
        assert sorted([*mine.get(epoch, []), *theirs.get(epoch, [])]) == list(range(640))


def test_arms_are_compared_on_real_rounds_that_count(play):
    p = play(2, baselines=["solo", "equal"], until={"epochs": 100.0})
    p.per_sample_s["b"] = 0.003
    p.enter().to_the_end()
    windows = p.of("window")
    assert [w["arm"] for w in windows[:2]] == ["solo", "equal"]
    assert len(windows) == 8
    step_s = {"ours": 0.002 + 24 * 0.001, "equal": 0.002 + 16 * 0.003}
    assert windows[0]["per_s"] == pytest.approx(32 / 0.034 + 32 / 0.098, rel=1e-6)
    assert windows[1]["per_s"] == pytest.approx(32 / step_s["equal"], rel=0.1)
    assert p.run.gauge.arms["ours"].per_s == pytest.approx(32 / step_s["ours"], rel=0.1)
    assert p.times_learned() == {epoch: {1} for epoch in range(100)}


def test_a_window_of_equal_shares_ends(play):
    p = play(2, baselines=["equal"], until=ENDLESS).enter()
    p.until_true(lambda: p.of("window"))
    assert WINDOW_S <= p.now_s < WINDOW_S + 2.0
    assert p.run.gauge.arm == "ours"


def test_the_waits_of_equal_shares_teach_nothing_of_the_plan(play):
    p = play(2, baselines=["equal"], until=ENDLESS)
    p.per_sample_s["b"] = 0.01
    p.enter()
    p.until_true(lambda: p.of("window"))
    assert p.run.paces == {}


@pytest.mark.parametrize("before_s", [0.0, 0.4])
def test_a_window_in_which_members_step_alone_is_part_of_no_pause(play, before_s):
    p = play(baselines=["solo"], until=ENDLESS).enter()
    p.until_true(lambda: p.run.gauge.arm == "solo")
    began_s = p.now_s
    p.kill("b")
    p.wait(1.25)  # the others do not hear of it
    assert p.run.gauge.arm == "solo"
    p.until_true(lambda: p.run.pauses)
    ended_s = p.now_s
    p.wait(0.5)
    gap_s = before_s + p.now_s - began_s
    told = {"first_round": 1, "last_round": 1, "num_samples": 0, "num_steps": 0, "loss": 0.0}
    told |= {"cohort": ("a", "c"), "compute_s": 0.0, "exchange_s": 0.0, "gap_s": gap_s}
    p.say("a", say.Report(term=p.run.term.number, **told))
    assert p.run.pauses == [{"a": pytest.approx(before_s + p.now_s - ended_s)}]


def test_one_that_dies_in_such_a_window_and_is_back_at_once_is_not_waited_for(play):
    p = play(baselines=["solo"], until=ENDLESS).enter()
    p.until_true(lambda: p.run.gauge.arm == "solo")
    p.kill("b")
    p.enter("b")
    p.until(say.Block, to="b")


def test_what_a_plan_puts_on_one_machine_alone_is_saved_at_once(play):
    p = play(2, strategy="auto", checkpoint_every_s="auto", until=ENDLESS)
    p.per_sample_s["b"] = 1.0
    p.enter()
    p.until(say.Save, to="a")
    assert p.run.term.members == ("a",)
    assert p.run.elapsed_s < LEAST_S
    p.until_true(lambda: p.checkpoints)
    told = len(p.orders_of(say.Save))
    p.until_true(lambda: p.run.ledger.next_round > p.checkpoints[0].meta["round"] + 3)
    assert len(p.orders_of(say.Save)) == told  # and from there on once in a while
