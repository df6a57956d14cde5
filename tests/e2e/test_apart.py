"""Tasks that are learned apart, in processes of their own, and what is told of their lessons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "09_knowledge" / "job.yaml"
TASK = {
    "model": "shop:net",
    "train": {"call": "shop:from_disk", "with": {"num": 128}},
    "test": "shop:samples",
    "metrics": {"accuracy": "shop:accuracy"},
    "classes": ["n", "e", "s", "w"],
}


def apart(tasks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    spec = {name: {**TASK, **own} for name, own in tasks.items()}
    sharing = {"every": 5, "gate": "open"}
    task = {"kind": "separate", "tasks": spec}
    return {"task": task, "knowledge": sharing, "strategy": "auto", "batch": 16, **changes}


def test_local_agents_and_one_that_joins_learn_several_tasks_and_teach_one_another(
    desk: Any,
) -> None:
    tasks = {
        "ann": {},
        "bob": {"priority": 2},
        "narrow": {"model": {"call": "shop:net", "with": {"width": 5}}},
    }
    tasks["empty"] = {"train": {"call": "shop:samples", "with": {"num": 0}}}
    job = desk.job(**apart(tasks, until={"steps": 60}, agents={"local": 1, "remote": 1}))
    run = desk.start("train", job, "--json", "--runs", desk.runs)
    endpoint = desk.await_event(lambda event: event["kind"] == "run")["endpoint"]
    key = desk.runs / "small" / "join.key"
    guest = desk.start("join", endpoint, "--key", key, "--name", "guest")
    finished = desk.finish(run)
    assert finished.code == 0, finished.err
    assert desk.finish(guest).code == 0
    learners = finished.answer["pupils"]
    assert {n: learners[n]["steps"] for n in ("ann", "bob", "narrow")} == dict.fromkeys(
        ("ann", "bob", "narrow"), 60
    )
    assert {learners[n]["agent"] for n in ("ann", "bob", "narrow")} == {"agent-0", "guest"}
    assert "expected train to hold samples" in learners["empty"]["broken"]
    assert finished.answer["lessons_taken"] > 0
    pairs = {(e["teacher"], e["pupil"]) for e in desk.events() if e["kind"] == "lesson_taken"}
    assert pairs == {("ann", "bob"), ("bob", "ann")}  # what is narrow fits nobody
    saved = Path(finished.answer["checkpoint"])
    assert load_file(saved / "narrow" / "model.safetensors")["0.weight"].shape == (5, 8)
    _check_words(desk)


def _check_words(desk: Any) -> None:
    told = desk.run("explain", "small", "--runs", desk.runs).out
    assert "bob took a lesson in parameters from ann at step" in told
    assert "ann refused a lesson in parameters from narrow" in told
    saved = json.loads((desk.runs / "small" / "graph.json").read_text())
    assert {(edge["teacher"], edge["pupil"]) for edge in saved["edges"]} >= {("ann", "bob")}
    out = desk.folder / "who.graphml"
    assert desk.run("graph", "small", "--out", out, "--runs", desk.runs).code == 0
    assert len(xml.parse(out).getroot()[-1]) > 4  # nodes and edges
    refused = desk.run("graph", "small", "--out", desk.folder / "who.txt", "--runs", desk.runs)
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_the_example_runs_in_this_process(desk: Any) -> None:
    finished = desk.run("train", EXAMPLE, "--set", "until.steps=30", "--json", "--runs", desk.runs)
    assert finished.code == 0, finished.err
    assert set(finished.answer["published_bytes"]) == {"parameters", "prototypes"}
    steps = {row["steps"] for row in finished.answer["pupils"].values()}
    assert min(steps) == 30  # to judge a lesson in prototypes takes a walk, which counts
    assert max(steps) < 40
