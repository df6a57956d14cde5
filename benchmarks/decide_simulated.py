"""A run of the benchmark of decisions played in virtual time, on the world that it believed.

    python benchmarks/decide_simulated.py '{"size": "small", "strategy": "all-reduce", ...}'

Prints the seconds to the target as JSON. Played by itself, for it needs a core for some seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from decide_runs import first_loss, job, summed  # noqa: E402
from decide_sums import world_of  # noqa: E402
from decide_task import SIZES  # noqa: E402

from coterie.agents.join import setup_of  # noqa: E402
from coterie.config import parse_job  # noqa: E402
from coterie.coordinator import boundary  # noqa: E402
from coterie.engines.simulated import Simulation  # noqa: E402

BEFORE_S = 30.0  # of virtual time, for measuring before the first decision


def played(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a run comes to in virtual time."""
    size, seed = asked["size"], asked["seed"]
    world = world_of(asked["world"])
    boundary.EVALUATION_PART = float("inf")  # at every epoch: the clock rests meanwhile
    made = parse_job(job("simulated", size, asked["strategy"], seed, len(world.devices)))
    began_s = time.perf_counter()
    simulation = Simulation(made, setup_of(made, "cpu"), world)
    events = simulation.run(BEFORE_S + asked["limit_s"]).events
    found = summed(events, first_loss(size, seed), SIZES[size].target)
    return {
        "seconds": found["seconds"],
        "steps": found["steps"],
        "took_s": time.perf_counter() - began_s,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(json.dumps(played(json.loads(sys.argv[1]))))
