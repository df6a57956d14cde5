"""Peers into which kills are put: processes started, one killed and started again, all watched."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_runs import doing, end_all
from faults_sums import first_after, longest_gap_s, pause_s, thrown_away, typical_s

HERE = Path(__file__).resolve().parent
NUM_PROCESSES = 3
START_S = 180.0
LIMIT_S = 120.0  # for all to be back at work after a kill; beyond, it is given up
STEADY_STEPS = 30  # before the first kill, and between two
CALM_S = 3.0  # a kill falls within so long after that
POLL_S = 0.05
# Else workers that torchrun starts again find the addresses of those before them in its store.
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

Line = Mapping[str, Any]


@dataclass
class Peer:
    """One peer's processes in a folder."""

    kind: str  # torchft_manager, torchft_ddp or torchrun_ddp
    python: str
    folder: Path
    seed: int
    programs: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    others: list[subprocess.Popen[str]] = field(default_factory=list)
    lighthouse: str = ""

    @property
    def restarts_itself(self) -> bool:
        """Whether one program starts and restarts all."""
        return self.kind == "torchrun_ddp"

    def start(self) -> None:
        """Start all of it."""
        if self.restarts_itself:
            argv = ["-m", "torch.distributed.run", "--standalone", "--nnodes", "1"]
            argv += ["--nproc-per-node", str(NUM_PROCESSES), "--max-restarts", "100"]
            argv += ["--monitor-interval", "0.1"]
            argv += [str(HERE / "peers" / f"{self.kind}.py"), str(self.folder)]
            self.others.append(self._begin("torchrun", [*argv, "--seed", str(self.seed)]))
            return
        self.lighthouse = f"127.0.0.1:{free_port()}"
        words = [str(HERE / "peers" / "torchft_parts.py"), self.lighthouse.rpartition(":")[2]]
        self.others.append(self._begin("lighthouse", [*words, str(self.folder)]))
        for rank in range(NUM_PROCESSES):
            self.start_rank(rank)

    def start_rank(self, rank: int) -> None:
        """Start one process, or start it again."""
        words = [str(HERE / "peers" / f"{self.kind}.py"), str(self.folder), "--rank", str(rank)]
        words += ["--lighthouse", self.lighthouse, "--seed", str(self.seed)]
        self.programs[rank] = self._begin(f"rank{rank}", words)

    def _begin(self, name: str, words: list[str]) -> subprocess.Popen[str]:
        known = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "RUST_LOG": "warn"}
        env = {**os.environ, **known, **FRESH_STORE}
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [self.python, *words], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip

    # -- what it tells ----------------------------------------------------------------------------

    def lines(self, rank: int) -> list[Line]:
        """All that a process has logged, over its restarts."""
        path = self.folder / f"rank{rank}.jsonl"
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def steps(self, rank: int) -> list[Line]:
        """The steps that a process has ended."""
        return [line for line in self.lines(rank) if line["kind"] == "step"]

    def commits(self, rank: int) -> list[float]:
        """When a process ended steps that counted."""
        return [line["time_s"] for line in self.steps(rank) if line["committed"]]

    def births(self, rank: int) -> list[float]:
        """When the processes of a rank began, imports done."""
        return [line["time_s"] for line in self.lines(rank) if line["kind"] == "begin"]

    def pid(self, rank: int) -> int:
        """The newest process of a rank."""
        return [line["pid"] for line in self.lines(rank) if line["kind"] == "begin"][-1]

    def ended(self, but: int | None = None) -> list[int]:
        """Ranks whose process has ended, one left out; -1 for what starts all."""
        gone = [rank for rank, p in self.programs.items() if rank != but and p.poll() is not None]
        return gone + [-1 for program in self.others if program.poll() is not None]

    def words(self) -> str:
        """The last lines that its processes said."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            said = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
            found += [f"{path.stem}: {line[:200]}" for line in said[-2:]]
        return "\n".join(found)

    def wait(self, done: Callable[[], bool], limit_s: float, but: int | None = None) -> str:
        """Wait until something is so; empty, or why it never came."""
        until_s = time.monotonic() + limit_s
        while not done():
            if gone := self.ended(but):
                return f"processes ended: {gone}"
            if time.monotonic() > until_s:
                return f"nothing for {limit_s:g} s"
            time.sleep(POLL_S)
        return ""


@contextmanager
def standing(peer: Peer) -> Iterator[Peer]:
    """A peer that runs while the block does, and no process of it afterwards."""
    peer.folder.mkdir(parents=True, exist_ok=True)
    try:
        peer.start()
        yield peer
    finally:
        for program in [*peer.others, *peer.programs.values()]:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        end_all(str(peer.folder))


def kills(
    kind: str, python: str, folder: Path, seed: int, num: int, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Put kills into a peer, one after the other; after one that it did not survive, begin anew."""
    luck, done, lives = random.Random(seed), 0, 0
    while done < num and lives < 2 * num + 2:
        lives += 1
        with standing(Peer(kind, python, folder / f"{kind}-{seed}-{lives}", seed)) as peer:
            why = peer.wait(lambda: all_steady(peer, 0.0), START_S)
            if why:
                say(f"{kind} did not start: {why}\n{peer.words()}")
                yield {"arm": kind, "seed": seed, "failed": why, "words": peer.words()}
                continue
            while done < num:
                done += 1
                outcome = kill_one(peer, luck)
                say(f"{kind}: kill {done} of {num}: {told(outcome)}")
                yield {"arm": kind, "seed": seed, "life": lives, **outcome}
                if not outcome["survived"]:
                    break


def all_steady(peer: Peer, since_s: float) -> bool:
    """Whether every process has ended some steps since a moment."""
    return all(
        sum(time_s > since_s for time_s in peer.commits(rank)) >= STEADY_STEPS
        for rank in range(NUM_PROCESSES)
    )


def kill_one(peer: Peer, luck: random.Random) -> dict[str, Any]:
    """One kill -9 at a random moment, and what came of it."""
    victim = luck.randrange(NUM_PROCESSES)
    survivors = [rank for rank in range(NUM_PROCESSES) if rank != victim]
    time.sleep(luck.uniform(0.0, CALM_S))
    before = {rank: len(peer.steps(rank)) for rank in range(NUM_PROCESSES)}
    at = {rank: doing(peer.pid(rank)) for rank in range(NUM_PROCESSES)}
    fault_s = time.time()
    os.kill(peer.pid(victim), signal.SIGKILL)
    if not peer.restarts_itself:
        peer.programs[victim].wait()
        peer.start_rank(victim)
    why = peer.wait(lambda: all_steady(peer, fault_s + 0.2), LIMIT_S)
    commits = {rank: peer.commits(rank) for rank in range(NUM_PROCESSES)}
    step_s = typical_s([time_s for time_s in commits[survivors[0]] if time_s <= fault_s][-100:])
    born_s = first_after(peer.births(victim), fault_s)
    back_s = born_s and (first_after(commits[victim], fault_s + born_s) or 0.0) + born_s
    pauses = [pause_s(commits[rank], fault_s, step_s) for rank in survivors]
    rejoin_gaps = [
        longest_gap_s(commits[rank], fault_s + back_s - 1.0, fault_s + back_s + 1.0)
        for rank in survivors
        if back_s is not None and not peer.restarts_itself
    ]
    vain = [in_vain(peer.steps(rank), before[rank]) for rank in survivors]
    return {
        "victim": victim,
        "victim_was": at[victim],
        "others_were": [at[rank] for rank in survivors],
        "survived": not why,
        "why": why,
        "words": peer.words() if why else "",
        "step_s": step_s,
        "pauses_s": [pause for pause in pauses if pause is not None] if not why else [],
        "back_s": back_s if not why else None,
        "rejoin_gaps_s": [max(0.0, gap - step_s) for gap in rejoin_gaps if gap is not None],
        "dropped": sum(each["dropped"] for each in vain),
        "repeated": sum(each["repeated"] for each in vain),
        "never_learned": never_learned(peer, survivors[0], before[survivors[0]]),
    }


def in_vain(steps: list[Line], since: int) -> dict[str, int]:
    """What was thrown away since so many steps."""
    before, now = thrown_away(steps[:since]), thrown_away(steps)
    return {key: now[key] - before[key] for key in now}


def never_learned(peer: Peer, rank: int, since: int) -> int:
    """Shares of steps that counted without the process whose share it was."""
    steps = peer.steps(rank)[since:]
    return sum(NUM_PROCESSES - line["members"] for line in steps if line["committed"])


def told(outcome: Mapping[str, Any]) -> str:
    """An outcome in a few words."""
    if not outcome["survived"]:
        return f"not survived: {outcome['why']}"
    pauses = ", ".join(f"{pause:.2f}" for pause in outcome["pauses_s"])
    return f"pauses {pauses} s, back after {outcome['back_s']:.1f} s ({outcome['victim_was']})"


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    sys.exit("run bench_faults.py --parts peers")
