"""What both ways to run torchft share: a manager with its quickest timers, and the state to heal.

Every process is a replica group of its own. The lighthouse is started beside them, as
`python peers/torchft_parts.py PORT`, with a heartbeat timeout of 1 s (5 s is the default).
"""

from __future__ import annotations

import signal
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchft import Manager, ProcessGroupGloo
from torchft.coordination import LighthouseServer

HEARTBEAT_MS, TICK_MS, JOIN_MS = 1000, 50, 1000  # 5000, 100 and 60,000 by default
GROUP_S, QUORUM_S = 10.0, 30.0  # 60 each by default; a group that hangs is given up after GROUP_S
MIN_REPLICAS = 2  # one alone, not healed, would make its fresh weights everybody's


def managed(model: nn.Module, optimizer: torch.optim.Optimizer, rank: int, at: str) -> Manager:
    """A manager of this replica alone."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=GROUP_S)),
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        min_replica_size=MIN_REPLICAS,
        timeout=timedelta(seconds=GROUP_S),
        quorum_timeout=timedelta(seconds=QUORUM_S),
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        hostname="127.0.0.1",
        lighthouse_addr=f"http://{at}",
        replica_id=f"replica-{rank}-",
    )
    manager.kept_store = store  # hosted here: it must live as long as the manager
    return manager


def main() -> None:
    """The lighthouse, until it is told to end."""
    server = LighthouseServer(
        f"127.0.0.1:{sys.argv[1]}",
        min_replicas=MIN_REPLICAS,
        join_timeout_ms=JOIN_MS,
        quorum_tick_ms=TICK_MS,
        heartbeat_timeout_ms=HEARTBEAT_MS,
    )
    print(server.address(), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.shutdown()


if __name__ == "__main__":
    main()
