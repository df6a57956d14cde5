"""A small task on three unequal machines, for runs in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.config import Job, Ref, TaskSpec
from coterie.engines.simulated import Fault, Outcome, Simulation
from coterie.tasks.supervised import Supervised
from coterie.watch.events import Audit, audit
from coterie.world import Device, Link, World

NUM_TRAIN, BATCH = 60, 8
INPUTS = torch.randn(NUM_TRAIN, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS @ torch.randn(4, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
PACE = {"a": 0.008, "b": 0.012, "c": 0.02, "d": 0.015}
LIMIT_S = 60.0  # of virtual time: a run that hangs is a failed assertion


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(1) == targets).double().mean().item()


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def world(names: str = "abc", latency_s: float = 1e-5) -> World:
    devices = tuple(Device(name, 0.01, PACE[name], 10**6) for name in names)
    links = tuple(
        Link(x, y, latency_s, 1e9) for i, x in enumerate(names) for y in list(names)[i + 1 :]
    )
    return World(devices, links, BATCH, NUM_TRAIN)


def setup(inputs: Tensor = INPUTS) -> Setup:
    pairs = TensorDataset(inputs, TARGETS)
    task = Supervised("t", lambda: nn.Linear(4, 3), pairs, pairs, metrics={"accuracy": accuracy})
    return Setup(task, adam)


def job(strategy: str, num_epochs: float = 4.0, **given: Any) -> Job:
    parts = {part: Ref(call=f"m:{part}") for part in ("model", "train", "test")}
    fields: dict[str, Any] = {
        "name": "s",
        "task": TaskSpec(**parts, metrics={"accuracy": Ref(call="m:accuracy")}),
        "optimizer": Ref(call="torch.optim:Adam"),
        "batch": BATCH,
        "until": {"epochs": num_epochs},
        "strategy": strategy,
        **given,
    }
    return Job(**fields)


class Played:
    """A run that was played, and what can be asked of it."""

    def __init__(self, simulation: Simulation, made: Setup) -> None:
        self.setup = made
        with torch.random.fork_rng(devices=[]):
            self.outcome: Outcome = simulation.run(LIMIT_S)
        self.run = simulation.coordinator.run

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [event for event in self.outcome.events if event["kind"] == kind]

    @property
    def audit(self) -> Audit:
        """What the log says was learned."""
        return audit([{"kind": "run", "num_train": NUM_TRAIN}, *self.outcome.events])

    @property
    def agreed(self) -> list[Tensor]:
        """What each member of the last term takes for agreed."""
        return [self.outcome.workers[name].agreed_vector() for name in self.run.term.members]


def play(
    strategy: str,
    faults: Sequence[Fault] = (),
    num_epochs: float = 4.0,
    names: str = "abc",
    engine: Callable[..., Simulation] = Simulation,
    inputs: Tensor = INPUTS,
    **given: Any,
) -> Played:
    """A run of a sentence in virtual time."""
    with torch.random.fork_rng(devices=[]):
        made = job(strategy, num_epochs, **given)
        given_setup = setup(inputs)
        return Played(engine(made, given_setup, world(names), faults), given_setup)


@pytest.fixture(scope="session")
def played() -> Callable[..., Played]:
    """`played(sentence, faults, num_epochs, names, engine, inputs)`."""
    return play
