"""Where agents live is said whole, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import dump_job, parse_job
from coterie.errors import JobError
from coterie.yamls import read_yaml

TASK = {"model": "m:net", "train": "m:train", "test": "m:test"}
JOB: dict[str, Any] = {
    "name": "x", "task": TASK, "optimizer": "m:o", "batch": 8, "until": {"epochs": 1.0},
}  # fmt: skip


def test_agents_live_on_this_machine_unless_said_otherwise() -> None:
    assert parse_job(JOB).engine.kind == "local"


def test_an_engine_comes_back_as_it_was_written() -> None:
    engine = {"kind": "ray", "address": "h:1", "resources": {"camera": 1.0}, "cpus": 2.0, "most": 3}
    job = parse_job({**JOB, "engine": engine})
    assert parse_job(read_yaml(dump_job(job), "job.yaml")) == job


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"kind": "slurm"}, "local"),
        ({"address": "h:6379"}, "expected no engine.address for agents of this machine"),
        ({"kind": "ray", "address": "h"}, "expected auto, local or HOST:PORT"),
        ({"kind": "ray", "address": "ray://h:10001"}, "expected auto, local or HOST:PORT"),
        ({"kind": "ray", "address": "h:70000"}, "expected auto, local or HOST:PORT"),
        ({"kind": "ray", "cpus": 0.0}, "greater than 0"),
        ({"kind": "ray", "most": 0}, "greater than 0"),
        ({"kind": "ray", "gpus": 1}, "gpus"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(engine: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        parse_job({**JOB, "engine": engine})


@pytest.mark.parametrize(
    "wish",
    [
        {"agents": {"speeds": [1.0, 2.0]}},
        {"agents": {"local": 2, "spares": 1}},
        {"drill": {"kill": "agent-1"}},
    ],
)
def test_what_is_for_agents_of_this_machine_is_not_dropped_in_silence(wish: Any) -> None:
    with pytest.raises(JobError, match="found one; leave them out"):
        parse_job({**JOB, **wish, "engine": {"kind": "ray"}})
