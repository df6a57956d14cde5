from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.errors import JobError
from coterie.watch.said import Said, note
from coterie.watch.telling import follow, told

LIFE: list[dict[str, Any]] = [
    {"kind": "run", "name": "first"},
    {"kind": "agent", "member": "pi", "state": "lost", "reason": "killed by signal 9"},
    {"kind": "warning", "text": "a full disk"},
]
END = {"kind": "stopped", "reason": "steps reached"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path, *LIFE)
    note(tmp_path, "desk", b"all is well\n")
    return tmp_path


def write(run: Path, *events: dict[str, Any]) -> None:
    path = run / "events.jsonl"
    first = path.read_bytes().count(b"\n") if path.exists() else 0
    with path.open("a") as file:
        for seq, event in enumerate(events, start=first):
            file.write(json.dumps({"seq": seq, "time_s": float(seq), **event}) + "\n")


def test_everything_is_told_and_of_one_agent_what_concerns_it(run: Path) -> None:
    assert told(run).lines() == [
        "    0.0 s  run         first",
        "    1.0 s  lost        pi: killed by signal 9",
        "    2.0 s  warning     a full disk",
        "desk: all is well",
    ]
    assert told(run, "pi").lines() == ["    1.0 s  lost        pi: killed by signal 9"]
    assert told(run, "desk").said == (Said("desk", "all is well"),)


def test_nobody_who_was_not_there_is_asked_for(run: Path) -> None:
    with pytest.raises(JobError, match="found 'bob'; known are desk, pi"):
        told(run, "bob")
    with pytest.raises(JobError, match="found 'bob'"):
        list(follow(run, "bob"))


def test_a_run_under_way_is_told_until_it_ends(run: Path) -> None:
    rest = iter([END])

    def go_on(seconds: float) -> None:
        for event in rest:
            note(run, "desk", b"so far\n")
            write(run, event)

    lines = list(follow(run, sleep=go_on))
    assert lines[3:] == [
        "desk: all is well",
        "    3.0 s  stopped     steps reached",
        "desk: so far",
    ]
