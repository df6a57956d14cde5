"""A run that was stopped at a checkpoint and resumed is the run that was never stopped.

Residuals, momenta, fragments and each member's own random numbers are all in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.agents.snapshot import MODEL_FILE
from coterie.agents.state import pack_state, unpack_state
from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator import life
from coterie.coordinator.run import Checkpoint, Resume
from coterie.engines.simulated import Outcome, simulate
from coterie.tasks.supervised import Supervised
from coterie.world import Device, Link, World

NUM_TRAIN, BATCH = 64, 8  # an epoch is 8 steps
INPUTS = torch.randn(NUM_TRAIN, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS @ torch.randn(4, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
PACE_S = {"a": 0.008, "b": 0.012, "c": 0.02, "d": 0.015}

EXACT = [
    "all-reduce",
    "all-reduce-int8",
    "power-sgd(1)",
    "chain(ErrorFeedback(TopK(0.3)), Reduce())",
    "local-sgd(4)",
    "diloco(4)",
    "diloco-int8(4)",
    "sparse-loco(4)",
    "fed-adam(4, 0.05)",
    "gossip(4, 'ring')",
    "noloco(4)",
    "chain(Every(4, fragments=2), ErrorFeedback(Int8()), Reduce(), Outer(0.7, 0.9))",
]
OVERLAPPING = [
    "streaming-diloco(4, 2, 1)",
    "chain(Every(4, overlap=1), ErrorFeedback(Int8()), Reduce(), Outer(0.7, 0.9))",
]


def wet() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))


def setup(model: Callable[[], nn.Module] = wet) -> Setup:
    pairs = TensorDataset(INPUTS, TARGETS)
    task = Supervised("t", model, pairs, pairs)
    return Setup(task, lambda parameters: torch.optim.Adam(parameters, lr=0.01))


def job(strategy: str, until: dict[str, float], **given: Any) -> Job:
    parts = {part: Ref(call=f"m:{part}") for part in ("model", "train", "test")}
    return Job(
        name="s",
        task=TaskSpec(**parts),
        optimizer=Ref(call="torch.optim:Adam"),
        batch=BATCH,
        until=until,
        strategy=strategy,
        **given,
    )


def world(names: str = "abc") -> World:
    devices = tuple(Device(name, 0.01, PACE_S[name], 10**6) for name in names)
    links = tuple(Link(x, y, 1e-5, 1e9) for i, x in enumerate(names) for y in list(names)[i + 1 :])
    return World(devices, links, BATCH, NUM_TRAIN)


def played(made: Job, names: str = "abc", point: Checkpoint | None = None) -> Outcome:
    resume = Resume(point.files, point.meta) if point else None
    return simulate(made, setup(), world(names), resume=resume)


def ends(outcome: Outcome) -> dict[str, Tensor]:
    return {name: worker.learner.vector() for name, worker in outcome.workers.items()}


def assert_equal(first: Outcome, second: Outcome) -> None:
    mine, theirs = ends(first), ends(second)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("num_steps", [8.0, 12.0])
@pytest.mark.parametrize("strategy", EXACT)
def test_stopped_and_resumed_is_the_undisturbed_run(strategy: str, num_steps: float) -> None:
    long, short = ({"epochs": 3.0}, {"steps": num_steps})
    undisturbed = played(job(strategy, long, deterministic=True))
    point = played(job(strategy, short, deterministic=True)).checkpoints[-1]
    assert point.meta["num_steps"] == num_steps
    assert_equal(undisturbed, played(job(strategy, long, deterministic=True), point=point))


@pytest.mark.parametrize("strategy", [*EXACT, *OVERLAPPING])
def test_every_checkpoint_on_the_way_leads_to_the_same_end(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meeting that goes on lands where a score is asked for: none is, but at the end."""
    monkeypatch.setattr(life, "evaluation_due", lambda run: False)
    until = {"epochs": 8.0}
    undisturbed = played(job(strategy, until, checkpoint_every_s=2.0))
    *_, point, _ = undisturbed.checkpoints  # the meetings after it land in their time
    then = played(job(strategy, until, checkpoint_every_s=1e6), point=point)
    assert 8 <= point.meta["num_steps"] < 64
    assert undisturbed.summary["shares"] == then.summary["shares"]
    assert_equal(undisturbed, then)


def test_without_its_random_numbers_it_would_be_another_run() -> None:
    made = job("local-sgd(4)", {"epochs": 3.0}, deterministic=True)
    point = played(job("local-sgd(4)", {"steps": 8.0}, deterministic=True)).checkpoints[-1]
    files = dict(point.files)
    for name in files.keys() - {MODEL_FILE}:
        state = unpack_state(files[name])
        del state["private"]["draws"]  # as in a checkpoint of an earlier version
        files[name] = pack_state(state)
    then = played(made, point=Checkpoint(point.step, files, point.meta))
    assert then.summary["epochs"] == 3
    undisturbed = ends(played(made))
    assert not all(torch.equal(value, undisturbed[name]) for name, value in ends(then).items())


def test_members_drop_out_each_on_its_own() -> None:
    point = played(job("local-sgd(4)", {"steps": 4.0})).checkpoints[-1]
    states = [unpack_state(data) for name, data in point.files.items() if name != MODEL_FILE]
    draws = [state["private"]["draws"][0] for state in states]
    assert not any(torch.equal(draws[0], other) for other in draws[1:])


@pytest.mark.parametrize("names", ["a", "abcd"])
@pytest.mark.parametrize(
    "strategy", ["all-reduce-int8", "diloco-int8(4)", "streaming-diloco(4, 2)"]
)
def test_other_members_go_on_and_come_to_a_like_loss(strategy: str, names: str) -> None:
    long, short = {"epochs": 16.0}, {"steps": 64.0}
    undisturbed, stopped = played(job(strategy, long)), played(job(strategy, short))
    then = played(job(strategy, long), names, stopped.checkpoints[-1])
    before = stopped.summary["metrics"]["test_loss"]
    whole, resumed = (run.summary["metrics"]["test_loss"] for run in (undisturbed, then))
    assert resumed < whole + 0.5 * (before - whole)
