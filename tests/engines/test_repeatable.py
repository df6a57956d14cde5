"""A run with `deterministic: true` is the same run on faster and slower machines, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents import effects as do
from coterie.agents.learner import Setup
from coterie.config import Job, Ref, TaskSpec
from coterie.engines.simulated import Fault, Simulation
from coterie.tasks.supervised import Supervised
from coterie.world import Device, Link, World

NUM_TRAIN, BATCH = 60, 8
INPUTS = torch.randn(NUM_TRAIN, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS @ torch.randn(4, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
SENTENCES = ["all-reduce", "all-reduce-int8", "local-sgd(2)", "diloco-int8(2)", "gossip(2, 'ring')"]
QUICK, SLOW = (0.008, 0.012, 0.02), (0.5, 0.031, 0.002)  # seconds a sample


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))


def setup(seed: int) -> Setup:
    pairs = TensorDataset(INPUTS, TARGETS)
    task = Supervised("t", model, pairs, pairs)
    return Setup(task, lambda parameters: torch.optim.Adam(parameters, lr=0.02), seed=seed)


def job(**given: Any) -> Job:
    parts = {part: Ref(call=f"m:{part}") for part in ("model", "train", "test")}
    fields: dict[str, Any] = {
        "name": "s",
        "task": TaskSpec(**parts),
        "optimizer": Ref(call="torch.optim:Adam"),
        "batch": BATCH,
        "until": {"epochs": 4.0},
        "deterministic": True,
        **given,
    }
    return Job(**fields)


def world(pace_s: tuple[float, ...]) -> World:
    names = [f"agent-{i}" for i in range(len(pace_s))]
    devices = [Device(n, 0.01, s, 10**6) for n, s in zip(names, pace_s, strict=True)]
    links = [Link(a, b, 1e-5, 1e9) for i, a in enumerate(names) for b in names[i + 1 :]]
    return World(tuple(devices), tuple(links), BATCH, NUM_TRAIN)


class KillAtRound(Simulation):
    """Kills a member as it begins to compute its part of a round."""

    number, victim, back_after_s = 5, "agent-1", None

    def _at_once(self, name: str, agent: Any, strand: Any, effect: Any) -> Any:
        begins = isinstance(effect, do.Compute | do.Stream) and agent.worker is not None
        if name == self.victim and begins and agent.worker.round + 1 == self.number:
            self.victim = ""
            self._after(0.0, lambda: self._kill(Fault(name, 0.0, self.back_after_s)))
        return super()._at_once(name, agent, strand, effect)


def ends_at(made: Job, pace_s: tuple[float, ...], engine: Callable[..., Any] = Simulation) -> Any:
    """By member: where it is in the end."""
    with torch.random.fork_rng(devices=[]):
        outcome = engine(made, setup(made.seed), world(pace_s)).run(limit_s=600)
    assert outcome.summary["epochs"] == 4
    return {name: worker.learner.vector() for name, worker in outcome.workers.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("strategy", SENTENCES)
def test_machines_of_other_speeds_end_with_the_same_bits(strategy: str) -> None:
    made = job(strategy=strategy)
    assert equal(ends_at(made, QUICK), ends_at(made, SLOW))


def test_without_it_they_do_not() -> None:
    made = job(strategy="local-sgd(2)", deterministic=False)
    assert not equal(ends_at(made, QUICK), ends_at(made, SLOW))


def test_shares_follow_the_speeds_that_are_given() -> None:
    agents = {"speeds": [4, 2, 1]}
    made = job(strategy="local-sgd(2)", agents=agents)
    assert equal(ends_at(made, QUICK), ends_at(made, SLOW))
    assert not equal(ends_at(made, QUICK), ends_at(job(strategy="local-sgd(2)"), QUICK))


@pytest.mark.parametrize("strategy", SENTENCES[:4])
@pytest.mark.parametrize("number", [2, 5, 11])
def test_a_death_in_the_same_round_leads_to_the_same_end(strategy: str, number: int) -> None:
    engine = type("At", (KillAtRound,), {"number": number})
    made = job(strategy=strategy)
    first, second = (ends_at(made, QUICK, engine) for _ in range(2))
    assert first.keys() == {"agent-0", "agent-2"}
    assert equal(first, second)
    assert equal(first, ends_at(made, SLOW, engine))
    assert not equal(first, {n: v for n, v in ends_at(made, QUICK).items() if n in first})


def test_another_seed_is_another_run() -> None:
    made = {seed: job(strategy="all-reduce", seed=seed) for seed in (0, 1)}
    assert not equal(ends_at(made[0], QUICK), ends_at(made[1], QUICK))
