"""The driver of real agents: effects become calls, and what they come to is told to the worker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from coterie.agents.join import Place, _check_byte_order, _root, setup_of
from coterie.agents.learner import Learner
from coterie.code import digests
from coterie.config import parse_job
from coterie.errors import JobError, JoinError
from coterie.transport.messages import Bye, Welcome

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


class TestCode:
    SOURCE: ClassVar = {"nets.py": "X = 1\n"}

    def root_of(self, here: Path, ships: bool, accepts: bool) -> tuple[Path, list[Any]]:
        """Where an agent takes the code from, and what it tells the coordinator."""
        told: list[Any] = []
        source = self.SOURCE if ships else {}
        welcome = Welcome(job={}, code=digests(self.SOURCE), source=source)
        place = Place("h:1", here / "join.key", here, accepts_code=accepts)
        try:
            return _root(place, welcome, SimpleNamespace(tell=told.append)), told  # type: ignore[arg-type]
        except JobError as refusal:
            return here, [*told, str(refusal)]

    def test_the_same_code_of_this_machine_is_run(self, tmp_path: Path) -> None:
        (tmp_path / "nets.py").write_text(self.SOURCE["nets.py"])
        assert self.root_of(tmp_path, ships=True, accepts=False) == (tmp_path, [])

    def test_other_code_leaves_and_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "nets.py").write_text("X = 2\n")
        _, (bye, refusal) = self.root_of(tmp_path, ships=True, accepts=False)
        assert bye == Bye(reason=refusal)
        assert "found other or no nets.py" in refusal

    def test_what_is_shipped_is_run_only_if_that_is_accepted(self, tmp_path: Path) -> None:
        folder, told = self.root_of(tmp_path, ships=True, accepts=True)
        assert folder != tmp_path
        assert [p.read_text() for p in folder.iterdir()] == ["X = 1\n"]
        assert (told, list(tmp_path.iterdir())) == ([], [])

    def test_a_run_that_ships_nothing_cannot_be_accepted_from(self, tmp_path: Path) -> None:
        _, (bye, refusal) = self.root_of(tmp_path, ships=False, accepts=True)
        assert "begin it with coterie up --ship" in refusal
        assert bye == Bye(reason=refusal)


def test_a_machine_whose_numbers_travel_the_other_way_round_is_left_out() -> None:
    _check_byte_order("little")
    with pytest.raises(JoinError, match="leave this machine out"):
        _check_byte_order("big")
