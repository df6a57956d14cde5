"""Processes of this machine: agents and the server of the star road, started and restarted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from coterie.config import Job
from coterie.engines.throttle import DutyCycle, Throttle, choose
from coterie.machine import cores
from coterie.parent import is_alive
from coterie.transport.door import ADMITTED, GUEST, OWN
from coterie.transport.messages import HUB

MAX_RESTARTS = 3  # in a row, each of a process that died young
GROWN_S = 30.0  # a process that lived for so long was no failure to start
THROTTLED_PART = 0.5  # of the machine's cores, for all throttled agents: the rest is ours
# torch asks for the name of each address that it connects to; a slow answer would hold up a term.
QUICK_NAMES = {"RES_OPTIONS": "timeout:1 attempts:1"}
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
BEREFT = 3  # of a coordinator whose run goes on from a checkpoint alone, or from its start
KEY_FILES = (OWN, "coordinator.key", GUEST, ADMITTED)
UNSEEN = 256  # no process ends with it: of one that nobody could wait for
NOBODY = 0  # a number that no process has
WAIT_S = 0.01
LAST = 19  # the priority of a spare until it is needed
CAP_SYS_NICE = 23  # the number of a right among a process's capabilities


def member_names(job: Job) -> list[str]:
    """What the agents of this machine are called."""
    num = job.agents.local
    assert isinstance(num, int)
    return [f"agent-{i}" for i in range(num)]


def may_hurry() -> bool:
    """Whether this process may raise a priority that it lowered: few but root may."""
    try:
        told = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", told, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> CAP_SYS_NICE & 1)


class Adopted:
    """A process that somebody else started: it can be watched and killed, but not waited for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while it runs, then `UNSEEN`: what it ended with is not to be known."""
        return None if is_alive(self.pid) else UNSEEN

    def kill(self) -> None:
        """Kill -9."""
        if is_alive(self.pid):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(self.pid).kill()

    def wait(self) -> None:
        """Until it is gone."""
        while self.poll() is None:
            time.sleep(WAIT_S)


Started = subprocess.Popen[bytes] | Adopted


def ended(code: int) -> str:
    """How a process ended, in words.

    >>> ended(-9), ended(1), ended(UNSEEN)
    ('killed by signal 9', 'ended with code 1', 'gone')
    """
    if code == UNSEEN:
        return "gone"
    return f"killed by signal {-code}" if code < 0 else f"ended with code {code}"


class Death(NamedTuple):
    """An agent that has ended: how, how often in a row it was started, where it spoke."""

    name: str
    reason: str
    num_starts: int
    log: str


@dataclass
class Process:
    """One agent's process, and how often it was started."""

    name: str
    popen: Started
    throttle: Throttle | None
    num_starts: int = 1  # since it last lived for long
    started_s: float = field(default_factory=time.monotonic)
    restart_at_s: float | None = None

    def ended(self) -> None:
        """It is over: one that lived for long begins to count anew."""
        if time.monotonic() - self.started_s > GROWN_S:
            self.num_starts = 1

    def begun(self, popen: Started) -> None:
        """It runs again."""
        self.popen, self.started_s, self.restart_at_s = popen, time.monotonic(), None
        self.num_starts += 1


@dataclass
class LocalAgents:
    """Starts, throttles, kills and restarts agents on this machine, or hands a spare their name.

    They outlive the coordinator, and end when `beside`, the command that was given, is gone.
    """

    job: Job
    run: Path
    endpoint: str
    beside: int
    processes: dict[str, Process] = field(default_factory=dict)
    spares: list[subprocess.Popen[bytes]] = field(default_factory=list)
    told: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)  # events, of none here
    doubts: dict[str, tuple[str, float]] = field(
        default_factory=dict
    )  # nobody is out of sight here
    complaint: str = ""

    def start(self) -> None:
        """Start every local agent."""
        for name, throttle in self._throttles().items():
            self.processes[name] = Process(name, self._spawn(name, throttle), throttle)

    def adopt(self, pids: Mapping[str, int]) -> None:
        """Take over the agents that a coordinator before this one started."""
        mine = str(self.run / "join.key")
        for name, throttle in self._throttles().items():
            pid = pids.get(name, 0)
            known = is_alive(pid) and mine in psutil.Process(pid).cmdline()
            self.processes[name] = Process(name, Adopted(pid if known else NOBODY), throttle)
            if known:
                self.settle(name)

    def _throttles(self) -> dict[str, Throttle | None]:
        names = member_names(self.job)
        return choose(dict(zip(names, self._cores(len(names)), strict=True)))

    def _cores(self, num: int) -> list[float | None]:
        speeds = self.job.agents.speeds
        if speeds is None:
            return [None] * num
        granted = THROTTLED_PART * cores()
        return [granted * speed / sum(speeds) for speed in speeds]

    def _num_threads(self) -> int:
        """Each agent's part of the cores; one if throttled, for threads that wait burn a quota."""
        throttled = self.job.agents.speeds is not None
        return 1 if throttled else max(1, int(cores()) // int(self.job.agents.local))

    def _spawn(self, name: str, throttle: Throttle | None) -> subprocess.Popen[bytes]:
        beside = f"{self.beside}@{_duty(throttle).fraction}"
        words = ["join", self.endpoint, "--name", name, "--beside", beside]
        return self._begin(name, words, subprocess.DEVNULL)

    def _begin(self, log_name: str, words: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "coterie.cli", *words]
        command += ["--key", str(self.run / "join.key")]
        command += ["--root", self.job.root, "--threads", str(self._num_threads())]
        with (self.run / f"{log_name}.log").open("ab") as log:
            env = {**os.environ, **QUICK_NAMES}
            return subprocess.Popen(command, env=env, stdin=stdin, stdout=log, stderr=log)

    def keep_spares(self) -> None:
        """Have as many spares warm as the job asks for; they cost memory, and no time of others."""
        self.spares = [spare for spare in self.spares if spare.poll() is None]
        for _ in range(self.job.agents.spares - len(self.spares)):
            words = ["stand-by", str(self.run / "job.yaml"), self.endpoint]
            words += ["--beside", str(self.beside)]
            spare = self._begin("spare", words, subprocess.PIPE)
            if may_hurry():
                with suppress(psutil.Error):
                    psutil.Process(spare.pid).nice(LAST)
            self.spares.append(spare)

    def settle(self, name: str) -> None:
        """An agent has its imports done: from here on it goes at its own speed."""
        process = self.processes.get(name)
        if process is not None and process.throttle is not None:
            process.throttle.apply(process.popen.pid)

    def kill(self, name: str) -> None:
        """Kill -9, as a power cut would."""
        if name in self.processes:
            self.processes[name].popen.kill()

    def reap(self, now_s: float, restart_after_s: float) -> Iterator[Death]:
        """Agents that have ended since the last call; due restarts."""
        for name, process in self.processes.items():
            if process.restart_at_s is None and (code := process.popen.poll()) is not None:
                process.restart_at_s = float("inf")
                process.ended()
                if code not in (DONE, REFUSED) and process.num_starts <= MAX_RESTARTS:
                    process.restart_at_s = now_s + (0.0 if self.spares else restart_after_s)
                said = self._last_words(name) if code > 0 else ""
                log = str(self.run / f"{name}.log")
                yield Death(name, ended(code) + said, process.num_starts, log)
            elif process.restart_at_s is not None and now_s >= process.restart_at_s:
                process.begun(self._take_over(process) or self._spawn(name, process.throttle))

    def _take_over(self, process: Process) -> subprocess.Popen[bytes] | None:
        """Hand the name of one that died to a spare, if there is one."""
        line = json.dumps([process.name, _duty(process.throttle).fraction])
        while self.spares:
            spare = self.spares.pop(0)
            try:
                assert spare.stdin is not None
                spare.stdin.write(f"{line}\n".encode())
                spare.stdin.close()
            except OSError:  # it is gone itself
                continue
            with suppress(psutil.Error):  # from here on it has the name, as fast as it may be
                psutil.Process(spare.pid).nice(psutil.Process().nice())
            return spare
        return None

    def _last_words(self, name: str) -> str:
        """The last line of an agent's log, after a colon."""
        lines = (self.run / f"{name}.log").read_text(errors="replace").splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """Leave no process and no control group behind."""
        for spare in self.spares:
            spare.kill()
            spare.wait()
        for process in self.processes.values():
            process.popen.kill()
            process.popen.wait()
            if process.throttle is not None:
                process.throttle.close()


def _duty(throttle: Throttle | None) -> DutyCycle:
    return throttle.duty if throttle else DutyCycle(1.0)


@dataclass
class Server:
    """The process of the star road's server, beside the one that coordinates; also started anew."""

    run: Path
    endpoint: str
    listen: str
    beside: int
    popen: Started | None = None
    num_starts: int = 0  # since it last lived for long
    started_s: float = 0.0

    def start(self) -> None:
        """Start it; it tells by the control channel where it listens."""
        now_s = time.monotonic()
        self.num_starts = self.num_starts + 1 if now_s < self.started_s + GROWN_S else 1
        self.started_s = now_s
        command = [sys.executable, "-m", "coterie.agents.serve", self.endpoint]
        command += [str(self.run / "join.key"), self.listen, str(self.beside)]
        with (self.run / f"{HUB}.log").open("ab") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def adopt(self, pid: int) -> None:
        """Take over the one that a coordinator before this one started."""
        self.popen = Adopted(pid)

    def gone(self) -> int | None:
        """Its exit code, once, if it has ended."""
        code = self.popen.poll() if self.popen else None
        if code is not None:
            self.popen = None
        return code

    def kill(self) -> None:
        """Kill -9: it ends one that is stopped as well."""
        if self.popen is not None:
            self.popen.kill()

    def close(self) -> None:
        """Leave no process behind."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
