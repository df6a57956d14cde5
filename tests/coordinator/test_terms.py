"""Membership: who is let in when, who is left behind, and whose state is trusted."""

from __future__ import annotations

import pytest

from coterie.coordinator.remember import remember
from coterie.transport import messages as say

ENDLESS = {"epochs": 1e4}


def test_members_are_told_where_the_first_of_them_listens(play):
    p = play().enter()
    _, term = p.until(say.Term)
    assert (term.number, term.members, term.store) == (1, ("a", "b", "c"), "a:1")
    assert not term.at_once
    p.until(say.Block)
    p.kill("a")
    assert p.orders_of(say.Term)[-1].store == "b:1"


def test_a_newcomer_is_taken_in_at_a_boundary_only(play):
    p = play(until=ENDLESS)
    p.num_train = 6400  # epochs of many blocks
    p.until_training()
    p.enter("d")
    p.until_true(lambda: p.run.members["d"].device)
    assert not p.run.ledger.idle
    assert p.memberships == [("a", "b", "c")]
    p.until(say.Term, to="d")
    assert p.run.ledger.idle
    assert not p.orders_of(say.Term)[-1].at_once
    assert p.memberships[-1] == ("a", "b", "c", "d")
    p.until(say.Block, to="d")
    assert p.of("decision")[-1]["cause"] == "d came in"


def test_one_that_returns_stands_behind_those_who_hold_the_state(play):
    p = play(until=ENDLESS).until_training()
    p.kill("a")
    p.until_true(lambda: p.run.ledger.committed > 20)
    p.enter("a")
    p.until(say.Block, to="a")
    assert p.memberships == [("a", "b", "c"), ("b", "c"), ("b", "c", "a")]
    assert p.of("agent", member="a", state="rejoined")
    assert p.run.num_rejoined == 1


def test_a_newcomer_measured_while_others_mend_waits_for_its_turn(play):
    p = play(until=ENDLESS, strategy="auto").until_training()
    p.enter("d")
    p.until_true(lambda: p.run.members["d"].device)
    p.kill("b")  # the survivors decide before anybody knows a road to d
    p.until(say.Block, to="d")
    assert p.run.failure == ""
    assert p.memberships == [("a", "b", "c"), ("a", "c"), ("a", "c", "d")]
    assert [d["cause"] for d in p.of("decision")] == ["first plan", "b was lost", "d came in"]


def test_two_newcomers_one_after_the_other_both_come_in(play):
    p = play(until=ENDLESS, strategy="auto").until_training()
    p.enter("d")
    p.until(say.Term, to="d")
    p.enter("e")
    p.until_true(lambda: p.run.members["e"].device)
    p.until(say.Block, to="e")
    assert p.run.failure == ""
    assert p.memberships[-1] == ("a", "b", "c", "d", "e")


def test_a_newcomer_that_dies_on_the_doorstep_leaves_the_others_as_they_were(play):
    p = play(until=ENDLESS).until_training()
    p.enter("d")
    p.until(say.Term, to="d")
    p.kill("d")
    p.until_true(lambda: len(p.memberships) == 3 and p.run.ledger.committed > 100)
    assert p.memberships[-1] == ("a", "b", "c")
    assert p.of("decision")[-1]["cause"] == "d was lost"


def test_a_member_that_dies_while_a_newcomer_is_let_in_costs_the_newcomer_a_turn_only(play):
    p = play(until=ENDLESS).until_training()
    p.enter("d")
    p.until(say.Term, to="d")
    p.kill("b")
    p.until(say.Block, to="d")
    assert p.memberships[-2:] == [("a", "c"), ("a", "c", "d")]
    assert [d["cause"] for d in p.of("decision")][1:] == ["b was lost", "d came in"]


def test_nobody_heals_from_a_newcomer(play):
    p = play(1, until=ENDLESS).until_training()
    p.until_true(lambda: p.run.ledger.committed > 20)
    p.enter("b")
    p.until(say.Term, to="b")
    p.kill("a")  # the only one that has learned anything
    assert p.run.failure == "expected a member that holds the trained model, found that all died"


def leave_c_out(play, **words):
    """The first plan leaves out the slow one."""
    p = play(strategy="auto", until=ENDLESS, **words)
    p.per_sample_s["c"] = 1.0
    p.enter().until(say.Block)
    return p


def test_a_plan_that_leaves_a_member_out_names_a_term_without_it(play):
    p = leave_c_out(play)
    assert p.run.plan.shares.keys() == {"a", "b"}
    assert p.memberships == [("a", "b", "c"), ("a", "b")]
    assert not p.orders_of(say.Term)[-1].at_once
    assert not p.orders_of(say.Block, to="c")


def test_one_left_out_is_neither_a_newcomer_nor_missed_when_it_dies(play):
    p = leave_c_out(play)
    p.until_true(lambda: p.run.ledger.committed > 100)
    assert len(p.memberships) == 2
    p.kill("c")
    p.until_true(lambda: p.run.ledger.committed > 200)
    assert (len(p.memberships), p.run.num_kills) == (2, 0)


def call_c_in(play):
    """Whom the first plan left out is needed later: b alone cannot hold the batch."""
    p = play(strategy="auto", until=ENDLESS)
    p.per_sample_s["c"], p.memory_bytes["b"] = 1.0, 25
    p.enter()
    p.until_true(lambda: p.run.ledger.committed > 100)
    assert p.run.term.members == ("a", "b")
    p.kill("a")
    p.until_true(lambda: p.run.term.members == ("b", "c"))
    return p


def test_one_left_out_is_called_in_when_it_is_needed_and_heals(play):
    p = call_c_in(play)
    p.until(say.Block, to="c")
    assert p.run.healthy == {"b", "c"}
    assert p.of("agent", member="c", state="healed")
    assert p.run.num_rejoined == 0  # it was never lost


def test_one_that_was_left_out_is_not_trusted_before_it_has_healed(play):
    p = call_c_in(play)
    p.kill("b")
    assert p.run.failure == "expected a member that holds the trained model, found that all died"


def dismiss_c(play):
    """A new plan leaves c out, which still has rounds of the term before to do."""
    p = play(until=ENDLESS, strategy="auto")
    p.num_train = 6400  # epochs of many blocks
    p.until_training()
    p.per_sample_s["c"] = 0.02
    p.until_true(lambda: "c" not in p.run.term.members)
    assert any("c" in under_way.leases for under_way in p.run.ledger.issued.values())
    assert (p.run.term.number, p.run.term.at_once) == (2, False)
    return p


def test_rounds_of_the_term_before_that_tear_are_mended_too(play):
    p = dismiss_c(play)
    p.say("a", say.TornRound(term=1))
    p.orders = type(p.orders)(each for each in p.orders if not isinstance(each[1], say.Term))
    p.wait(1.5)
    assert (p.run.term.number, p.run.term.at_once) == (3, True)
    p.until_true(lambda: p.run.ledger.num_epochs == 2)
    assert [p.times_learned()[epoch] for epoch in (0, 1)] == [{1}, {1}]


def test_one_that_dies_with_rounds_of_the_term_before_under_way_tears_them(play):
    p = dismiss_c(play)
    p.kill("c")
    assert p.run.num_kills == 1
    assert p.orders_of(say.Term)[-1].at_once
    p.until_true(lambda: p.run.ledger.num_epochs == 2)
    assert [p.times_learned()[epoch] for epoch in (0, 1)] == [{1}, {1}]


@pytest.mark.parametrize("num_newcomers", [1, 2])
def test_newcomers_get_to_know_those_left_out_behind_a_slow_road(play, num_newcomers):
    p = play(until=ENDLESS)
    p.bytes_per_s = {frozenset((peer, "c")): 100.0 for peer in "abde"}
    p.enter()
    p.until_true(lambda: p.run.ledger.committed > 20)
    assert p.run.left_out == {"c"}
    p.enter(*"de"[:num_newcomers])
    p.until(say.Block, to="d")
    p.until_true(lambda: p.run.ledger.committed > 200)
    assert p.run.failure == ""
    assert p.run.left_out == {"c"}
    assert p.memberships[-1] == tuple("abde"[: 2 + num_newcomers])
    assert len(p.memberships) <= 6


def test_only_roads_that_are_not_known_are_probed(play):
    p = play(until=ENDLESS).until_training()
    assert len(p.orders_of(say.ProbeLinks)) == 3
    p.kill("b")
    p.until(say.Block)
    p.enter("b")
    p.until(say.Block, to="b")
    assert len(p.orders_of(say.ProbeLinks)) == 3
    p.enter("d")
    p.until(say.Block, to="d")
    assert len(p.orders_of(say.ProbeLinks)) == 3 + 4


def test_all_who_were_lost_together_are_named(play):
    p = play(4, until=ENDLESS).until_training()
    p.kill("b", "d")
    p.until_true(lambda: len(p.of("decision")) == 2)
    assert p.of("decision")[-1]["cause"] == "b and d were lost"
    assert p.memberships[-1] == ("a", "c")


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_settled_word_of_an_earlier_term_does_not_complete_this_one(play, first):
    p = play().enter()
    p.until(say.Term, to="c")
    p.kill("c")
    p.orders.clear()
    for name in ("a", "b"):
        p.say(name, say.Settled(term=1, round=0, healed=False, seconds=0.0))
    assert p.run.settled == {}
    other = "b" if first == "a" else "a"
    p.say(first, say.Settled(term=2, round=0, healed=False, seconds=0.0))
    assert not p.orders_of(say.Block)
    p.say(other, say.Settled(term=2, round=0, healed=False, seconds=0.0))
    assert p.run.settled.keys() == {"a", "b"}


def served(play, **words):
    """Two members and their server, which comes a second after it was started."""
    p = play(2, strategy="parameter-server()", until=ENDLESS, **words)
    p.wait(1.0)
    p.say(say.HUB, p.hello_of_server(7))
    return p.enter()


def test_a_server_is_silent_for_as_long_as_another_takes_to_come_before_it_is_given_up(play):
    p = served(play)
    p.until(say.Block)
    while p.run.hub is not None:
        silent_s = p.now_s - p.run.hub_pulse.heard_s
        p.wait(0.25)
    assert silent_s == pytest.approx(1.5)  # three beats, and longer than the second that it took
    assert p.run.evicted == [say.HUB]
    assert [event["state"] for event in p.of("server")] == ["joined", "suspected"]
    p.wait(10.0)
    assert len(p.memberships) == 1  # members wait


def test_a_coordinator_that_was_stopped_itself_does_not_blame_the_server(play):
    p = served(play)
    p.until(say.Block)
    p.wait(10.0, step_s=10.0)
    p.say(say.HUB, say.Beat())
    p.wait(1.0)
    assert p.run.hub is not None


def test_a_server_that_wakes_up_when_another_was_asked_for_is_not_heard(play):
    p = served(play)
    p.until(say.Block)
    p.wait(3.0)
    p.say(say.HUB, p.hello_of_server(7))
    assert p.run.hub is None
    p.say(say.HUB, p.hello_of_server(8))
    p.say(say.HUB, p.hello_of_server(7))
    p.until(say.Term, to="a")
    assert [told.hub for told in p.orders_of(say.Term, to="a")] == ["there:7", "there:8"]
    successor = play(2, strategy="parameter-server()")
    remember(successor.run, p.events)
    assert successor.run.is_fenced(p.hello_of_server(7))
    assert not successor.run.is_fenced(p.hello_of_server(8))


def test_agents_are_called_back_where_all_who_hold_the_model_are_gone(play):
    p = play(2, until=ENDLESS).until_training()
    p.enter("c")
    p.kill("a", "b")
    assert p.run.failure
    assert p.orders_of(say.Stop, to="c")[-1].again


def test_one_of_before_a_run_went_on_from_its_checkpoint_begins_anew(play):
    """It was cut off, and holds rounds that others have learned anew since."""
    p = play(2, until=ENDLESS).until_training()
    p.rounds["c"] = 99
    p.say("c", p.back("c", term=7))
    assert p.orders_of(say.Stop, to="c")[-1].again
    assert "c" not in p.run.members
    p.enter("c")
    p.until(say.Block, to="c")


@pytest.mark.parametrize("num_here", [0, 1])
def test_a_run_that_goes_on_by_itself_waits_a_while_for_those_who_were_lost(play, num_here):
    p = play(2, until=ENDLESS)
    p.run.by_itself = True
    for name in "ab"[:num_here]:
        p.enter(name)
    p.wait(19.0)
    assert not p.orders_of(say.Probe)
    p.wait(2.0)
    assert bool(p.orders_of(say.Probe)) == bool(num_here)
    p.wait(42.0)
    assert bool(p.run.failure) != bool(num_here)
