"""A plain torch loop on one model of `decide_task`: alone, or one rank of DDP on equal parts.

RANK=0 WORLD_SIZE=1 MASTER_ADDR=... MASTER_PORT=... python peers/plain.py small --log rank0.jsonl

It says "ready", waits for a line on standard input, and steps until it is killed. Rank 0 writes
JSON lines: each step; alone, held-out losses too. Its clock stands still while it scores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import decide_task
import shakespeare

SCORE_EVERY = 8  # steps, alone


def main() -> None:
    """Step until killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=decide_task.SIZES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True, help="of rank 0, JSON lines")
    args = parser.parse_args()
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    def write(**fields: Any) -> None:
        if rank == 0:
            with args.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")

    data = decide_task.train_set()
    warm = decide_task.begin(args.size, args.seed)  # what is loaded with a first step is loaded
    shakespeare.loss(warm(data[:2][0]), data[:2][1]).backward()
    model = decide_task.begin(args.size, args.seed)
    net = model
    if num_ranks > 1:
        dist.init_process_group("gloo")
        net = DistributedDataParallel(model)
    optimizer = decide_task.adam(model, args.size)
    write(kind="ready")
    sys.stdin.readline()
    began_s = time.perf_counter()
    for step, indices in enumerate(decide_task.batches(args.seed), start=1):
        size = len(indices) // num_ranks
        x_BT, y_BT = data[indices[rank * size :][:size]]
        optimizer.zero_grad()
        shakespeare.loss(net(x_BT), y_BT).backward()
        optimizer.step()
        seconds = time.perf_counter() - began_s
        write(kind="step", step=step, seconds=seconds)
        if num_ranks == 1 and step % SCORE_EVERY == 0:
            loss = decide_task.held_out_loss(model)
            write(kind="scores", step=step, seconds=seconds, loss=loss)
            began_s = time.perf_counter() - seconds


if __name__ == "__main__":
    main()
