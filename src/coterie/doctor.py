"""What this machine offers a run, and what stands in the way: facts, then findings with their cure.

Looking at the machine is apart from judging it: `gather` has the effects, every check is a pure
function from facts to a finding or None. Nothing here loads torch: versions are read, not imported.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from coterie.engines.throttle import can_throttle
from coterie.errors import JobError
from coterie.machine import Gpu, Machine, achieved_cores, perceive

Severity = Literal["error", "warning", "note"]

GIB = 1024**3
MIN_FREE_DISK_BYTES = GIB  # a few checkpoints of a small model, and the events
MIN_FREE_MEMORY_BYTES = GIB  # torch with its imports takes about half of it
MIN_SHM_BYTES = GIB // 4  # containers often have 64 MiB, too little for one loader with workers
MIN_ACHIEVED = 0.7  # of what is granted; a short spin is exact to about a third of a quota

# As pyproject.toml asks: a checkout that was never installed has no metadata to read them from.
LOWEST_VERSIONS: Mapping[str, str] = {
    "torch": "2.9",
    "numpy": "1.26",
    "pyzmq": "26",
    "pydantic": "2.7",
    "pyyaml": "6",
    "typer": "0.12",
    "rich": "13",
    "safetensors": "0.4",
    "psutil": "5.9",
    "scipy": "1.11",
}


@dataclass(frozen=True)
class Finding:
    """Something worth a person's attention: what was found, and what to do about it.

    >>> Finding("note", "a spare disk", "use it").severity
    'note'
    """

    severity: Severity  # error: a run will fail; warning: it will suffer; note: good to know
    found: str
    fix: str


@dataclass(frozen=True)
class Facts:
    """What was seen, before any judgement."""

    machine: Machine
    reported_cores: int  # what psutil counts, quotas unseen
    achieved_cores: float  # CPU-seconds per second obtained in a short spin
    has_nvidia_smi: bool
    can_throttle: bool
    listen: str
    listen_refusal: str  # why an agent cannot listen there; empty when it can
    runs: str  # the folder where runs are written
    runs_writable: bool
    disk_free_bytes: int
    shm_bytes: int | None  # size of /dev/shm; None on systems without it
    python: str
    versions: Mapping[str, str | None]  # by distribution; None is not installed


@dataclass(frozen=True)
class Diagnosis:
    """Facts and findings of one examination.

    >>> facts = gather("127.0.0.1:0", Path("runs"), spin_s=0.01)
    >>> Diagnosis(facts, (Finding("note", "a spare disk", "use it"),)).healthy
    True
    """

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing was found that makes a run fail."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {"healthy": self.healthy, "cores": self.facts.machine.cores, **asdict(self)}

    def lines(self) -> list[str]:
        """Everything as plain text, one line each, for the screen."""
        told = [f"{name:<10} {fact}" for name, fact in _describe(self.facts).items()]
        for finding in self.findings:
            told += [f"{finding.severity}: {finding.found}", f"  to do: {finding.fix}"]
        return told if self.findings else [*told, "nothing stands in the way"]


def examine(
    listen: str = "127.0.0.1:0", runs: Path = Path("runs"), spin_s: float = 0.3
) -> Diagnosis:
    """Look at this machine and judge what was seen; takes about `spin_s` and the start of Python.

    Raises JobError when `listen` is not HOST:PORT.

    >>> examine(spin_s=0.01).as_dict()["facts"]["listen"]
    '127.0.0.1:0'
    """
    facts = gather(listen, runs, spin_s)
    return Diagnosis(facts, diagnose(facts))


def gather(listen: str, runs: Path, spin_s: float) -> Facts:
    """Everything the checks judge by, as it is at this moment.

    >>> gather("127.0.0.1:0", Path("runs"), spin_s=0.01).reported_cores > 0
    True
    """
    home = _nearest_folder(runs)
    shm = Path("/dev/shm")
    return Facts(
        machine=perceive(),
        reported_cores=psutil.cpu_count() or 1,
        achieved_cores=achieved_cores(spin_s),
        has_nvidia_smi=shutil.which("nvidia-smi") is not None,
        can_throttle=can_throttle(),
        listen=listen,
        listen_refusal=listen_refusal(listen),
        runs=str(runs),
        runs_writable=os.access(home, os.W_OK),
        disk_free_bytes=shutil.disk_usage(home).free,
        shm_bytes=shutil.disk_usage(shm).total if shm.is_dir() else None,
        python=platform.python_version(),
        versions={name: _version(name) for name in LOWEST_VERSIONS},
    )


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """What the checks make of the facts, the worst first.

    >>> facts = gather("127.0.0.1:0", Path("runs"), spin_s=0.01)
    >>> from dataclasses import replace
    >>> diagnose(replace(facts, runs_writable=False))[0].severity
    'error'
    """
    found = [finding for check in CHECKS if (finding := check(facts))]
    return tuple(sorted(found, key=lambda f: ("error", "warning", "note").index(f.severity)))


def listen_refusal(listen: str) -> str:
    """Why nobody could listen on HOST:PORT; empty when one could. Port 0 is any free port.

    Raises JobError when `listen` is not HOST:PORT.

    >>> listen_refusal("127.0.0.1:0")
    ''
    """
    host, port = _host_port(listen)
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            # As the control plane does: connections that are just closing do not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as refusal:
        return refusal.strerror or str(refusal)
    return ""


def _missing_libraries(facts: Facts) -> Finding | None:
    missing = [name for name, version in facts.versions.items() if version is None]
    if not missing:
        return None
    wanted = " ".join(f"'{name}>={LOWEST_VERSIONS[name]}'" for name in missing)
    return Finding("error", f"not installed: {', '.join(missing)}", f"pip install {wanted}")


def _old_libraries(facts: Facts) -> Finding | None:
    old = {
        name: version
        for name, version in facts.versions.items()
        if version is not None and _release(version) < _release(LOWEST_VERSIONS[name])
    }
    if not old:
        return None
    found = ", ".join(f"{name} {version}" for name, version in old.items())
    wanted = " ".join(f"'{name}>={LOWEST_VERSIONS[name]}'" for name in old)
    return Finding("error", f"older than needed: {found}", f"pip install -U {wanted}")


def _listen_refused(facts: Facts) -> Finding | None:
    if not facts.listen_refusal:
        return None
    return Finding(
        "error",
        f"cannot listen on {facts.listen}: {facts.listen_refusal}",
        "choose an address of this machine and a free port, or port 0 for any",
    )


def _runs_read_only(facts: Facts) -> Finding | None:
    if facts.runs_writable:
        return None
    return Finding(
        "error", f"runs cannot be written in {facts.runs}", "write them where you may write"
    )


def _disk_short(facts: Facts) -> Finding | None:
    if facts.disk_free_bytes >= MIN_FREE_DISK_BYTES:
        return None
    return Finding(
        "error" if facts.disk_free_bytes == 0 else "warning",
        f"{_gib(facts.disk_free_bytes)} of disk free where runs are written ({facts.runs})",
        "remove old checkpoints, or write runs on another disk",
    )


def _memory_short(facts: Facts) -> Finding | None:
    machine = facts.machine
    if machine.memory_available_bytes >= MIN_FREE_MEMORY_BYTES:
        return None
    return Finding(
        "warning",
        f"{_gib(machine.memory_available_bytes)} of memory available, "
        f"of {_gib(machine.memory_limit_bytes)} granted",
        "end what else is running, or raise the container's memory limit",
    )


def _quota_unseen(facts: Facts) -> Finding | None:
    quota, seen = facts.machine.quota_cores, facts.machine.affinity_cores
    if quota is None or quota >= seen:
        return None
    return Finding(
        "warning",
        f"a quota grants {quota:g} cores, while torch sees {seen} and starts as many threads",
        f"export OMP_NUM_THREADS={max(1, math.floor(quota))} before starting an agent",
    )


def _cores_not_achieved(facts: Facts) -> Finding | None:
    granted = facts.machine.cores
    if facts.achieved_cores >= MIN_ACHIEVED * granted:
        return None
    return Finding(
        "warning",
        f"{facts.achieved_cores:.2f} cores obtained in a short spin, of {granted:g} granted",
        "end what else is running; on a rented machine, neighbours may hold the cores",
    )


def _gpu_silent(facts: Facts) -> Finding | None:
    if facts.machine.gpus or not facts.has_nvidia_smi:
        return None
    return Finding(
        "warning",
        "nvidia-smi is installed and names no GPU",
        "run nvidia-smi to see what the driver says; start the container with its GPUs",
    )


def _gpu_unused(facts: Facts) -> Finding | None:
    torch = facts.versions.get("torch")
    if not facts.machine.gpus or torch is None or not torch.endswith("+cpu"):
        return None
    return Finding(
        "warning",
        f"torch {torch} is built without CUDA, so {facts.machine.gpus[0].name} stays idle",
        "install a CUDA build of torch, see pytorch.org/get-started",
    )


def _shm_small(facts: Facts) -> Finding | None:
    if facts.shm_bytes is None or facts.shm_bytes >= MIN_SHM_BYTES:
        return None
    return Finding(
        "warning",
        f"/dev/shm holds {_gib(facts.shm_bytes)}; data loaders with workers pass batches there",
        "start the container with --shm-size=1g, or load with num_workers=0",
    )


def _no_throttle(facts: Facts) -> Finding | None:
    if facts.can_throttle:
        return None
    return Finding(
        "note",
        "control groups cannot be written, so unequal members on this machine rest between steps",
        "run as root when the kernel is to hold them back",
    )


CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    _missing_libraries,
    _old_libraries,
    _listen_refused,
    _runs_read_only,
    _disk_short,
    _memory_short,
    _quota_unseen,
    _cores_not_achieved,
    _gpu_silent,
    _gpu_unused,
    _shm_small,
    _no_throttle,
)


def _describe(facts: Facts) -> dict[str, str]:
    machine = facts.machine
    quota = "none" if machine.quota_cores is None else f"{machine.quota_cores:g}"
    installed = [f"{name} {version}" for name, version in facts.versions.items() if version]
    return {
        "cores": f"{machine.cores:g} granted (quota {quota}, affinity {machine.affinity_cores}), "
        f"{facts.achieved_cores:.2f} obtained, psutil reports {facts.reported_cores}",
        "memory": f"{_gib(machine.memory_available_bytes)} available "
        f"of {_gib(machine.memory_limit_bytes)}",
        "gpus": ", ".join(map(_describe_gpu, machine.gpus)) or "none",
        "disk": f"{_gib(facts.disk_free_bytes)} free for {facts.runs}",
        "/dev/shm": "none" if facts.shm_bytes is None else _gib(facts.shm_bytes),
        "listen": f"{facts.listen} {'refused' if facts.listen_refusal else 'free'}",
        "throttles": "control groups" if facts.can_throttle else "resting agents",
        "python": facts.python,
        "libraries": ", ".join(installed) or "none",
    }


def _describe_gpu(gpu: Gpu) -> str:
    return gpu.name if gpu.memory_bytes is None else f"{gpu.name} {_gib(gpu.memory_bytes)}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _host_port(listen: str) -> tuple[str | None, int]:
    """`[::1]:80` -> ("::1", 80); `*` and an empty host are every address, told as None."""
    host, _, port = listen.rpartition(":")
    if not (port.isdecimal() and int(port) < 2**16 and ":" in listen):
        raise JobError(
            f"expected HOST:PORT with a port below 65536, found {listen!r}; "
            "127.0.0.1:0 is any free port for this machine alone"
        )
    return (None if host in ("", "*") else host.strip("[]")), int(port)


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the closest one above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """`2.13.0a0+git` -> (2, 13, 0) and `26` -> (26, 0, 0): enough to compare with a lowest one."""
    numbers = re.findall(r"\d+", version.partition("+")[0])
    return tuple(int(number) for number in [*numbers, 0, 0][:3])
