"""A Ray cluster on the hosts of a bed: a head, nodes that start, die whole, and are cut off."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.testbed.hosts import Bed
from benchmarks.testbed.leftovers import NAMESPACES

RAY = (sys.executable, "-m", "ray.scripts.scripts")
PORT = 6379
STORE_BYTES = 80_000_000
NODES_S = 120.0  # for a node to come, or to be given up
SOURCES = Path(__file__).resolve().parents[1] / "src"
# Ray's own patience with a silent node is a minute; the shortest that it takes without noise.
SHORT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1500",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class RayBed:
    """A cluster whose head lies on one host of a bed; nothing of it outlives the block."""

    bed: Bed
    head: str
    folder: Path
    tuning: Mapping[str, str] = field(default_factory=dict)

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
        with (self.folder / f"{host}.log").open("a") as words:
            started = self.bed.run(host, argv, self.env, stdout=words, stderr=words)
        return psutil.Process(started.pid)

    def await_nodes(self, num: int) -> None:
        """Until the head knows as many living nodes; raises TimeoutError where it never does."""
        until_s = time.monotonic() + NODES_S
        while self._num_nodes() != num:
            if time.monotonic() > until_s:
                raise TimeoutError(f"expected {num} nodes of {self.address}: {self.words()}")

    def words(self) -> str:
        """The last words of each node."""
        return "\n".join(log.read_text()[-1000:] for log in self.folder.glob("*.log"))

    def _num_nodes(self) -> int:
        # A client of the head alone: one of the cluster needs a node, and seconds.
        code = (
            "import sys; from ray._raylet import GcsClient; "
            "nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5); "
            "print(sum(node.state == 0 for node in nodes.values()))"
        )
        argv = [sys.executable, "-c", code, self.address]
        asked = self.bed.run(
            self.head, argv, self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        said = asked.communicate()[0].strip()
        return int(said) if said.isdigit() else 0

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
