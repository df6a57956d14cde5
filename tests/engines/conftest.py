"""A small task on three unequal machines, for runs in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents import measure, meet, pushes, settle, walks, worker
from coterie.agents.hub import Hub
from coterie.agents.learner import Learner, Setup
from coterie.agents.member import Member
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


TINY = 24  # samples, three batches an epoch


class Idle:
    """What an agent times its steps on: in virtual time it need not take any."""

    model = nn.Identity()

    def step(self, _: Any) -> float:
        return 0.0

    gradient = step


@pytest.fixture(scope="module", autouse=True)  # it must not outlive this folder
def quick() -> Iterator[None]:
    """What is timed in virtual time takes as long as ever there, and next to nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "scratch", lambda _: Idle())
        patch.setattr(measure, "PROBES_BYTES", (1 << 10, 1 << 11, 1 << 12))
        yield


class Witness:
    """What members truly learned, seen from within them: the books must say the same."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.learned: dict[tuple[str, int], tuple[int, Any]] = {}
        self.cohorts: dict[int, tuple[str, ...]] = {}  # of the last time a round was committed
        self.applied: list[int] = []  # rounds whose pushes the newest server's anchor holds
        walk, commit, apply = walks.learn, meet.commit, Hub._apply

        def learning(member: Member, number: int, data_epoch: int, leases: Any) -> Any:
            self.learned[member.name, number] = (data_epoch, leases[member.name].spans)
            return (yield from walk(member, number, data_epoch, leases))

        def committing(member: Member, *outcome: Any) -> Any:
            assert member.contribution is not None
            self.cohorts[member.contribution.round] = member.cohort
            return (yield from commit(member, *outcome))

        def applying(server: Hub, row_N: Tensor, number: int, *given: Any) -> None:
            self.applied = [*self.applied[: server.version], number]
            apply(server, row_N, number, *given)

        for module in (worker, pushes):
            patch.setattr(module, "learn", learning)
        for module in (meet, settle, pushes):
            patch.setattr(module, "commit", committing)
        patch.setattr(Hub, "_apply", applying)

    def events(self) -> list[dict[str, Any]]:
        """Committed rounds as the log would tell them."""
        events = []
        pushed = [(n, tuple(m for m, k in self.learned if k == n)) for n in self.applied]
        for number, cohort in pushed or self.cohorts.items():
            leases = {m: self.learned[m, number] for m in cohort if (m, number) in self.learned}
            for data_epoch in {epoch for epoch, _ in leases.values()}:
                spans = {m: spans for m, (epoch, spans) in leases.items() if epoch == data_epoch}
                events.append({"kind": "committed", "data_epoch": data_epoch, "leases": spans})
        return events


@pytest.fixture(scope="session")
def witness() -> Callable[[], Any]:
    """`with witness() as seen`: members' own records of what is learned meanwhile."""

    @contextmanager
    def watching() -> Iterator[Witness]:
        with pytest.MonkeyPatch.context() as patch:
            yield Witness(patch)

    return watching


class Played:
    """A run that was played, and what can be asked of it."""

    def __init__(self, simulation: Simulation, made: Setup, num_train: int = NUM_TRAIN) -> None:
        self.setup, self.num_train = made, num_train
        with torch.random.fork_rng(devices=[]):
            self.outcome: Outcome = simulation.run(LIMIT_S)
        self.run = simulation.coordinator.run

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [event for event in self.outcome.events if event["kind"] == kind]

    @property
    def audit(self) -> Audit:
        """What the log says was learned."""
        return audit([{"kind": "run", "num_train": self.num_train}, *self.outcome.events])

    def audit_of(self, seen: Witness) -> Audit:
        """What members themselves say was learned."""
        begun = {"kind": "run", "num_train": self.num_train}
        return audit([begun, *seen.events(), *self.of("epoch")])

    @property
    def agreed(self) -> list[Tensor]:
        """What each member of the last term takes for agreed, if it did not die as all left."""
        workers = self.outcome.workers
        return [workers[n].agreed_vector() for n in self.run.term.members if n in workers]


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


def tiny(strategy: str, faults: Sequence[Fault], num_epochs: float) -> Played:
    """A run that is over in a few rounds: a schedule of mishaps costs a fraction of a second."""
    pairs = TensorDataset(INPUTS[:TINY], TARGETS[:TINY])
    task = Supervised("t", lambda: nn.Linear(4, 3), pairs, pairs, metrics={"accuracy": accuracy})
    made = Setup(task, lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
    where = replace(world(), num_train=TINY)
    with torch.random.fork_rng(devices=[]):
        return Played(Simulation(job(strategy, num_epochs), made, where, faults), made, TINY)


@pytest.fixture(scope="session")
def schedule() -> Callable[..., Played]:
    """`schedule(sentence, faults, num_epochs)`: as `played`, and as short as can be."""
    return tiny


@pytest.fixture(scope="session")
def played() -> Callable[..., Played]:
    """`played(sentence, faults, num_epochs, names, engine, inputs)`."""
    return play
