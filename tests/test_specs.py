"""The task section: each kind of task has keys of its own, and says what its score will carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.config import Job, dump_job, load_job, parse_job
from coterie.errors import JobError
from coterie.specs import MultiSpec

CLUSTERS = {"kind": "clusters", "model": "nets:small", "train": "sets:train", "test": "sets:test"}


def job_with(task: Any, until: Any, root: str = ".") -> Job:
    given = {"name": "first", "optimizer": "torch.optim:SGD", "batch": 8, "root": root}
    return parse_job({**given, "task": task, "until": until})


@pytest.mark.parametrize(
    ("task", "until"),
    [
        (CLUSTERS, {"negative_loss": -0.5}),
        ({**CLUSTERS, "labelled": "sets:some"}, {"ami": 0.7, "negative_loss": -2}),
        ({**CLUSTERS, "kind": "autoencoder", "anomalies": "sets:odd"}, {"auroc": 0.9}),
        ({**CLUSTERS, "kind": "contrastive", "group": 8}, {"alignment": -0.1, "steps": 9}),
        ({**CLUSTERS, "kind": "contrastive", "labelled": "sets:some"}, {"accuracy": 0.9}),
    ],
)
def test_each_says_what_its_score_will_carry(task: Any, until: Any, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    job = job_with(task, until, str(tmp_path))
    assert job.task.kind == task["kind"]
    path.write_text(dump_job(job))
    assert load_job(path) == job


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"kind": "clustr"}, "task: expected kind to be one of supervised, "),
        ({**CLUSTERS, "lebelled": "m:f"}, "of task, found 'lebelled'; did you mean 'labelled'?"),
        ({**CLUSTERS, "loss": "m:f"}, "a key of task, found 'loss'; possible are model, train, "),
        ({**CLUSTERS, "model": {"cal": "m:f"}}, "a key of task.model, found 'cal'; did you mean"),
        ({**CLUSTERS, "kind": "contrastive", "group": 1}, "task.group: expected greater than or"),
        (CLUSTERS, "epochs, steps, minutes, negative_loss, found accuracy"),
        ({"kind": "clusters"}, "expected the key task.model, found none; add it"),
    ],
)
def test_mistakes_are_told_by_the_keys_of_the_kind(task: Any, words: str) -> None:
    with pytest.raises(JobError) as refusal:
        job_with(task, {"accuracy": 0.9})
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


SEVERAL: dict[str, Any] = {
    "trunk": "nets:trunk",
    "train": "sets:table",
    "test": "sets:held_out",
    "tasks": {
        "digit": {"model": "nets:head", "metrics": {"accuracy": "sets:accuracy"}},
        "odd": {"model": "nets:head", "train": "sets:odd"},
    },
}


class TestSeveral:
    @pytest.mark.parametrize("until", ["accuracy", "digit/accuracy"])
    def test_are_known_by_their_tasks_and_wait_for_one_or_the_mean(self, until: str) -> None:
        job = job_with(SEVERAL, {until: 0.9})
        assert isinstance(job.task, MultiSpec)
        assert job == job_with({**SEVERAL, "kind": "multi"}, {until: 0.9})

    def test_datasets_are_handed_down_to_tasks_without_their_own(self) -> None:
        job = job_with(SEVERAL, {"steps": 9})
        assert isinstance(job.task, MultiSpec)
        assert [t.train.call for t in job.task.tasks.values()] == ["sets:table", "sets:odd"]
        assert parse_job(yaml.safe_load(dump_job(job))) == job

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"tasks": {}}, "task.tasks: expected"),
            ({"tasks": {"digit": {"modle": "m:f"}}}, "key of task.tasks.digit, found 'modle'"),
            ({"tasks": {"clusters": {"modle": "m:f"}}}, "found 'modle'; did you mean 'model'"),
            ({"tasks": {"digit": {**CLUSTERS}}}, "task.tasks.digit.kind: expected"),
            ({"trunc": "m:f"}, "key of task, found 'trunc'; did you mean 'trunk'?"),
            ({"balance": {"digit": -1}}, "task.balance"),
            ({"test": None}, "expected the key task.tasks.digit.test, found none"),
        ],
    )
    def test_what_is_wrong_is_placed(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(JobError) as refusal:
            job_with({**SEVERAL, **changes}, {"steps": 9})
        assert words in str(refusal.value)
