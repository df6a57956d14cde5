"""One arm of the benchmark of decisions carried out: a run of ours, or a plain torch loop.

Hosts are given a whole core while they load what they need, and their own share once they are
ready. What is over is killed: no figure is about the way of a last checkpoint over slow links.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import decide_task
import psutil
import yaml
from decide_sums import met_s, plans
from faults_runs import COMMAND, START_S, Running, end_all
from sync_bed import free_port
from sync_page import likelihood, ours

from benchmarks.testbed import Bed
from coterie.watch.events import follow

HERE = Path(__file__).resolve().parent
STARTING_CORES = 1.0  # of each host until it is ready
POLL_S = 0.01
END_S = 5.0  # for a process that was killed
MINUTES = 10.0  # no run of ours ends by its clock
DDP_STEPS = 2  # timed, at least; the first builds buckets and is left out

Told = Mapping[str, Any]


def job(name: str, size: str, strategy: str, seed: int, num_hosts: int) -> dict[str, Any]:
    """The job file of a run of ours on a bed."""
    task = {
        key: f"decide_task:{name}" for key, name in (("train", "train_set"), ("test", "test_set"))
    }
    lr = decide_task.SIZES[size].lr
    return {
        "name": name,
        "task": {
            **task,
            "model": f"decide_task:{decide_task.SIZES[size].network}",
            "loss": "shakespeare:loss",
            "metrics": {"likelihood": "shakespeare:likelihood"},
        },
        "optimizer": {"call": "torch.optim:Adam", "with": {"lr": lr, "fused": True}},
        "batch": decide_task.BATCH,
        "seed": seed,
        "strategy": strategy,
        "until": {
            "likelihood": likelihood(decide_task.SIZES[size].target),
            "minutes": MINUTES,
        },
        "agents": {"local": 0, "remote": num_hosts, "join_timeout_s": START_S},
        "checkpoint_every_s": 1e6,
        "root": str(HERE),
    }


@functools.cache
def first_loss(size: str, seed: int) -> float:
    """The held-out loss with which every arm begins."""
    return decide_task.held_out_loss(decide_task.begin(size, seed))


# -- ours ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hosts:
    """A bed on whose hosts agents start at once, from processes that have loaded torch."""

    bed: Bed
    cores: Mapping[str, float]  # of each host, once its agent is ready
    warm: Mapping[str, subprocess.Popen[str]]

    def start(self, host: str, argv: Sequence[str], log: Path) -> int:
        """Start an agent; its pid."""
        program = self.warm[host]
        assert program.stdin is not None
        program.stdin.write(json.dumps({"argv": list(argv), "log": str(log)}) + "\n")
        program.stdin.flush()
        return int(_answer(program))

    def lift(self) -> None:
        """Give every host a core while it loads what it needs."""
        for host in self.cores:
            self.bed.change(host, cores=STARTING_CORES)

    def settle(self, host: str) -> None:
        """Give a host its own share."""
        self.bed.change(host, cores=self.cores[host])


@contextmanager
def warmed(bed: Bed) -> Iterator[Hosts]:
    """The hosts of a bed once torch is loaded on each; their shares are those they were made with.

    What is started is ended with the bed.
    """
    cores = {name: float(host.cores or STARTING_CORES) for name, host in bed.hosts.items()}
    warm: dict[str, subprocess.Popen[str]] = {}
    hosts = Hosts(bed, cores, warm)
    hosts.lift()
    argv, pipe = [sys.executable, str(HERE / "decide_agents.py")], subprocess.PIPE
    try:
        for host in cores:
            warm[host] = bed.run(host, argv, stdin=pipe, stdout=pipe)
        for program in warm.values():
            _answer(program)
        yield hosts
    finally:
        for program in warm.values():
            program.kill()
            program.communicate()


def _answer(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise RuntimeError("expected a host's agents to be started, found their parent dead")
    return line


@contextmanager
def started(hosts: Hosts, given: Told, folder: Path) -> Iterator[Running]:
    """A run that is coordinated on the bridge, with an agent on every host; killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**given, "listen": f"{hosts.bed.address}:0"}))
    argv = [*COMMAND, "train", str(path), "--runs", str(folder), "--plain"]
    hosts.lift()
    with (folder / "command.log").open("w") as words:
        command = subprocess.Popen(argv, stdout=words, stderr=words, text=True)
    run = Running(command, folder / given["name"])
    run.followed = threading.Thread(target=_follow, args=(run, hosts), daemon=True)
    run.followed.start()
    pids: list[int] = []
    try:
        told = run.find(lambda e: e["kind"] == "run", START_S)
        if told is None:
            raise RuntimeError(f"the run did not begin:\n{run.words()}")
        for host in hosts.cores:
            argv = ["join", told["endpoint"], "--key", str(run.folder / "join.key")]
            argv += ["--root", str(HERE), "--name", host, "--threads", "1"]
            pids.append(hosts.start(host, argv, folder / f"{host}.log"))
        yield run
    finally:
        end_all(str(folder))
        command.wait()
        for pid in pids:
            with suppress(psutil.Error):
                agent = psutil.Process(pid)
                agent.kill()
                agent.wait(END_S)
        run.followed.join(END_S)


def _follow(run: Running, hosts: Hosts) -> None:
    """Take in events until the command ends; a host that is ready gets its own share."""
    events = follow(
        run.folder / "events.jsonl",
        until=lambda: run.command.poll() is not None,
        sleep=lambda _: time.sleep(POLL_S),
    )
    for event in events:
        if event["kind"] == "agent" and event.get("state") == "ready":
            hosts.settle(event["member"])
        run.events.append(event)


@contextmanager
def decided(hosts: Hosts, given: Told, folder: Path) -> Iterator[tuple[Running, Told]]:
    """A run that has decided for the first time, and that decision."""
    with started(hosts, given, folder) as run:
        first = run.find(lambda e: e["kind"] == "decision", START_S)
        if first is None:
            raise RuntimeError(f"the run did not decide:\n{run.words()}")
        yield run, first


def to_target(
    hosts: Hosts, folder: Path, arm: tuple[str, str, int], most_s: float
) -> dict[str, Any]:
    """One run of ours, (model, strategy, seed), until it meets the target or has had its time."""
    size, strategy, seed = arm
    target = decide_task.SIZES[size].target

    def met(event: Told) -> bool:
        loss = event.get("metrics", {}).get("test_loss", float("inf"))
        return event["kind"] == "scores" and bool(loss <= target)

    given = job("decide", size, strategy, seed, len(hosts.cores))
    with decided(hosts, given, folder) as (run, first):
        process = coordinator_of(run)
        cpu_s, began_s = _cpu_s(process), time.time()
        run.find(met, first["time_s"] + most_s - time.time())
        wall_s, used_s = time.time() - began_s, _cpu_s(process) - cpu_s
        events = list(run.events)
        failed = run.words()[-600:] if run.command.poll() is not None else ""
    return {
        **summed(events, first_loss(size, seed), target),
        "limit_s": most_s,
        "ran_s": wall_s,
        "coordinator_s": used_s,
        "failed": failed,
    }


def summed(events: Sequence[Told], first: float, target: float) -> dict[str, Any]:
    """What a run came to, by its events; seconds count from the first decision."""
    run = ours(events, first, decide_task.BATCH)
    points = [(point.seconds, point.loss) for point in run.points]
    world = next(event["world"] for event in events if event["kind"] == "decision")
    layouts = [event for event in events if event["kind"] == "layout"]
    return {
        "seconds": met_s(points, target),
        "steps": run.points[-1].steps,
        "points": points,
        "before_s": run.before_s,
        "plans": plans(events),
        "told": [e["error"] for e in events if e["kind"] == "outcome"],
        "world": world,
        "shapes": [layouts[0]["names"], layouts[0]["shapes"]] if layouts else None,
    }


def coordinator_of(run: Running) -> psutil.Process:
    """The process that coordinates: started by the command."""
    command = psutil.Process(run.command.pid)
    for process in command.children(recursive=True):
        with suppress(psutil.Error):
            if "coterie.engines.local" in process.cmdline():
                return process
    return command


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return float("nan")
    return float(times.user + times.system)


# -- plain torch ---------------------------------------------------------------------------------


def plain(
    hosts: Hosts,
    names: Sequence[str],
    folder: Path,
    arm: tuple[str, int],
    over: Callable[[Sequence[Told]], bool],
    most_s: float,
) -> list[Told]:
    """Rank 0's log of a plain torch loop, (model, seed), on the hosts named: DDP where several."""
    size, seed = arm
    bed = hosts.bed
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "rank0.jsonl"
    shared = {"WORLD_SIZE": str(len(names)), "MASTER_ADDR": bed.address_of(names[0])}
    shared["MASTER_PORT"] = str(free_port())
    argv = [sys.executable, str(HERE / "peers" / "plain.py"), size, "--seed", str(seed)]
    ranks: list[subprocess.Popen[str]] = []
    hosts.lift()
    try:
        for rank, host in enumerate(names):
            env = {**shared, "RANK": str(rank)}
            with (folder / f"{host}.log").open("w") as words:
                ranks.append(
                    bed.run(host, [*argv, "--log", str(log)], env, words, subprocess.PIPE, words)
                )
        _await(lambda: any(e["kind"] == "ready" for e in _lines(log)), ranks, folder, START_S)
        for host, program in zip(names, ranks, strict=True):
            hosts.settle(host)
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        with suppress(TimeoutError):
            _await(lambda: over(_lines(log)), ranks, folder, most_s)
        return _lines(log)
    finally:
        for program in ranks:
            program.kill()
            program.wait()


def single(hosts: Hosts, folder: Path, arm: tuple[str, int], most_s: float) -> dict[str, Any]:
    """The fastest host alone, to the target, by torch's own loop on whole batches."""
    size, seed = arm
    target = decide_task.SIZES[size].target
    host = max(hosts.cores, key=hosts.cores.__getitem__)

    def over(log: Sequence[Told]) -> bool:
        return any(line.get("loss", target + 1) <= target for line in log)

    log = plain(hosts, [host], folder, arm, over, most_s)
    points = [(0.0, first_loss(size, seed))]
    points += [(line["seconds"], line["loss"]) for line in log if "loss" in line]
    steps = [(0.0, points[0][1]), *((line["step"], line["loss"]) for line in log if "loss" in line)]
    return {
        "seconds": met_s(points, target),
        "steps": met_s(steps, target),
        "points": points,
        "host": host,
        "limit_s": most_s,
    }


def ddp(
    hosts: Hosts, folder: Path, arm: tuple[str, int], steps: float | None, timed_s: float
) -> dict[str, Any]:
    """DDP's seconds to the target: some steady steps timed, times the steps of the whole run.

    DDP averages the gradients of equal parts of one batch: its losses are those of one device on
    the whole batch, whatever the links.
    """

    def timed(log: Sequence[Told]) -> list[float]:
        return [line["seconds"] for line in log if line["kind"] == "step"]

    def over(log: Sequence[Told]) -> bool:
        ends = timed(log)
        return len(ends) > DDP_STEPS and ends[-1] - ends[0] >= timed_s

    ends = timed(plain(hosts, list(hosts.cores), folder, arm, over, most_s=60.0))
    if len(ends) <= DDP_STEPS:
        return {"seconds": None, "failed": f"{len(ends)} steps within a minute"}
    per_step_s = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {
        "seconds": per_step_s * steps if steps else None,
        "step_s": per_step_s,
        "num_timed": len(ends) - 1,
        "steps": steps,
    }


def _lines(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    whole = log.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _await(
    there: Callable[[], bool],
    ranks: Sequence[subprocess.Popen[str]],
    folder: Path,
    most_s: float,
) -> None:
    """Wait until something is there; RuntimeError where a rank ends before, TimeoutError late."""
    until_s = time.monotonic() + most_s
    while not there():
        if any(program.poll() is not None for program in ranks):
            words = "\n".join(path.read_text()[-600:] for path in folder.glob("*.log"))
            raise RuntimeError(f"a rank ended:\n{words}")
        if time.monotonic() > until_s:
            raise TimeoutError
        time.sleep(0.05)
