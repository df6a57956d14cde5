from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

from coterie.errors import JobError
from coterie.watch.lessons import Taught, save_graph, sentences


def taken(teacher: str, pupil: str, **about: Any) -> dict[str, Any]:
    told = {"kind": "lesson_taken", "teacher": teacher, "pupil": pupil, "currency": "labels"}
    return {**told, "num_steps": 40, "num_bytes": 100, "gain": 0.5, "weight": 1.0, **about}


def refused(teacher: str, pupil: str, reason: str) -> dict[str, Any]:
    return {**taken(teacher, pupil), "kind": "lesson_refused", "reason": reason}


EVENTS = [
    {"kind": "homes", "homes": {"ann": "pi", "bob": "pi", "eve": "pc"}, "cause": "pi is here",
     "text": "ann and bob on pi; eve on pc"},
    taken("ann", "bob"),
    taken("ann", "bob", gain=0.1, weight=0.5),
    refused("eve", "bob", "held-out utility would change by -1 ± 0.1 over 9 samples"),
    refused("eve", "bob", "held-out utility would change by -2 ± 0.1 over 9 samples"),
    {"kind": "groups", "groups": [["ann", "bob"]]},
    {"kind": "rehomed", "pupil": "eve", "to": "pi", "from_steps": 80, "steps_again": 3},
    {"kind": "board_failed", "pupil": "ann", "num_steps": 90, "reason": "it is away"},
]  # fmt: skip


def test_lessons_of_one_teacher_to_one_pupil_are_an_edge() -> None:
    told = Taught.of(EVENTS)
    edges = {(edge.teacher, edge.pupil): edge for edge in told.edges}
    good, bad = edges["ann", "bob"], edges["eve", "bob"]
    assert (good.taken, good.refused, good.num_bytes) == (2, 0, 200)
    assert (good.gain, good.weight) == pytest.approx((0.3, 0.75))
    assert (bad.taken, bad.refused, dict(bad.why)) == (0, 2, {"held-out utility would fall": 2})
    assert (told.pupils, told.groups) == (("ann", "bob", "eve"), (("ann", "bob"),))


def test_each_event_is_a_sentence() -> None:
    words = list(sentences(EVENTS))
    assert words[0] == "Because pi is here: ann and bob on pi; eve on pc."
    assert sum(line.startswith("bob took a lesson in labels from ann") for line in words) == 2
    assert sum(line.startswith("bob refused a lesson in labels from eve") for line in words) == 2
    assert any("eve went on on pi from step 80" in line and "3 steps" in line for line in words)
    assert "ann could not reach the board at step 90, and learned on alone: it is away." in words
    assert all(line.endswith(".") for line in words)


def test_other_runs_have_no_sentence() -> None:
    assert list(sentences([{"kind": "decision", "number": 1}, {"kind": "progress"}])) == []


def test_a_graph_is_written_as_its_name_ends(tmp_path: Path) -> None:
    told = Taught.of(EVENTS)
    read = json.loads(told.save(tmp_path / "who.json").read_text())
    assert read["groups"] == [["ann", "bob"]]
    drawn = xml.parse(told.save(tmp_path / "who.graphml")).getroot()[-1]
    tags = [element.tag.rpartition("}")[2] for element in drawn]
    assert (tags.count("node"), tags.count("edge")) == (3, 2)
    with pytest.raises(JobError, match="expected a name that ends in"):
        told.save(tmp_path / "who.txt")
    with pytest.raises(JobError, match="expected to write"):
        told.save(tmp_path / "nowhere" / "who.json")


def test_the_graph_lies_beside_the_events(tmp_path: Path) -> None:
    lines = [{"seq": n, "time_s": 0.0, **event} for n, event in enumerate(EVENTS)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert json.loads(save_graph(tmp_path).read_text())["pupils"] == ["ann", "bob", "eve"]


def test_a_graph_as_numbers_has_a_place_for_each_pair() -> None:
    told = Taught.of(EVENTS).matrices()
    assert told["help_MM"] == [[None, 2.0, None], [None, None, None], [None, None, None]]
