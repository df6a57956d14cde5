"""A run has a folder of its own, or it was never begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.config import Job, load_job, parse_job
from coterie.engines.launch import Result, launch
from coterie.errors import CheckpointError, CoterieError, JobError, StrategyError
from coterie.watch.events import read

MODULE = """
import torch
from torch.utils.data import TensorDataset

INPUTS = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
def net(): return torch.nn.Linear(3, 2)
def wide(): return torch.nn.Linear(3, 5)
def pairs(num=20): return TensorDataset(INPUTS[:num], (INPUTS[:num].sum(1) > 0).long())
def broken(): return TensorDataset(INPUTS / 0 * 0, (INPUTS.sum(1) > 0).long())
"""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    module = f"task_of_{tmp_path.name}"  # a name imported once is not looked for again
    (tmp_path / f"{module}.py").write_text(MODULE)
    spec = {"model": f"{module}:net", "train": f"{module}:pairs", "test": f"{module}:pairs"}
    return {
        "name": "small",
        "task": spec,
        "optimizer": {"call": "torch.optim:SGD", "with": {"lr": 0.1}},
        "batch": 8,
        "until": {"epochs": 2.0},
        "agents": 1,
        "root": str(tmp_path),
    }


def start(given: dict[str, Any], runs: Path, resume: Path | None = None) -> Result:
    return launch(parse_job(given), runs, resume, lambda event: None)


def test_a_run_is_a_folder_that_tells_all(given: dict[str, Any], tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    result = launch(parse_job(given), tmp_path / "runs", None, shown.append)
    assert (result.folder, result.exit_code) == (tmp_path / "runs" / "small", 0)
    assert result.summary["steps"] == 6
    assert shown == read(result.folder / "events.jsonl")
    job: Job = load_job(result.folder / "job.yaml")
    assert job.agents.local == 1
    assert job.task == parse_job(given).task


def test_runs_of_one_name_are_numbered_and_never_overwritten(
    given: dict[str, Any], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert [start(given, runs).folder.name for _ in range(3)] == ["small", "small-2", "small-3"]
    (runs / "small-7").mkdir()
    (runs / "smaller-9").mkdir()
    assert start(given, runs).folder.name == "small-8"


@pytest.mark.parametrize("pointed", ["small", "small/checkpoints/step-6"])
def test_a_resumed_run_goes_on_in_its_own_folder(
    given: dict[str, Any], tmp_path: Path, pointed: str
) -> None:
    runs = tmp_path / "runs"
    first = start(given, runs)
    then = start({**given, "until": {"epochs": 5.0}}, runs, runs / pointed)
    assert then.folder == first.folder
    assert then.summary["steps"] == 15
    assert load_job(then.folder / "job.yaml").until == {"epochs": 5.0}
    assert [path.name for path in runs.iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"strategy": "all-reduc"}, StrategyError, "expected"),
        ({"task": {"model": "nowhere:net"}}, JobError, "expected a module nowhere, found none"),
        ({"task": {"model": "torch.nn:Liner"}}, JobError, "did you mean Linear"),
        ({"optimizer": "torch.optim:SDG"}, JobError, "did you mean SGD"),
    ],
)
def test_what_cannot_begin_is_refused_and_leaves_nothing_behind(
    given: dict[str, Any], tmp_path: Path, change: dict[str, Any], kind: type, sentence: str
) -> None:
    task = {**given["task"], **change.get("task", {})}
    with pytest.raises(CoterieError, match=sentence):
        start({**given, **change, "task": task}, tmp_path / "runs")
    assert not (tmp_path / "runs" / "small").exists()


def test_a_damaged_checkpoint_is_refused_and_the_run_is_left_as_it_was(
    given: dict[str, Any], tmp_path: Path
) -> None:
    folder = start(given, tmp_path / "runs").folder
    model = folder / "checkpoints" / "step-6" / "model.safetensors"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    before = (folder / "events.jsonl").read_bytes(), (folder / "job.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        start({**given, "until": {"epochs": 9.0}}, tmp_path / "runs", folder)
    assert ((folder / "events.jsonl").read_bytes(), (folder / "job.yaml").read_text()) == before


def test_a_checkpoint_of_another_model_is_refused_and_the_job_file_stays(
    given: dict[str, Any], tmp_path: Path
) -> None:
    folder = start(given, tmp_path / "runs").folder
    before = (folder / "job.yaml").read_text()
    other = {
        **given,
        "task": {**given["task"], "model": given["task"]["model"].replace("net", "wide")},
    }
    with pytest.raises(CoterieError, match="a checkpoint of another model: resume"):
        start(other, tmp_path / "runs", folder)
    assert (folder / "job.yaml").read_text() == before


def test_a_run_that_fails_on_the_way_says_why_and_keeps_its_folder(
    given: dict[str, Any], tmp_path: Path
) -> None:
    given["task"]["train"] = given["task"]["train"].replace("pairs", "broken")
    result = start(given, tmp_path / "runs")
    assert result.exit_code == 1
    assert "expected a finite loss, found nan at step 1" in result.summary["error"]
    assert read(result.folder / "events.jsonl")[-1]["ok"] is False


def test_a_folder_that_cannot_be_made_is_said(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CoterieError, match="expected to write the run to"):
        start(given, tmp_path / "runs")
