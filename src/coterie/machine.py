"""What this machine grants, as the kernel enforces it.

psutil, `os.cpu_count` and torch count the cores that exist; a container may be granted a fraction
of one. Here the control groups of Linux are read, from this process's own group up to the top.
Every reader takes the `root` of the file tree, so that a machine is a folder in a test. Where the
kernel says nothing (another system, no cgroups), what exists is what is granted.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from coterie.errors import CoterieError

ROOT = Path("/")
NVIDIA_SMI_TIMEOUT_S = 20.0  # a driver that wakes from sleep takes seconds
MIB = 1024**2

# Starts are uneven, so the children wait for a word: windows that do not overlap would be counted
# as if the quota had been granted to each of them.
_SPIN = """
import sys, time
print(flush=True)
sys.stdin.readline()
start_s, start_cpu_s = time.perf_counter(), time.process_time()
while time.perf_counter() - start_s < float(sys.argv[1]):
    pass
print((time.process_time() - start_cpu_s) / (time.perf_counter() - start_s))
"""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver names it; memory is None where it is shared with the host.

    >>> Gpu("NVIDIA T4", 16 * 1024**3).name
    'NVIDIA T4'
    """

    name: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Cgroup:
    """Where one controller holds this process: its own group, and the top of what can be seen.

    >>> group = Cgroup(2, own=Path("/sys/fs/cgroup/a/b"), top=Path("/sys/fs/cgroup"))
    >>> [str(path) for path in group.lineage()]
    ['/sys/fs/cgroup/a/b', '/sys/fs/cgroup/a', '/sys/fs/cgroup']
    """

    version: int  # 1 or 2
    own: Path
    top: Path

    def lineage(self) -> tuple[Path, ...]:
        """The groups whose limits all hold for this process: its own first, the top last."""
        upward = (self.own, *self.own.parents)
        return tuple(path for path in upward if path.is_relative_to(self.top))


@dataclass(frozen=True)
class Machine:
    """What one machine grants to this process.

    >>> Machine("box", 0.5, 8, 2**31, 2**30, ()).cores
    0.5
    """

    name: str
    quota_cores: float | None  # CPU-seconds per second that cgroups allow; None is no limit
    affinity_cores: int  # cores that the scheduler may choose from
    memory_limit_bytes: int
    memory_available_bytes: int
    gpus: tuple[Gpu, ...]

    @property
    def cores(self) -> float:
        """CPU-seconds per second that can be had at most."""
        return _least_cores(self.quota_cores, self.affinity_cores)


def perceive(root: Path = ROOT) -> Machine:
    """Look at this machine; takes milliseconds, and up to some seconds when a GPU driver sleeps.

    >>> perceive().cores > 0
    True
    """
    return Machine(
        name=socket.gethostname(),
        quota_cores=cpu_quota_cores(root),
        affinity_cores=affinity_cores(root),
        memory_limit_bytes=memory_limit_bytes(root),
        memory_available_bytes=memory_available_bytes(root),
        gpus=gpus(),
    )


def cores(root: Path = ROOT) -> float:
    """CPU-seconds per second this process can have at most: the smaller of quota and affinity.

    >>> 0 < cores() <= affinity_cores()
    True
    """
    return _least_cores(cpu_quota_cores(root), affinity_cores(root))


def cpu_quota_cores(root: Path = ROOT) -> float | None:
    """The smallest CPU quota from this process's group up to the top; None is no limit.

    >>> quota = cpu_quota_cores()
    >>> quota is None or quota > 0
    True
    """
    return quota_cores(cgroup_of("cpu", root))


def quota_cores(group: Cgroup | None) -> float | None:
    """The same of a group that is known; None without one."""
    quotas = [_quota_cores(path) for path in group.lineage()] if group else []
    return min((quota for quota in quotas if quota is not None), default=None)


def affinity_cores(root: Path = ROOT) -> int:
    """How many cores the scheduler may choose from: the affinity mask, cpusets included.

    >>> affinity_cores() >= 1
    True
    """
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", _read(root / "proc/self/status"), re.M)
    return _count_cpus(allowed[1]) if allowed else os.cpu_count() or 1


def memory_limit_bytes(root: Path = ROOT) -> int:
    """Bytes after which the kernel kills: the smallest limit up the tree, or all there is.

    >>> memory_limit_bytes() >= memory_available_bytes()
    True
    """
    physical = _meminfo_bytes(root, "MemTotal") or psutil.virtual_memory().total
    return _least_of_groups(_memory_limit_bytes, physical, root)


def memory_available_bytes(root: Path = ROOT) -> int:
    """Bytes that can still be taken; file pages that the kernel would give back count as free.

    >>> memory_available_bytes() > 0
    True
    """
    free = _meminfo_bytes(root, "MemAvailable") or psutil.virtual_memory().available
    return _least_of_groups(_memory_free_bytes, free, root)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs whose driver answers; none without `nvidia-smi`.

    >>> all(gpu.name for gpu in gpus())
    True
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver that does not answer grants no GPU
    return tuple(_gpu(line) for line in answer.stdout.splitlines() if line.strip())


def achieved_cores(seconds: float = 0.3) -> float:
    """CPU-seconds obtained per second when every allowed core is asked to spin for `seconds`.

    Quotas, busy neighbours and stolen time all show. A window holds few quota periods (100 ms by
    default), so a small quota is met within about a third. Raises CoterieError when a spinning
    process ends early.

    >>> achieved_cores(seconds=0.01) > 0
    True
    """
    command = [sys.executable, "-I", "-S", "-c", _SPIN, str(seconds)]
    with ExitStack() as stack:
        spinners = [stack.enter_context(_start(command)) for _ in range(affinity_cores())]
        for spinner in spinners:
            _answer(spinner)
        for spinner in spinners:
            _tell(spinner)
        return sum(float(_answer(spinner)) for spinner in spinners)


def cgroup_of(controller: str, root: Path = ROOT) -> Cgroup | None:
    """The group in which `controller` ("cpu", "memory") holds this process; None without cgroups.

    Version 1 is asked first: on a hybrid machine a controller that is mounted there is not in the
    unified tree. Of several mounts the one that shows most of the path is taken.

    >>> cgroup_of("cpu", root=Path("/nowhere")) is None
    True
    """
    paths = _own_paths(root)
    mounts = _mounts(root)
    for name in (controller, _UNIFIED):
        seen = [m.place(paths[name]) for m in mounts if name in paths and name in m.controllers]
        if seen:
            return max(seen, key=lambda group: len(group.lineage()))
    return None


_UNIFIED = ""  # /proc/self/cgroup leaves the controllers of version 2 empty


@dataclass(frozen=True)
class _Mount:
    """One mounted cgroup tree: its controllers, the branch that it shows, and where."""

    controllers: frozenset[str]
    branch: PurePosixPath
    point: Path

    def place(self, path: str) -> Cgroup:
        """The group of a process at `path`.

        A cgroup namespace can name a path that the mount does not show. Its top is then the
        nearest group there is to read.
        """
        version = 2 if _UNIFIED in self.controllers else 1
        wanted = PurePosixPath(path)
        if ".." not in wanted.parts and wanted.is_relative_to(self.branch):
            own = self.point / wanted.relative_to(self.branch)
            if own.is_dir():
                return Cgroup(version, own, self.point)
        return Cgroup(version, self.point, self.point)


def _own_paths(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group, from lines such as `4:cpu,cpuacct:/a/b`."""
    lines = (line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines())
    return {name: path for _, names, path in lines for name in names.split(",")}


def _mounts(root: Path) -> list[_Mount]:
    """The cgroup trees of /proc/self/mountinfo; see proc_pid_mountinfo(5)."""
    mounts = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, branch, point, *_ = before.split(" ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        controllers = options.split(",") if kind == "cgroup" else [_UNIFIED]
        where = root / _unescape(point).lstrip("/")
        mounts.append(_Mount(frozenset(controllers), PurePosixPath(_unescape(branch)), where))
    return mounts


def _unescape(text: str) -> str:
    """mountinfo writes a blank as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _quota_cores(group: Path) -> float | None:
    v1 = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    words = (_read(group / "cpu.max") or v1).split()
    if len(words) < 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def _memory_limit_bytes(group: Path) -> int | None:
    text = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
    return int(text) if text.isdecimal() else None


def _memory_free_bytes(group: Path) -> int | None:
    limit = _memory_limit_bytes(group)
    used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
    if limit is None or not used:
        return limit
    stat = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    reclaimable = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
    return max(0, limit - max(0, int(used) - reclaimable))


def _least_of_groups(read: Callable[[Path], int | None], physical: int, root: Path) -> int:
    group = cgroup_of("memory", root)
    limits = [read(path) for path in group.lineage()] if group else []
    return min([limit for limit in limits if limit is not None] + [physical])


def _least_cores(quota: float | None, affinity: int) -> float:
    return affinity if quota is None else min(quota, affinity)


def _meminfo_bytes(root: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB", _read(root / "proc/meminfo"), re.M)
    return int(found[1]) * 1024 if found else 0


def _count_cpus(ranges: str) -> int:
    """How many cores a list such as `0-3,8` names."""
    ends = (part.split("-") for part in ranges.split(","))
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def _gpu(line: str) -> Gpu:
    name, _, memory_mib = line.rpartition(",")
    memory_mib = memory_mib.strip()
    return Gpu(name.strip(), int(memory_mib) * MIB if memory_mib.isdecimal() else None)


def _start(command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)


def _tell(spinner: subprocess.Popen[str]) -> None:
    assert spinner.stdin is not None
    with suppress(BrokenPipeError):  # one that ended is noticed when it does not answer
        spinner.stdin.write("\n")


def _answer(spinner: subprocess.Popen[str]) -> str:
    assert spinner.stdout is not None
    line = spinner.stdout.readline()
    if not line:
        raise CoterieError(
            f"expected a spinning process to tell its CPU time, found that it ended with code "
            f"{spinner.wait()}; check that this machine lets {sys.executable} start processes"
        )
    return line


def _read(path: Path) -> str:
    """What the kernel says there; nothing where it says nothing or would not tell us."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
