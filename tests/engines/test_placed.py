"""Tasks that have owners, in virtual time: equal to what they must equal, whoever dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from coterie.agents.learner import Learner, Setup
from coterie.agents.stream import Stream
from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator.explain import explain, sentences
from coterie.coordinator.run import Resume
from coterie.engines.simulated import Fault, Outcome, simulate
from coterie.leases import Lease
from coterie.specs import MultiSpec
from coterie.tasks import MultiTask, Supervised
from coterie.watch.events import audit
from coterie.world import Device, Link, World

GENERATOR = torch.Generator().manual_seed(7)
NUM = {"kind": 40, "real": 24, "sign": 16}
WHOLE, BATCH = sum(NUM.values()), 10
PRIVATE = 'chain(Only("trunk.*"), Reduce())'
WALKS = 'chain(Every(2), Only("trunk.*"), Reduce(), Outer(1.0))'
OWNED = {"kind": ["a"], "real": ["b"], "sign": ["c"]}
Loss = Callable[[Tensor, Tensor], Tensor]


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh()).double()


def head(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(6, width).double()


def kept_head(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, width)).double()


def one(name: str, width: int, loss: Loss, kind: Callable[[int], Any]) -> Supervised:
    inputs = torch.randn(NUM[name], 5, generator=GENERATOR, dtype=torch.float64)
    answers = inputs @ torch.randn(5, width, generator=GENERATOR, dtype=torch.float64)
    data = TensorDataset(inputs, answers.argmax(1) if width > 1 else answers)
    return Supervised(name, kind(width), data, data, loss=loss)


def three(kind: Callable[[int], Any] = head) -> list[Supervised]:
    GENERATOR.manual_seed(7)
    return [
        one("kind", 3, F.cross_entropy, kind),
        one("real", 1, F.mse_loss, kind),
        one("sign", 2, F.cross_entropy, kind),
    ]


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def world(names: str = "abc") -> World:
    pace = {"a": 0.008, "b": 0.012, "c": 0.02, "d": 0.015}
    devices = tuple(Device(name, 0.01, pace[name], 10**6) for name in names)
    links = tuple(
        Link(x, y, 1e-5, 1e9) for i, x in enumerate(names) for y in list(names)[i + 1 :]
    )
    return World(devices, links, BATCH, WHOLE)


def played(
    place: Any,
    strategy: str = PRIVATE,
    names: str = "abc",
    faults: Sequence[Fault] = (),
    **given: Any,
) -> Outcome:
    """Four epochs of three unequal tasks on unequal members."""
    balance, optimizer = given.pop("balance", "equal"), given.pop("optimizer", sgd)
    resume, priority = given.pop("resume", None), given.pop("priority", {})
    task = MultiTask("three", trunk, three(given.pop("head", head)), balance, place)
    ref = Ref(call="m:x")
    part = TaskSpec(model=ref, train=ref, test=ref)
    spec = MultiSpec(
        trunk=ref, tasks=dict.fromkeys(NUM, part), place=place, priority=priority
    )
    fields = {"until": {"epochs": 4.0}, "agents": {"local": 0, "remote": len(names)}, **given}
    job = Job(
        name="s", task=spec, optimizer=ref, batch=BATCH, strategy=strategy, **fields
    )
    with torch.random.fork_rng(devices=[]):
        return simulate(job, Setup(task, optimizer), world(names), faults, resume)


def of_kind(outcome: Outcome, kind: str) -> list[dict[str, Any]]:
    return [event for event in outcome.events if event["kind"] == kind]


def is_exact(outcome: Outcome, num_epochs: int = 4) -> bool:
    books = audit([{"kind": "run", "num_train": WHOLE}, *outcome.events])
    return books.is_exact and books.epochs == tuple(range(num_epochs))


def vectors(outcome: Outcome) -> list[Tensor]:
    return [worker.learner.vector() for worker in outcome.workers.values()]


def learned(outcome: Outcome) -> dict[str, set[str]]:
    """By task: who committed samples of it, in epochs that are laid out in parts."""
    found: dict[str, set[str]] = {name: set() for name in NUM}
    stops = dict(zip(NUM, torch.tensor(list(NUM.values())).cumsum(0).tolist(), strict=True))
    for event in of_kind(outcome, "committed"):
        for member, spans in event["leases"].items():
            for name, stop in stops.items():
                if any(max(a, stop - NUM[name]) < min(b, stop) for a, b in spans):
                    found[name].add(member)
    return found


# One owner of all is nothing new


@pytest.mark.parametrize("strategy", [PRIVATE, WALKS, "all-reduce", "local-sgd(2)"])
@pytest.mark.parametrize("names", ["a", "abc"])
def test_where_all_own_all_it_is_the_run_without_owners_to_the_bit(
    strategy: str, names: str
) -> None:
    place = {name: list(names) for name in NUM}
    if len(names) > 1 and "Only" in strategy:
        pytest.skip("heads of everybody are agreed on then, and else each member's own")
    first, second = (played(where, strategy, names) for where in ("everywhere", place))
    assert all(torch.equal(*pair) for pair in zip(vectors(first), vectors(second), strict=True))
    books = [[event["leases"] for event in of_kind(o, "committed")] for o in (first, second)]
    assert books[0] == books[1]


def test_auto_on_one_agent_is_the_run_without_owners_to_the_bit() -> None:
    first, second = (played(where, names="a") for where in ("everywhere", "auto"))
    assert torch.equal(vectors(first)[0], vectors(second)[0])


# Owners are one machine


def steps_of(outcome: Outcome) -> list[list[int]]:
    """The samples of each round, as they were learned by all members together."""
    stops = tuple(torch.tensor(list(NUM.values())).cumsum(0).tolist())
    stream = Stream(WHOLE, 0)
    return [
        [
            index
            for spans in event["leases"].values()
            for index in stream.indices(event["data_epoch"], [tuple(s) for s in spans], stops)
        ]
        for event in of_kind(outcome, "committed")
    ]


@pytest.mark.parametrize("strategy", [PRIVATE, "all-reduce"])
@pytest.mark.parametrize(
    ("place", "balance", "optimizer", "within"),
    [
        ("auto", {"real": 0.3}, sgd, 1e-12),
        (OWNED, "equal", sgd, 1e-12),
        (OWNED, "uncertainty", sgd, 1e-6),  # what it learns is of float32
        ({"kind": ["a", "b"], "real": ["c"], "sign": ["c", "a"]}, "equal", adam, 1e-9),
    ],
)
def test_members_with_tasks_of_their_own_are_one_machine_on_the_whole_batch(
    place: Any, balance: Any, optimizer: Any, within: float, strategy: str
) -> None:
    outcome = played(place, strategy, balance=balance, optimizer=optimizer)
    task = MultiTask("three", trunk, three(), balance)
    with torch.random.fork_rng(devices=[]):
        learner = Learner(Setup(task, optimizer))
    for indices in steps_of(outcome):
        learner.step(indices)
    for vector in vectors(outcome):
        assert torch.allclose(vector, learner.vector(), rtol=0, atol=within)
    if place == OWNED:
        assert learned(outcome) == {name: set(owners) for name, owners in OWNED.items()}
    assert is_exact(outcome)
