"""The coordinator as a machine that is only told things: the same words, the same deeds."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.coordinator.coordinator import (
    PROGRESS_S,
    STUCK_ROUNDS,
    STUCK_S,
    TORN_GRACE_S,
    Coordinator,
)
from coterie.coordinator.members import EVICT_S
from coterie.transport import messages as say

acts = st.lists(
    st.tuples(
        st.sampled_from(["kill", "enter", "tear", "slow down", "wait"]),
        st.sampled_from("bcde"),
        st.integers(0, 12),
    ),
    max_size=8,
)

ASKED = [*5 * ["all-reduce"], *5 * ["local-sgd(4)"], "auto"]  # to weigh all is most of the work


@settings(
    max_examples=10 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(acts, st.booleans(), st.sampled_from(ASKED))
def test_whatever_happens_to_the_others_one_that_lives_learns_every_sample_once(
    play, happening, holding, strategy
):
    p = play(3, strategy=strategy, checkpoint_every_s=0.5, until={"epochs": 2.0})
    p.num_train, p.pace_s, p.holding = 320, 0.004, holding
    p.until_training()
    for act, name, answers in happening:
        if p.run.leaving:
            break
        if act == "kill":
            p.kill(name)
        elif act == "enter" and name not in p.run.members:
            p.enter(name)
        elif act == "tear":
            p.say("a", say.TornRound(term=p.run.term.number))
        elif act == "slow down":
            p.per_sample_s[name] = p.per_sample_s.get(name, p.pace_s) * (answers + 1)
        else:
            p.wait(answers / 4)
        for _ in range(answers):
            p.answer()
    p.to_the_end()
    assert p.run.failure == ""
    assert p.run.ledger.num_epochs == 2
    assert p.times_learned() == {epoch: {1} for epoch in range(2)}
    assert p.checkpoints[-1].meta["round"] == p.run.ledger.committed


@pytest.mark.parametrize("strategy", ["auto", "all-reduce"])
def test_told_the_same_it_does_the_same(play, job, strategy):
    p = play(3, strategy=strategy, baselines=["solo", "equal"], until={"epochs": 30.0})
    p.until_training()
    p.kill("b")
    p.wait(1.0)
    p.enter("b")
    p.to_the_end()
    twin = Coordinator(
        job(3, strategy=strategy, baselines=["solo", "equal"], until={"epochs": 30.0}), 3
    )
    for act in p.script:
        act(twin)
    assert [(n, m) for n, m in twin.run.outbox] == p.told
    assert [{"kind": kind, **fields} for kind, fields in twin.run.log] == p.events
    assert twin.run.checkpoints == p.checkpoints


def test_a_silent_member_is_suspected_early_given_up_late_and_a_regular_one_is_neither(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.mute.add("b")
    began_s = p.now_s
    p.until_true(lambda: p.of("agent", state="suspected"))
    (suspected,) = p.of("agent", state="suspected")
    assert suspected["member"] == "b"
    assert suspected["reason"].startswith("silent for ")
    assert p.now_s - began_s < 4.0
    p.until(say.Block)
    assert p.memberships[-1] == ("a", "c")
    p.until_true(lambda: p.of("agent", state="lost"))
    assert [e["member"] for e in p.of("agent", state="lost")] == ["b"]
    assert p.now_s - began_s > EVICT_S
    assert p.run.evicted == ["b"]
    assert not p.run.suspects


def test_a_member_that_an_engine_lost_sight_of_is_dead_only_if_it_is_not_heard_either(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.mute.add("b")
    since_s = p.now_s
    assert not p.doubt("b", "its node was given up", since_s)
    p.until_true(lambda: p.of("agent", state="suspected"))
    assert p.doubt("b", "its node was given up", since_s)
    (lost,) = p.of("agent", state="lost")
    assert (lost["member"], lost["reason"]) == ("b", "its node was given up")
    assert "b" not in p.run.suspects
    assert p.doubt("b", "its node was given up", since_s)  # nothing is left to be said of it
    assert len(p.of("agent", state="lost")) == 1


def test_a_member_that_is_heard_after_an_engine_lost_sight_of_it_is_no_longer_doubted(play):
    p = play(until={"epochs": 1e4}).until_training()
    since_s = p.now_s
    p.until_true(lambda: p.run.members["b"].pulse.heard_s > since_s)
    assert p.doubt("b", "its node was given up", since_s)
    assert not p.of("agent", state="lost")


def test_whoever_beats_is_never_lost_however_long_nothing_else_happens(play):
    p = play(2)
    p.enter("a")
    p.hello("b")  # builds its task for long
    p.wait(3 * EVICT_S, step_s=EVICT_S - 0.1)
    assert p.run.members.keys() == {"a", "b"}


def test_an_agent_that_falls_silent_before_it_is_ready_is_not_waited_for(play):
    p = play(2, agents={"local": 2, "join_timeout_s": 30.0})
    p.enter("a")
    p.hello("b")
    p.mute.add("b")
    p.wait(40.0)
    assert "expected 2 agents within 30 s, found 1" in p.run.failure


def test_a_torn_report_with_nobody_dead_names_the_same_members_anew_after_a_grace(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.orders.clear()  # the meeting hangs
    for name in ("b", "a", "c"):
        p.say(name, say.TornRound(term=1))
    p.wait(TORN_GRACE_S)
    assert len(p.memberships) == 1
    p.wait(0.25)
    assert p.memberships == [("a", "b", "c"), ("a", "b", "c")]
    assert p.orders_of(say.Term)[-1].at_once
    p.until(say.Block)
    assert p.of("decision")[-1]["cause"] == "a meeting broke off"
    assert p.run.num_kills == 0


def test_a_death_within_the_grace_is_answered_at_once_and_only_once(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.orders.clear()
    p.say("a", say.TornRound(term=1))
    p.wait(0.5)
    p.kill("b")
    assert p.memberships[-1] == ("a", "c")
    p.wait(3 * TORN_GRACE_S)
    assert len(p.memberships) == 2


def test_a_torn_report_of_a_term_that_was_mended_changes_nothing(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.kill("c")
    p.say("a", say.TornRound(term=1))
    p.until(say.Block, to="b")
    p.wait(2 * TORN_GRACE_S)
    assert len(p.memberships) == 2


def test_nobody_hears_a_stranger(play):
    p = play().until_training()
    before = (len(p.told), len(p.events), p.run.ledger.committed)
    everything = say.Report(
        term=1,
        first_round=1,
        last_round=5,
        cohort=("stranger",),
        num_samples=1,
        num_steps=1,
        loss=1.0,
        compute_s=1.0,
        exchange_s=1.0,
    )
    for message in (everything, say.Settled(term=1, round=9, healed=False, seconds=1.0), say.Bye()):
        p.say("stranger", message)
    p.kill("stranger")
    assert (len(p.told), len(p.events), p.run.ledger.committed) == before


def test_what_the_dead_still_said_is_not_heard(play):
    p = play().until_training()
    p.kill("c")
    p.say(
        "c",
        say.Report(
            term=1,
            first_round=1,
            last_round=1,
            cohort=("a", "b", "c"),
            num_samples=10,
            num_steps=1,
            loss=1.0,
            compute_s=1.0,
            exchange_s=1.0,
        ),
    )
    assert p.run.ledger.committed == 0
    assert p.to_the_end().times_learned() == {0: {1}, 1: {1}, 2: {1}}


def test_a_goodbye_before_the_end_is_a_loss(play):
    p = play().until_training()
    p.say("b", say.Bye())
    assert p.of("agent", member="b", state="lost")[0]["reason"] == "it left"
    assert p.memberships[-1] == ("a", "c")


def test_a_death_told_twice_is_one_death(play):
    p = play().until_training()
    p.kill("b")
    p.kill("b")
    assert p.run.num_kills == len(p.of("agent", state="lost")) == 1


def test_progress_is_told_at_its_own_pace_once_there_is_a_plan(play):
    p = play(until={"epochs": 1e4})
    p.enter("a")
    p.wait(5.0)
    assert not p.of("progress")
    p.enter("b", "c")
    p.until(say.Block)
    before = len(p.of("progress"))
    p.wait(10 * PROGRESS_S, step_s=0.05)
    assert 9 <= len(p.of("progress")) - before <= 11


def test_a_failure_ends_the_run_once_and_for_good(play):
    p = play().until_training()
    reason = "b: expected finite values to share, found others in round 7"
    p.say("b", say.Failed(reason=reason, traceback="Traceback:\n  line 3"))
    assert p.run.done
    assert p.run.failure == reason
    assert [e["text"] for e in p.of("said", member="b")] == ["Traceback:", "  line 3"]
    assert all(m.at_once for m in p.orders_of(say.Stop))
    assert len(p.orders_of(say.Stop)) == 3
    told = len(p.told)
    p.say("c", say.Failed(reason="another", traceback="Traceback of another"))
    p.wait(20.0)
    assert p.run.failure.startswith("b: ")
    assert len(p.told) == told


# Suspected early, taken back by itself


def suspect(play, name="b", **words):
    """A run in which one falls silent and is suspected, and the others go on."""
    p = play(**{"until": {"epochs": 1e4}, **words}).until_training()
    p.mute.add(name)
    p.until_true(lambda: p.of("agent", member=name, state="suspected"))
    return p


def report(p, name, number, term=1, **words):
    known = {
        "term": term,
        "first_round": number,
        "last_round": number,
        "cohort": p.names,
        "num_samples": 1,
        "num_steps": 1,
        "loss": 1.0,
        "compute_s": 1.0,
        "exchange_s": 1.0,
    }
    return say.Report(**{**known, **words})


def test_what_a_suspected_member_was_to_learn_is_leased_again(play):
    p = suspect(play, until={"epochs": 2.0})
    assert p.memberships[-1] == ("a", "c")
    assert p.run.num_suspected == 1
    p.to_the_end()
    assert p.run.failure == ""
    assert p.times_learned() == {0: {1}, 1: {1}}


def test_a_suspected_member_that_is_heard_again_is_taken_in_without_being_measured(play):
    p = suspect(play)
    num_probes = len(p.orders_of(say.Probe, to="b"))
    p.mute.clear()
    p.wait(0.25)
    assert [e["state"] for e in p.of("agent", member="b")][-2:] == ["suspected", "returned"]
    told = p.orders_of(say.Term, to="b")[-1]
    assert told.at_once
    assert told.members == ("a", "c")
    p.until_true(lambda: "b" in p.run.healthy)
    assert p.memberships[-1] == ("a", "c", "b")
    assert p.of("agent", member="b")[-1]["state"] == "rejoined"
    assert (p.run.num_rejoined, p.run.num_kills, p.run.missed) == (1, 0, set())
    assert len(p.orders_of(say.Probe, to="b")) == num_probes
    assert p.run.healthy == {"a", "b", "c"}


def test_whoever_returns_is_told_of_its_term_in_a_way_that_needs_no_word_before(play):
    p = suspect(play)
    p.mute.clear()
    p.until_true(lambda: "b" in p.run.healthy)
    told = [p.orders_of(say.Term, to=name)[-1] for name in "abc"]
    assert {m.number for m in told} == {p.run.term.number}
    assert [(m.at_once, m.anew) for m in told] == [(False, False), (True, True), (False, False)]


def test_each_sample_is_learned_once_however_often_members_fall_silent(play):
    p = play(3, until={"epochs": 6.0})
    p.num_train, p.pace_s = 1000, 0.004
    p.until_training()
    for name in "bcbabc":
        p.mute.add(name)
        p.wait(2.0)
        for _ in range(8):
            p.answer()
        p.mute.clear()
        for _ in range(8):
            p.answer()
    p.to_the_end()
    assert p.run.failure == ""
    assert p.run.num_suspected > 3
    assert p.times_learned() == {epoch: {1} for epoch in range(6)}


def test_one_that_beats_and_gets_no_further_is_suspected_and_waited_for_until_it_does(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.computing["b"] = began_s = p.now_s
    p.until_true(lambda: p.of("agent", state="suspected"))
    (suspected,) = p.of("agent", state="suspected")
    assert suspected["member"] == "b"
    assert suspected["reason"].startswith("no progress for 1")
    assert p.now_s - began_s >= STUCK_S
    p.wait(30.0)  # it beats all the while
    assert p.memberships[-1] == ("a", "c")
    assert p.run.suspects.keys() == {"b"}
    p.computing.clear()
    p.until_true(lambda: p.of("agent", member="b", state="rejoined"))
    assert p.memberships[-1] == ("a", "c", "b")


def test_work_that_takes_long_for_all_is_no_lack_of_progress(play):
    p = play(until={"epochs": 1e4}, agents={"local": 3}, strategy="local-sgd(100)")
    p.pace_s = 0.05
    p.until_training()
    p.computing["b"] = p.now_s
    longest_s = STUCK_ROUNDS * p.run.plan.round_s
    assert longest_s > 2 * STUCK_S
    p.wait(longest_s - 1.0)
    assert not p.of("agent", state="suspected")
    p.wait(2.0)
    assert p.of("agent", state="suspected")


def test_the_last_healthy_member_is_never_suspected(play):
    p = play(2, until={"epochs": 1e4}).until_training()
    p.mute.update("ab")
    p.wait(EVICT_S - 3.0)
    suspected = [e["member"] for e in p.of("agent", state="suspected")]
    assert len(suspected) == 1
    assert p.run.term.members == (
        {"a", "b"} - set(suspected) and tuple({"a", "b"} - set(suspected))
    )
    p.mute.clear()
    p.until_true(lambda: len(p.run.term.members) == 2 and p.run.ledger.committed > 20)
    assert p.run.failure == ""


def test_what_a_suspected_member_says_of_its_rounds_changes_nothing_until_it_has_settled(play):
    p = suspect(play)
    p.mute.clear()
    before = (p.run.ledger.committed, p.run.ledger.books(), len(p.memberships))
    p.say("b", report(p, "b", p.run.ledger.next_round - 1))
    assert "b" in p.run.members  # it is heard again by it
    p.say("b", report(p, "b", p.run.ledger.next_round - 1))
    p.say("b", say.TornRound(term=1))
    p.say("b", say.TornRound(term=p.run.term.number))
    p.say("b", say.Settled(term=1, round=99, stands=99, healed=False, seconds=0.1))
    assert (p.run.ledger.committed, p.run.ledger.books(), len(p.memberships)) == before
    assert p.run.torn_at_s is None
    assert p.run.members["b"].outdated
    p.until_true(lambda: "b" in p.run.term.members and "b" in p.run.healthy)
    assert not p.run.members["b"].outdated


def evict(play, **words):
    p = suspect(play, **words)
    p.until_true(lambda: p.run.evicted)
    assert p.run.evicted == ["b"]
    p.run.evicted.clear()
    p.mute.clear()
    return p


def test_one_that_was_given_up_and_says_it_is_back_is_taken_in_unmeasured(play):
    p = evict(play)
    num_probes = len(p.orders_of(say.Probe, to="b"))
    p.say("b", say.Beat())  # nobody knows it any more
    assert "b" not in p.run.members
    p.say("b", p.back("b"))
    assert p.run.members["b"].state == "measured"
    p.until_true(lambda: p.of("agent", member="b", state="rejoined"))
    assert p.memberships[-1] == ("a", "c", "b")
    assert len(p.orders_of(say.Probe, to="b")) == num_probes
    p.until_true(lambda: p.run.ledger.committed > 1000)
    assert p.run.failure == ""


def test_reports_of_one_that_was_given_up_are_not_believed_when_it_is_back(play):
    p = evict(play)
    p.until_true(lambda: p.run.ledger.issued)
    issued = dict(p.run.ledger.issued)
    stale = report(p, "b", max(issued))
    p.say("b", p.back("b", reports=(stale,)))
    assert p.run.ledger.issued == issued


def test_one_that_is_back_with_another_model_is_turned_away_alone(play):
    p = evict(play)
    p.say("b", p.back("b", ready=p.ready(shape=(11,))))
    assert "b" not in p.run.members
    assert p.of("agent", member="b")[-1]["state"] == "refused"
    assert p.orders_of(say.Stop, to="b")[-1].at_once
    before = p.run.ledger.committed
    p.until_true(lambda: p.run.ledger.committed > before + 100)
    assert p.run.failure == ""


def test_a_member_that_says_it_is_back_though_it_never_left_changes_nothing(play):
    p = play(until={"epochs": 1e4}).until_training()
    before = (dict(p.run.members), len(p.memberships), set(p.run.healthy))
    p.say("b", p.back("b"))
    assert (dict(p.run.members), len(p.memberships), set(p.run.healthy)) == before
    assert not p.run.members["b"].outdated


# Members that no longer hold the same


def test_members_are_asked_once_in_a_while_what_they_hold(play):
    p = play(until={"epochs": 1e4})
    p.until_training()
    p.until_true(lambda: p.now_s > 20.0)
    asked = [m.first_round for m in p.orders_of(say.Block, to="a") if m.digest]
    assert 5 <= len(asked) <= 12


def test_members_that_differ_are_told_apart_and_meet_anew(play):
    p = play(until={"epochs": 1e4}).until_training()
    for name, digest in (("a", 1), ("b", 1)):
        p.say(name, report(p, name, 1, digest=digest))
    assert not p.of("disagreement")
    p.say("c", report(p, "c", 1, digest=2))
    (told,) = p.of("disagreement")
    assert (told["round"], told["digests"]) == (1, {"a": 1, "b": 1, "c": 2})
    assert p.memberships == [("a", "b", "c")] * 2
    assert p.orders_of(say.Term)[-1].at_once
    p.until_true(lambda: len(p.of("decision")) == 2)
    assert p.of("decision")[-1]["cause"] == "members differed after round 1"
    assert p.run.digests == {}


def test_a_digest_of_an_earlier_term_is_compared_with_none(play):
    p = play(until={"epochs": 1e4}).until_training()
    p.kill("c")
    p.until(say.Block, to="b")
    number = p.run.ledger.committed + 1
    p.say("a", report(p, "a", number, term=1, digest=1))
    p.say("b", report(p, "b", number, term=2, digest=2))
    assert not p.of("disagreement")
