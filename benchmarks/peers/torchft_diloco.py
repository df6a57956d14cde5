"""One replica of torchft's DiLoCo on Gloo: diloco-H, with the outer Nesterov of 0.7 and 0.9.

Rank 0 hosts the lighthouse; every rank is a replica group of its own.

    RANK=0 WORLD_SIZE=4 MASTER_ADDR=... MASTER_PORT=... python peers/torchft_diloco.py diloco-25 \
        --log rank0.jsonl
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lap import Lap, begin_group, options, shakespeare, share
from torch import nn
from torchft import Manager, ProcessGroupGloo
from torchft.coordination import LighthouseServer
from torchft.local_sgd import DiLoCo

PATIENCE = timedelta(seconds=120)  # a round of 4 MB takes seconds on a slow link; 60 is the default
OUTER = {"lr": 0.7, "momentum": 0.9, "nesterov": True}


def lighthouse_port() -> int:
    """Where the lighthouse listens: beside the port at which ranks meet."""
    return int(os.environ["MASTER_PORT"]) + 1


def own_address() -> str:
    """The address of this host on the road to rank 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["MASTER_ADDR"], 9))
        return str(probe.getsockname()[0])


def managed(model: nn.Module) -> Manager:
    """A manager of this replica alone, known to the lighthouse of rank 0.

    All begin with the same weights, so that none has to be healed at the first quorum.
    """
    here = own_address()
    store = dist.TCPStore(here, 0, is_master=True, wait_for_workers=False)

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state)

    manager = Manager(
        pg=ProcessGroupGloo(timeout=PATIENCE),
        load_state_dict=load,
        state_dict=model.state_dict,
        min_replica_size=dist.get_world_size(),
        use_async_quorum=False,
        timeout=PATIENCE,
        quorum_timeout=PATIENCE,
        rank=0,
        world_size=1,
        store_addr=here,
        store_port=store.port,
        hostname=here,
        lighthouse_addr=f"http://{os.environ['MASTER_ADDR']}:{lighthouse_port()}",
        replica_id=f"replica-{dist.get_rank()}-",
        init_sync=False,
    )
    manager.kept_store = store  # hosted here: it must live as long as the manager
    return manager


def main() -> None:
    """Train until the loss or the steps are reached."""
    args = options(__doc__.split("\n")[0], "diloco-H").parse_args()
    every = int(args.method.partition("-")[2])
    begin_group()
    num = dist.get_world_size()
    lighthouse = None
    if dist.get_rank() == 0:
        lighthouse = LighthouseServer(f"0.0.0.0:{lighthouse_port()}", min_replicas=num)
    dist.barrier()
    model, data = shakespeare.begin(args.seed), shakespeare.train_set()
    manager = managed(model)
    inner = torch.optim.Adam(model.parameters(), lr=args.lr)
    outer = torch.optim.SGD(model.parameters(), **OUTER)
    lap = Lap(args.log, every, args.until_loss)  # between rounds there is no common model to score
    with DiLoCo(manager, [model], inner, outer, sync_every=every, use_bucketization=True):
        lap.begin()
        for step, indices in enumerate(shakespeare.batches(args.seed), start=1):
            x_BT, y_BT = data[share(indices)]
            inner.zero_grad()
            shakespeare.loss(model(x_BT), y_BT).backward()
            inner.step()
            if lap.step(model, step) or step >= args.steps:
                break
    dist.barrier()
    manager.shutdown(wait=False)
    dist.destroy_process_group()
    if lighthouse is not None:
        lighthouse.shutdown()


if __name__ == "__main__":
    main()
