"""What the peers of the fault benchmark share: options, the task, and a log of every step's end.

Each process appends JSON lines to a file of its own: "begin" with its pid, then one "step" for each
step, with whether it counted. A process that is started again goes on in the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import faults_task

NUM_PROCESSES = 3


def options(description: str) -> argparse.Namespace:
    """The options that every peer takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="of logs and checkpoints")
    parser.add_argument("--rank", type=int, default=int(os.environ.get("RANK", "0")))
    parser.add_argument("--lighthouse", default="", help="HOST:PORT, of torchft alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000)
    torch.set_num_threads(1)
    return parser.parse_args()


@dataclass
class Log:
    """One process's log."""

    path: Path

    @classmethod
    def of(cls, folder: Path, rank: int) -> Log:
        """The log of a rank, which begins with its process."""
        log = cls(folder / f"rank{rank}.jsonl")
        log.write(kind="begin", pid=os.getpid())
        return log

    def write(self, **fields: Any) -> None:
        """Append a line."""
        line = json.dumps({"time_s": time.time(), **fields}) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def step(self, step: int, committed: bool, members: int) -> None:
        """A step has ended; `members` learned in it."""
        self.write(kind="step", step=step, committed=committed, members=members)


def share(data: faults_task.FromDisk, seed: int, step: int, rank: int) -> tuple[Tensor, ...]:
    """A rank's part of a global step, read from the slow disk."""
    indices = faults_task.batch_at(seed, step)
    size = len(indices) // NUM_PROCESSES
    return data.batch(indices[rank * size :][:size])


def warm_up(model: torch.nn.Module, data: faults_task.FromDisk) -> torch.optim.Optimizer:
    """The optimizer, once what is loaded with a first step is loaded; the weights stay."""
    optimizer = torch.optim.Adam(model.parameters(), lr=faults_task.LEARNING_RATE)
    x_BT, y_BT = data.batch([0, 1])
    faults_task.shakespeare.loss(model(x_BT), y_BT).backward()
    model.zero_grad()
    return optimizer
