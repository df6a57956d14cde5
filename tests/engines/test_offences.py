"""What is not finite, or no packet at all, costs who brought it; the others go on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from coterie.agents import walks
from coterie.agents.member import Member
from coterie.agents.star import CHANNEL
from coterie.agents.state import pack_state, unpack_state
from coterie.engines.simulated import Simulation
from coterie.transport import messages as say

Play = Callable[..., Any]
SENTENCES = [
    "all-reduce",
    "all-reduce-int8",
    "chain(Reduce(Median()))",
    "power-sgd(1)",
    "local-sgd(2)",
    "diloco-int8(2)",
    "streaming-diloco(4, 2, 1)",
    "gossip(2, 'ring')",
    "noloco(2)",
    "tiers(2, (('a', 'c'), ('b',)))",
    "tiers(2, (('a', 'b'), ('c',)))",
    "parameter-server()",
    "parameter-server(2)",
    "asynchronous(2)",
]
every_sentence = pytest.mark.parametrize("sentence", SENTENCES)
FIRST = 5  # the round from which on a member is broken


def assert_exact(run: Any, num_epochs: int) -> None:
    """Epochs may end in another order: what was declined is learned by somebody later."""
    assert run.audit.is_exact
    assert sorted(run.audit.epochs) == list(range(num_epochs))


def break_down(monkeypatch: pytest.MonkeyPatch, who: str, num_rounds: int) -> list[int]:
    """From some round on these members compute no numbers, so many times; the rounds of it."""
    broken: list[int] = []
    work = walks._work

    def working(member: Member, number: int, *given: Any) -> Any:
        whole = member.learner.task
        if member.name in who and number >= FIRST and len(broken) < num_rounds:
            broken.append(number)
            member.learner.task = torn = copy.copy(whole)
            object.__setattr__(torn, "loss", lambda *of: whole.loss(*of) * float("nan"))
        try:
            return (yield from work(member, number, *given))
        finally:
            member.learner.task = whole

    monkeypatch.setattr(walks, "_work", working)
    return broken


@every_sentence
def test_a_round_goes_on_without_what_is_not_finite(
    played: Play, monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    broken = break_down(monkeypatch, "b", 1)
    run = played(sentence)
    assert len(broken) == 1
    (offence,) = run.of("offence")
    assert offence["member"] == "b"
    assert "expected a finite loss" in offence["reason"]
    assert run.of("error") == []
    assert_exact(run, 4)
    (round_of_it,) = [e for e in run.of("committed") if e["first_round"] == broken[0]] or [None]
    assert round_of_it is None or "b" not in round_of_it["leases"]
    assert set(run.run.term.members) == {"a", "b", "c"}


@every_sentence
def test_one_that_cannot_stop_is_sent_away_and_the_others_finish(
    played: Play, monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    break_down(monkeypatch, "b", 10**6)
    run = played(sentence, num_epochs=6.0)
    assert len(run.of("offence")) >= 3
    assert {event["member"] for event in run.of("offence")} == {"b"}
    assert run.run.done
    if run.run.strategy.least > len(run.run.term.members):
        return
    assert run.of("error") == []
    assert run.run.term.members == ("a", "c")
    assert_exact(run, 6)


@pytest.mark.parametrize("sentence", [s for s in SENTENCES if isinstance(s, str)])
def test_nobody_finite_fails_the_run_with_a_sentence(
    played: Play, monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    break_down(monkeypatch, "abc", 10**6)
    run = played(sentence)
    assert run.run.done
    (error,) = run.of("error")
    assert "finite" in error["text"] or "all died" in error["text"]


# The star road: nothing that comes from outside is believed


class Forged(Simulation):
    """A simulation in which the fourth and the tenth packet of b is another one."""

    forge: Callable[[dict[str, Any]], bytes]
    num_sent = 0

    def _post(self, origin: str, to: str, channel: str, data: bytes) -> None:
        if origin == "b" and to == say.HUB:
            self.num_sent += 1
            if self.num_sent in (4, 10):
                honest, data = data, type(self).forge(unpack_state(data))
                super()._post(origin, to, CHANNEL, data)
                if unreadable(data):  # then the true one follows, or the round would wait for it
                    super()._post(origin, to, channel, honest)
                return
        super()._post(origin, to, channel, data)


def unreadable(data: bytes) -> bool:
    return data.startswith(b"garbage")


def with_payload(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return staticmethod(lambda said: pack_state({**said, "payload": change(said["payload"])}))


FORGERIES = {
    "garbage": staticmethod(lambda said: b"garbage" * 9),
    "too short": with_payload(lambda payload: payload[:-1].clone()),
    "too long": with_payload(lambda payload: torch.cat([payload, payload])),
    "not finite": with_payload(lambda payload: payload * float("nan")),
}


@pytest.mark.parametrize("sentence", ["parameter-server()", "asynchronous(2)"])
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_packet_is_reported_and_the_run_goes_on(
    played: Play, sentence: str, forge: Any
) -> None:
    engine = type("Engine", (Forged,), {"forge": forge})
    run = played(sentence, engine=engine)
    assert run.run.done
    assert run.of("error") == []
    assert [event["member"] for event in run.of("offence")] == ["b", "b"]
    assert_exact(run, 4)


def test_a_quorum_of_more_than_there_are_is_refused(played: Play) -> None:
    run = played("parameter-server(4)")
    (error,) = run.of("error")
    assert "expected at least the 4 members" in error["text"]
    assert "found 3" in error["text"]
    assert run.of("committed") == []
