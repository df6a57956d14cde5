from __future__ import annotations

from typing import Any

from rich.console import Console

from coterie.watch.progress import Picture, frame
from coterie.watch.pupils import NUM_PUPILS, pupils_table


def drawn(what: Any) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()


def row(**about: Any) -> dict[str, Any]:
    return {"agent": "pi", "steps": 40, "loss": 0.5, "metrics": {"accuracy": 0.9}, **about}


def test_a_learner_is_a_row_and_one_that_broke_says_so() -> None:
    told = drawn(pupils_table({"greek": row(taken=3, sent_bytes=12_300), "latin": row(broken="x")}))
    assert "greek" in told
    assert "12 kB" in told
    assert "broken" in told


def test_many_are_counted() -> None:
    told = drawn(pupils_table({f"task-{n}": row() for n in range(NUM_PUPILS + 3)}))
    assert "and 3 more" in told


def test_the_screen_shows_learners_where_there_are_some() -> None:
    event = {"kind": "progress", "pupils": {"greek": row()}}
    assert "greek" in drawn(frame(Picture().after(event), 120))
    assert "learner" not in drawn(frame(Picture().after({"kind": "progress"}), 120))
