"""Mishaps in virtual time: whoever is stopped or cut off, and whichever coordinator dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.engines.simulated import Fault
from coterie.sync.reading import parse
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
every_sentence = pytest.mark.parametrize("sentence", SENTENCES)


def stays_equal(sentence: str) -> bool:
    exchange = parse(sentence).exchange
    return exchange.agrees and not exchange.asynchronous


def sound(run: Any, sentence: str, num_epochs: int) -> None:
    """It ended, each sample was learned once, terms were named one by one, and members agree."""
    assert run.run.done, "it hangs"
    assert run.run.failure == ""
    assert run.audit == Audit(0, 0, tuple(range(num_epochs)))
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


def test_a_short_silence_is_no_reason_to_suspect(played: Play) -> None:
    for kind in ("stop", "cut"):
        run = played("all-reduce", [Fault("b", UNDER_WAY_S, 0.3, kind)], num_epochs=8.0)
        sound(run, "all-reduce", 8)
        assert not any(event["state"] == "suspected" for event in run.of("agent"))
        assert len(run.of("term")) == 1


mishaps = st.lists(
    st.tuples(
        st.floats(0.02, 2.4) | st.sampled_from([0.001, 0.004, 0.012]),
        st.floats(0.02, 0.4) | st.floats(1.0, 4.0),
        st.sampled_from(["kill", "stop", "cut"]),
    ),
    max_size=2,
)
deaths = st.none() | st.tuples(st.floats(1.6, 4.0), st.floats(0.01, 2.0))


@settings(max_examples=20)
@given(st.sampled_from(SENTENCES), mishaps, mishaps, deaths)
def test_whatever_befalls_members_and_coordinator_each_sample_is_learned_once(
    played: Play, sentence: str, of_b: list[Any], of_c: list[Any], coordinator: Any
) -> None:
    faults = [] if coordinator is None else [Fault("", *coordinator, "coordinator")]
    for member, waits in (("b", of_b), ("c", of_c)):
        now_s = 1.0
        for wait_s, back_after_s, kind in waits:
            faults.append(Fault(member, now_s + wait_s, back_after_s, kind))
            now_s += wait_s + back_after_s
    sound(played(sentence, faults), sentence, 4)
