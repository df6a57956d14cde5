"""Runs on described clusters: what is told is what was described; nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from coterie.agents.learner import Setup
from coterie.cluster import Cluster
from coterie.config import Job
from coterie.engines.described import Described
from coterie.engines.simulated import Fault, Simulation
from coterie.inventory import Links, Machine, Road
from coterie.watch.events import Audit
from coterie.world import World

NUM_TRAIN, BATCH = 60, 30
PI = Machine(name="pi", overhead_ms=40, per_sample_ms=20, fails_every_h=0.002)
PC = Machine(name="pc", count=2, overhead_ms=10, per_sample_ms=8, memory_gb=1)
LINKS = Links(default=Road(mbit_per_s=1000, latency_ms=0.01))
FEW = Cluster(machines=[PC, PI], links=LINKS, restart_s=0.5)
MANY = Cluster(  # more than are listed in pairs
    machines=[PI.model_copy(update={"count": 4}), PC.model_copy(update={"count": 26})],
    links=LINKS,
    restart_s=0.2,
)
Engine = Callable[[Job, Setup, World, Sequence[Fault]], Simulation]


def on(cluster: Cluster, failures: float = 0.0) -> Engine:
    def engine(job: Job, setup: Setup, _: World, faults: Sequence[Fault]) -> Simulation:
        where = (cluster, cluster.world(job.batch, NUM_TRAIN, num_values=15))
        simulation = Described(job, setup, where, faults)
        if failures:
            simulation.let_fail(failures)
        return simulation

    return engine


@pytest.mark.parametrize("cluster", [FEW, MANY])
def test_the_first_decision_believes_what_was_described(played: Any, cluster: Cluster) -> None:
    told = played("all-reduce", num_epochs=1, engine=on(cluster), batch=BATCH)
    believed = told.run.decisions[0].world
    described = cluster.world(BATCH, NUM_TRAIN, num_values=15)
    assert set(believed.links) == set(described.links)
    for found, wanted in zip(believed.devices, described.devices, strict=True):
        assert found.name == wanted.name
        assert found.max_batch == wanted.max_batch
        assert found.step_s(BATCH) == pytest.approx(wanted.step_s(BATCH))


@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(2)", "auto"])
def test_of_many_the_first_of_each_kind_may_die_and_nothing_is_lost(
    played: Any, strategy: str
) -> None:
    faults = [Fault("pc-01", 0.1, 0.2), Fault("pi-1", 0.15, 0.2), Fault("pc-02", 0.5, 0.2)]
    told = played(strategy, faults, num_epochs=12, engine=on(MANY), batch=BATCH)
    assert told.audit == Audit(0, 0, tuple(range(12)))
    assert [event["member"] for event in told.of("fault")] == ["pc-01", "pi-1", "pc-02"]
    assert told.outcome.summary["kills_survived"] >= 1


def test_machines_fail_at_their_own_rates_and_alike_for_the_same_seed(played: Any) -> None:
    first, second, other = (
        played("all-reduce", num_epochs=20, engine=on(FEW, 1.0), batch=BATCH, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.outcome.events == second.outcome.events
    times_s = [[event["time_s"] for event in told.of("fault")] for told in (first, other)]
    assert times_s[0] != times_s[1]
    assert {event["member"] for event in first.of("fault")} == {"pi"}  # the others once a day
    assert first.audit == other.audit == Audit(0, 0, tuple(range(20)))


def test_every_event_is_shown_at_its_time(played: Any) -> None:
    shown: list[tuple[float, Any]] = []

    def engine(job: Job, setup: Setup, _: World, faults: Sequence[Fault]) -> Simulation:
        where = (FEW, FEW.world(job.batch, NUM_TRAIN, num_values=15))
        return Described(
            job, setup, where, faults, lambda now_s, event: shown.append((now_s, event))
        )

    told = played("all-reduce", num_epochs=1, engine=engine, batch=BATCH)
    assert [event for _, event in shown] == told.outcome.events
    assert all(now_s == event["time_s"] for now_s, event in shown)
