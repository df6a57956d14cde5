"""The driver of real agents: effects become calls, and what they come to is told to the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.agents.join import setup_of
from coterie.agents.learner import Learner
from coterie.config import parse_job
from coterie.errors import JobError

MODULE = """
import torch
from torch.utils.data import TensorDataset
def net(): return torch.nn.Linear(3, 2)
def pairs(): return TensorDataset(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))
"""


def job(tmp_path: Path, **given: Any) -> Any:
    module = f"task_of_{tmp_path.name}"  # a name imported once is not looked for again
    (tmp_path / f"{module}.py").write_text(MODULE)
    spec = {"model": f"{module}:net", "train": f"{module}:pairs", "test": f"{module}:pairs"}
    fields = {
        "name": "x",
        "task": spec,
        "optimizer": {"call": "torch.optim:SGD", "with": {"lr": 0.5}},
        "batch": 4,
        "until": {"steps": 1.0},
        "root": str(tmp_path),
        **given,
    }
    return parse_job(fields)


def test_a_job_is_made_real_with_its_optimizer_schedule_and_seed(tmp_path: Path) -> None:
    schedule = {
        "call": "torch.optim.lr_scheduler:StepLR",
        "with": {"step_size": 1, "gamma": 0.5},
        "every": "step",
    }
    made = setup_of(job(tmp_path, scheduler=schedule, seed=7), "cpu")
    learner = Learner(made)
    learner.step([0, 1])
    assert (made.seed, made.scheduler_every, made.device) == (7, "step", "cpu")
    assert learner.optimizer.param_groups[0]["lr"] == 0.25


def test_an_optimizer_that_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    wrong = {"call": "torch.optim:SGD", "with": {"learning_rate": 0.5}}
    with pytest.raises(JobError, match="expected arguments that fit torch"):
        Learner(setup_of(job(tmp_path, optimizer=wrong), "cpu"))
