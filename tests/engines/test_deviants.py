"""A member that brings finite garbage is weighed down or left out; an unequal one never is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.agents.member import Member
from coterie.engines.simulated import Fault, Simulation
from coterie.tasks.supervised import Supervised
from coterie.watch.events import audit
from coterie.world import Device, Link, World
from tests.engines.conftest import job

NUM_TRAIN, BATCH = 2_000, 32
GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(NUM_TRAIN, 20, generator=GENERATOR)
TARGETS = (INPUTS @ torch.randn(20, 4, generator=GENERATOR)).argmax(1)
PAIRS = TensorDataset(INPUTS, TARGETS)
NET = Supervised("t", lambda: nn.Linear(20, 4), PAIRS, PAIRS, metrics={})


def world(*per_sample_s: float) -> World:
    names = "abcde"[: len(per_sample_s)]
    devices = tuple(Device(n, 0.25, c, 10**6) for n, c in zip(names, per_sample_s, strict=True))
    links = tuple(Link(x, y, 1e-5, 1e9) for i, x in enumerate(names) for y in names[i + 1 :])
    return World(devices, links, BATCH, NUM_TRAIN)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02)


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, factor: float, until_step: int) -> None:
    """A member whose gradients are `factor` times what they should be, for so many steps."""
    begin = Member.__post_init__

    def begin_spoiled(member: Member) -> None:
        begin(member)
        if member.name == name:
            learner, right = member.learner, member.learner._backward

            def wrong(indices: Any) -> float:
                loss = right(indices)
                if learner.num_steps < until_step:
                    for parameter in learner._parameters:
                        assert parameter.grad is not None
                        parameter.grad.mul_(factor)
                return loss

            monkeypatch.setattr(learner, "_backward", wrong)

    monkeypatch.setattr(Member, "__post_init__", begin_spoiled)


def play(strategy: str, where: World, until_s: float = 40.0, faults: tuple[Fault, ...] = ()) -> Any:
    with torch.random.fork_rng(devices=[]):
        made = job(strategy, 1e6, batch=BATCH)
        simulation = Simulation(made, Setup(NET, sgd), where, faults)
        return simulation, simulation.run(until_s)


def of(outcome: Any, kind: str) -> list[dict[str, Any]]:
    return [event for event in outcome.events if event["kind"] == kind]


@pytest.mark.parametrize(
    ("strategy", "factor"),
    [("all-reduce", -1.0), ("all-reduce", 30.0), ("all-reduce-int8", -30.0)],
)
def test_a_member_that_brings_garbage_is_left_out_and_told_why(
    monkeypatch: pytest.MonkeyPatch, strategy: str, factor: float
) -> None:
    spoil(monkeypatch, "c", factor, until_step=10**9)
    simulation, outcome = play(strategy, world(0.004, 0.006, 0.008, 0.01))
    left_out = [event for event in of(outcome, "trust") if event["trust"] == 0.0]
    assert {event["member"] for event in left_out} == {"c"}
    assert simulation.coordinator.run.term.members == ("a", "b", "d")
    assert "tried again after 60 s" in left_out[0]["reason"]
    found = audit([{"kind": "run", "num_train": NUM_TRAIN}, *outcome.events])
    assert found.epochs
    assert found.is_exact


def test_a_member_of_the_wrong_scale_counts_for_less_and_for_as_much_again_once_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch, "c", 5.0, until_step=30)
    simulation, outcome = play("all-reduce", world(0.004, 0.006, 0.008, 0.01))
    told = [(event["member"], event["trust"]) for event in of(outcome, "trust")]
    assert told[0] == ("c", pytest.approx(0.25, abs=0.2))
    assert told[-1] == ("c", 1.0)
    assert {member for member, _ in told} == {"c"}
    assert simulation.coordinator.run.trust == {}


def test_one_that_recovers_is_taken_in_again_on_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "c", 50.0, until_step=20)
    simulation, outcome = play("all-reduce", world(0.004, 0.006, 0.008, 0.01), until_s=90.0)
    told = [(event["member"], event["trust"]) for event in of(outcome, "trust")]
    assert told == [("c", 0.0), ("c", 0.25), ("c", 1.0)]
    assert simulation.coordinator.run.term.members == tuple("abdc")
    causes = [event["cause"] for event in of(outcome, "decision")]
    assert "c deviated from the others" in causes
    assert "c is tried again" in causes


@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(2)", "dylu(2)"])
def test_a_healthy_member_of_whatever_share_is_never_distrusted(strategy: str) -> None:
    _, outcome = play(strategy, world(0.002, 0.01, 0.05, 0.08), until_s=40.0)
    shares = of(outcome, "decision")[-1]["chosen"]["shares"].values()
    assert max(shares) >= 5 * min(shares)
    assert of(outcome, "trust") == []


def test_of_two_that_differ_nobody_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "b", -1.0, until_step=10**9)
    simulation, outcome = play("all-reduce", world(0.004, 0.006), until_s=20.0)
    assert of(outcome, "trust") == []
    assert simulation.coordinator.run.term.members == ("a", "b")
