"""How property tests behave everywhere, and a desk from which the commands are used for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import settings

from coterie.watch.events import follow, read

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: tests run beside one another
settings.register_profile("coterie", deadline=None, derandomize=True)
settings.register_profile("thousands", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "coterie"))

DEADLINE_S = 60.0  # bounds a test that hangs; none waits for it otherwise
SOURCES = Path(__file__).parents[1] / "src"

# Samples come from a slow disk: devices are then worth adding up, however few cores there are.
TASK = """
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

MS_PER_SAMPLE = 0.2


def net(width=8):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))


class FromDisk(TensorDataset):
    ms_per_sample = MS_PER_SAMPLE

    def __getitems__(self, indices):
        time.sleep(self.ms_per_sample / 1e3 * len(indices))
        return [self[i] for i in indices]


def samples(num=512, kind=TensorDataset):
    inputs = torch.randn(num, 8, generator=torch.Generator().manual_seed(0))
    return kind(inputs, inputs[:, :4].argmax(dim=1))


def from_disk(num=512, ms_per_sample=MS_PER_SAMPLE):
    read = samples(num, FromDisk)
    read.ms_per_sample = ms_per_sample
    return read


def accuracy(predictions, targets):
    return (predictions.argmax(dim=1) == targets).double().mean().item()
"""

JOB: dict[str, Any] = {
    "name": "small",
    "task": {
        "model": "shop:net",
        "train": "shop:from_disk",
        "test": "shop:samples",
        "metrics": {"accuracy": "shop:accuracy"},
    },
    "optimizer": {"call": "torch.optim:SGD", "with": {"lr": 0.1, "momentum": 0.9}},
    "batch": 64,
    "until": {"steps": 30},
    "strategy": "all-reduce",
    "agents": 2,
}


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        """The line of JSON that `--json` ends with."""
        answer: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return answer


@dataclass
class Desk:
    """A folder with a task, from which commands are run as a user would."""

    folder: Path
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    def job(self, name: str = "job", /, **changes: Any) -> Path:
        """Write a job file: the small job with some keys changed, those set to None left out."""
        path = self.folder / f"{name}.yaml"
        job = {key: value for key, value in {**JOB, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(job))
        return path

    @property
    def runs(self) -> Path:
        """Where runs are kept."""
        return self.folder / "runs"

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command."""
        return self.python("-m", "coterie.cli", *words)

    def python(self, *words: object) -> subprocess.Popen[str]:
        """Start Python with the package at hand."""
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(SOURCES), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.begun.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Finished:
        """Wait for a command's end."""
        out, err = process.communicate(timeout=2 * DEADLINE_S)
        return Finished(process.returncode, out, err)

    def run(self, *words: object) -> Finished:
        """Run a command to its end."""
        return self.finish(self.start(*words))

    def train(self, *words: object) -> Finished:
        """Run `coterie train` to its end."""
        return self.run("train", *words, "--json", "--runs", self.runs)

    def events(self, run: str = "small") -> list[dict[str, Any]]:
        """The events of a run so far."""
        return read(self.runs / run / "events.jsonl")

    def await_event(
        self, wanted: Callable[[dict[str, Any]], bool], run: str = "small"
    ) -> dict[str, Any]:
        """The first event of a run that is wanted, once it has happened."""
        until_s = time.monotonic() + DEADLINE_S
        path = self.runs / run / "events.jsonl"
        for event in follow(path, until=lambda: time.monotonic() > until_s):
            if wanted(event):
                return event
        kinds = [event["kind"] for event in self.events(run)] if path.exists() else "no log"
        raise AssertionError(f"what was waited for did not happen in {run}: {kinds}")

    def agent(self, name: str, run: str = "small") -> psutil.Process:
        """The newest process of an agent."""
        told = [e for e in self.events(run) if e["kind"] == "agent" and e["member"] == name]
        return psutil.Process([e["pid"] for e in told if "pid" in e][-1])

    def processes(self) -> list[psutil.Process]:
        """Those alive whose command line mentions this desk."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = any(str(self.folder) in word for word in process.cmdline())
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def await_empty(self) -> list[psutil.Process]:
        """Those that are still alive although they were given time to end."""
        return psutil.wait_procs(self.processes(), timeout=DEADLINE_S / 4)[1]

    def clear(self) -> None:
        """End whatever a failed test has left behind."""
        for process in self.begun:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for left in self.processes():
            left.kill()


@contextmanager
def _set_up(folder: Path) -> Iterator[Desk]:
    (folder / "shop.py").write_text(TASK)
    desk = Desk(folder)
    try:
        yield desk
    finally:
        desk.clear()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk of one test's own."""
    with _set_up(tmp_path) as desk:
        yield desk


@pytest.fixture(scope="module")
def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk that the tests of a module share."""
    with _set_up(tmp_path_factory.mktemp("desk")) as desk:
        yield desk
