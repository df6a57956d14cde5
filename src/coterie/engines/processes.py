"""Processes of this machine: agents and the server of the star road, started and restarted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coterie.config import Job
from coterie.engines.throttle import DutyCycle, Throttle, choose
from coterie.machine import cores
from coterie.transport.messages import HUB

MAX_RESTARTS = 3
THROTTLED_PART = 0.5  # of the machine's cores, for all throttled agents: the rest is ours
# torch asks for the name of each address that it connects to; a slow answer would hold up a term.
QUICK_NAMES = {"RES_OPTIONS": "timeout:1 attempts:1"}
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def member_names(job: Job) -> list[str]:
    """What the agents of this machine are called."""
    num = job.agents.local
    assert isinstance(num, int)
    return [f"agent-{i}" for i in range(num)]


@dataclass
class Process:
    """One agent's process, and how often it was started."""

    name: str
    popen: subprocess.Popen[bytes]
    throttle: Throttle | None
    num_starts: int = 1
    restart_at_s: float | None = None


@dataclass
class LocalAgents:
    """Starts, throttles, kills and restarts agents on this machine."""

    job: Job
    run: Path
    endpoint: str
    processes: dict[str, Process] = field(default_factory=dict)

    def start(self) -> None:
        """Start every local agent."""
        names = member_names(self.job)
        throttles = choose(dict(zip(names, self._cores(len(names)), strict=True)))
        for name in names:
            spawned = self._spawn(name, throttles[name])
            self.processes[name] = Process(name, spawned, throttles[name])

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
        duty = throttle.duty if throttle else DutyCycle(1.0)
        command = [sys.executable, "-m", "coterie.cli", "join", self.endpoint]
        command += ["--key", str(self.run / "join.key"), "--name", name, "--with-parent"]
        command += ["--root", self.job.root]
        command += ["--duty", str(duty.fraction), "--threads", str(self._num_threads())]
        with (self.run / f"{name}.log").open("ab") as log:
            env = {**os.environ, **QUICK_NAMES}
            return subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def settle(self, name: str) -> None:
        """An agent has its imports done: from here on it goes at its own speed."""
        process = self.processes.get(name)
        if process is not None and process.throttle is not None:
            process.throttle.apply(process.popen.pid)

    def kill(self, name: str) -> None:
        """Kill -9, as a power cut would."""
        self.processes[name].popen.kill()

    def reap(self, now_s: float, restart_after_s: float) -> Iterator[tuple[str, int]]:
        """Agents that have ended since the last call, with their exit codes; due restarts."""
        for name, process in self.processes.items():
            if process.restart_at_s is None and (code := process.popen.poll()) is not None:
                process.restart_at_s = float("inf")
                if code not in (DONE, REFUSED) and process.num_starts <= MAX_RESTARTS:
                    process.restart_at_s = now_s + restart_after_s
                yield name, code
            elif process.restart_at_s is not None and now_s >= process.restart_at_s:
                process.popen = self._spawn(name, process.throttle)
                process.num_starts, process.restart_at_s = process.num_starts + 1, None

    def last_words(self, name: str) -> str:
        """The last line of an agent's log, after a colon."""
        lines = (self.run / f"{name}.log").read_text(errors="replace").splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """Leave no process and no control group behind."""
        for process in self.processes.values():
            process.popen.kill()
            process.popen.wait()
            if process.throttle is not None:
                process.throttle.close()


@dataclass
class Server:
    """The process of the star road's server, beside the one that coordinates."""

    run: Path
    endpoint: str
    listen: str
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it tells by the control channel where it listens."""
        command = [sys.executable, "-m", "coterie.agents.serve", self.endpoint]
        command += [str(self.run / "join.key"), self.listen]
        with (self.run / f"{HUB}.log").open("ab") as log:
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def gone(self) -> int | None:
        """Its exit code, once, if it has ended."""
        code = self.popen.poll() if self.popen else None
        if code is not None:
            self.popen = None
        return code

    def close(self) -> None:
        """Leave no process behind."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
