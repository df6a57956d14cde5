"""A run from its first word to its last: its order, its end, and a death at every point of it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coterie.coordinator import life
from coterie.coordinator.rounds import last_epoch
from coterie.transport import messages as say

PHASES = [
    *(say.Probe, say.Term, say.ProbeLinks, say.Block, say.Land, say.Evaluate, say.Save, say.Stop)
]


def learned_once(p, num_epochs=3):
    return p.times_learned() == {epoch: {1} for epoch in range(num_epochs)}


def test_a_run_gathers_measures_links_decides_learns_scores_saves_and_leaves(play):
    p = play().enter().to_the_end()
    kinds = [type(message) for name, message in p.told if name == "a"]
    firsts = list(dict.fromkeys(kinds))
    assert firsts == [say.Welcome, *PHASES]
    assert (p.run.failure, p.run.stopping) == ("", "")
    assert p.orders_of(say.Stop)[0].reason == "epochs reached"
    assert len(p.checkpoints) == 1
    assert learned_once(p)


def test_too_few_agents_within_the_time_to_join_end_the_run_with_a_sentence(play):
    p = play(agents={"local": 3, "join_timeout_s": 20.0})
    p.enter("a", "c")
    p.wait(19.9)
    assert not p.run.done
    p.wait(0.5)
    assert p.run.failure == (
        "expected 3 agents within 20 s, found 2 (a, c); start the others, or raise "
        "agents.join_timeout_s"
    )
    assert {name for name, m in p.told if isinstance(m, say.Stop)} == {"a", "c"}


def test_an_agent_that_has_not_built_the_task_is_waited_for(play):
    p = play(2)
    p.enter("a")
    p.hello("b")
    p.wait(30.0)
    assert not p.orders_of(say.Probe)
    p.say("b", p.ready())
    assert learned_once(p.to_the_end())


def test_one_that_dies_while_the_others_gather_may_come_again(play):
    p = play(2)
    p.enter("a", "b")
    assert p.orders_of(say.Probe)
    p = play(3)
    p.enter("a", "b")
    p.kill("b")
    p.enter("c")
    assert not p.orders_of(say.Probe)
    p.enter("b")
    assert learned_once(p.to_the_end())


@pytest.mark.parametrize("victim", ["a", "b", "c"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_a_death_at_any_point_costs_no_sample_and_no_step(play, phase, victim):
    p = play(strategy="auto").enter()
    p.until(phase)
    p.kill(victim)
    p.to_the_end()
    assert p.run.failure == ""
    assert learned_once(p)
    assert p.checkpoints[-1].meta["members"] == sorted({"a", "b", "c"} - {victim}) or (
        phase is say.Stop
    )


@pytest.mark.parametrize("victim", ["a", "b", "c"])
@pytest.mark.parametrize("phase", PHASES[:-1], ids=lambda phase: phase.__name__)
@pytest.mark.parametrize("answers", [0, 1, 3, 5, 8])
def test_so_does_a_second_death_while_the_first_is_mended(play, phase, victim, answers):
    p = play(4).enter()
    p.until(phase)
    p.kill("d")
    for _ in range(answers):
        p.answer()
    if p.run.leaving:
        return
    p.kill(victim)
    p.to_the_end()
    assert p.run.failure == ""
    assert learned_once(p)
    assert len(p.checkpoints[-1].meta["members"]) == 2


@pytest.mark.parametrize("answers", range(0, 40, 3))
def test_a_member_that_dies_and_returns_at_any_moment_costs_no_sample(play, answers):
    p = play(strategy="auto", checkpoint_every_s=0.3).until_training()
    for _ in range(answers):
        p.answer()
    p.kill("b")
    for _ in range(answers % 7):
        p.answer()
    if not p.run.leaving:
        p.enter("b")
    p.to_the_end()
    assert p.run.failure == ""
    assert learned_once(p)


def test_a_member_that_dies_having_told_of_a_round_alone_costs_nothing(play):
    p = play().until_training()
    name, block = p.until(say.Block)
    p.answer()  # the first alone tells of these rounds
    assert p.run.ledger.committed == block.tells
    p.kill(name)
    p.until_true(lambda: p.run.ledger.committed == block.tells - 1)
    assert learned_once(p.to_the_end())


def test_the_last_one_alive_finishes_alone(play):
    p = play().until_training()
    p.kill("a")
    p.until(say.Block)
    p.kill("c")
    p.to_the_end()
    assert learned_once(p)
    assert p.memberships == [("a", "b", "c"), ("b", "c"), ("b",)]


def test_when_all_have_died_the_run_ends_with_a_sentence(play):
    p = play().until_training()
    p.kill("a", "b", "c")
    assert p.run.done
    assert p.run.failure == ("expected a member that holds the trained model, found that all died")


def test_when_all_have_died_while_measuring_the_run_ends_with_a_sentence(play):
    p = play(2).enter()
    p.until(say.Probe)
    p.kill("a", "b")
    assert p.run.failure == "expected agents to measure, found that all have died"


@pytest.mark.parametrize("steps", [1, 7, 20, 33, 10.5])
@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(8)"])
def test_a_number_of_steps_is_exact(play, steps, strategy):
    p = play(until={"steps": float(steps)}, strategy=strategy).enter().to_the_end()
    assert p.run.ledger.num_steps == -(-steps // 1)


def test_a_number_of_steps_is_exact_though_members_die(play):
    p = play(until={"steps": 33.0}).until_training()
    p.kill("b")
    p.until(say.Block)
    p.answer()
    p.kill("a")
    p.to_the_end()
    assert (p.run.failure, p.run.ledger.num_steps) == ("", 33)


@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(8)"])
def test_a_number_of_epochs_is_exact(play, strategy):
    p = play(until={"epochs": 2.0}, strategy=strategy).enter().to_the_end()
    assert p.run.ledger.num_epochs == 2
    assert learned_once(p, num_epochs=2)
    assert [event["data_epoch"] for event in p.of("epoch")] == [0, 1]


def test_a_part_of_an_epoch_ends_the_run_once_it_is_learned(play):
    p = play(until={"epochs": 1.5}, batch=4).enter().to_the_end()
    assert p.run.failure == ""
    assert p.run.ledger.epochs_done >= 1.5


def test_minutes_end_a_run(play):
    p = play(until={"minutes": 0.1}).enter().to_the_end()
    assert p.orders_of(say.Stop)[0].reason == "minutes reached"
    assert 6.0 <= p.run.elapsed_s < 9.0


def test_a_metric_ends_a_run(play):
    p = play(until={"accuracy": 0.9, "epochs": 100.0}).until_training()
    p.until_true(lambda: len(p.of("scores")) == 2)
    p.accuracy = 0.93
    p.to_the_end()
    assert p.orders_of(say.Stop)[0].reason == "accuracy 0.93 reached 0.9"
    assert p.run.ledger.num_epochs < 10


def test_the_last_state_is_scored_and_saved(play):
    p = play().enter().to_the_end()
    assert p.of("scores")[-1]["round"] == p.run.ledger.committed
    assert p.checkpoints[-1].meta["round"] == p.run.ledger.committed


def test_blocks_are_told_ahead_so_that_nobody_waits(play):
    p = play(until={"epochs": 20.0}).until_training()
    p.until_true(lambda: len(p.orders_of(say.Block, to="c")) >= 8)
    blocks = p.orders_of(say.Block, to="a")
    assert all(b.first_round == a.first_round + len(a.rounds()) for a, b in pairwise(blocks))
    assert p.run.ledger.committed < blocks[-1].first_round


def test_a_stop_before_anybody_came_ends_in_peace(play):
    p = play()
    p.stop("interrupted")
    assert p.run.done
    assert p.run.failure == ""


@pytest.mark.parametrize("phase", [None, *PHASES[:-2]], ids=str)
def test_a_stop_lets_everybody_go_and_saves_what_was_learned(play, phase):
    p = play(until={"epochs": 50.0})
    if phase is None:
        p.enter("a")
    else:
        p.enter().until(phase)
    p.stop("interrupted")
    p.to_the_end()
    assert p.run.failure == ""
    assert {m.reason for m in p.orders_of(say.Stop)} == {"interrupted"}
    assert not p.run.members
    planned = p.run.plan is not None
    assert len(p.checkpoints) == planned
    if planned:
        assert p.checkpoints[-1].meta["round"] == p.run.ledger.committed
        assert p.run.ledger.epochs_done < 50


def test_a_death_on_the_way_out_of_a_stopped_run_loses_no_state(play):
    p = play(until={"epochs": 50.0}).until_training()
    p.stop()
    p.until(say.Save)
    p.kill("b")
    p.to_the_end()
    assert p.run.failure == ""
    assert p.checkpoints[-1].meta["members"] == ["a", "c"]


def test_who_does_not_say_goodbye_is_not_waited_for_long(play):
    p = play().enter()
    p.until(say.Stop)
    p.mute.add("b")
    left_s = p.now_s
    p.to_the_end()
    assert p.run.members.keys() == {"b"}
    assert p.now_s - left_s < 5.0


@pytest.mark.parametrize("arm", ["solo", "equal"])
def test_a_death_in_a_comparison_costs_no_sample(play, arm):
    p = play(baselines=["solo", "equal"], until={"epochs": 20.0}).enter()
    p.until_true(lambda: p.run.gauge.arm == arm)
    p.kill("b")
    p.to_the_end()
    assert p.run.failure == ""
    assert learned_once(p, num_epochs=20)


OWN = {
    "script": {"path": "train.py", "digest": "0"},
    "task": None,
    "optimizer": None,
    "until": {},
    "batch": 1,
}


def test_a_script_is_given_as_many_passes_as_it_begins_and_ends_the_run(play):
    p = play(**OWN)
    p.num_passes = 2
    p.enter().to_the_end()
    assert (p.run.failure, p.run.stopping, p.run.job.batch) == ("", "", 32)
    assert learned_once(p, num_epochs=2)
    assert [order.data_epoch for order in p.orders_of(say.Turn, to="a")] == [0, 1, 2]
    assert "script of" in p.orders_of(say.Stop)[0].reason
    assert not p.orders_of(say.Evaluate)
    assert len(p.checkpoints) == 1


@pytest.mark.parametrize("num", [1, 4, 5, 7])
@pytest.mark.parametrize("phase", [say.Turn, say.Block])
def test_a_death_between_passes_or_within_costs_no_sample(play, phase, num):
    p = play(**OWN)
    p.num_passes = 3
    p.enter()
    p.until_true(lambda: len(p.orders_of(phase)) >= num)
    p.kill("b")
    p.to_the_end()
    assert p.run.failure == ""
    assert learned_once(p)


def test_a_newcomer_between_two_passes_is_taken_in_and_asked_too(play):
    p = play(**OWN)
    p.num_passes = 2
    p.enter().until_true(lambda: len(p.orders_of(say.Turn)) >= 4)
    p.kill("b")
    p.enter("b").to_the_end()
    assert learned_once(p, num_epochs=2)
    assert "b" in p.memberships[-1]


def test_a_script_that_ends_within_a_pass_voids_what_was_given_out(play):
    p = play(**OWN)
    p.num_passes = 9
    p.enter().until(say.Block, num=3)
    p.say("b", say.Ended())
    p.to_the_end()
    assert (p.run.failure, p.run.stopping) == ("", "")
    assert 0 < p.run.ledger.epochs_done < 1
    assert p.run.ledger.idle
    assert p.checkpoints[-1].meta["round"] == p.run.ledger.committed


@pytest.mark.parametrize("dies", ["", "a"])
def test_a_script_that_still_evaluates_as_another_ends_has_the_last_word(play, dies):
    p = play(**OWN)
    p.num_passes = 1
    p.enter().until_true(lambda: len(p.orders_of(say.Turn, to="c")) == 1)
    p.until_true(lambda: p.run.ledger.committed > 3)
    p.evaluating.add("c")
    p.until_true(lambda: p.run.over)
    if dies:
        p.kill(dies)
    since_s = p.now_s
    p.until_true(lambda: p.now_s > since_s + 5.0)
    assert not p.orders_of(say.Save)
    p.say("c", say.Said(text="well done"))
    p.say("c", say.Ended())
    p.to_the_end()
    assert p.run.failure == ""
    assert "well done" in [event["text"] for event in p.events if event["kind"] == "said"]
    assert learned_once(p, num_epochs=1)


def test_who_learned_a_pass_ends_it_and_nobody_is_exchanged_before(play, monkeypatch):
    left = []

    def reconsidering(run):
        left.append(run.ledger.next_epoch < last_epoch(run))
        return False

    monkeypatch.setattr(life, "reconsider", reconsidering)
    p = play(**OWN)
    p.num_passes = 2
    p.enter().to_the_end()
    assert learned_once(p, num_epochs=2)
    assert left
    assert all(left)


def test_scripts_with_other_loaders_are_refused(play):
    p = play(2, **OWN)
    p.enter("a")
    p.hello("b")
    p.say("b", p.ready().model_copy(update={"batch": 64}))
    assert "the same model and data on every agent, found others on b" in p.run.failure
    p = play(2, **OWN)
    p.hello("a")
    p.say("a", p.ready().model_copy(update={"batch": 1}))
    assert "at least one sample for each of 2 agents, found 1" in p.run.failure
