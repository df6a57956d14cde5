"""Classes told by the nearest mean are learned under any sentence, and resumed, as all else is."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Setup
from coterie.config import load_job
from coterie.engines.simulated import Fault, Simulation
from coterie.engines.train import train
from coterie.tasks import MultiTask, Prototypes, Supervised, from_spec
from coterie.watch.events import audit
from tests.engines.conftest import BATCH, INPUTS, NUM_TRAIN, job, world

LABELS = torch.arange(NUM_TRAIN) % 4


def samples() -> TensorDataset:
    return TensorDataset(INPUTS + nn.functional.one_hot(LABELS, INPUTS.shape[1]), LABELS)


trunk = functools.partial(nn.Linear, in_features=4, out_features=3)
ONE = Prototypes("few", trunk, samples, samples, ways=3)
MANY = MultiTask(
    "many",
    trunk,
    [
        Prototypes("few", nn.Identity, samples, samples, ways=3),
        Supervised(
            "plain", functools.partial(nn.Linear, in_features=3, out_features=4), samples, samples
        ),
    ],
)


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def played(strategy: str, faults: Sequence[Fault]) -> Any:
    with torch.random.fork_rng(devices=[]):
        return Simulation(job(strategy, 2.0), Setup(ONE, adam), world(), faults).run(limit_s=60.0)


@pytest.mark.parametrize("strategy", ["all-reduce", "diloco-int8(4)", "gossip(2)"])
def test_under_any_sentence_a_death_costs_no_sample(strategy: str) -> None:
    outcome = played(strategy, [Fault("b", 1.0)])
    assert [event for event in outcome.events if event["kind"] == "error"] == []
    lost = [e for e in outcome.events if e["kind"] == "agent" and e["state"] == "lost"]
    assert [event["member"] for event in lost] == ["b"]
    assert audit([{"kind": "run", "num_train": NUM_TRAIN}, *outcome.events]).is_exact


@pytest.mark.parametrize("task", [ONE, MANY], ids=["one", "many"])
def test_a_run_is_told_in_a_job_file_and_resumed_as_if_it_had_gone_on(
    task: Any, tmp_path: Path
) -> None:
    def run(folder: str, steps: int, **options: Any) -> Any:
        where = {"runs": tmp_path / folder, "show": lambda event: None, **options}
        return train(task, adam, BATCH, {"steps": steps}, **where)  # type: ignore[arg-type]

    first, whole = run("parts", 5), run("whole", 9)
    then = run("parts", 9, resume=first.folder)
    assert then.summary["metrics"] == whole.summary["metrics"]
    written = load_job(whole.folder / "job.yaml")
    made = from_spec("again", written.task, str(Path(__file__).parents[2]))
    assert type(made) is type(task)
    assert made.score(made.build()).keys() == whole.summary["metrics"].keys()
