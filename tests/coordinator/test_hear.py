"""What each message changes in what is known, and what it may not change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coterie.code import digests
from coterie.coordinator.hear import MEMORY_PART
from coterie.coordinator.model import fit_device
from coterie.coordinator.run import Resume
from coterie.transport import messages as say
from coterie.transport.parcels import Assembly

ENDLESS = {"epochs": 1e4}


def probed(*timings, fixed_bytes=0, bytes_per_sample=1.0):
    return say.Probed(timings=timings, fixed_bytes=fixed_bytes, bytes_per_sample=bytes_per_sample)


def report(first, last, cohort, term=1, **fields):
    known = {"num_samples": 32, "num_steps": 1, "loss": 1.0, "compute_s": 0.1, "exchange_s": 0.01}
    return say.Report(
        term=term, first_round=first, last_round=last, cohort=cohort, **{**known, **fields}
    )


@pytest.mark.parametrize(("release", "is_told"), [("2.13.1+cu130", False), ("2.12.1", True)])
def test_an_agent_of_another_series_of_torch_is_welcome_and_told_of(play, release, is_told):
    p = play(3)
    p.say("a", p._hello("a").model_copy(update={"torch": "2.13.0+cpu"}))
    p.say("b", p._hello("b").model_copy(update={"torch": release}))
    assert p.run.members.keys() == {"a", "b"}
    told = [event["text"] for event in p.of("warning")]
    words = f"as a has (2.13.0+cpu), found {release} on b, which takes part all the same"
    assert [words in text for text in told] == [True] * is_told


def test_a_second_agent_of_a_name_is_told_to_stop_and_the_first_stays(play):
    p = play(2)
    p.enter("a")
    first = p.run.members["a"]
    p.hello("a")
    name, told = p.told[-1]
    assert (name, told.at_once) == ("a", True)
    assert told.reason == "an agent a is here already"
    assert p.run.members["a"] is first
    assert len(p.of("agent", state="joined")) == 1


def test_everybody_is_welcomed_with_the_whole_job(play):
    p = play(2)
    p.hello("a")
    (welcome,) = p.orders_of(say.Welcome, to="a")
    assert type(p.run.job).model_validate(welcome.job) == p.run.job
    assert welcome.num_files == 0


@pytest.mark.parametrize("ship", [False, True])
def test_code_is_told_apart_by_digests_and_given_only_where_it_is_shipped(play, ship):
    p = play(2, agents={"local": 2, "ship": ship})
    p.run.source = {"nets.py": "X = 1\n"}
    p.hello("a")
    (welcome,) = p.orders_of(say.Welcome, to="a")
    assert welcome.code == digests(p.run.source)
    assert welcome.source == (p.run.source if ship else {})


def test_one_that_leaves_says_why(play):
    p = play(2)
    p.enter("a")
    p.say("a", say.Bye(reason="found other code"))
    assert p.of("agent", member="a", state="lost")[0]["reason"] == "found other code"


def test_one_that_shuffles_otherwise_is_named_before_it_learns_anothers_samples(play):
    p = play(2)
    p.enter("a")
    p.hello("b")
    p.say("b", p.ready().model_copy(update={"shuffled": 1}))
    assert p.run.failure == (
        "expected samples shuffled alike on every agent, found another order on b; "
        "install the same numpy there, and have the dataset come in one order everywhere"
    )


META = {"round": 7, "num_steps": 7, "num_epochs": 0, "num_train": 640, "free": {"0": [[224, 640]]}}


def test_on_resuming_an_agent_is_given_the_files_it_was_promised(play):
    files = {"model": bytes(3 << 20), "state/a": b"x"}
    p = play(2, resume=Resume(files, META), until={"epochs": 1.0})
    p.hello("a")
    assert p.orders_of(say.Welcome, to="a")[0].num_files == 2
    assembly = Assembly()
    for piece in p.orders_of(say.State, to="a"):
        assembly.add(piece)
    assert assembly.files == files


def test_a_resumed_run_goes_on_with_the_samples_that_are_left(play):
    p = play(2, resume=Resume({}, META), until={"epochs": 1.0}).enter().to_the_end()
    assert p.orders_of(say.Block)[0].first_round == 8
    assert p.orders_of(say.Block)[0].spans[0][0] == 224
    assert (p.run.ledger.num_steps, p.run.ledger.num_epochs) == (20, 1)
    assert [e["data_epoch"] for e in p.of("epoch")] == [0]
    assert len({e["first_round"] for e in p.of("committed")}) == 13


def test_once_there_is_a_plan_nobody_is_given_the_old_checkpoint(play):
    p = play(2, resume=Resume({"model": b"x"}, META), until=ENDLESS).enter()
    p.until(say.Block)
    p.hello("c")
    assert p.orders_of(say.Welcome, to="c")[0].num_files == 0


@pytest.mark.parametrize(
    "other", [{"shape": (11,)}, {"num_train": 641}], ids=["another model", "another dataset"]
)
def test_another_task_on_one_of_the_agents_ends_a_run_that_has_not_begun(play, other):
    p = play(2)
    p.enter("a")
    p.hello("b")
    p.num_train = other.get("num_train", 640)
    p.say("b", p.ready(shape=other.get("shape", (10,))))
    differs = ": w is (11,), elsewhere (10,)" if "shape" in other else ""
    assert p.run.failure == (
        f"expected the same model and data on every agent, found others on b{differs}; give each "
        "machine the same code and dataset"
    )


def test_another_task_on_a_late_agent_sends_that_one_away(play):
    p = play(2).until_training()
    p.hello("c")
    p.say("c", p.ready(shape=(11,)))
    assert "c" not in p.run.members
    assert p.orders_of(say.Stop, to="c")[0].at_once
    p.to_the_end()
    assert p.run.failure == ""


def test_a_refusal_before_the_plan_ends_the_run(play):
    p = play(2)
    p.enter("a")
    p.hello("b")
    p.say("b", say.Refused(reason="expected sklearn, found none; install coterie[demo]"))
    assert p.run.failure == "b: expected sklearn, found none; install coterie[demo]"
    assert p.orders_of(say.Stop, to="a")[0].at_once


def test_a_refusal_after_the_plan_costs_that_agent_only(play):
    p = play(2).until_training()
    p.hello("c")
    p.say("c", say.Refused(reason="no"))
    assert p.run.members.keys() == {"a", "b"}
    assert p.of("agent", state="refused")[0]["member"] == "c"
    p.to_the_end()
    assert p.run.failure == ""


def test_a_late_agent_is_measured_as_soon_as_it_is_ready(play):
    p = play(2).until_training()
    p.hello("c")
    assert not p.orders_of(say.Probe, to="c")
    p.say("c", p.ready())
    assert len(p.orders_of(say.Probe, to="c")) == 1


def test_later_measurements_add_to_the_solo_speed_and_leave_the_belief(play):
    p = play(1).enter()
    p.say("a", probed((4, 0.1), (32, 0.8)))
    believed = p.run.members["a"].device
    p.say("a", probed((32, 0.4)))
    assert p.run.members["a"].device == believed
    assert believed.step_s(32) == pytest.approx(0.8)
    assert p.run.members["a"].solo_per_s == pytest.approx(64 / 1.2)


def test_one_that_returns_on_the_same_machine_is_known_and_not_measured_anew(play):
    p = play(2, until=ENDLESS).until_training()
    known = p.run.members["b"].device
    p.kill("b")
    p.hello("b")
    p.say("b", p.ready())
    assert p.run.members["b"].device == known
    assert p.run.members["b"].solo_per_s > 0.0
    assert not p.orders_of(say.Probe, to="b")[1:]
    p.say("b", probed((4, 0.009), (32, 0.051)))  # half as fast today: its reports will say so
    assert p.run.members["b"].device == known


def test_one_that_returns_on_another_machine_is_measured_anew(play):
    p = play(2, until=ENDLESS).until_training()
    p.kill("b")
    p.hello("b", "9.9.9.9:1")
    p.say("b", p.ready())
    assert len(p.orders_of(say.Probe, to="b")) == 2
    p.say("b", probed((4, 0.009), (32, 0.051)))
    most, room = p.run.members["b"].device.max_batch, p.run.members["b"].device.memory_bytes
    fitted = fit_device("b", [(4, 0.009), (32, 0.051)], most)
    assert p.run.members["b"].device == replace(fitted, memory_bytes=room)


def test_agents_of_one_machine_share_its_memory(play):
    p = play(3)
    for name, store in (("a", "1.1.1.1:5"), ("b", "1.1.1.1:6"), ("c", "2.2.2.2:5")):
        p.memory_bytes[name] = 1000
        p.hello(name, store)
        p.say(name, p.ready())
    for name in "abc":
        p.say(name, probed((4, 0.1), (32, 0.8), fixed_bytes=100, bytes_per_sample=2.0))
    most = {name: member.device.max_batch for name, member in p.run.members.items()}
    assert most["c"] == int((MEMORY_PART * 1000 - 100) / 2)
    assert most["a"] == most["b"] == int((MEMORY_PART * 500 - 100) / 2)


def test_a_road_is_one_whoever_measured_it(play):
    p = play(2).enter()
    p.until(say.ProbeLinks)
    p.say("b", say.Linked(term=1, links=(("a", 0.1, 100.0),)))
    p.say("a", say.Linked(term=1, links=(("b", 0.2, 200.0),)))
    (link,) = p.run.world.links
    assert (link.a, link.b, link.bytes_per_s) == ("a", "b", 200.0)


def test_a_report_commits_its_rounds_with_its_cohort_once(play):
    p = play(2).until_training()
    p.say("b", report(1, 3, ("a", "b")))
    assert p.run.ledger.committed == p.run.ledger.num_steps == 3
    p.say("a", report(1, 2, ("a", "b")))
    assert p.run.ledger.num_steps == 3
    assert [e["first_round"] for e in p.of("committed")] == [1, 2]  # the third is provisional


def test_achievement_is_timed_by_the_first_member_alone(play):
    p = play(2).until_training()
    p.say("a", report(1, 1, ("a", "b")))
    p.now_s += 1.0
    p.say("b", report(1, 5, ("a", "b")))
    assert p.run.gauge.recent_per_s() == 0.0
    p.now_s += 1.0
    p.say("a", report(2, 5, ("a", "b")))
    assert p.run.gauge.recent_per_s() == 4 * 32 / 2.0


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples_and_reaches_the_next_block(play):
    p = play(1, until=ENDLESS).until_training()
    first = p.orders_of(say.Block)[0].tells
    p.loss = 4.0
    p.answer()
    p.loss = 1.0
    p.until_true(lambda: p.run.ledger.num_epochs == 1)
    mean = (4.0 * first + 1.0 * (20 - first)) / 20
    assert 0 < first < 20
    assert p.of("epoch")[0]["loss"] == pytest.approx(mean)
    p.until_true(lambda: p.orders_of(say.Block)[-1].epoch_loss)
    assert p.orders_of(say.Block)[-1].epoch_loss == pytest.approx(mean)


def test_a_report_without_work_teaches_no_pace(play):
    p = play(2).until_training()
    p.say("a", report(1, 1, ("a", "b"), num_samples=0, num_steps=0, compute_s=0.0))
    assert p.run.paces == {}
    assert p.run.loss is None


def test_the_pause_of_a_loss_is_the_gap_less_a_typical_round(play):
    p = play(3, until=ENDLESS).until_training()
    p.until_true(lambda: p.run.ledger.committed > 60)
    typical_s = p.run.gauge.typical_round_s()
    p.kill("c")
    p.until_true(lambda: p.run.settled.keys() == {"a", "b"})
    number = p.run.ledger.committed + 1
    p.say("a", report(number, number, ("a", "b"), term=2, gap_s=1.5))
    assert p.run.pauses == [{"a": pytest.approx(1.5 - typical_s)}]


def test_parts_of_a_checkpoint_nobody_waits_for_are_dropped(play):
    p = play(2, until=ENDLESS, checkpoint_every_s=0.5).enter()
    p.until(say.Save, to="b")
    ticket = p.run.saving.ticket
    for name in "ab":
        p.say(name, say.State(ticket=ticket - 1, file=f"state/{name}", index=0, total=1, blob=b"-"))
    p.say("a", say.State(ticket=ticket - 1, file="model", index=0, total=1, blob=b"-"))
    assert not p.checkpoints
    p.until_true(lambda: p.checkpoints)
    assert p.checkpoints[0].files == {"model": b"x", "state/a": b"x", "state/b": b"x"}


def test_a_torn_word_of_a_term_at_work_is_noted_once(play):
    p = play(until=ENDLESS).until_training()
    p.say("a", say.TornRound(term=1))
    first_s = p.run.torn_at_s
    p.now_s += 0.5
    p.say("b", say.TornRound(term=1))
    assert p.run.torn_at_s == first_s == 0.0
