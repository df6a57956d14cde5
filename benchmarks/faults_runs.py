"""Runs of ours that faults are put into: started as a user would, watched by their events."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faults_task
import psutil
import yaml

from benchmarks.testbed import Bed
from coterie.watch.events import follow

HERE = Path(__file__).resolve().parent
COMMAND = (sys.executable, "-m", "coterie.cli")
NUM_AGENTS = 3
START_S = 120.0  # for imports and measuring before the first decision
BACK_S = 90.0  # for whoever was hit to be back at work; beyond, the fault was not survived
POLL_S = 0.02
NANOSLEEP, FUTEX, EPOLL = "230", "202", ("232", "281", "7", "271")  # of x86-64

Event = Mapping[str, Any]


def job(name: str, seed: int, **changes: Any) -> dict[str, Any]:
    """The job of the fault benchmark, with some keys changed."""
    task = {
        "model": "faults_task:network",
        "train": "faults_task:train_set",
        "test": "shakespeare:test_set",
        "loss": "shakespeare:loss",
        "metrics": {"likelihood": "shakespeare:likelihood"},
    }
    return {
        "name": name,
        "task": task,
        "optimizer": {"call": "torch.optim:Adam", "with": {"lr": faults_task.LEARNING_RATE}},
        "batch": faults_task.BATCH,
        "seed": seed,
        "strategy": "all-reduce",
        "checkpoint_every_s": 20.0,
        "root": str(HERE),
        **changes,
    }


@dataclass
class Running:
    """A run under way: its command, its folder, and its events as they come."""

    command: subprocess.Popen[str]
    folder: Path
    events: list[Event] = field(default_factory=list)
    followed: threading.Thread | None = None

    def follow(self) -> None:
        """Take in events until the command ends."""
        path = self.folder / "events.jsonl"
        for event in follow(path, until=lambda: self.command.poll() is not None):
            self.events.append(event)

    def of(self, *kinds: str) -> list[Event]:
        """The events of some kinds so far."""
        return [event for event in list(self.events) if event["kind"] in kinds]

    def find(
        self, wanted: Callable[[Event], bool], timeout_s: float, since_s: float = 0.0
    ) -> Event | None:
        """The first event after a moment that is wanted, once there is one; None if none comes."""
        until_s, at = time.monotonic() + timeout_s, 0
        while True:
            is_last = time.monotonic() > until_s or not self.alive
            while at < len(self.events):
                event = self.events[at]
                at += 1
                if event["time_s"] > since_s and wanted(event):
                    return event
            if is_last:
                return None
            time.sleep(POLL_S)

    def await_round(self, number: int, timeout_s: float = START_S) -> bool:
        """Wait until a round is committed; whether it ever was."""
        return self.find(lambda e: e.get("last_round", 0) >= number, timeout_s) is not None

    def state(self, member: str, state: str, since_s: float, timeout_s: float) -> Event | None:
        """The first event after a moment that tells that a member is in a state."""
        return self.find(
            lambda e: e["kind"] == "agent" and (e["member"], e["state"]) == (member, state),
            timeout_s,
            since_s,
        )

    def commit_of(self, member: str, since_s: float, timeout_s: float) -> Event | None:
        """The first word after a moment of a round that a member committed."""
        return self.find(
            lambda e: e["kind"] == "work" and e["member"] == member, timeout_s, since_s
        )

    @property
    def alive(self) -> bool:
        """Whether the run's command still runs, or has words that were not taken in yet."""
        return self.followed is None or self.followed.is_alive()

    def pid(self, member: str) -> int:
        """The newest process of an agent."""
        return [e["pid"] for e in self.of("agent") if e["member"] == member and "pid" in e][-1]

    def coordinator(self) -> int:
        """The process that coordinates."""
        told = [e["pid"] for e in self.of("coordinator")]
        return told[-1] if told else psutil.Process(self.pid("agent-0")).ppid()

    def work_times(self, member: str) -> list[float]:
        """When a member told of rounds it committed, a quarter of a second apart as a rule."""
        return [e["time_s"] for e in self.of("work") if e["member"] == member]

    def finish(self, timeout_s: float) -> int | None:
        """The exit code of the command once it has ended by itself; None where it does not."""
        with suppress(subprocess.TimeoutExpired):
            self.command.wait(timeout_s)
        if self.followed is not None:
            self.followed.join(10.0)
        return self.command.poll()

    def words(self) -> str:
        """The last words of all its processes."""
        logs = [*self.folder.glob("*.log"), *self.folder.parent.glob("*.log")]
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-600:]}" for p in sorted(logs))


@contextmanager
def running(job: Mapping[str, Any], folder: Path) -> Iterator[Running]:
    """A run of a job, ended with the block, and no process of it left whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(dict(job)))
    argv = [*COMMAND, "train", str(path), "--runs", str(folder), "--plain"]
    with (folder / "command.log").open("w") as words:
        command = subprocess.Popen(argv, stdout=words, stderr=words, text=True)
    run = Running(command, folder / job["name"])
    run.followed = threading.Thread(target=run.follow, daemon=True)
    run.followed.start()
    try:
        yield run
    finally:
        if command.poll() is None:
            command.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                command.wait(20.0)
        if command.poll() is None:
            command.kill()
        command.wait()
        end_all(str(folder))


def end_all(mark: str) -> None:
    """Kill every process whose command line mentions a folder of ours, and wait for its end."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and any(mark in word for word in process.cmdline()):
                left.append(process)
                process.kill()
    psutil.wait_procs(left, timeout=10.0)


def doing(pid: int) -> str:
    """What the first thread of a process is at: computing, reading (its disk) or waiting.

    Known to the kernel by the call that it stands in. Whoever waits in mid-run waits for others:
    it is in a meeting.
    """
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    except (OSError, IndexError):
        return "unknown"
    if call == "running":
        return "computing"
    return {NANOSLEEP: "reading", FUTEX: "waiting"}.get(
        call, "waiting" if call in EPOLL else "other"
    )


# -- on a bed ------------------------------------------------------------------------------------


@dataclass
class Keeper:
    """Starts an agent on every host of a bed, and again when it dies, as a machine's own would."""

    bed: Bed
    folder: Path
    endpoint: str
    programs: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    closed: bool = False

    def start(self, host: str) -> None:
        """Start the agent of a host."""
        argv = [*COMMAND, "join", self.endpoint, "--key", str(self.folder / "join.key")]
        argv += ["--root", str(HERE), "--name", host, "--threads", "1"]
        with (self.folder.parent / f"{host}.log").open("a") as words:
            self.programs[host] = self.bed.run(host, argv, stdout=words, stderr=words)

    def keep(self) -> None:
        """Until closed, see to it that every host has an agent."""
        while not self.closed:
            for host, program in list(self.programs.items()):
                if program.poll() not in (None, 0):
                    self.start(host)
            time.sleep(0.1)


@contextmanager
def running_on(bed: Bed, job: Mapping[str, Any], folder: Path) -> Iterator[Running]:
    """A run that is coordinated on the bridge, with an agent on every host; see `running`."""
    remote = {"local": 0, "remote": len(bed.hosts), "join_timeout_s": START_S}
    job = {**job, "agents": remote, "listen": f"{bed.address}:0"}
    with running(job, folder) as run:
        told = run.find(lambda e: e["kind"] == "run", START_S)
        if told is None:
            raise RuntimeError(f"the run did not begin:\n{run.words()}")
        keeper = Keeper(bed, run.folder, str(told["endpoint"]))
        for host in bed.hosts:
            keeper.start(host)
        keeping = threading.Thread(target=keeper.keep, daemon=True)
        keeping.start()
        try:
            yield run
        finally:
            keeper.closed = True
            keeping.join()
            for program in keeper.programs.values():
                if program.poll() is None:
                    program.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        program.wait(5.0)
                if program.poll() is None:
                    program.kill()
                program.wait()
