"""Eight learners on real processes: one against two, and what sharing costs agents of 4 : 2 : 1.

All arms are runs of `coterie train` on one job file, but for its agents and for what is shared, one
after the other. It means something on a quiet machine of two cores or more alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.data import TensorDataset

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmarks import knowledge_data as data  # noqa: E402
from benchmarks.knowledge_race import WIDTH, rectified_trunk  # noqa: E402

NUM_LEARNERS = 8
NUM_EACH = 20  # images of each class that a learner has
NUM_TEST = 300
NUM_STEPS = 1500
BATCH = 20
NUM_PROCESSES = (1, 2)
SPEEDS = {"local": 3, "speeds": [4, 2, 1]}
UNEQUAL_MINUTES = 0.5
SHARING = {"currency": "parameters", "every": 10, "gate": "open", "share": "all"}
TIMEOUT_S = 900.0


def network() -> nn.Module:
    """The network of the other parts; its weights follow from torch's seed."""
    return nn.Sequential(*rectified_trunk(), nn.Linear(WIDTH, data.NUM_CLASSES))


def split(number: int, seed: int) -> data.Split:
    """A learner's clothes, at its own angle."""
    degrees = 5.0 * (number - NUM_LEARNERS / 2)
    return data.own(data.clothes(), (NUM_EACH, 0), NUM_TEST, degrees, [seed, number])


def train_set(number: int, seed: int) -> TensorDataset:
    """What a learner learns from."""
    return split(number, seed).train.dataset()


def test_set(number: int, seed: int) -> TensorDataset:
    """What it is tested on."""
    return split(number, seed).test.dataset()


def job(seed: int, **changed: Any) -> dict[str, Any]:
    """The job file of one arm."""

    def own(number: int) -> dict[str, Any]:
        here = partial(_call, number=number, seed=seed)
        return {
            "model": "knowledge_processes:network",
            "train": here("train_set"),
            "test": here("test_set"),
            "metrics": {"accuracy": "coterie.tasks.digits:accuracy"},
        }

    told = {
        "name": "processes",
        "task": {
            "kind": "separate",
            "tasks": {f"clothes-{number}": own(number) for number in range(NUM_LEARNERS)},
        },
        "knowledge": SHARING,
        "optimizer": {"call": "torch.optim:Adam", "with": {"lr": 1e-3}},
        "batch": BATCH,
        "seed": seed,
        "until": {"steps": NUM_STEPS},
        "checkpoint_every_s": 1e6,
        "root": str(HERE),
    }
    return {key: value for key, value in {**told, **changed}.items() if value is not None}


def _call(function: str, **told: int) -> dict[str, Any]:
    return {"call": f"knowledge_processes:{function}", "with": told}


def run(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """Steps of all learners, seconds from the first to the last, and the accuracy then.

    Raises RuntimeError with the last words of a run that fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory(prefix="coterie-processes-") as name:
        file = Path(name, "job.yaml")
        file.write_text(yaml.safe_dump(dict(written)))
        command = [sys.executable, "-m", "coterie.cli", "train", str(file), "--runs", name]
        ended = subprocess.run(
            [*command, "--plain"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
        events = Path(name, "processes", "events.jsonl")
        lines = events.read_text().splitlines() if events.is_file() else []
        told = [each for each in map(json.loads, lines) if each["kind"] == "summary"]
    if ended.returncode or not told:
        raise RuntimeError(
            f"expected a run to its end, found:\n{(ended.stdout + ended.stderr)[-2000:]}"
        )
    return {key: told[-1][key] for key in ("seconds", "accuracy", "steps")}


def processes(seed: int) -> dict[str, Any]:
    """One process and two; which is first changes with the seed."""
    torch.set_num_threads(1)
    order = NUM_PROCESSES if seed % 2 == 0 else NUM_PROCESSES[::-1]
    return {"runs": {str(number): run(job(seed, agents={"local": number})) for number in order}}


def speeds(seed: int) -> dict[str, Any]:
    """Agents of 4 : 2 : 1 that share, and that do not; which is first changes with the seed."""
    torch.set_num_threads(1)
    arms: dict[str, dict[str, Any] | None] = {
        "sharing": {**SHARING, "every": "auto"},
        "sharing every ten steps": SHARING,
        "alone": None,
    }
    order = list(arms) if seed % 2 == 0 else list(arms)[::-1]
    until = {"minutes": UNEQUAL_MINUTES}
    return {
        "runs": {
            arm: run(job(seed, agents=SPEEDS, knowledge=arms[arm], until=until)) for arm in order
        }
    }
