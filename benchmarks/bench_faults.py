"""What faults cost: kills, cuts, stops, a dead coordinator; ours beside torchft and torchrun.

Faults fall at seeded random moments into real runs of three agents on one machine (`faults_task`);
cuts, stops, goodput and heartbeats need hosts with links of their own (`testbed`), and so root.
Prints a page for benchmarks/faults.md; every number goes to benchmarks/results/.

    python benchmarks/bench_faults.py --peers-python /path/to/env/bin/python
    python benchmarks/bench_faults.py --parts kills,spare --kills 3 --seeds 1

Parts: kills and peers (interleaved), coordinator, spare, cut, stop, goodput, heartbeats.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import faults_beds  # noqa: E402
import faults_ours  # noqa: E402
import faults_page  # noqa: E402
import faults_peers  # noqa: E402
from bed_runs import say  # noqa: E402

PARTS = ("kills", "peers", "coordinator", "spare", "cut", "stop", "goodput", "heartbeats")
KILLS_A_RUN = 9  # an agent is started again three times at most: none of three dies more often
COORDINATOR_KILLS_A_RUN = 3  # as often is a coordinator started again
PEERS = ("torchft_manager", "torchft_ddp", "torchrun_ddp")

Found = Iterator[dict[str, Any]]


def split(num: int, parts: int) -> list[int]:
    """A number in whole parts, as equal as can be.

    >>> split(10, 4), split(2, 3)
    ([3, 3, 2, 2], [1, 1, 0])
    """
    return [num // parts + (part < num % parts) for part in range(parts)]


def kills_and_peers(said: argparse.Namespace, folder: Path) -> Found:
    """Runs of ours with kills and without, and peers with kills, one after the other."""
    ours = split(said.kills, -(-said.kills // KILLS_A_RUN)) if "kills" in said.parts else []
    with_peers = "peers" in said.parts
    num_rounds = max(len(ours), said.seeds if ours else 0, 3 if with_peers else 0)
    theirs = {peer: split(getattr(said, peer), num_rounds) for peer in PEERS if with_peers}
    for number in range(num_rounds):
        arms: list[tuple[str, int]] = [("kills", ours[number])] if number < len(ours) else []
        arms += [("free", 0)] if ours and number < said.seeds else []
        arms += [(peer, nums[number]) for peer, nums in theirs.items() if nums[number]]
        first = number % max(1, len(arms))
        for arm, num in [*arms[first:], *arms[:first]]:
            say(f"round {number + 1} of {num_rounds}: {arm}")
            if arm in PEERS:
                for each in faults_peers.kills(arm, said.peers_python, folder, number, num, say):
                    yield {"part": "peers", **each}
            else:
                yield from faults_ours.kills(folder, number, num, said.steps)


def measured(said: argparse.Namespace, folder: Path) -> Found:
    """Every part that was asked for, one outcome after the other."""
    parts = said.parts
    if "kills" in parts or "peers" in parts:
        yield from kills_and_peers(said, folder)
    if "coordinator" in parts:
        num_runs = -(-said.coordinator_kills // COORDINATOR_KILLS_A_RUN)
        for seed, num in enumerate(split(said.coordinator_kills, num_runs)):
            yield from faults_ours.coordinator(folder, seed, num)
    if "spare" in parts:
        num_runs = -(-said.warm // KILLS_A_RUN)
        for seed, num in enumerate(split(said.warm, num_runs)):
            yield from faults_ours.spare(folder, seed, num, spares=1)
        yield from faults_ours.spare(folder, num_runs, said.cold, spares=0)
    if "cut" in parts or "stop" in parts:
        kinds = [kind for kind in ("cut", "stop") if kind in parts]
        yield from faults_beds.silences(folder, kinds, said.cuts, said.cut_s, said.stop_s)
    if "goodput" in parts:
        yield from faults_beds.goodput(folder, said.goodput_minutes, said.fault_every_s, said.seed)
    if "heartbeats" in parts:
        yield from faults_beds.heartbeats(folder, said.heartbeat_s)


def words() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="default: all")
    parser.add_argument("--kills", type=int, default=50, help="of agents, over several runs")
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs without faults, beside the first"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of each of these runs")
    parser.add_argument("--torchft-manager", type=int, default=10, help="kills")
    parser.add_argument("--torchft-ddp", type=int, default=5, help="kills")
    parser.add_argument("--torchrun-ddp", type=int, default=3, help="kills")
    parser.add_argument("--coordinator-kills", type=int, default=10)
    parser.add_argument("--warm", type=int, default=10, help="kills with a warm spare")
    parser.add_argument("--cold", type=int, default=3, help="kills without a spare")
    parser.add_argument("--cuts", type=int, default=3, help="and as many stops")
    parser.add_argument("--cut-s", type=float, default=20.0)
    parser.add_argument("--stop-s", type=float, default=8.0)
    parser.add_argument("--goodput-minutes", type=float, default=10.0)
    parser.add_argument("--fault-every-s", type=float, default=30.0)
    parser.add_argument("--heartbeat-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the faults of the goodput run")
    own = os.environ.get("COTERIE_PEERS_PYTHON", sys.executable)
    parser.add_argument("--peers-python", default=own, help="an environment with torchft")
    results = HERE / "results" / f"faults-{date.today():%Y%m%d}.json"
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--page", type=Path, help="print the page of these results, measure none")
    return parser


def main() -> None:
    """Measure, keep every number, print the page."""
    said = words().parse_args()
    if said.page:
        print(faults_page.page(json.loads(said.page.read_text())))
        return
    said.parts = said.parts.split(",")
    if unknown := set(said.parts) - set(PARTS):
        raise SystemExit(f"expected parts of {', '.join(PARTS)}, found {', '.join(unknown)}")
    said.results.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then too
    told: dict[str, Any] = {"about": faults_page.about(said.peers_python), "measured": []}
    told["asked"] = {key: str(value) for key, value in vars(said).items()}
    began_s = time.time()
    with tempfile.TemporaryDirectory(prefix="coterie-faults-") as name:
        for each in measured(said, Path(name)):
            keep(told, each, began_s)
            said.results.write_text(json.dumps(told, indent=1) + "\n")
    print(faults_page.page(told))


def keep(told: dict[str, Any], each: Mapping[str, Any], began_s: float) -> None:
    """Take in an outcome, with when it came and the load that stood beside."""
    here = {"minute": round((time.time() - began_s) / 60, 1), "load": round(os.getloadavg()[0], 2)}
    told["measured"].append({**here, **each})
    told["about"]["minutes"] = here["minute"]


if __name__ == "__main__":
    main()
