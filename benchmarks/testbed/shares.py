"""How much of a core each host of a test bed has: a control group's quota, or rests of its own.

In the first a program and all that it starts are held back by the kernel, which also counts what
they used. In the second the program is told its fraction by the environment variable COTERIE_DUTY
and has to rest by `coterie.engines.throttle.DutyCycle`: one that does not is not held back.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.testbed.links import BedError
from coterie.engines.throttle import CgroupThrottle, DutyCycle
from coterie.machine import cgroup_of
from coterie.machine import cores as granted_cores

DUTY = "COTERIE_DUTY"
# Joined before the program exists, so that its threads and children are all born inside.
JOIN = 'for g in "$1" "$2"; do echo $$ > "$g/cgroup.procs" || exit 125; done; shift 2; exec "$@"'


class Share(Protocol):
    """What one host may use of the processor, and what it has used."""

    @property
    def enforced(self) -> bool:
        """Whether the kernel sees to it."""
        ...

    def enter(self) -> list[str]:
        """The words before a command that hold it back."""
        ...

    def environment(self) -> dict[str, str]:
        """What a program has to know to hold itself back."""
        ...

    def started(self, pid: int) -> None:
        """Hear of a program that runs here."""
        ...

    def change(self, cores: float | None) -> None:
        """Grant another share from now on."""
        ...

    def cpu_seconds(self) -> float:
        """CPU-seconds used since the host was made."""
        ...

    def num_throttled(self) -> int:
        """Periods in which the kernel stopped the host."""
        ...


class GroupShare:
    """A control group with a quota of `cores`, or none for None; the count outlives its programs.

    Version 1 may count in a tree of its own: a second group then stands there. Raises JobError for
    cores that this machine does not grant.
    """

    enforced = True

    def __init__(self, bed: str, host: str, cores: float | None) -> None:
        self._name = f"{bed}-{host}"
        self.change(cores)
        self._account = _account(self._group)

    def enter(self) -> list[str]:
        """Join the groups, then become the command."""
        return ["sh", "-c", JOIN, "sh", str(self._group), str(self._account)]

    def environment(self) -> dict[str, str]:
        """Nothing: the kernel does the slowing."""
        return {}

    def started(self, pid: int) -> None:
        """Nothing to note: the group knows who is in it."""

    def change(self, cores: float | None) -> None:
        """Another quota for the same group, at once. Raises JobError."""
        # A group of the same name is taken over, its limit written anew.
        self._group = CgroupThrottle(self._name, granted_cores() if cores is None else cores).group
        if cores is None:
            _lift(self._group)

    def cpu_seconds(self) -> float:
        """User and system time, of programs that have ended too."""
        usage_ns = self._account / "cpuacct.usage"
        if usage_ns.exists():
            return int(usage_ns.read_text()) / 1e9
        return _stat(self._account)["usage_usec"] / 1e6

    def num_throttled(self) -> int:
        """`nr_throttled` of the group."""
        return _stat(self._group).get("nr_throttled", 0)


class DutyShare:
    """A share that programs keep by themselves.

    >>> DutyShare(0.25).environment()
    {'COTERIE_DUTY': '0.25'}
    """

    enforced = False

    def __init__(self, cores: float | None) -> None:
        self._duty = None if cores is None else DutyCycle(min(1.0, cores))
        self._seen_s: dict[int, float] = {}

    def enter(self) -> list[str]:
        """Nothing holds the command back but itself."""
        return []

    def environment(self) -> dict[str, str]:
        """The fraction of the time in which to work."""
        return {} if self._duty is None else {DUTY: str(self._duty.fraction)}

    def started(self, pid: int) -> None:
        """Note whose time to count."""
        self._seen_s[pid] = 0.0

    def change(self, cores: float | None) -> None:
        """Raises BedError: a program that runs has been told its fraction already."""
        raise BedError(
            "expected control groups to change a share in mid-run, found programs that rest by "
            "themselves; run as root"
        )

    def cpu_seconds(self) -> float:
        """As last seen: what a program used between the last look and its end is missing."""
        for pid, seen_s in self._seen_s.items():
            with suppress(psutil.Error):
                self._seen_s[pid] = max(seen_s, _tree_s(psutil.Process(pid)))
        return sum(self._seen_s.values())

    def num_throttled(self) -> int:
        """None: the kernel stops nobody here."""
        return 0


def make_shares(
    bed: str, cores_by_host: Mapping[str, float | None], enforced: bool
) -> dict[str, Share]:
    """A share for each host, all of one kind."""
    if enforced:
        return {host: GroupShare(bed, host, cores) for host, cores in cores_by_host.items()}
    return {host: DutyShare(cores) for host, cores in cores_by_host.items()}


def group_parents() -> list[Path]:
    """The control groups under which a bed's groups may stand, of this owner or another."""
    trees = [cgroup_of(controller) for controller in ("cpu", "cpuacct")]
    paths = [path for tree in trees if tree for path in tree.lineage()]
    return list(dict.fromkeys(paths))


def _account(group: Path) -> Path:
    """The group that counts CPU time for `group`: itself, or one of its name in another tree."""
    counts_itself = (group / "cpuacct.usage").exists() or "usage_usec" in _stat(group)
    tree = cgroup_of("cpuacct")
    if counts_itself or tree is None:
        return group
    account = tree.own / group.name
    account.mkdir(exist_ok=True)
    return account


def _lift(group: Path) -> None:
    quota_v1 = group / "cpu.cfs_quota_us"
    if quota_v1.exists():
        quota_v1.write_text("-1")
    else:
        (group / "cpu.max").write_text("max")


def _stat(group: Path) -> dict[str, int]:
    lines = (group / "cpu.stat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def _tree_s(process: psutil.Process) -> float:
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))
