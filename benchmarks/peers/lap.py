"""What the ranks of every peer share: options, a clock that rests while rank 0 scores, a log.

Each rank is started with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, as by
torchrun. Rank 0 writes JSON lines: step, samples, seconds, loss.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shakespeare


def options(description: str, methods: str) -> argparse.ArgumentParser:
    """The options that every peer takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("method", help=methods)
    parser.add_argument("--steps", type=int, default=1000, help="at most, of the global batch")
    parser.add_argument("--until-loss", type=float, default=0.0, help="stop at this held-out loss")
    parser.add_argument("--score-every", type=int, default=10, help="steps; 0 for never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=shakespeare.LEARNING_RATE)
    parser.add_argument("--log", type=Path, required=True, help="of rank 0, JSON lines")
    return parser


@dataclass
class Lap:
    """One run's clock and log; all ranks call it at the same steps.

    Seconds count from a barrier after the first weights were built, and stand still from the
    moment the last rank arrives at a scored step until the loss is known to all.
    """

    log: Path
    score_every: int
    until_loss: float
    began_s: float = 0.0
    paused_s: float = 0.0
    cpu_s: float = 0.0  # of this process, evaluation left out
    losses: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Start the clock on all ranks."""
        if dist.get_rank() == 0:
            self.log.write_text("")
        dist.barrier()
        self.began_s, self.cpu_s = time.perf_counter(), time.process_time()
        self._write(kind="begin")

    def step(self, model: nn.Module, step: int) -> bool:
        """Note that a step is done, score the model when it is time; whether to stop."""
        if not self.score_every or step % self.score_every:
            self._write(kind="step", step=step)
            return False
        dist.barrier()
        rested_s, rested_cpu_s = time.perf_counter(), time.process_time()
        seconds, cpu_s = rested_s - self.began_s - self.paused_s, rested_cpu_s - self.cpu_s
        value = torch.tensor(shakespeare.held_out_loss(model) if dist.get_rank() == 0 else 0.0)
        dist.broadcast(value, src=0)
        dist.barrier()
        self.paused_s += time.perf_counter() - rested_s
        self.cpu_s += time.process_time() - rested_cpu_s
        loss = float(value)
        self._write(kind="scores", step=step, seconds=seconds, loss=loss, cpu_s=cpu_s)
        return loss <= self.until_loss

    def _write(self, **fields: Any) -> None:
        if dist.get_rank() != 0:
            return
        seconds = time.perf_counter() - self.began_s - self.paused_s
        line = {"time_s": time.time(), "seconds": seconds, **fields}
        if "step" in fields:
            line["samples"] = fields["step"] * shakespeare.BATCH
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def begin_group() -> None:
    """One thread, and the group in which ranks meet for the clock and, in DDP, for gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]))


def share(indices: list[int]) -> list[int]:
    """This rank's part of a global batch."""
    per_rank = len(indices) // dist.get_world_size()
    return indices[dist.get_rank() * per_rank :][:per_rank]
