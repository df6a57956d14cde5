"""Which agents learn which task: what a job may say, and what it is told where it may not."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import parse_job
from coterie.errors import JobError
from coterie.placing import check_agents, check_place, parts_tasks


@pytest.mark.parametrize(
    ("place", "priority", "words"),
    [
        ({"one": ["a"]}, {}, "expected an owner of each task, found none of two"),
        ({"one": ["a"], "two": []}, {}, "expected an owner of each task, found none of two"),
        ({"one": ["a"], "two": ["a"], "six": ["a"]}, {}, "in place names of one, two, found six"),
        ("auto", {"six": 1.0}, "in priority names of one, two, found six"),
        ("auto", {"one": -1.0}, "a priority of one of 0 or more, found -1"),
        ("auto", {"one": float("nan")}, "a priority of one of 0 or more, found nan"),
        ("nowhere", {}, "expected place to be everywhere, auto or {task"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(place: Any, priority: Any, words: str) -> None:
    with pytest.raises(JobError, match=words):
        check_place(place, priority, ("one", "two"))


def test_a_task_on_an_agent_that_is_not_here_is_refused() -> None:
    with pytest.raises(JobError, match=r"expected one on agents that are here \(a, b\), found it"):
        check_agents({"one": ["a", "c"]}, ["b", "a"])
    check_agents("auto", ["a"])


def test_tasks_are_parted_by_auto_or_by_owners_that_differ() -> None:
    assert parts_tasks("auto")
    assert not parts_tasks("everywhere")
    assert parts_tasks({"one": ["a"], "two": ["a", "b"]})
    assert not parts_tasks({"one": ["a", "b"], "two": ["b", "a"]})


def said(**changed: Any) -> dict[str, Any]:
    task = {
        "trunk": "m:trunk",
        "train": "m:train",
        "test": "m:test",
        "tasks": {"one": {"model": "m:head"}, "two": {"model": "m:head"}},
        **changed,
    }
    optimizer = "torch.optim:SGD"
    return {"name": "x", "task": task, "optimizer": optimizer, "batch": 8, "until": {"epochs": 1}}


def test_a_job_file_says_who_learns_what() -> None:
    spec = parse_job(said(place={"one": ["agent-0"], "two": ["agent-1"]}) | {"agents": 2}).task
    assert spec.place == {"one": ["agent-0"], "two": ["agent-1"]}  # type: ignore[union-attr]
    spec = parse_job(said(place="auto", priority={"one": 2.0})).task
    assert spec.priority == {"one": 2.0}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"one": ["agent-0"], "two": ["agent-2"]}, "here .agent-0, agent-1., found it on agent-2"),
        ({"one": ["agent-0"]}, "an owner of each task, found none of two"),
        ("nobody", "place"),
    ],
)
def test_a_job_file_that_places_a_task_nowhere_is_refused(place: Any, words: str) -> None:
    with pytest.raises(JobError, match=words):
        parse_job(said(place=place) | {"agents": 2})
