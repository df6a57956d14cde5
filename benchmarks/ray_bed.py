"""A Ray cluster on the hosts of a bed: a head, nodes that start, die whole, and are cut off."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.testbed.hosts import Bed
from benchmarks.testbed.leftovers import NAMESPACES

RAY = (sys.executable, "-m", "ray.scripts.scripts")
PORT = 6379
STORE_BYTES = 80_000_000
NODES_S = 120.0  # for a node to come, or to be given up
POLL_S = 0.05
SOURCES = Path(__file__).resolve().parents[1] / "src"
# Ray's own patience with a silent node is a minute; the shortest that it takes without noise.
SHORT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}


# A client of the head alone: one of the cluster needs a node, and seconds.
WATCH = """
import json, sys, time
from ray._raylet import GcsClient
from ray.exceptions import RpcError
head = None
while True:
    try:
        head = head or GcsClient(address=sys.argv[1])
        nodes = head.get_all_node_info(timeout=10).values()
    except RpcError as error:  # it is still starting
        print(error, file=sys.stderr, flush=True)
        continue
    living = sorted(node.node_manager_address for node in nodes if node.state == 0)
    print(json.dumps([time.time(), *living]), flush=True)
    time.sleep(0.1)
"""


@dataclass
class RayBed:
    """A cluster whose head lies on one host of a bed; nothing of it outlives the block."""

    bed: Bed
    head: str
    folder: Path
    tuning: Mapping[str, str] = field(default_factory=dict)
    begun_s: dict[str, float] = field(default_factory=dict)  # by host: when it was started last
    seen: list[tuple[float, frozenset[str]]] = field(default_factory=list)  # living nodes, and when

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return f"{self.bed.address_of(self.head)}:{PORT}"

    @property
    def env(self) -> dict[str, str]:
        """What clients and nodes of this cluster find set."""
        return {
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",  # a machine that others compute on too
            "PYTHONPATH": str(SOURCES),
            **self.tuning,
        }

    def start(self, host: str, num_cpus: int = 1) -> psutil.Process:
        """Start a host's part of the cluster; its command stays while it lives."""
        here = self.bed.address_of(host)
        argv = [*RAY, "start", "--block", "--disable-usage-stats", f"--num-cpus={num_cpus}"]
        argv += [f"--node-ip-address={here}", f"--object-store-memory={STORE_BYTES}"]
        if host == self.head:
            argv += ["--head", f"--port={PORT}", "--include-dashboard=false"]
            argv += [f"--temp-dir={self.folder / 't'}"]
        else:
            argv += [f"--address={self.address}"]
        self.begun_s[host] = time.time()
        with (self.folder / f"{host}.log").open("a") as words:
            started = self.bed.run(host, argv, self.env, stdout=words, stderr=words)
        return psutil.Process(started.pid)

    def watch(self) -> None:
        """Have the head asked which nodes live, ten times a second, from now on."""
        argv = [sys.executable, "-c", WATCH, self.address]
        words = (self.folder / "watch.log").open("w")
        watch = self.bed.run(self.head, argv, self.env, stdout=subprocess.PIPE, stderr=words)
        threading.Thread(target=self._follow, args=(watch,), daemon=True).start()

    def _follow(self, watch: subprocess.Popen[str]) -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            time_s, *addresses = json.loads(line)
            self.seen.append((time_s, frozenset(addresses)))

    def living(self) -> frozenset[str]:
        """The addresses of the nodes that live, by the head's word."""
        return self.seen[-1][1] if self.seen else frozenset()

    def await_alive(self, host: str, alive: bool, patience_s: float = NODES_S) -> float | None:
        """When the head first said so of a host's node, from now on; None if it never does."""
        address, until_s = self.bed.address_of(host), time.monotonic() + patience_s
        while (address in self.living()) is not alive:
            if time.monotonic() > until_s:
                return None
            time.sleep(POLL_S)
        return self.seen[-1][0]

    def build(self, hosts: Sequence[str]) -> dict[str, float]:
        """Start all nodes, the head first and without a CPU; seconds until each was there.

        One after the other: two that start at once on one machine may hang. Raises TimeoutError.
        """
        took_s = {}
        for host in (self.head, *hosts):
            began_s = time.time()
            self.start(host, num_cpus=int(host != self.head))
            if host == self.head:
                self.watch()
            came_s = self.await_alive(host, True)
            if came_s is None:
                raise TimeoutError(f"expected a node of Ray on {host}, found none: {self.words()}")
            took_s[host] = came_s - began_s
        return took_s

    def started_s(self, host: str) -> float:
        """How long `ray start` took on a host, as its own log has it; raises TimeoutError."""
        log, until_s = self.folder / f"{host}.log", time.monotonic() + NODES_S
        while "Ray runtime started" not in (told := log.read_text()):
            if time.monotonic() > until_s:
                raise TimeoutError(f"expected ray start to be done on {host}, found: {told[-500:]}")
            time.sleep(POLL_S)
        stamp = next(line for line in told.splitlines() if "Ray runtime started" in line)
        done = datetime.strptime(stamp[:23], "%Y-%m-%d %H:%M:%S,%f")
        return done.timestamp() - self.begun_s[host]

    def words(self) -> str:
        """The last words of each node."""
        return "\n".join(log.read_text()[-1000:] for log in self.folder.glob("*.log"))

    def processes(self, host: str) -> list[psutil.Process]:
        """Everything that runs on a host."""
        space = os.stat(NAMESPACES / f"{self.bed.name}-{host}").st_ino
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == space:
                    found.append(process)
        return found

    def kill(self, host: str) -> float:
        """Kill -9 of everything on a host, as a power cut does; when that was."""
        killed_s = time.time()
        for process in self.processes(host):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return killed_s


@contextmanager
def ray_bed(bed: Bed, head: str, tuning: Mapping[str, str] | None = None) -> Iterator[RayBed]:
    """A cluster on a bed, of which no file is left; the bed itself ends its processes."""
    folder = Path(tempfile.mkdtemp(prefix="cr-"))  # short: sockets lie below it
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    cluster = RayBed(bed, head, folder, tuning or {})
    try:
        yield cluster
    finally:
        for host in bed.hosts:
            cluster.kill(host)
        shutil.rmtree(folder, ignore_errors=True)
