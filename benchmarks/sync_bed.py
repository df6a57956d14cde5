"""Where the arms of the synchronisation benchmark run, and what is metered while they do."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sync_page import at

from benchmarks.testbed import Bed

TIMEOUT_S = 1500.0
SAMPLE_S = 0.2


@dataclass(frozen=True)
class Place:
    """Where ranks run: on a bed's hosts, or all on the loopback where `bed` is None."""

    bed: Bed | None
    mbit: float | None = None

    def start(
        self, rank: int, argv: Sequence[str], env: Mapping[str, str], log: Path
    ) -> subprocess.Popen[str]:
        """Start one rank's program; what it says goes to a file."""
        with log.open("w") as file:
            if self.bed is not None:
                return self.bed.run(f"h{rank}", argv, env=env, stdout=file, stderr=file)
            known = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
            return subprocess.Popen(
                argv, env={**os.environ, **known, **env}, stdout=file, stderr=file, text=True
            )

    @property
    def master(self) -> str:
        """The address of rank 0."""
        return self.bed.address_of("h0") if self.bed is not None else "127.0.0.1"


@dataclass
class Meter:
    """Bytes over all links and CPU-seconds of all hosts, sampled with the time of day."""

    bed: Bed | None
    samples: list[tuple[float, float, float]] = field(default_factory=list)  # time, bytes, CPU

    @property
    def _num_hosts(self) -> int:
        return len(self.bed.hosts) if self.bed is not None else 1

    def read(self) -> None:
        """Take one sample. Each byte between two hosts is counted by both: half the sum."""
        if self.bed is not None:
            traffic = self.bed.bytes().values()
            num_bytes = sum(t.sent_bytes + t.received_bytes for t in traffic) / 2
            cpu_s = sum(self.bed.cpu_seconds(name) for name in self.bed.hosts)
            self.samples.append((time.time(), num_bytes, cpu_s))

    @contextmanager
    def running(self) -> Iterator[Meter]:
        """Sample while the block runs."""
        done = threading.Event()

        def sample() -> None:
            while not done.wait(SAMPLE_S):
                self.read()

        self.read()
        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            self.read()

    def num_bytes(self, start_s: float, stop_s: float) -> float:
        """Bytes between two moments."""
        return self._between(1, start_s, stop_s)

    def cores(self, start_s: float, stop_s: float) -> float:
        """Cores that one host used, on the mean, between two moments."""
        return self._between(2, start_s, stop_s) / self._num_hosts / max(1e-9, stop_s - start_s)

    def _between(self, column: int, start_s: float, stop_s: float) -> float:
        line = [(sample[0], sample[column]) for sample in self.samples]
        return at(line, stop_s) - at(line, start_s) if line else 0.0


def await_all(programs: Sequence[subprocess.Popen[str]], words: Callable[[], str]) -> None:
    """Wait for all to end well; end all when one fails or none ends in time."""
    until_s = time.monotonic() + TIMEOUT_S
    try:
        while any(program.poll() is None for program in programs):
            if any(program.poll() for program in programs) or time.monotonic() > until_s:
                raise RuntimeError(f"a rank failed or took over {TIMEOUT_S:g} s:\n{words()}")
            time.sleep(0.1)
    finally:
        for program in programs:
            if program.poll() is None:
                program.kill()
            program.wait()
    if any(program.returncode for program in programs):
        raise RuntimeError(f"a rank failed:\n{words()}")


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
