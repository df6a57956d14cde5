"""A coordinator that was killed: what the one after it knows, from nothing but the event log."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coterie.coordinator.coordinator import Coordinator
from coterie.coordinator.ledger import Ledger
from coterie.coordinator.remember import remember
from coterie.coordinator.run import Run
from coterie.transport import messages as say

ENDLESS = {"epochs": 1e4}


def remembered(p: Any, num_events: int | None = None) -> Run:
    run = Run(p.run.job, p.run.num_agents)
    remember(run, json.loads(json.dumps(p.events[:num_events])))
    return run


def told_again(ledger: Ledger, truth: Ledger) -> dict[str, Any]:
    """The books, once members have told the rounds that were not on record yet."""
    for number, done in sorted(truth.provisional.items()):
        ledger.commit(number, done.leases)
    ledger.drain()
    return ledger.books()


def watched(play: Any, num_agents: int, happen: Any, **words: Any) -> tuple[Any, list[Any]]:
    """A run, and how its books stood whenever something was put on record."""
    p = play(num_agents, **words)
    seen: list[tuple[int, dict[str, Any]]] = []
    do = p._do

    def noting(act: Any) -> None:
        before = len(p.events)
        do(act)
        if p.run.plan and len(p.events) > before:
            seen.append((len(p.events), json.loads(json.dumps(p.run.ledger.books()))))

    p._do = noting
    p.num_train = 1000
    p.until_training()
    happen(p)
    p.to_the_end()
    return p, seen


def nothing(p: Any) -> None:
    pass


def test_layers_are_known_again_from_the_last_decision(play: Any) -> None:
    p = play(2, until=ENDLESS)
    p.chain = (("0", 0.5, 4_000, 8.0, 16.0), ("2", 0.25, 8_000, 16.0, 4.0))
    p.until_training()
    assert [layer.name for layer in p.run.world.chain] == ["0", "2"]
    assert p.run.chain[1].sent_bytes == 4.0
    assert remembered(p).chain == p.run.chain


def a_death(p: Any) -> None:
    p.until_true(lambda: p.run.ledger.committed > 3)
    p.kill("b")
    p.until_true(lambda: p.run.ledger.num_epochs > 2)
    p.enter("b")


def a_silence(p: Any) -> None:
    p.mute.add("b")
    p.until_true(lambda: p.of("agent", state="suspected"))
    p.until_true(lambda: p.run.ledger.num_epochs > 2)
    p.mute.clear()


def one_that_is_not_heard(p: Any) -> None:
    """Rounds that count without c, whose samples are given out once more before that is final."""
    for _ in range(20):
        p.until_true(lambda: p.run.ledger.issued)
        number = min(p.run.ledger.issued)
        words = dict.fromkeys(("num_samples", "num_steps"), 1)
        words |= dict.fromkeys(("loss", "compute_s", "exchange_s"), 0.1)
        told = say.Report(term=1, first_round=number, last_round=number, cohort=("a", "b"), **words)
        p.say("a", told)
        for _ in range(2):
            p.answer()


@pytest.mark.parametrize("happen", [nothing, a_death, a_silence, one_that_is_not_heard])
@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(4)"])
def test_at_every_moment_the_log_tells_the_books(play, happen, strategy):
    p, seen = watched(play, 3, happen, strategy=strategy, until={"epochs": 8.0})
    assert len(seen) > 20
    for num_events, books in seen:
        ledger = remembered(p, num_events).ledger
        found = told_again(ledger, Ledger.of(books))
        assert json.loads(json.dumps(found)) == books


def test_wherever_the_log_breaks_off_each_position_has_one_place(play):
    p, _ = watched(play, 3, a_death, until={"epochs": 5.0})
    began = next(at for at, event in enumerate(p.events) if event["kind"] == "books")
    for num_events in range(began + 1, len(p.events)):
        ledger = remembered(p, num_events).ledger
        learned: dict[int, Counter[int]] = {}
        for event in p.events[:num_events]:
            if event["kind"] == "committed":
                spans = [span for lease in event["leases"].values() for span in lease]
                at = learned.setdefault(event["data_epoch"], Counter())
                at.update(place for start, stop in spans for place in range(start, stop))
        for epoch, free in ledger.free.items():
            places = Counter(place for start, stop in free for place in range(start, stop))
            places.update(learned.get(epoch, Counter()))
            for held in (*ledger.issued.values(), *ledger.provisional.values()):
                if held.data_epoch == epoch:
                    spans = [span for lease in held.leases.values() for span in lease.spans]
                    places.update(place for start, stop in spans for place in range(start, stop))
            assert places == Counter(range(1000))


def test_an_epoch_that_was_learned_but_not_said_to_be_when_the_log_broke_off_is_finished(play):
    p, _ = watched(play, 3, nothing, until={"epochs": 3.0})
    cut = next(at for at, event in enumerate(p.events) if event["kind"] == "epoch")
    before, after = remembered(p, cut), remembered(p, cut + 1)
    assert before.ledger.num_epochs == after.ledger.num_epochs == 1
    assert before.ledger.drain()[1] == [0]
    assert after.ledger.drain()[1] == []


def restarted(p: Any) -> Any:
    """The play goes on with another coordinator, which remembers; nobody has spoken to it yet."""
    p.coordinator = Coordinator(p.run.job, p.run.num_agents, None, json.loads(json.dumps(p.events)))
    p.run = p.coordinator.run
    p.orders.clear()
    now_s = p.now_s
    p._do(lambda c: c.start(now_s))
    return p


def test_what_is_believed_is_remembered_and_members_meet_anew(play):
    p = play(until=ENDLESS).until_training()
    p.until_true(lambda: p.run.ledger.committed > 60)
    before = p.run
    p = restarted(p)
    assert p.run.reuniting
    assert p.run.term.members == before.term.members
    assert p.run.plan == before.plan
    assert p.run.links.keys() == before.links.keys()
    assert p.run.layout == before.layout
    for name in p.names:
        p.say(name, p.back(name))
    assert p.memberships[-1] == before.term.members
    assert p.run.term.number == before.term.number + 1
    p.until_true(lambda: p.run.ledger.committed > before.ledger.committed + 60)
    assert p.of("decision")[-1]["cause"] == "the coordinator came back"
    assert len(p.orders_of(say.Probe)) == 3  # nobody was measured again
    assert p.run.failure == ""


def test_a_newcomer_that_is_ready_before_the_members_are_back_does_not_replace_the_books(play):
    p = play(until=ENDLESS).until_training()
    p.until_true(lambda: p.run.ledger.committed > 60)
    books = remembered(p).ledger.books()
    p = restarted(p)
    p.enter("d")
    assert p.run.ledger.books() == books
    p = restarted(p)
    p.hello("e")
    p.say("e", p.ready(shape=(99,)))  # another model
    assert "e" not in p.run.members
    for name in p.names:
        p.say(name, p.back(name))
    assert p.memberships[-1] == p.names


def test_nobody_back_that_holds_the_model_ends_the_run_with_the_reason(play):
    p = play(until=ENDLESS).until_training()
    p.until_true(lambda: p.run.ledger.num_epochs > 3)
    p = restarted(p)
    p.alive.clear()
    p.wait(6.0)
    assert "expected a member back that holds round" in p.run.failure
    assert "resume from a checkpoint" in p.run.failure


def test_one_that_is_back_outside_of_the_term_is_not_believed(play):
    p = play(until=ENDLESS).until_training()
    p.kill("c")
    p.until_true(lambda: p.run.ledger.committed > 20)
    p = restarted(p)
    number = max(p.run.ledger.issued)
    stale = say.Report(
        term=1, first_round=number, last_round=number, cohort=("a", "b", "c"), num_samples=1,
        num_steps=1, loss=1.0, compute_s=1.0, exchange_s=1.0,
    )  # fmt: skip
    p.say("c", p.back("c", hello=p._hello("c"), round=number, reports=(stale,)))
    assert number in p.run.ledger.issued
    assert not p.run.members["c"].holds
    p.say("a", p.back("a", reports=(stale,)))
    assert number not in p.run.ledger.issued


def retold(p: Any, name: str) -> say.Back:
    """What an actor tells a new coordinator: where it stands, and the rounds it committed."""
    told = [(n, cohort) for n, (_, cohort) in p.books.items() if n <= p.rounds[name]]
    reports = tuple(
        say.Report(
            term=0, first_round=n, last_round=n, cohort=cohort, num_samples=0, num_steps=0,
            loss=0.0, compute_s=0.0, exchange_s=0.0,
        )
        for n, cohort in told[-64:]
        if name in cohort
    )  # fmt: skip
    return p.back(name, reports=reports)


acts = st.lists(
    st.tuples(
        st.sampled_from(["kill", "enter", "mute", "speak", "tear", "restart", "wait"]),
        st.sampled_from("bcd"),
        st.integers(0, 10),
    ),
    max_size=10,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts, st.booleans(), st.sampled_from(["all-reduce", "local-sgd(4)"]))
@example([("mute", "b", 1), ("kill", "c", 0), ("restart", "b", 5)], True, "all-reduce")
def test_whoever_falls_silent_dies_or_is_replaced_each_sample_is_learned_once(
    play, happening, holding, strategy
):
    p = play(3, strategy=strategy, until={"epochs": 3.0})
    p.num_train, p.pace_s, p.holding = 400, 0.004, holding
    p.until_training()
    for act, name, answers in happening:
        if p.run.leaving:
            break
        if act == "kill":
            p.mute.discard(name)
            p.kill(name)
        elif act == "enter" and name not in p.alive:
            p.enter(name)
        elif act == "mute":
            p.mute.add(name)
        elif act == "speak":
            p.mute.discard(name)
        elif act == "tear":
            p.say("a", say.TornRound(term=p.run.term.number))
        elif act == "restart" and p.run.ledger.committed:
            replace(p)
        else:
            p.wait(answers / 4)
        for _ in range(answers):
            p.answer()
    p.mute.clear()
    for _ in range(600):
        if not p.run.done:
            p.answer()
    assert p.run.done, f"it hangs in term {p.run.term.number}, settled {sorted(p.run.settled)}"
    assert p.run.failure == ""
    assert p.times_learned() == {epoch: {1} for epoch in range(3)}
    assert len({event["data_epoch"] for event in p.of("epoch")}) == len(p.of("epoch")) == 3


def replace(p: Any) -> None:
    """The coordinator dies; of the members, those that are not mute are back at once."""
    waiting = [*p.orders]
    restarted(p)
    p.orders.extend(waiting)
    for name in sorted(p.alive - p.mute):
        p.say(name, retold(p, name))
    p.wait(6.0)  # for those that are mute
    for name in sorted(p.mute & p.alive):
        p.say(name, retold(p, name))


def test_what_a_script_told_of_its_batch_is_known_again(play: Any) -> None:
    own = {"script": {"path": "train.py", "digest": "0"}, "task": None, "optimizer": None}
    p = play(2, **own, until={}, batch=1)
    p.num_passes = 1
    p.until_training()
    written = p.run.job.model_copy(update={"batch": 1})  # as its file has it
    again = Coordinator(written, 2, past=json.loads(json.dumps(p.events)))
    assert again.run.job == p.run.job
