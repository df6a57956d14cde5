from __future__ import annotations

from typing import Any

import pytest

from coterie.config import Job, dump_job, parse_job
from coterie.errors import JobError
from coterie.yamls import read_yaml

TASK = {"model": "m:net", "train": "m:train", "test": "m:test", "metrics": {"accuracy": "m:a"}}


def job(tasks: dict[str, Any] | None = None, **changes: Any) -> Job:
    told = {
        "name": "apart",
        "task": {"kind": "separate", "tasks": tasks or {"greek": TASK, "latin": TASK}},
        "optimizer": "torch.optim:SGD",
        "batch": 4,
        "until": {"steps": 9},
        **changes,
    }
    return parse_job(told)


def test_a_job_of_separate_tasks_is_read_as_it_was_written() -> None:
    told = job(knowledge={"currency": ["parameters", "prototypes"], "groups": [["greek", "latin"]]})
    assert parse_job(read_yaml(dump_job(told), "job.yaml")) == told


def test_more_agents_than_samples_of_a_batch_are_no_mistake_apart() -> None:
    assert job(agents=9).agents.local == 9


def test_metrics_of_all_and_of_each_may_be_waited_for() -> None:
    assert job(until={"accuracy": 0.9, "greek/accuracy": 0.8}).until["greek/accuracy"] == 0.8


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"strategy": "all-reduce"}, "expected nothing of strategy beside separate tasks"),
        ({"agents": {"local": 2, "spares": 1}}, "expected nothing of agents.spares beside"),
        ({"knowledge": {"groups": [["hebrew"]]}}, "expected in knowledge.groups names of tasks"),
        ({"knowledge": {"currency": "labels"}}, "expected a pool beside labels and hints"),
        ({"knowledge": {"currency": "words"}}, "knowledge"),
        ({"knowledge": {"board": "amqp://x"}}, "expected kafka://HOST:PORT/TOPIC, found 'amqp"),
        ({"knowledge": {"held_out": 1.0}}, "knowledge.held_out"),
        ({"tasks": {"../up": TASK}}, "expected letters, digits, '-' and '_'"),
        ({"tasks": {"a": {**TASK, "agents": 2}, "a-2": TASK}}, "found a-2 twice"),
        ({"tasks": {"a": {**TASK, "priority": -1.0}}}, "priority"),
        ({"until": {"loss": 1.0}}, "expected in until one or more of"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(JobError, match=complaint):
        job(**changes)


def test_knowledge_is_of_separate_tasks() -> None:
    with pytest.raises(JobError, match="expected knowledge beside a task of the kind separate"):
        job(task=TASK, knowledge={})
