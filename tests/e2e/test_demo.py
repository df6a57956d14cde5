from __future__ import annotations

import json
from typing import Any

import pytest

from coterie import demo
from coterie.config import dump_job

pytestmark = pytest.mark.processes

REHEARSED = {
    "accuracy",
    "agents",
    "shares",
    "ideal_fraction",
    "vs_equal",
    "kills_survived",
    "rejoined",
    "samples_lost",
    "samples_repeated",
    "pause_s",
    "strategy",
    "reasons",
    "seconds",
}


@pytest.fixture(scope="module")
def finished(shared_desk: Any) -> Any:
    """The demo's own job, in half of its time."""
    whole = demo.job("small").model_dump(by_alias=True)
    whole["until"] = {"minutes": 0.5}
    whole["drill"] = {"kill": demo.KILLED, "at": 0.2, "restart_after_s": 0.1}
    path = shared_desk.folder / "demo.yaml"
    path.write_text(dump_job(type(demo.job("small")).model_validate(whole)))
    return shared_desk.train(path)


def test_three_unequal_agents_learn_digits_while_one_is_killed_and_returns(finished: Any) -> None:
    assert finished.code == 0, finished.err
    summary = finished.answer
    assert summary.keys() >= REHEARSED
    assert summary["accuracy"] > 0.8
    assert (summary["kills_survived"], summary["rejoined"]) == (1, 1)
    assert (summary["samples_lost"], summary["samples_repeated"]) == (0, 0)
    assert summary["epochs"] >= 1  # or nothing was counted


def test_whoever_is_faster_gets_more_of_each_step(finished: Any) -> None:
    shares = finished.answer["shares"]
    assert sum(shares.values()) == demo.BATCH
    # On a machine whose every step costs much, the slowest may have nothing to give.
    assert shares["agent-0"] > shares["agent-1"] > shares.get("agent-2", 0)


def test_both_arms_of_the_comparison_were_run(finished: Any, shared_desk: Any) -> None:
    arms = {event["arm"] for event in shared_desk.events() if event["kind"] == "window"}
    assert arms == {"solo", "equal"}


def test_a_killed_member_is_said_to_be_lost_and_then_to_have_returned_and_healed(
    finished: Any, shared_desk: Any
) -> None:
    told = [e for e in shared_desk.events() if e["kind"] == "agent" and e["member"] == demo.KILLED]
    states = [event["state"] for event in told]
    assert states == ["joined", "ready", "lost", "returned", "ready", "rejoined"]


def test_explain_tells_what_was_predicted_and_what_came_of_it(
    finished: Any, shared_desk: Any
) -> None:
    explained = shared_desk.run("explain", "small", "--json", "--runs", shared_desk.runs)
    assert explained.code == 0, explained.err
    decisions = explained.answer["decisions"]
    assert [decision["number"] for decision in decisions] == list(range(1, len(decisions) + 1))
    assert decisions[0]["cause"] == "first plan"
    assert decisions[0]["rejected"]
    outcomes = [decision["outcome"] for decision in decisions if decision["outcome"]]
    assert outcomes
    for outcome in outcomes:
        assert outcome["predicted_round_s"] > 0
        assert outcome["achieved_round_s"] > 0
    assert json.dumps(finished.answer["reasons"][0])[1:-1] in json.dumps(explained.answer)
