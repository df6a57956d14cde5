"""Mishaps in virtual time: whoever is stopped or cut off, and whichever coordinator dies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coterie.agents import pushes as pushing
from coterie.agents import star
from coterie.agents.learner import Learner
from coterie.coordinator.coordinator import STUCK_S
from coterie.engines.simulated import Fault, Simulation
from coterie.sync.reading import parse
from coterie.transport.messages import HUB
from coterie.watch.events import Audit

Play = Callable[..., Any]

UNDER_WAY_S = 2.3  # the first round is over by then, eight epochs are not
SENTENCES = [
    "all-reduce",
    "local-sgd(4)",
    "diloco-int8(4)",
    "streaming-diloco(4, 2, 1)",
    "gossip(2, 'ring')",
    "asynchronous(2)",
    "parameter-server()",
]
PUSHED = "chain(Every(2), Push(), Outer(1.0))"  # of which each push moves the anchor by itself
every_sentence = pytest.mark.parametrize("sentence", SENTENCES)


def stays_equal(sentence: str) -> bool:
    exchange = parse(sentence).exchange
    return exchange.agrees and not exchange.asynchronous


def sound(run: Any, sentence: str, num_epochs: int) -> None:
    """It ended, each sample was learned once, terms were named one by one, and members agree."""
    assert run.run.done, "it hangs"
    assert run.run.failure == ""
    assert replace(run.audit, epochs=tuple(sorted(run.audit.epochs))) == Audit(
        0, 0, tuple(range(num_epochs))
    )
    numbers = [event["number"] for event in run.of("term")]
    assert numbers == sorted(set(numbers)), "two terms of one number: a split brain"
    finals = [event["last_round"] for event in run.of("committed")]
    assert len(finals) == len(set(finals)), "a round was committed twice"
    for first_N, other_N in zip(run.agreed[:1] * len(run.agreed), run.agreed, strict=True):
        assert not stays_equal(sentence) or torch.equal(first_N, other_N)


@every_sentence
def test_a_coordinator_that_dies_is_replaced_and_nothing_is_lost(
    played: Play, sentence: str
) -> None:
    run = played(sentence, [Fault("", UNDER_WAY_S, 0.5, "coordinator")], num_epochs=8.0)
    sound(run, sentence, 8)
    assert "the coordinator came back" in [event["cause"] for event in run.of("decision")]
    assert set(run.outcome.workers) == {"a", "b", "c"}
    assert run.outcome.summary["kills_survived"] == 0


def test_a_coordinator_that_dies_when_all_is_saved_has_nothing_left_to_do(played: Play) -> None:
    undisturbed = played("all-reduce")
    saved_s = undisturbed.of("checkpoint")[-1]["time_s"]
    run = played("all-reduce", [Fault("", saved_s + 0.0005, 0.5, "coordinator")])
    sound(run, "all-reduce", 4)
    assert run.of("error") == []


@pytest.mark.parametrize("kind", ["stop", "cut"])
@pytest.mark.parametrize("sentence", ["all-reduce", "streaming-diloco(4, 2, 1)", "asynchronous(2)"])
def test_one_out_of_reach_is_suspected_and_taken_in_again(
    played: Play, sentence: str, kind: Any
) -> None:
    run = played(sentence, [Fault("b", UNDER_WAY_S, 3.0, kind)], num_epochs=24.0)
    sound(run, sentence, 24)
    states = [event["state"] for event in run.of("agent") if event["member"] == "b"]
    assert states[-3:] == ["suspected", "returned", "rejoined"]
    assert run.outcome.summary["kills_survived"] == 0
    assert set(run.run.term.members) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("sentence", "num_epochs"),
    [("all-reduce", 12), ("asynchronous(2)", 50)],
)
def test_one_that_gets_no_further_is_done_without_until_it_does(
    played: Play, sentence: str, num_epochs: int
) -> None:
    fault = Fault("b", UNDER_WAY_S, STUCK_S + 2.0, "stuck")
    run = played(sentence, [fault], num_epochs=float(num_epochs))
    sound(run, sentence, num_epochs)
    told = [event for event in run.of("agent") if event["member"] == "b"]
    assert [event["state"] for event in told][-3:] == ["suspected", "returned", "rejoined"]
    assert told[-3]["reason"].startswith("no progress for 1")
    assert {event["member"] for event in run.of("agent") if event["state"] == "suspected"} == {"b"}
    after = [e for e in run.of("committed") if e["seq"] > told[-1]["seq"]]
    assert any("b" in event["leases"] for event in after)


def test_a_short_silence_is_no_reason_to_suspect(played: Play) -> None:
    for kind in ("stop", "cut"):
        run = played("all-reduce", [Fault("b", UNDER_WAY_S, 0.3, kind)], num_epochs=8.0)
        sound(run, "all-reduce", 8)
        assert not any(event["state"] == "suspected" for event in run.of("agent"))
        assert len(run.of("term")) == 1


BY_STAR = [
    "parameter-server()",
    "parameter-server(2)",
    "chain(Every(2), ErrorFeedback(Int8(16)), Reduce(road='star'), Outer(0.7, 0.9))",
    "asynchronous(2)",
    PUSHED,
    "chain(Every(2), ErrorFeedback(Int8(4)), Push(), Discount(0.5), Outer(1.0))",
]


@pytest.mark.parametrize("sentence", BY_STAR)
def test_a_server_that_dies_is_replaced_and_nothing_is_lost(played: Play, sentence: str) -> None:
    run = played(sentence, [Fault(HUB, UNDER_WAY_S, 0.5)])
    sound(run, sentence, 4)
    assert "the server was lost" in [event["cause"] for event in run.of("decision")]
    assert [event["state"] for event in run.of("server")] == ["joined", "lost", "joined"]
    assert set(run.outcome.workers) == {"a", "b", "c"}
    assert run.outcome.summary["kills_survived"] == 0


@pytest.mark.parametrize("sentence", ["parameter-server(2)", PUSHED])
def test_a_server_that_is_stopped_is_replaced_as_a_dead_one_is(
    played: Play, monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    pushed = pushes(monkeypatch) if sentence == PUSHED else {}
    run = played(sentence, [Fault(HUB, UNDER_WAY_S, 4.0, "stop")], num_epochs=24.0)
    sound(run, sentence, 24)
    told = [event["state"] for event in run.of("server")]
    assert told == ["joined", "suspected", "lost", "joined"]
    assert run.outcome.summary["kills_survived"] == 0
    if sentence == PUSHED:
        holds_each_push_once(run, pushed)


def test_a_server_that_is_stopped_for_a_moment_is_waited_for(played: Play) -> None:
    run = played("parameter-server()", [Fault(HUB, UNDER_WAY_S, 1.0, "stop")], num_epochs=8.0)
    sound(run, "parameter-server()", 8)
    assert [event["state"] for event in run.of("server")] == ["joined"]
    assert len(run.of("term")) == 1


def test_a_stopped_server_whose_coordinator_dies_is_replaced_too(played: Play) -> None:
    faults = [Fault(HUB, UNDER_WAY_S, None, "stop"), Fault("", 2.4, 0.5, "coordinator")]
    run = played("parameter-server()", faults, num_epochs=8.0)
    sound(run, "parameter-server()", 8)


@pytest.mark.parametrize("outer", ["", "Every(2), ", "Every(2), ErrorFeedback(Int8(16)), "])
def test_where_fewer_live_than_a_quorum_a_round_waits_for_those(played: Play, outer: str) -> None:
    sentence = f"chain({outer}Reduce(road='star', quorum=3){', Outer(0.7, 0.9)' if outer else ''})"
    deaths = [Fault("b", UNDER_WAY_S, 2.0), Fault("c", UNDER_WAY_S, 1.0)]
    run = played(sentence, deaths, num_epochs=24.0)
    sound(run, sentence, 24)
    told = [(event["members"], event["asked"]) for event in run.of("quorum")]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert repr(run.run.strategy) == sentence
    assert "at most 1 of the 3 members" in run.of("quorum")[0]["text"]


def test_one_that_began_anew_before_the_coordinator_died_holds_nothing(schedule: Play) -> None:
    """While the server is gone c begins anew; who knew that dies too, before a term was named."""
    deaths = [
        Fault(HUB, 1.5936, 1.2),
        Fault("c", 1.7573, 0.0694),
        Fault("", 2.3734, 0.19, "coordinator"),
    ]
    run = schedule("parameter-server()", [*deaths, Fault("b", 1.6423, 11.0, "stop")], 3.0)
    sound(run, "parameter-server()", 3)


def pushes(monkeypatch: pytest.MonkeyPatch) -> dict[int, Tensor]:
    """By round, what a member pushes: the same, however often it does."""
    pushed: dict[int, Tensor] = {}
    push = pushing.push

    def noting(member: Any, mine: Any, base: int) -> Any:
        payload = pushed.setdefault(mine.round, mine.payload.clone())
        assert torch.equal(payload, mine.payload)
        return (yield from push(member, mine, base))

    monkeypatch.setattr(pushing, "push", noting)
    return pushed


def holds_each_push_once(run: Any, pushed: dict[int, Tensor]) -> None:
    """What is on record as learned moved the server's anchor, and did so once."""
    with torch.random.fork_rng(devices=[]):
        first_N = Learner(run.setup).vector()
    moved_N = sum(pushed[event["last_round"]] for event in run.of("committed") if event["leases"])
    members = [run.outcome.workers[name] for name in run.run.term.members]
    last = max(members, key=lambda member: member.version)
    assert torch.allclose(last.agreed_vector(), first_N - moved_N, atol=1e-5)


@pytest.mark.parametrize("at_ms", [2302, 2309, 2318])
def test_what_is_on_record_moved_the_anchor_once_though_its_server_died(
    played: Play, monkeypatch: pytest.MonkeyPatch, at_ms: int
) -> None:
    pushed = pushes(monkeypatch)
    run = played(PUSHED, [Fault(HUB, at_ms / 1e3, 0.5)])
    sound(run, PUSHED, 4)
    holds_each_push_once(run, pushed)


class Losing(Simulation):
    """A road that loses the server's tenth answer to b, and what b sends it as the twentieth."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.num_posted = {"a": 0, "b": 0, HUB: 0}

    def _post(self, origin: str, to: str, channel: str, data: bytes) -> None:
        if "b" in (origin, to):
            self.num_posted[origin] += 1
            if self.num_posted[origin] == {"b": 20, HUB: 10}[origin]:
                return
        super()._post(origin, to, channel, data)


@pytest.mark.parametrize("sentence", ["asynchronous(2)", PUSHED])
def test_a_push_or_an_answer_that_is_lost_is_said_again_and_counts_once(
    played: Play, monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    monkeypatch.setattr(star, "ANSWER_S", 1.0)
    pushed = pushes(monkeypatch)
    run = played(sentence, engine=Losing, num_epochs=12.0)
    sound(run, sentence, 12)
    assert not any(event["state"] == "suspected" for event in run.of("agent"))
    if sentence == PUSHED:
        holds_each_push_once(run, pushed)


mishaps = st.lists(
    st.tuples(
        st.floats(0.02, 0.6) | st.sampled_from([0.001, 0.004, 0.012]),
        st.floats(0.02, 0.4) | st.floats(1.0, 4.0) | st.just(STUCK_S + 1.0),
        st.sampled_from(["kill", "stop", "cut", "stuck"]),
    ),
    max_size=2,
)
deaths = st.none() | st.tuples(st.floats(1.3, 2.4), st.floats(0.02, 2.0))
ends = deaths | st.tuples(  # of a server
    st.floats(1.3, 2.4), st.floats(0.02, 2.0) | st.floats(1.0, 4.0), st.sampled_from(["stop"])
)


@given(st.sampled_from([*SENTENCES, *BY_STAR]), mishaps, mishaps, deaths, ends)
def test_whatever_befalls_anybody_each_sample_is_learned_once(
    schedule: Play,
    witness: Callable[[], Any],
    sentence: str,
    of_b: list[Any],
    of_c: list[Any],
    coordinator: Any,
    server: Any,
) -> None:
    faults = [] if coordinator is None else [Fault("", *coordinator, "coordinator")]
    faults += [] if server is None else [Fault(HUB, *server)]
    of_c = [] if parse(sentence).waiting_for(1).least > 1 else of_c  # two are to be left for that
    for member, waits in (("b", of_b), ("c", of_c)):
        now_s = 1.3
        for wait_s, back_after_s, kind in waits:
            faults.append(Fault(member, now_s + wait_s, back_after_s, kind))
            now_s += wait_s + back_after_s
    with witness() as seen:
        run = schedule(sentence, faults, 3.0)
    sound(run, sentence, 3)
    truly = run.audit_of(seen)
    if server is not None and parse(sentence).exchange.asynchronous:
        assert truly.num_repeated == 0  # pushes that reached its anchor alone may die with it
    else:
        assert truly == run.audit, "members learned other samples than the books say"
