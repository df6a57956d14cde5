"""What a synchronous step of ours costs beyond one of PyTorch's DistributedDataParallel.

Two processes on the loopback, one thread each, learn the same task (`shakespeare`) with the same
batch and optimizer. Lean: each process holds both arms, a plain DDP loop and a worker driven
without a coordinator, and takes turns between them, so that whatever else the machine does
falls on both. Whole: `coterie train` with two local agents in turn with two processes of the plain
loop; CPU-seconds of the training processes between two marks of their steady state.

    python benchmarks/bench_overhead.py [--turns 12] [--steps 25] [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import psutil
import torch
import torch.distributed as dist
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import shakespeare  # noqa: E402
from sync_bed import Place, await_all, free_port  # noqa: E402

NUM_RANKS = 2
WARM_UP = 10  # steps of each arm before the first turn: DDP builds its buckets anew after the first
SIZES = {"narrow": 144, "wide": 384}  # width: 1.03 M and 7.2 M parameters
MARKS = (60, 180)  # steps of a whole run between which CPU-seconds are counted
NUM_WINDOWS = 8000  # of a data epoch: a mark falls into no evaluation


def narrow() -> nn.Module:
    """The task's own model."""
    return _model("narrow")


def wide() -> nn.Module:
    """The same with wider layers."""
    return _model("wide")


def _model(size: str) -> nn.Module:
    shakespeare.WIDTH = SIZES[size]
    return shakespeare.network()


def train_set() -> TensorDataset:
    """A data epoch long enough that none ends between the marks."""
    text = shakespeare.encoded()
    return shakespeare.windows(text[: len(text) * 9 // 10], NUM_WINDOWS)


def test_set() -> TensorDataset:
    """As little to score as there can be."""
    return shakespeare.windows(shakespeare.encoded(), 2)


# -- one process of the lean bench ----------------------------------------------------------------


class Plain:
    """The loop of PyTorch's documentation, with default settings."""

    def __init__(self, size: str) -> None:
        torch.manual_seed(0)
        model = _model(size)
        self.replica = DistributedDataParallel(model)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=shakespeare.LEARNING_RATE)
        self.data = train_set()
        self.batches = self._batches()

    def _batches(self) -> Iterator[list[int]]:
        share = shakespeare.BATCH // NUM_RANKS
        while True:
            order = torch.randperm(NUM_WINDOWS).tolist()
            for start in range(0, NUM_WINDOWS - share, share):
                yield order[start : start + share]

    def run(self, num_steps: int) -> None:
        """Some steps."""
        for _ in range(num_steps):
            x_BT, y_BT = self.data[next(self.batches)]
            self.optimizer.zero_grad()
            shakespeare.loss(self.replica(x_BT), y_BT).backward()
            self.optimizer.step()


class Deaf:
    """A control channel to nobody: what is told is encoded and thrown away."""

    def __init__(self) -> None:
        from coterie.transport.control import Inbox

        self.inbox = Inbox()

    def tell(self, message: Any) -> None:
        """Pay for the encoding."""
        from coterie.transport.frames import encode

        encode(message)


@dataclass
class Turns:
    """Both arms by turns; what each turn cost this process."""

    rank: int
    size: str
    num_turns: int
    num_steps: int

    def measure(self) -> list[dict[str, Any]]:
        """Live a worker's life; its orders come from a script that lets the other arm run too."""
        from coterie.agents import effects as do
        from coterie.agents.learner import Learner, Setup
        from coterie.agents.perform import Performer, Roads, drive
        from coterie.agents.worker import Worker
        from coterie.tasks.supervised import Supervised
        from coterie.transport.secure import Keys

        task = Supervised(
            "overhead", globals()[self.size], train_set, test_set, shakespeare.loss
        )  # fmt: skip
        lr = shakespeare.LEARNING_RATE
        learner = Learner(Setup(task, lambda params: torch.optim.Adam(params, lr=lr)))
        me, client = f"agent-{self.rank}", Deaf()
        roads = Roads("127.0.0.1", Keys.make().join, me, client.inbox)
        perform = Performer(client, roads, lambda seconds: 0.0)
        self.turns: list[dict[str, Any]] = []
        script = self._script(roads.ring.store_endpoint)

        def carry_out(effect: Any) -> Any:
            return next(script) if isinstance(effect, do.Hear) else perform(effect)

        why = drive(Worker(me, learner).live(), carry_out)
        if why != "done":
            raise SystemExit(why)
        return self.turns

    def _script(self, own_store: str) -> Iterator[Any]:
        from coterie.transport.messages import Stop, Term

        stores: list[Any] = [None] * NUM_RANKS
        dist.all_gather_object(stores, own_store)
        members = tuple(f"agent-{rank}" for rank in range(NUM_RANKS))
        yield Term(number=1, members=members, store=stores[0])
        plain, done = Plain(self.size), 0
        plain.run(WARM_UP)
        yield self._block(members, done, WARM_UP)
        done += WARM_UP
        for _ in range(self.num_turns):
            with self._timed("ddp"):
                plain.run(self.num_steps)
            with self._timed("ours"):
                yield self._block(members, done, self.num_steps)
            done += self.num_steps
        yield Stop(reason="done")

    def _block(self, members: tuple[str, ...], done: int, num_steps: int) -> Any:
        from coterie.transport.messages import Block

        start = done * shakespeare.BATCH % (NUM_WINDOWS // 2)
        return Block(
            term=1,
            first_round=done + 1,
            data_epoch=0,
            spans=((start, start + num_steps * shakespeare.BATCH),),
            shares=dict.fromkeys(members, shakespeare.BATCH // NUM_RANKS),
            every=1,
            strategy="chain(Reduce())",
        )

    def _timed(self, arm: str) -> Timed:
        return Timed(arm, self.num_steps, self.turns)


class Timed:
    """A turn from one barrier to the next; its costs are those of a step."""

    def __init__(self, arm: str, num_steps: int, turns: list[dict[str, Any]]) -> None:
        self._arm, self._num_steps, self._turns = arm, num_steps, turns

    def __enter__(self) -> None:
        dist.barrier()
        self._faults = getrusage(RUSAGE_SELF).ru_minflt
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        cpu_s = (time.process_time() - self._cpu_s) / self._num_steps
        dist.barrier()
        wall_s = (time.perf_counter() - self._wall_s) / self._num_steps
        faults = (getrusage(RUSAGE_SELF).ru_minflt - self._faults) / self._num_steps
        turn = {"arm": self._arm, "cpu_s": cpu_s, "wall_s": wall_s, "faults": faults}
        self._turns.append(turn)


# -- the benches ----------------------------------------------------------------------------------


def ranks(options: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Run this script as every rank; what each wrote, in the order of ranks."""
    with tempfile.TemporaryDirectory() as name:
        place, folder, port = Place(None), Path(name), str(free_port())
        shared = {"WORLD_SIZE": str(NUM_RANKS), "MASTER_ADDR": place.master, "MASTER_PORT": port}
        logs = [folder / f"{rank}.log" for rank in range(NUM_RANKS)]
        programs = []
        for rank, log in enumerate(logs):
            to = ["--to", str(folder / f"{rank}.json")]
            argv = [sys.executable, __file__, *options, *to]
            programs.append(place.start(rank, argv, {**shared, "RANK": str(rank)}, log))
        await_all(programs, lambda: "\n".join(log.read_text()[-2000:] for log in logs))
        return [json.loads((folder / f"{r}.json").read_text()) for r in range(NUM_RANKS)]


def be_rank(said: argparse.Namespace) -> None:
    """One process of a bench."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as agents do
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if said.be == "both":
        turns = Turns(rank, said.size, said.turns, said.steps).measure()
    else:
        plain, turns = Plain(said.size), list[dict[str, Any]]()
        plain.run(MARKS[0])
        with Timed("ddp", MARKS[1] - MARKS[0], turns):
            plain.run(MARKS[1] - MARKS[0])
    said.to.write_text(json.dumps(turns))
    dist.barrier()
    os._exit(0)  # groups of threads that wait for one another are no part of the measurement


def lean(said: argparse.Namespace, size: str) -> list[dict[str, dict[str, float]]]:
    """Pairs of turns: costs of a step of each arm, CPU-seconds summed over both processes."""
    options = ["--be", "both", "--size", size]
    options += ["--turns", str(said.turns), "--steps", str(said.steps)]
    both = [
        {
            "arm": turn[0]["arm"],
            "cpu_s": sum(t["cpu_s"] for t in turn),
            "wall_s": max(t["wall_s"] for t in turn),
            "faults": sum(t["faults"] for t in turn),
        }
        for turn in zip(*ranks(options), strict=True)
    ]
    return [{a["arm"]: a, b["arm"]: b} for a, b in zip(both[::2], both[1::2], strict=True)]


def whole(size: str) -> dict[str, dict[str, float]]:
    """One run of each arm, in processes of its own."""
    turns = [turn for (turn,) in ranks(["--be", "ddp", "--size", size])]
    ddp = {
        "cpu_s": sum(turn["cpu_s"] for turn in turns),
        "wall_s": max(turn["wall_s"] for turn in turns),
    }
    return {"ddp": ddp, "ours": train(size)}


def train(size: str) -> dict[str, float]:
    """Costs of a step of `coterie train` with two local agents, between two marks."""
    names = {"model": size, "train": "train_set", "test": "test_set"}
    task = {key: f"bench_overhead:{name}" for key, name in names.items()}
    job = {
        "name": "overhead",
        "task": {**task, "loss": "shakespeare:loss"},
        "optimizer": {"call": "torch.optim:Adam", "with": {"lr": shakespeare.LEARNING_RATE}},
        "batch": shakespeare.BATCH,
        "strategy": "all-reduce",
        "until": {"steps": MARKS[1] + 50.0},
        "agents": {"local": NUM_RANKS},
        "checkpoint_every_s": 1e6,
        "root": str(HERE),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        command = [sys.executable, "-m", "coterie.cli", "train", str(folder / "job.yaml")]
        with (folder / "words").open("w") as words:
            program = subprocess.Popen(
                [*command, "--runs", name, "--plain"], stdout=words, stderr=words,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        try:
            return _between_marks(folder / "overhead" / "events.jsonl", program)
        finally:
            program.terminate()
            program.wait()


def _between_marks(log: Path, program: subprocess.Popen[bytes]) -> dict[str, float]:
    from coterie.watch.events import read

    marks: list[tuple[int, float, float]] = []  # steps, CPU-seconds, time
    while len(marks) < 2:
        time.sleep(0.05)
        if program.poll() is not None:
            raise RuntimeError(f"the run ended before its marks; see {log}")
        if not log.exists():
            continue
        events = read(log)
        done = max((e["last_round"] for e in events if e["kind"] == "committed"), default=0)
        if done >= MARKS[len(marks)]:
            pids = [e["pid"] for e in events if e["kind"] == "agent" and "pid" in e]
            times = [psutil.Process(pid).cpu_times() for pid in pids]
            marks.append((done, sum(t.user + t.system for t in times), time.perf_counter()))
    (first, cpu_0, wall_0), (last, cpu_1, wall_1) = marks
    return {"cpu_s": (cpu_1 - cpu_0) / (last - first), "wall_s": (wall_1 - wall_0) / (last - first)}


# -- the page -------------------------------------------------------------------------------------


def row(words: str, pairs: Sequence[dict[str, dict[str, float]]], figure: str) -> str:
    """One figure: both arms' medians, and the ratio's median and range over pairs."""
    ratios = [pair["ours"][figure] / pair["ddp"][figure] for pair in pairs]
    mid = {arm: 1e3 * median(pair[arm][figure] for pair in pairs) for arm in ("ddp", "ours")}
    least = [min(pair[arm][figure] for pair in pairs) for arm in ("ours", "ddp")]
    return (
        f"| {words} | {len(pairs)} | {mid['ddp']:.2f} | {mid['ours']:.2f} | {median(ratios):.3f} "
        f"| {min(ratios):.3f} | {max(ratios):.3f} | {least[0] / least[1]:.3f} |"
    )


def page(said: argparse.Namespace) -> Iterator[str]:
    """The page, line by line, as it is measured."""
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "numpy", "pyzmq"))
    yield (
        f"{date.today()}; {os.cpu_count()} cores, {platform.machine()}, load "
        f"{os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, {versions}."
    )
    yield ""
    yield "| per step | pairs | DDP, ms | ours, ms | ratio | least | most | ratio of least |"
    yield "|---|---|---|---|---|---|---|---|"
    benches: list[tuple[str, Callable[[str], Any]]] = []
    if said.turns:
        benches.append(("lean", lambda size: lean(said, size)))
    if said.runs:
        benches.append(("whole", lambda size: [whole(size) for _ in range(said.runs)]))
    for size in [said.size] if said.size else SIZES:
        for name, bench in benches:
            pairs = bench(size)
            for figure in ("cpu_s", "wall_s"):
                what = "CPU, both processes" if figure == "cpu_s" else "wall"
                yield row(f"{size}, {name}: {what}", pairs, figure)
            if name == "lean":
                mid = {arm: median(p[arm]["faults"] for p in pairs) for arm in ("ddp", "ours")}
                yield (
                    f"| {size}, lean: page faults, both processes | {len(pairs)} "
                    f"| {mid['ddp']:.0f} | {mid['ours']:.0f} | | | | |"
                )
    yield ""
    yield f"Load {os.getloadavg()[0]:.1f} at the end."


def main() -> None:
    """Measure and print, or be one process of a bench."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=12, help="of each arm of the lean bench")
    parser.add_argument("--steps", type=int, default=25, help="of a turn")
    parser.add_argument("--runs", type=int, default=5, help="of each arm of the whole bench")
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--be", choices=("both", "ddp"), help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.be:
        be_rank(said)
    for line in page(said):
        print(line, flush=True)


if __name__ == "__main__":
    main()
