from __future__ import annotations

from typing import Any

import pytest

from coterie.coordinator.explain import MOST_LINKS, explain, sentences

Event = dict[str, Any]

EVERY_STEP = "chain(Reduce())"
WALK = "chain(Every(20), Reduce(), Outer(1.0))"


def option(strategy: str, goodput_per_s: float, **fields: Any) -> Event:
    rates = {"throughput_per_s": goodput_per_s, "goodput_per_s": goodput_per_s}
    return {
        "strategy": strategy,
        "shares": {"desk": 200, "pi": 56},
        "round_s": 0.5,
        **rates,
        **fields,
    }


def decision(number: int = 1, **fields: Any) -> Event:
    desk = {"name": "desk", "overhead_s": 0.004, "per_sample_s": 0.0005, "max_batch": 192}
    link = {"a": "desk", "b": "pi", "latency_s": 0.0002, "bytes_per_s": 1.17e8}
    return {
        "seq": 7,
        "kind": "decision",
        "number": number,
        "cause": "pi was lost",
        "chosen": option(WALK, 1000.0, exchange_s=0.02),
        "rejected": [option(EVERY_STEP, 250.0), option(EVERY_STEP, 0.0, refused="pi is full")],
        "reasons": ["20 steps hide the slow link."],
        "world": {"devices": [desk], "links": [link], "batch": 256, "num_train": 1000},
        **fields,
    }


def outcome(number: int, achieved_s: float, predicted_s: float = 0.5) -> Event:
    return {
        "kind": "outcome",
        "decision": number,
        "predicted_round_s": predicted_s,
        "achieved_round_s": achieved_s,
        "error": achieved_s / predicted_s - 1,
    }


def test_a_decision_is_told_whole() -> None:
    (found,) = explain([{"kind": "run"}, decision(), outcome(1, 0.55)])
    assert found["number"] == 1
    assert found["cause"] == "pi was lost"
    assert found["inputs"]["batch"] == 256
    assert found["chosen"]["strategy"] == WALK
    assert [rejected["slower"] for rejected in found["rejected"]] == [0.75, 1.0]
    assert found["reasons"] == ["20 steps hide the slow link."]
    assert found["outcome"]["error"] == pytest.approx(0.1)
    assert "seq" not in found["outcome"]


def test_an_unmeasured_decision_has_no_outcome() -> None:
    (found,) = explain([decision(), outcome(2, 0.55)])
    assert found["outcome"] is None
    assert sentences([found])[-1] == "Outcome: not measured yet."


def test_the_last_outcome_counts() -> None:
    (found,) = explain([decision(), outcome(1, 0.55), outcome(1, 0.6)])
    assert found["outcome"]["achieved_round_s"] == 0.6


def test_an_outcome_belongs_to_the_latest_decision_of_its_number() -> None:
    before, after = explain([decision(1), outcome(1, 0.6), decision(1), outcome(1, 0.7)])
    assert before["outcome"]["achieved_round_s"] == 0.6
    assert after["outcome"]["achieved_round_s"] == 0.7


def test_events_are_left_as_they_were() -> None:
    events = [decision(), outcome(1, 0.55)]
    explain(events)
    assert events == [decision(), outcome(1, 0.55)]


def test_sentences_say_what_was_believed_chosen_and_rejected() -> None:
    assert sentences(explain([decision(), outcome(1, 0.525)])) == [
        "Decision 1: pi was lost.",
        "Believed of desk: 4 ms a step and 0.5 ms more for each sample, "
        "1,920 samples/s alone at a batch of 192, at most 192 samples at once.",
        "Believed of desk to pi: 117 MB/s after 0.2 ms.",
        f"Chosen: {WALK} on desk 200, pi 56: predicted 0.5 s a round, 0.02 s of it exchange, "
        "1,000 samples/s, goodput 1,000 samples/s.",
        "Because: 20 steps hide the slow link.",
        f"Rejected: {EVERY_STEP} on desk 200, pi 56: predicted 0.5 s a round, 250 samples/s, "
        "goodput 250 samples/s, 75 % slower than the chosen.",
        f"Impossible: {EVERY_STEP} on desk 200, pi 56: pi is full.",
        "Outcome: predicted 0.5 s a round, achieved 0.525 s: 5 % longer than predicted.",
    ]


@pytest.mark.parametrize(
    ("goodput_per_s", "words"),
    [(996.0, "as fast as"), (500.0, "50 % slower than"), (1100.0, "10 % faster than")],
)
def test_a_rejected_option_is_compared_honestly(goodput_per_s: float, words: str) -> None:
    told = sentences(explain([decision(rejected=[option(EVERY_STEP, goodput_per_s)])]))
    assert told[-2].endswith(f"{words} the chosen.")


@pytest.mark.parametrize(
    ("achieved_s", "words"),
    [(0.4, "20 % shorter than predicted"), (0.501, "as predicted"), (1.0, "100 % longer")],
)
def test_a_prediction_is_held_against_what_came(achieved_s: float, words: str) -> None:
    assert words in sentences(explain([decision(), outcome(1, achieved_s)]))[-1]


def test_many_links_are_summed_up() -> None:
    links = [
        {"a": "hub", "b": f"d{k}", "latency_s": 0.001 * (k + 1), "bytes_per_s": 1e6 * (k + 1)}
        for k in range(MOST_LINKS + 1)
    ]
    told = sentences(explain([decision(world={"links": links})]))
    assert told[1] == f"Believed of {MOST_LINKS + 1} links: 1 to 7 MB/s after 1 ms to 7 ms."


def test_missing_fields_are_left_out_not_errors() -> None:
    bare = {"kind": "decision", "number": 3, "world": {"devices": [{"name": "pi"}], "links": [{}]}}
    told = sentences(explain([{**bare, "rejected": [{"strategy": EVERY_STEP}]}]))
    assert told == [
        "Decision 3: no cause was noted.",
        "Believed of pi: nothing was measured.",
        "Chosen: an unnamed strategy.",
        f"Rejected: {EVERY_STEP}.",
        "Outcome: not measured yet.",
    ]


def test_names_from_other_machines_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in "".join(sentences(explain([decision(cause="\x1b[2Jlost")])))


def test_trials_and_what_gradients_say_of_the_batch_are_told_with_their_decision() -> None:
    noise = {"kind": "noise", "decision": 1, "text": "A batch of 512 would reach more."}
    trial = {"kind": "trial", "decision": 1, "text": "chain(Reduce()) was tried"}
    kept = {"kind": "kept", "decision": 1, "text": "chain(Reduce()) keeps 0.78 of the progress"}
    told = sentences(explain([decision(), trial, kept, noise, decision(2)]))
    at = told.index("Tried: chain(Reduce()) was tried.")
    assert told[at + 1] == "Measured: chain(Reduce()) keeps 0.78 of the progress."
    assert told[at + 2] == "Measured: A batch of 512 would reach more."
    assert sum(line.startswith(("Tried", "Measured: A")) for line in told) == 2
