"""Machines and links that change under way: the plan follows within a few rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Learner, Setup
from coterie.coordinator.model import predict, shares_for
from coterie.engines.simulated import Fault, Simulation
from coterie.engines.virtual import slowed
from coterie.sync.reading import parse
from coterie.tasks.supervised import Supervised
from coterie.types import Layout
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
LAYOUT = Layout.of(nn.Linear(100, 100))


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


# -- speeds --------------------------------------------------------------------------------------

STEADY_S, SHORT_S = 10.0, 0.15  # before a change; of a step


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members who take their time and learn nothing: it is all that these tests look at."""

    def stream(_: Any, __: Any, told_N: torch.Tensor, ___: float, emit: Any) -> float:
        emit(told_N.zero_())
        return 1.0

    monkeypatch.setattr(Learner, "step", lambda *_: 1.0)
    monkeypatch.setattr(Learner, "gradient", lambda me, _: (1.0, me.vector().zero_()))
    monkeypatch.setattr(Learner, "stream", stream)
    monkeypatch.setattr(Learner, "apply", lambda *_: None)
    monkeypatch.setattr(Learner, "score", lambda _: {})


@dataclass(frozen=True)
class Unsteady(Device):
    """A device that stutters: a few per cent always, and now and then much more."""

    dice: Random = field(default_factory=lambda: Random(5), compare=False)

    def step_s(self, batch: int) -> float:
        stutter = self.dice.uniform(1.5, 3.0) if self.dice.random() < 0.02 else 1.0
        return super().step_s(batch) * self.dice.lognormvariate(0.0, 0.08) * stutter


def alike(kind: type[Device] = Device) -> World:
    devices = tuple(kind(name, 0.05, 0.004, 10**6) for name in "abc")
    links = tuple(Link(x, y, 1e-4, 1e9) for x, y in ("ab", "ac", "bc"))
    return World(devices, links, BATCH, NUM_TRAIN)


def bad_rounds(events: list[dict[str, Any]], changed_s: float, now: World) -> int | None:
    """Rounds begun or under way, after a change, by plans a tenth below the best of their kind."""
    plan = [e["chosen"] for e in of(events, "decision") if e["time_s"] <= changed_s][-1]
    told = [e for e in of(events, "work") if e["time_s"] <= changed_s][-1]
    done = told["last_round"] + int((changed_s - told["time_s"]) / plan["round_s"])
    strategy = plan["strategy"]
    for event in events:
        if event["kind"] == "decision":
            strategy = event["chosen"]["strategy"]
        elif event["kind"] == "block" and event["time_s"] > changed_s:
            shares = event["shares"]
            if per_s(now, strategy, shares) >= 0.9 * best_per_s(now, strategy, shares):
                return int(event["first_round"]) - done - 1
    return None


def per_s(where: World, strategy: str, shares: Mapping[str, int]) -> float:
    return predict(where, LAYOUT, parse(strategy), shares).throughput_per_s


def best_per_s(where: World, strategy: str, members: Iterable[str]) -> float:
    """Of a sentence by its best shares, on these members or on all."""
    worlds = (where, where.only(tuple(members)))
    return max(per_s(each, strategy, shares_for(parse(strategy), each)) for each in worlds)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("factor", [3.0, 1 / 3])
@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(8)", "dylu(16)", "auto"])
def test_a_plan_is_near_the_best_again_within_five_rounds_of_a_change(
    strategy: str, factor: float
) -> None:
    every = 1 if strategy in ("all-reduce", "auto") else 16
    for phase in (0.1, 0.6):
        at_s = STEADY_S + phase * SHORT_S * every
        until_s = at_s + 7 * SHORT_S * every * max(1.0, factor)
        events = play(
            strategy, alike(), Fault("a", at_s, kind="slow", factor=factor), until_s=until_s
        )
        now = alike().with_device(slowed(alike().device("a"), factor))
        first = of(events, "decision")[0]["chosen"]
        left = per_s(now, first["strategy"], first["shares"])
        assert left < 0.9 * best_per_s(now, first["strategy"], first["shares"])
        found = bad_rounds(events, at_s, now)
        assert found is not None
        assert found <= 5


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(("strategy", "every"), [("all-reduce", 1), ("local-sgd(8)", 8)])
@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_another_quota_is_told_and_believed_before_it_is_measured(
    strategy: str, every: int, factor: float
) -> None:
    at_s = STEADY_S + 0.05 * every
    fault = Fault("a", at_s, kind="quota", factor=factor)
    events = play(strategy, alike(), fault, until_s=at_s + 10 * SHORT_S * every)
    now = alike().with_device(slowed(alike().device("a"), factor))
    (told,) = of(events, "grant")
    assert (told["before"], told["cores"]) == (1.0, pytest.approx(1 / factor))
    found = bad_rounds(events, at_s, now)
    assert found is not None
    assert found <= 3
    believed = of(events, "decision")[-1]["world"]["devices"][0]
    assert believed["overhead_s"] == pytest.approx(now.device("a").overhead_s, rel=0.05)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("strategy", ["all-reduce", "parameter-server()"])
def test_rounds_that_are_under_way_are_met_though_one_is_left_out_of_the_next(
    strategy: str,
) -> None:
    events = play(strategy, alike(), Fault("a", 10.0, kind="slow", factor=50.0), until_s=60.0)
    terms = [(event["time_s"], event["members"]) for event in of(events, "term")]
    left_s = next(time_s for time_s, members in terms if "a" not in members)
    assert [e for e in of(events, "committed") if e["time_s"] > left_s + 5.0]


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(8)", "dylu(16)"])
def test_plans_of_unsteady_machines_hardly_ever_change(strategy: str) -> None:
    events = play(strategy, alike(Unsteady), until_s=60.0)
    num_rounds = of(events, "work")[-1]["last_round"]
    shares = [e["chosen"]["shares"] for e in of(events, "decision")]
    changes = sum(before != after for before, after in pairwise(shares))
    assert changes <= max(2, 0.02 * num_rounds)


# -- links ---------------------------------------------------------------------------------------


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
