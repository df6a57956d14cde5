"""The driver of real agents: effects become calls, and what they come to is told to the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.join import drive, setup_of
from coterie.agents.learner import Learner, Setup
from coterie.agents.worker import Worker
from coterie.config import parse_job
from coterie.errors import JobError, Torn
from coterie.tasks.supervised import Supervised
from coterie.transport import messages as say
from coterie.transport.control import Inbox

MODULE = """
import torch
from torch.utils.data import TensorDataset
def net(): return torch.nn.Linear(3, 2)
def pairs(): return TensorDataset(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))
"""


class Client:
    """A control channel of which both ends are here."""

    def __init__(self, *orders: say.Wire) -> None:
        self.inbox = Inbox()
        self.told: list[Any] = []
        for order in orders:
            self.inbox.put(order)

    def tell(self, message: say.Wire) -> None:
        self.told.append(message)


class Alone:
    """A group of one, whose first totals may break off."""

    def __init__(self, client: Client, num_torn: int = 0) -> None:
        self.client, self.num_torn = client, num_torn

    def form(self, *_: object) -> None:
        pass

    def dial_ahead(self, store: str) -> None:
        assert store == "", "a group of one has no second member"

    def gather(self, vector_N: Tensor) -> list[Tensor]:
        return [vector_N]

    def total(self, vector_N: Tensor) -> Tensor:
        if self.num_torn:
            self.num_torn -= 1
            self.client.inbox.put(term(2, at_once=True))
            self.client.inbox.put(say.Stop(reason="done"))
            raise Torn("cut")
        return vector_N


def term(number: int, at_once: bool = False) -> say.Term:
    return say.Term(number=number, members=("a",), store="", at_once=at_once)


BLOCK = say.Block(
    term=1,
    first_round=1,
    data_epoch=0,
    spans=((0, 8),),
    shares={"a": 4},
    every=1,
    strategy="chain(Reduce())",
)


def worker(inputs: Tensor) -> Worker:
    pairs = TensorDataset(inputs, torch.zeros(8, dtype=torch.long))
    task = Supervised("t", lambda: nn.Linear(3, 2), pairs, pairs)
    return Worker("a", Learner(Setup(task, lambda p: torch.optim.SGD(p, lr=0.1))))


def lived(mine: Worker, client: Client, num_torn: int = 0, rest_s: Any = lambda _: 0.0) -> str:
    transport: Any = Alone(client, num_torn)
    there: Any = client
    return drive(mine, there, transport, rest_s)


def test_orders_are_carried_out_until_told_to_stop() -> None:
    client, mine = Client(term(1), BLOCK, say.Stop(reason="done")), worker(torch.ones(8, 3))
    assert lived(mine, client) == "done"
    assert mine.round == 2
    assert isinstance(client.told[0], say.Settled)
    reports = [message for message in client.told if isinstance(message, say.Report)]
    assert sum(report.num_samples for report in reports) == 8
    assert isinstance(client.told[-1], say.Bye)


def test_a_torn_meeting_is_the_workers_to_mend() -> None:
    client, mine = Client(term(1), BLOCK), worker(torch.ones(8, 3))
    assert lived(mine, client, num_torn=1) == "done"
    assert mine.round == 1
    assert say.TornRound(term=1) in client.told


def test_a_loss_that_is_not_finite_is_told_to_the_coordinator() -> None:
    client, mine = Client(term(1), BLOCK), worker(torch.full((8, 3), float("nan")))
    assert "expected a finite loss" in lived(mine, client)
    assert isinstance(client.told[-1], say.Failed)


def test_a_throttle_rests_after_every_computation() -> None:
    worked_s: list[float] = []
    client, mine = Client(term(1), BLOCK, say.Stop(reason="done")), worker(torch.ones(8, 3))
    lived(mine, client, rest_s=lambda seconds: worked_s.append(seconds) or 0.0)
    assert len(worked_s) == 2
    assert all(seconds > 0 for seconds in worked_s)


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
