"""A run in figures: they agree with what happened, and survive being written down."""

from __future__ import annotations

import json

import pytest

from coterie.coordinator.account import as_event, progress, summary
from coterie.coordinator.explain import explain, sentences
from coterie.transport import messages as say


@pytest.fixture
def finished(play):
    p = play(baselines=["solo", "equal"], until={"epochs": 60.0}, strategy="auto")
    p.per_sample_s = {"b": 0.002, "c": 0.004}
    p.until_training()
    p.until_true(lambda: p.run.fraction() > 0.3)
    p.kill("b")
    p.until_true(lambda: p.run.fraction() > 0.5)
    p.enter("b")
    return p.to_the_end()


def test_a_summary_agrees_with_the_events(finished):
    figures = summary(finished.run)
    assert (figures["kills_survived"], figures["rejoined"]) == (1, 1)
    assert (figures["epochs"], figures["steps"]) == (60, finished.run.ledger.num_steps)
    assert figures["accuracy"] == finished.of("scores")[-1]["metrics"]["accuracy"]
    assert figures["seconds"] == finished.now_s
    assert figures["shares"].keys() == {"a", "b", "c"}
    decided = [e for e in finished.of("decision") if e["chosen"]["shares"] == figures["shares"]]
    assert figures["strategy"] in {e["chosen"]["strategy"] for e in decided}
    assert figures["reasons"] in [e["reasons"] for e in decided]


def test_arms_are_compared_in_the_summary(finished):
    figures, arms = summary(finished.run), finished.run.gauge.arms
    assert figures["vs_equal"] == pytest.approx(arms["ours"].per_s / arms["equal"].per_s)
    assert figures["vs_equal"] > 1.2
    assert 0.5 < figures["ideal_fraction"] < 1.0


def test_a_run_that_never_began_has_a_summary_too(play):
    p = play(2)
    p.enter("a")
    p.stop()
    figures = summary(p.to_the_end().run)
    assert figures["shares"] == figures["metrics"] == {}
    assert figures["strategy"] is figures["vs_equal"] is figures["ideal_fraction"] is None


def test_every_event_can_be_written_down(finished):
    for event in finished.events:
        json.dumps(event, allow_nan=False)
    json.dumps(summary(finished.run), allow_nan=False)


def test_progress_counts_up_to_the_whole(finished):
    fractions = [e["fraction"] for e in finished.of("progress")]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert finished.of("progress")[-1]["eta_s"] == 0.0


def test_the_time_left_is_told_once_it_can_be_known(play):
    p = play(until={"steps": 1000.0}).until_training()
    assert progress(p.run)["eta_s"] is None
    p.until_true(lambda: p.run.fraction() >= 0.25)
    figures = progress(p.run)
    assert figures["eta_s"] == pytest.approx(figures["elapsed_s"] * (1 / figures["fraction"] - 1))


def test_the_ideal_is_that_of_the_living_members(play):
    p = play(until={"epochs": 1e4}).until_training()
    before = progress(p.run)["ideal_per_s"]
    p.kill("c")
    p.until(say.Block)
    assert progress(p.run)["ideal_per_s"] == pytest.approx(before * 2 / 3)


def test_equal_shares_are_predicted_where_they_were_not_measured(play):
    p = play(2, until={"epochs": 1e4})
    p.per_sample_s["b"] = 0.003
    p.until_training()
    assert progress(p.run)["equal_per_s"] == pytest.approx(32 / (0.002 + 16 * 0.003), rel=0.05)


def test_a_decision_as_an_event_is_what_explains_it(finished):
    decision = finished.run.decisions[0]
    event = json.loads(json.dumps(as_event(decision)))
    assert event["chosen"]["goodput_per_s"] == decision.chosen.goodput_per_s
    assert [o["strategy"] for o in event["rejected"]] == [o.strategy for o in decision.rejected]
    assert event["world"]["batch"] == 32
    text = "\n".join(sentences(explain([{"kind": "decision", **event}])))
    assert all(reason in text for reason in decision.reasons)
