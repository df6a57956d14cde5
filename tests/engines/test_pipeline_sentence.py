"""A pipeline learns what one machine would, is chosen where it pays, and outlives its crew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents import layers
from coterie.agents.learner import Learner, Setup
from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator import decide
from coterie.engines.simulated import Fault, Outcome, Simulation
from coterie.sync import recipes
from coterie.sync.reading import parse
from coterie.sync.teams import Pipeline
from coterie.tasks.supervised import Supervised
from coterie.watch.events import audit
from coterie.world import Device, Link, World

NUM_TRAIN, BATCH, WIDTH = 3_200, 32, 64
INPUTS = torch.randn(NUM_TRAIN, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS @ torch.randn(4, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
SLOW, FAST = 5e3, 1e9  # bytes a second: 35 kB of parameters take long, or no time


def deep() -> nn.Module:
    middle = [layer for _ in range(2) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), *middle, nn.Linear(WIDTH, 3))


def played(
    strategy: str,
    bytes_per_s: float,
    names: str = "ab",
    faults: Sequence[Fault] = (),
    **until: float,
) -> Outcome:
    """An epoch or so in virtual time, of devices that need 0.4 s for a sample."""
    parts = {part: Ref(call=f"m:{part}") for part in ("model", "train", "test")}
    fields: dict[str, Any] = {
        "name": "s",
        "task": TaskSpec(**parts),
        "optimizer": Ref(call="torch.optim:SGD"),
        "batch": BATCH,
        "until": until or {"epochs": 1.0},
        "strategy": strategy,
    }
    devices = tuple(Device(name, 0.001, 0.4, 10**6) for name in names)
    links = tuple(
        Link(a, b, 1e-5, bytes_per_s) for i, a in enumerate(names) for b in names[i + 1 :]
    )
    pairs = TensorDataset(INPUTS, TARGETS)
    setup = Setup(Supervised("t", deep, pairs, pairs), lambda ps: torch.optim.SGD(ps, lr=0.1))
    with torch.random.fork_rng(devices=[]):
        world = World(devices, links, BATCH, NUM_TRAIN)
        return Simulation(Job(**fields), setup, world, faults).run(limit_s=20_000)


def vectors(outcome: Outcome) -> list[Tensor]:
    return [worker.learner.vector() for worker in outcome.workers.values()]


def decided(outcome: Outcome) -> list[str]:
    return [e["chosen"]["strategy"] for e in outcome.events if e["kind"] == "decision"]


def is_each_sample_learned_once(outcome: Outcome) -> bool:
    found = audit([{"kind": "run", "num_train": NUM_TRAIN}, *outcome.events])
    return found.is_exact


@pytest.fixture(autouse=True)
def _small_models_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "scratch", lambda mine: Learner(mine.setup))
    monkeypatch.setattr(layers, "LEAST_BYTES", 0)


@pytest.mark.parametrize("crew", ["crew=('b', 'a')", "micro_batches=8"])
def test_a_pipeline_equals_gradients_averaged_over_the_whole_batch(crew: str) -> None:
    cut = f"chain(Every(1), Pipeline(('4',), {crew}), Reduce(), Outer(1.0))"
    mine, others = vectors(played(cut, FAST, steps=16.0))
    assert torch.equal(mine, others)
    torch.testing.assert_close(
        mine, vectors(played("all-reduce", FAST, steps=16.0))[0], atol=1e-5, rtol=1e-4
    )


def test_over_slow_links_a_pipeline_is_chosen_and_over_fast_ones_it_is_not() -> None:
    slow, fast = played("auto", SLOW), played("auto", FAST)
    assert isinstance(parse(decided(slow)[0]).team, Pipeline)
    assert parse(decided(fast)[0]).team is None
    for outcome in (slow, fast):
        assert outcome.summary["epochs"] == 1
        assert is_each_sample_learned_once(outcome)


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_a_death_in_its_crew_costs_no_sample_and_not_the_run(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "worth_pricing", lambda _: (recipes.all_reduce(),))  # no walks
    dead = Fault("a", 200.0)  # probing is over by then, its first walk is not
    outcome = played("auto", SLOW, names, [dead])
    assert isinstance(parse(decided(outcome)[0]).team, Pipeline)
    assert [e for e in outcome.events if e["kind"] == "error"] == []
    assert outcome.summary["epochs"] == 1
    assert outcome.summary["kills_survived"] == 1
    assert is_each_sample_learned_once(outcome)


def test_stages_are_cut_anew_once_one_of_them_has_become_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decide, "worth_pricing", lambda _: (recipes.all_reduce(),))  # no walks
    slower = Fault("a", 4_000.0, kind="slow", factor=3.0)
    outcome = played("auto", SLOW, faults=[slower], epochs=12.0)
    cuts = [cut for told in decided(outcome) if isinstance(cut := parse(told).team, Pipeline)]
    held = [{name: len(part) for name, part in _held(cut).items()} for cut in cuts]
    assert held[0] == {"a": 2, "b": 2}
    assert held[-1] == {"a": 1, "b": 3}
    assert is_each_sample_learned_once(outcome)


def _held(cut: Pipeline) -> dict[str, list[str]]:
    """The layers of each member of a crew."""
    layers = ["0", "2", "4", "6"]
    starts = [0, *map(layers.index, cut.cuts), len(layers)]
    return {name: layers[starts[at] : starts[at + 1]] for at, name in enumerate(cut.crew)}
