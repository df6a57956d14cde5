"""One rank of PyTorch's DistributedDataParallel on Gloo: fp32, fp16, or powersgd-RANK.

RANK=0 WORLD_SIZE=4 MASTER_ADDR=... MASTER_PORT=... python peers/ddp.py fp16 --log rank0.jsonl
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from lap import Lap, begin_group, options, shakespeare, share
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

ONE_BUCKET_MIB = 1024
POWERSGD_BEGINS_AT = 2  # steps of plain all-reduce before it; 1000 by default, two at least


def wrapped(model: nn.Module, method: str) -> DistributedDataParallel:
    """The model with its communication hook.

    On Gloo PowerSGD's second all-reduces of several buckets overtake each other: it gets one.
    """
    name, _, rank = method.partition("-")
    if name == "fp32":
        return DistributedDataParallel(model)
    if name == "fp16":
        replica = DistributedDataParallel(model)
        replica.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return replica
    if name != "powersgd":
        raise SystemExit(f"expected fp32, fp16 or powersgd-RANK, found {method}")
    dist._DEFAULT_FIRST_BUCKET_BYTES = ONE_BUCKET_MIB << 20
    replica = DistributedDataParallel(model, bucket_cap_mb=ONE_BUCKET_MIB)
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=int(rank), start_powerSGD_iter=POWERSGD_BEGINS_AT
    )
    replica.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return replica


def main() -> None:
    """Train until the loss or the steps are reached."""
    args = options(__doc__.split("\n")[0], "fp32, fp16 or powersgd-RANK").parse_args()
    begin_group()
    model, data = shakespeare.begin(args.seed), shakespeare.train_set()
    replica = wrapped(model, args.method)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    lap = Lap(args.log, args.score_every, args.until_loss)
    lap.begin()
    for step, indices in enumerate(shakespeare.batches(args.seed), start=1):
        x_BT, y_BT = data[share(indices)]
        optimizer.zero_grad()
        shakespeare.loss(replica(x_BT), y_BT).backward()
        optimizer.step()
        if lap.step(model, step) or step >= args.steps:
            break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
