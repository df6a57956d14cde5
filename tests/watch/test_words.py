from __future__ import annotations

from typing import Any

import pytest

from coterie.watch.words import duration, happening


@pytest.mark.parametrize(
    ("event", "label", "text"),
    [
        (
            {"kind": "run", "name": "digits", "agents": ["a", "b"], "until": {"accuracy": 0.97}},
            "run",
            "digits, 2 agents, until accuracy 0.97",
        ),
        (
            {"kind": "agent", "member": "pi", "state": "lost", "reason": "its process ended"},
            "lost",
            "pi: its process ended",
        ),
        (
            {"kind": "decision", "cause": "pi was lost", "chosen": {"shares": {"a": 9, "b": 0}}},
            "decision",
            "a 9 (pi was lost)",
        ),
        (
            {"kind": "outcome", "predicted_round_s": 0.5, "achieved_round_s": 0.55},
            "outcome",
            "500 ms a round predicted, 550 ms achieved (+10 %)",
        ),
        (
            {"kind": "checkpoint", "step": 1200, "num_bytes": 12_300_000, "seconds": 0.21},
            "checkpoint",
            "step 1,200, 12.3 MB in 210 ms",
        ),
    ],
)
def test_events_in_words(event: dict[str, Any], label: str, text: str) -> None:
    told = happening(event)
    assert told is not None
    assert (told.label, told.text) == (label, text)


@pytest.mark.parametrize("kind", ["progress", "committed", "epoch", "of tomorrow", None])
def test_what_is_not_worth_a_line_has_none(kind: str | None) -> None:
    assert happening({"kind": kind}) is None


KINDS = "run agent measured decision outcome term window scores fault pause epoch checkpoint error"


@pytest.mark.parametrize("kind", [*KINDS.split(), "warning", "stopped"])
def test_missing_fields_are_blanks_not_errors(kind: str) -> None:
    happening({"kind": kind})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.09996, "100 ms"), (0.9996, "1.0 s"), (99.96, "1 min 40 s"), (3599.7, "1 h 00 min")],
)
def test_durations_round_into_the_next_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words
