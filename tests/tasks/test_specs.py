"""Tasks of a job file, one or several."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import MultiSpec, TaskSpec
from coterie.errors import JobError
from coterie.tasks import Conflict, MultiTask, Supervised, from_spec
from coterie.tasks.weighing import DWA

DIGITS = "coterie.tasks.digits"
HEAD = {"call": "torch.nn:Linear", "with": {"in_features": 8, "out_features": 10}}
SPEC: dict[str, Any] = {
    "trunk": {"call": f"{DIGITS}:trunk", "with": {"width": 2}},
    "train": f"{DIGITS}:train_table",
    "test": f"{DIGITS}:test_table",
    "tasks": {
        "digit": {"model": HEAD, "metrics": {"accuracy": f"{DIGITS}:accuracy"}},
        "odd": {"model": {**HEAD, "with": {"in_features": 8, "out_features": 2}}},
    },
}


def made(**changes: Any) -> MultiTask:
    task = from_spec("digits", MultiSpec.model_validate({**SPEC, **changes}), ".")
    assert isinstance(task, MultiTask)
    return task


def test_tasks_that_name_one_table_share_its_samples() -> None:
    task = made()
    assert task.num_train == 1437
    assert [source.tasks for source in task.sources] == [("digit", "odd")]
    assert len(task.fetch([0, 1]).data) == 1


@pytest.mark.parametrize(
    ("said", "balance"),
    [
        ("upgrad", Conflict("upgrad")),
        ({"call": "coterie.tasks.weighing:DWA", "with": {"temperature": 3.0}}, DWA(3.0)),
        (
            {"call": "coterie.tasks.weighing:Conflict", "with": {"law": "cagrad"}},
            Conflict("cagrad"),
        ),
    ],
)
def test_a_balance_is_a_word_or_a_call(said: Any, balance: object) -> None:
    assert made(balance=said).balance == balance


def test_one_task_is_supervised() -> None:
    parts = {part: f"{DIGITS}:{part}_set" for part in ("train", "test")}
    spec = TaskSpec.model_validate({"model": f"{DIGITS}:model", **parts})
    assert isinstance(from_spec("digits", spec, "."), Supervised)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"balance": "best"}, "found 'best'"),
        ({"balance": {"call": "builtins:dict"}}, "expected balance to be a Weighing"),
        ({"tasks": {"shape": {"model": HEAD}}}, "answers of shape, found digit, odd, ink"),
        ({"tasks": {"odd": {"model": {"call": "torch.nn:Identity"}}}}, None),
        ({"tasks": {"ink": {"model": HEAD}}}, "ink: the loss could not be computed"),
    ],
)
def test_what_would_fail_later_is_refused_with_the_task_s_name(
    changes: dict[str, Any], sentence: str | None
) -> None:
    if sentence is None:
        assert list(made(**changes).tasks) == ["odd"]
        return
    with pytest.raises(JobError, match=sentence):
        made(**changes)
