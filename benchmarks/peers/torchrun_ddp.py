"""One worker of plain DistributedDataParallel under torchrun, which starts all again after a death.

    torchrun --nnodes 1 --nproc-per-node 3 --max-restarts 100 peers/torchrun_ddp.py FOLDER

Rank 0 saves a checkpoint every `CHECKPOINT_STEPS` steps; all go on from it.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from steps import NUM_PROCESSES, Log, faults_task, options, share, warm_up
from torch.nn.parallel import DistributedDataParallel

CHECKPOINT_STEPS = 20


def main() -> None:
    """Train until the steps are done."""
    args = options(__doc__.split("\n")[0])
    log = Log.of(args.folder, args.rank)
    model, data = faults_task.begin(args.seed), faults_task.train_set()
    optimizer = warm_up(model, data)
    path, step = args.folder / "checkpoint.pt", 0
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    dist.init_process_group("gloo")
    replica = DistributedDataParallel(model)
    while step < args.steps:
        x_BT, y_BT = share(data, args.seed, step, args.rank)
        optimizer.zero_grad()
        faults_task.shakespeare.loss(replica(x_BT), y_BT).backward()
        optimizer.step()
        log.step(step, True, NUM_PROCESSES)
        step += 1
        if args.rank == 0 and step % CHECKPOINT_STEPS == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            fresh = path.with_suffix(".new")
            torch.save({**state, "step": step}, fresh)
            fresh.replace(path)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
