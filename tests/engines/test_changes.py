"""Machines and links that change under way: the plan follows within a few rounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.coordinator.shares import exact_shares, step_s
from coterie.engines.simulated import Fault, Simulation
from coterie.engines.virtual import slowed
from coterie.sync.reading import parse
from coterie.tasks.supervised import Supervised
from coterie.watch.events import Audit, audit
from coterie.world import Device, Link, World
from tests.engines.conftest import job

CHANGE_AT_S = 30.0
NUM_TRAIN, BATCH = 40_000, 64
PAIRS = TensorDataset(torch.zeros(NUM_TRAIN, 100), torch.zeros(NUM_TRAIN, dtype=torch.long))
NOISE = TensorDataset(
    torch.randn(NUM_TRAIN, 100, generator=torch.Generator().manual_seed(3)), PAIRS.tensors[1]
)
LIVELY = Supervised("l", lambda: nn.Linear(100, 100), NOISE, NOISE, metrics={})
NET = Supervised("t", lambda: nn.Linear(100, 100), PAIRS, PAIRS, metrics={})


def world(bytes_per_s: float = 1e9, overhead_s: float = 0.05) -> World:
    devices = tuple(
        Device(name, overhead_s, c, 10**6)
        for name, c in zip("abc", (0.01, 0.02, 0.04), strict=True)
    )
    links = tuple(Link(x, y, 1e-4, bytes_per_s) for x, y in ("ab", "ac", "bc"))
    return World(devices, links, BATCH, NUM_TRAIN)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def play(
    strategy: str, where: World, *faults: Fault, until_s: float = 60.0
) -> list[dict[str, Any]]:
    made = job(strategy, 1e6, batch=BATCH)
    with torch.random.fork_rng(devices=[]):
        return Simulation(made, Setup(NET, sgd), where, faults).run(until_s).events


def members(simulation: Simulation) -> list[Any]:
    """Those of the last term."""
    return [simulation._agents[name].worker for name in simulation.coordinator.run.term.members]


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind]


def rounds_until(events: list[dict[str, Any]], shares_are_good: Any) -> int:
    """Rounds that ended after the change, before those of the first block with good shares."""
    under_way = max(e["last_round"] for e in of(events, "work") if e["time_s"] <= CHANGE_AT_S)
    good = [e for e in of(events, "block") if shares_are_good(e["shares"])]
    return int(good[0]["first_round"]) - under_way - 1


@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(2)"])
def test_shares_are_near_the_new_optimum_within_five_rounds_of_a_slowdown(strategy: str) -> None:
    events = play(strategy, world(), Fault("a", CHANGE_AT_S, kind="slow", factor=3.0))
    true = [slowed(d, 3.0) if d.name == "a" else d for d in world().devices]
    best_s = step_s(exact_shares(BATCH, true), true)

    def good(shares: dict[str, int]) -> bool:
        return step_s(shares, true) <= 1.1 * best_s

    first, *_, last = of(events, "block")
    assert not good(first["shares"])
    assert good(last["shares"])
    assert rounds_until(events, good) <= 5
    assert audit([{"kind": "run", "num_train": NUM_TRAIN}, *events]) == Audit(0, 0, ())


def test_a_link_that_gets_ten_times_slower_is_probed_again_and_changes_the_plan() -> None:
    events = play("auto", world(4e5), Fault("a", CHANGE_AT_S, kind="narrow", factor=10.0, peer="c"))
    first, then = of(events, "decision")
    (doubt,) = of(events, "doubt")
    assert parse(first["chosen"]["strategy"]).every == 1
    assert len(first["chosen"]["shares"]) == 3
    chosen = then["chosen"]  # longer walks, or without an end of that road
    assert parse(chosen["strategy"]).every > 8 or len(chosen["shares"]) == 2
    assert CHANGE_AT_S < doubt["time_s"] < CHANGE_AT_S + 5.0
    assert doubt["time_s"] < then["time_s"] < doubt["time_s"] + 10.0
    rates = {(k["a"], k["b"]): k["bytes_per_s"] for k in then["world"]["links"]}
    assert rates["a", "c"] == pytest.approx(4e4, rel=0.05)
    assert rates["a", "b"] == rates["b", "c"] == pytest.approx(4e5, rel=0.05)


def test_members_that_walked_by_optimizers_of_their_own_agree_before_gradients_travel() -> None:
    def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters)

    wider = Fault("a", CHANGE_AT_S, kind="narrow", factor=0.01)
    wider_too = Fault("b", CHANGE_AT_S, kind="narrow", factor=0.01)
    simulation = Simulation(
        job("auto", 1e6, batch=BATCH), Setup(LIVELY, adam), world(1.2e5), [wider, wider_too]
    )
    with torch.random.fork_rng(devices=[]):
        events = simulation.run(60.0).events
    first, *_, last = (parse(event["chosen"]["strategy"]) for event in of(events, "decision"))
    assert first.walks
    assert not last.walks
    assert of(events, "disagreement") == []
    states = [w.learner.optimizer.state_dict()["state"][0] for w in members(simulation)]
    assert all(torch.equal(states[0]["exp_avg"], state["exp_avg"]) for state in states)


def test_what_was_slowed_and_narrowed_for_a_while_is_as_before() -> None:
    for kind in ("slow", "narrow"):
        fault = Fault("a", 1.0, back_after_s=2.0, kind=kind, factor=8.0)  # type: ignore[arg-type]
        simulation = Simulation(job("all-reduce", 1e6), Setup(NET, sgd), world(), [fault])
        seen = [simulation._world]
        for _ in range(3000):
            simulation._go_on()
            if simulation._world != seen[-1]:
                seen.append(simulation._world)
        assert len(seen) == 3
        assert seen[0] == seen[2] != seen[1]
