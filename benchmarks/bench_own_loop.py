"""A script's own training loop on agents of 4 : 2 : 1 beside DDP, and alone beside plain Python.

`unequal`: the scripts of `own_loop` on three agents with quotas of 4 : 2 : 1, together half of the
machine. Arms, one after the other in each repeat: `solo`, three processes of our script that know
nothing of one another; `ddp`, the same script for DDP under torchrun; `ours`, under `coterie run`;
`ours, all-reduce`, with that strategy instead of what it chooses. Each is metered in its steady
state by the fetches of its dataset. `alone`: the script without Coterie, with its two lines, and
as the only agent of a run, each on one thread for some steps.

    python benchmarks/bench_own_loop.py [--parts unequal,alone] [--repeats 3] [--pairs 10]
        [--results FILE.json]

It measures, adds to the results file if there is one, and prints tables for own-loop.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bed_runs import about, say  # noqa: E402

from coterie.engines.processes import THROTTLED_PART  # noqa: E402
from coterie.engines.throttle import Throttle, choose  # noqa: E402
from coterie.machine import cores  # noqa: E402
from coterie.watch.events import read  # noqa: E402

SCRIPTS = HERE / "own_loop"
SPEEDS = (4, 2, 1)
WARM_UP_S = 20.0  # of steps before the meter counts: decisions, DDP's buckets, lazy imports
MEASURE_S = 40.0
START_S = 180.0  # for all processes to come to their first step
NUM_STEPS = 60  # of each process alone that are metered
SKIPPED = 5  # steps of each before those
POLL_S = 0.2
ARMS = ("solo", "ddp", "ours", "ours, all-reduce")
ALONE = ("plain", "joined", "run --agents 1")


@dataclass(frozen=True)
class Fetch:
    """A batch that a loop was handed."""

    time_s: float
    cpu_s: float  # of its process until then
    rank: int
    num: int


def fetches(folder: Path) -> dict[int, list[Fetch]]:
    """What each process fetched until now, by its pid; a line that is half written is left out."""
    found = {}
    for path in folder.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        told = [Fetch(**json.loads(line)) for line in lines if line.endswith("\n")]
        if told:
            found[int(path.stem)] = told
    return found


def within(told: Sequence[Fetch], start_s: float, stop_s: float) -> list[Fetch]:
    """The fetches of a window."""
    return [fetch for fetch in told if start_s <= fetch.time_s <= stop_s]


def per_s(told: Sequence[Fetch]) -> float:
    """Samples a second of one process between its first fetch and its last.

    >>> per_s([Fetch(t, 0.0, 0, 10) for t in (1.0, 3.0, 5.0)])
    5.0
    """
    return sum(fetch.num for fetch in told[:-1]) / (told[-1].time_s - told[0].time_s)


def busy(told: Sequence[Fetch]) -> float:
    """CPU-seconds a second of one process meanwhile."""
    return (told[-1].cpu_s - told[0].cpu_s) / (told[-1].time_s - told[0].time_s)


# -- unequal agents ------------------------------------------------------------------------------


@contextmanager
def running(argv: Sequence[str], folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that writes its fetches to a folder, in a session that is ended with the block."""
    known = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "OWN_LOOP_METER": str(folder)}
    with (folder / "words").open("ab") as words:
        program = subprocess.Popen(
            argv,
            env={**os.environ, **known, **env},
            cwd=SCRIPTS,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        yield program
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGINT)
        try:
            program.wait(timeout=30.0)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def await_first(folder: Path, num: int, programs: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The processes that have fetched, by rank, once there are so many."""
    limit_s = time.monotonic() + START_S
    while len(told := fetches(folder)) < num:
        if time.monotonic() > limit_s or any(program.poll() is not None for program in programs):
            words = (folder / "words").read_text()[-2000:]
            raise RuntimeError(f"expected {num} processes at work, found {len(told)}:\n{words}")
        time.sleep(POLL_S)
    return sorted(told, key=lambda pid: told[pid][0].rank)


@contextmanager
def quotas() -> Iterator[list[Throttle]]:
    """The quotas that `coterie run --set agents.speeds=[4,2,1]` gives, for processes of others."""
    granted = THROTTLED_PART * cores()
    shares = {f"rank-{i}": granted * s / sum(SPEEDS) for i, s in enumerate(SPEEDS)}
    made = [throttle for throttle in choose(shares).values() if throttle is not None]
    if any(throttle.duty.fraction < 1 for throttle in made):
        raise SystemExit("expected control groups that can be written, found none; run as root")
    yield made
    for throttle in made:
        throttle.close()


@dataclass
class Group:
    """What one arm came to."""

    per_s: list[float]  # samples of each process
    busy: list[float] = field(default_factory=list)  # CPU-seconds a second of each
    strategies: list[str] = field(default_factory=list)  # in the order in which they were taken
    shares: Mapping[str, int] = field(default_factory=dict)


def metered(folder: Path) -> Group:
    """Warm up, then meter for a while."""
    time.sleep(WARM_UP_S)
    start_s = time.monotonic()
    time.sleep(MEASURE_S)
    stop_s = time.monotonic()
    windows = [within(told, start_s, stop_s) for told in fetches(folder).values()]
    at_work = [window for window in windows if window]  # who is left out of a group has none
    return Group([per_s(window) for window in at_work], [busy(window) for window in at_work])


def throttled(starts: Sequence[Sequence[str]], folder: Path) -> Group:
    """An arm whose processes are held back once they are at work, as agents are."""
    with quotas() as made:
        programs = []
        try:
            for rank, argv in enumerate(starts):
                entered = running(argv, folder, **({"RANK": str(rank)} if len(starts) > 1 else {}))
                programs.append((entered, entered.__enter__()))
            pids = await_first(folder, len(SPEEDS), [program for _, program in programs])
            for throttle, pid in zip(made, pids, strict=True):
                throttle.apply(pid)
            return metered(folder)
        finally:
            for entered, _ in programs:
                entered.__exit__(None, None, None)


def solo(folder: Path) -> Group:
    """Each agent for itself, on whole batches."""
    return throttled([[sys.executable, "ours.py"]] * len(SPEEDS), folder)


def ddp(folder: Path) -> Group:
    """PyTorch's own, under its own launcher."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(SPEEDS)}"]
    return throttled([[sys.executable, *words, "ddp.py"]], folder)


def ours(folder: Path, strategy: str = "auto") -> Group:
    """The same agents as one group."""
    words = ["-m", "coterie.cli", "run", "--agents", str(len(SPEEDS)), "--strategy", strategy]
    words += ["--set", f"agents.speeds={list(SPEEDS)}", "--runs", str(folder), "--json", "ours.py"]
    with running([sys.executable, *words], folder) as program:
        await_first(folder, 1, [program])
        group = metered(folder)
    events = read(folder / "ours" / "events.jsonl")
    decisions = [event for event in events if event["kind"] == "decision"]
    group.strategies = list(dict.fromkeys(d["chosen"]["strategy"] for d in decisions))
    group.shares = decisions[-1]["chosen"]["shares"]
    return group


RUN: Mapping[str, Callable[[Path], Group]] = {
    "solo": solo,
    "ddp": ddp,
    "ours": ours,
    "ours, all-reduce": lambda folder: ours(folder, "all-reduce"),
}


def unequal() -> dict[str, Any]:
    """All arms once."""
    found = {}
    for arm in ARMS:
        with tempfile.TemporaryDirectory() as name:
            found[arm] = vars(RUN[arm](Path(name)))
        say(f"{arm}: {sum(found[arm]['per_s']):.1f} samples/s {found[arm]['strategies']}")
    return found


# -- one device ----------------------------------------------------------------------------------


def alone(turn: int) -> dict[str, Any]:
    """A script without Coterie, with it, and under its command, in an order that goes round."""
    order = [*ALONE[turn % len(ALONE) :], *ALONE[: turn % len(ALONE)]]
    return {arm: _steps(arm) for arm in order}


def _steps(arm: str) -> dict[str, float]:
    """Seconds and CPU-seconds of a step, after those skipped."""
    wanted = SKIPPED + NUM_STEPS + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = ["-m", "coterie.cli", "run", "--agents", "1", "--runs", name, "ours.py"]
        words = {"plain": ["plain.py"], "joined": ["ours.py"]}.get(arm, run)
        with running([sys.executable, *words], folder) as program:
            await_first(folder, 1, [program])
            while len(told := next(iter(fetches(folder).values()))) < wanted:
                if program.poll() is not None:
                    raise RuntimeError((folder / "words").read_text()[-2000:])
                time.sleep(POLL_S)
    first, last = told[SKIPPED], told[wanted - 1]
    return {
        "wall_s": (last.time_s - first.time_s) / NUM_STEPS,
        "cpu_s": (last.cpu_s - first.cpu_s) / NUM_STEPS,
    }


# -- the page ------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Median, least, most, as cells of a table."""
    return f"{median(values):.3f} | {min(values):.3f} | {max(values):.3f}"


def page(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """The tables, line by line."""
    if repeats := results.get("unequal"):
        yield f"{len(repeats)} repeats of {MEASURE_S:g} s each, quotas {SPEEDS}."
        yield ""
        yield "| figure | median | least | most |"
        yield "|---|---|---|---|"
        sums = {arm: [sum(repeat[arm]["per_s"]) for repeat in repeats] for arm in ARMS}
        for arm in ARMS:
            yield f"| {arm}, samples/s | {spread(sums[arm])} |"
        for arm in ARMS[1:]:
            ratios = [a / b for a, b in zip(sums[arm], sums["solo"], strict=True)]
            yield f"| {arm} ÷ sum of the agents alone | {spread(ratios)} |"
        for arm in ARMS[2:]:
            ratios = [a / b for a, b in zip(sums[arm], sums["ddp"], strict=True)]
            yield f"| {arm} ÷ DDP | {spread(ratios)} |"
        taken = {repeat["ours"]["strategies"][-1] for repeat in repeats}
        yield ""
        yield "Taken last by `auto`: " + ", ".join(f"`{name}`" for name in sorted(taken))
        yield ""
    if pairs := results.get("alone"):
        yield f"{len(pairs)} pairs of {NUM_STEPS} steps each."
        yield ""
        yield "| figure | median | least | most |"
        yield "|---|---|---|---|"
        for arm in ALONE[1:]:
            for key, name in (("cpu_s", "CPU-seconds"), ("wall_s", "wall")):
                ratios = [pair[arm][key] / pair["plain"][key] for pair in pairs]
                yield f"| {arm} ÷ plain Python, {name} | {spread(ratios)} |"
        yield ""
    yield about()


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="unequal,alone", help="which to measure; empty for none")
    parser.add_argument("--repeats", type=int, default=3, help="of all arms of 4 : 2 : 1")
    parser.add_argument("--pairs", type=int, default=10, help="of processes on one device")
    parser.add_argument("--results", type=Path, help="JSON that is added to")
    said = parser.parse_args()
    results: dict[str, list[Any]] = {"unequal": [], "alone": []}
    if said.results and said.results.exists():
        results = json.loads(said.results.read_text())
    makes = {"unequal": lambda _: unequal(), "alone": alone}
    nums = {"unequal": said.repeats, "alone": said.pairs}
    for part in filter(None, said.parts.split(",")):
        for turn in range(nums[part]):
            say(f"{part} {turn + 1} of {nums[part]}")
            results[part].append(makes[part](turn))
            if said.results:
                said.results.write_text(json.dumps(results, indent=1) + "\n")
    for line in page(results):
        print(line, flush=True)


if __name__ == "__main__":
    main()
