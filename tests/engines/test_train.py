"""`coterie.train`: any objects on one device, names for many."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset

from coterie.config import Ref, load_job
from coterie.engines.launch import Result
from coterie.engines.train import train
from coterie.errors import CoterieError, JobError
from coterie.specs import MultiSpec
from coterie.tasks.multitask import MultiTask
from coterie.tasks.supervised import Supervised
from coterie.tasks.weighing import DWA
from coterie.watch.events import read

INPUTS = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
PAIRS = TensorDataset(INPUTS, (INPUTS.sum(1) > 0).long())
SGD = functools.partial(torch.optim.SGD, lr=0.1)


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(1) == targets).double().mean().item()


def task(model: Any = None, **options: Any) -> Supervised:
    made = model or (lambda: nn.Linear(3, 2))
    return Supervised("small", made, PAIRS, PAIRS, **options)


def run(tmp_path: Path, given: Any = None, **options: Any) -> Result:
    until = options.pop("until", {"steps": 3.0})
    return train(given or task(), SGD, 8, until, runs=tmp_path, show=lambda event: None, **options)


def test_objects_are_enough_for_one_agent(tmp_path: Path) -> None:
    made = nn.Linear(3, 2)
    before = made.weight.detach().clone()
    metrics = {"accuracy": lambda predictions, targets: accuracy(predictions, targets)}
    result = run(tmp_path, task(made, metrics=metrics))
    assert result.folder == tmp_path / "small"
    assert result.exit_code == 0
    assert result.summary["kind"] == "summary"
    assert result.summary["steps"] == 3
    assert result.summary["metrics"].keys() == {"accuracy", "test_loss"}
    assert Path(result.summary["checkpoint"]).name == "step-3"
    assert torch.equal(made.weight, before)  # a copy was trained


def test_a_list_of_one_task_is_that_task(tmp_path: Path) -> None:
    assert run(tmp_path, [task()]).summary["steps"] == 3


def test_several_tasks_are_learned_apart_and_teach_one_another(tmp_path: Path) -> None:
    tasks = [Supervised(name, nn.Linear(3, 2), PAIRS, PAIRS) for name in ("greek", "latin")]
    sharing = {"every": 2, "gate": "open", "share": "all"}
    result = run(tmp_path, tasks, until={"steps": 8}, knowledge=sharing, priority={"greek": 2})
    assert result.exit_code == 0
    assert {row["steps"] for row in result.summary["pupils"].values()} == {8}
    assert result.summary["lessons_taken"] > 0
    told = json.loads((result.folder / "graph.json").read_text())
    assert told["edges"]
    assert set(told["pupils"]) == {"greek", "latin"}
    resumed = run(tmp_path, tasks, until={"steps": 12}, resume=result.folder)
    assert {row["steps"] for row in resumed.summary["pupils"].values()} == {12}


@pytest.mark.parametrize(
    ("tasks", "options", "complaint"),
    [
        ([], {}, "expected a task, found none"),
        (["a", "a"], {}, "expected tasks with names of their own, found a twice"),
        (["a", "b"], {"priority": {"c": 1}}, "expected priorities of tasks that are given"),
        (["a"], {"knowledge": {}}, "expected knowledge beside a task of the kind separate"),
        (["a", "b"], {"strategy": "all-reduce"}, "expected nothing of strategy beside separate"),
    ],
)
def test_what_several_tasks_cannot_be(
    tmp_path: Path, tasks: list[str], options: dict[str, Any], complaint: str
) -> None:
    made = [Supervised(name, nn.Linear(3, 2), PAIRS, PAIRS) for name in tasks]
    with pytest.raises(JobError, match=complaint):
        train(made, SGD, 8, {"steps": 3}, runs=tmp_path, show=lambda event: None, **options)


def several(trunk: Any, balance: Any = "equal", **placed: Any) -> MultiTask:
    head = functools.partial(nn.Linear, 4, 2)
    tasks = [Supervised(name, head, pairs, pairs) for name in ("one", "other")]
    return MultiTask("several", trunk, tasks, balance, **placed)


def pairs() -> TensorDataset:
    return PAIRS


def test_several_tasks_in_one_model_are_one_task(tmp_path: Path) -> None:
    result = run(tmp_path, several(lambda: nn.Linear(3, 4), DWA(every=2)))
    assert result.summary["steps"] == 3
    assert result.summary["metrics"].keys() == {"test_loss", "one/test_loss", "other/test_loss"}
    written = load_job(result.folder / "job.yaml").task
    assert isinstance(written, MultiSpec)
    assert isinstance(written.balance, Ref)
    assert written.balance.kwargs == {"temperature": 2.0, "every": 2}


def test_who_learns_which_task_is_said_with_it(tmp_path: Path) -> None:
    place = {"one": ["agent-0"], "other": ("agent-0",)}
    given = several(lambda: nn.Linear(3, 4), place=place, priority={"one": 2.0})
    result = run(tmp_path, given)
    written = load_job(result.folder / "job.yaml").task
    assert isinstance(written, MultiSpec)
    assert (written.place, written.priority) == (
        {"one": ["agent-0"], "other": ["agent-0"]},
        {"one": 2.0},
    )
    with pytest.raises(JobError, match=r"expected one on agents that are here \(agent-0\), found"):
        run(tmp_path, several(nn.Linear(3, 4), place={**place, "one": ["agent-1"]}))


def test_the_trunk_too_must_have_a_name_for_agents_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"expected trunk to be .* at the top of a module"):
        run(tmp_path, several(lambda: nn.Linear(3, 4)), agents=2)


def test_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    def loss(name: str, seed: int) -> float:
        found: float = run(tmp_path / name, seed=seed).summary["metrics"]["test_loss"]
        return found

    assert loss("a", 1) == loss("b", 1) != loss("c", 2)


def test_every_event_is_shown(tmp_path: Path) -> None:
    shown: list[Any] = []
    result = train(task(), SGD, 8, {"steps": 3.0}, runs=tmp_path, show=shown.append)
    assert shown == read(result.folder / "events.jsonl")


def test_a_run_is_resumed_by_its_folder(tmp_path: Path) -> None:
    first = run(tmp_path)
    then = run(tmp_path, until={"steps": 7.0}, resume=first.folder)
    whole = run(tmp_path / "whole", until={"steps": 7.0})
    assert then.folder == first.folder
    assert then.summary["steps"] == 7
    assert then.summary["metrics"] == whole.summary["metrics"]


def test_a_schedule_is_part_of_the_run_and_of_its_job_file(tmp_path: Path) -> None:
    schedule = functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.0)
    stopped = run(tmp_path / "a", scheduler=schedule, scheduler_every="step")
    once = run(tmp_path / "b", until={"steps": 1.0})
    assert stopped.summary["metrics"] == once.summary["metrics"]  # the rate is 0 after one step
    written = load_job(stopped.folder / "job.yaml").scheduler
    assert written is not None
    assert (written.call.rpartition(":")[2], written.every) == ("StepLR", "step")
    assert written.kwargs == {"step_size": 1, "gamma": 0.0}


def test_a_loss_that_is_not_finite_is_a_result_not_an_exception(tmp_path: Path) -> None:
    broken = TensorDataset(INPUTS * float("nan"), PAIRS.tensors[1])
    result = run(tmp_path, Supervised("small", lambda: nn.Linear(3, 2), broken, PAIRS))
    assert result.exit_code == 1
    assert "lower the learning rate" in result.summary["error"]


@pytest.mark.parametrize("agents", [2, {"local": 0, "remote": 1}], ids=["two", "one elsewhere"])
@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, "model"),
        ({"loss": lambda p, t: nn.functional.cross_entropy(p, t)}, "model|loss"),
        ({"metrics": {"accuracy": lambda p, t: 1.0}}, "model|accuracy"),
    ],
)
def test_what_only_this_process_has_is_refused_for_agents_of_their_own(
    tmp_path: Path, agents: Any, options: dict[str, Any], where: str
) -> None:
    with pytest.raises(JobError, match=f"expected ({where}) to be .* at the top of a module"):
        run(tmp_path, task(**options), agents=agents)
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_cannot_compute_its_loss_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CoterieError, match="the loss could not be computed on the first 2 samples"):
        run(tmp_path, task(lambda: nn.Linear(9, 2)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"until": {}}, "expected in until"),
        ({"until": {"acuracy": 0.9}}, "found acuracy"),
        ({"strategy": " "}, "found an empty text"),
    ],
)
def test_a_job_that_does_not_hang_together_is_refused(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(JobError, match=sentence):
        run(tmp_path, **options)
