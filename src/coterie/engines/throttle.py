"""Unequal machines on one machine: members slowed to a fraction of a core.

Where control groups are writable the kernel enforces the fraction; elsewhere the agent itself rests
between its steps. Either way a member is slow as a slow machine is: its work takes longer.
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from coterie.errors import CoterieError, JobError
from coterie.machine import ROOT, cgroup_of
from coterie.machine import cores as granted_cores

# What the kernel accepts: quotas from 1 ms on, periods from 1 ms to 1 s.
MIN_QUOTA_US = 1_000
MIN_PERIOD_US = 1_000
MAX_PERIOD_US = 1_000_000

CLOSE_PATIENCE_S = 2.0
CLOSE_POLL_S = 0.005
PROBE_CORES = 0.01
PERIOD_S = 0.005  # short: what an idle member saves up, and waits for when it meets, is a period


@dataclass(frozen=True)
class DutyCycle:
    """Work for a fraction of the time and rest for the remainder; 1.0 never rests.

    >>> DutyCycle(0.25).rest_s(busy_s=2.0)
    6.0
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise JobError(
                f"expected a fraction of the time above 0 and at most 1, found {self.fraction}; "
                "give each member a share of one core"
            )

    def rest_s(self, busy_s: float) -> float:
        """Seconds to rest after `busy_s` seconds of work."""
        return busy_s * (1 - self.fraction) / self.fraction


class Throttle(Protocol):
    """What holds one member back.

    An engine applies it to the agent's process and hands `duty` to the agent, which rests by it.
    """

    @property
    def duty(self) -> DutyCycle:
        """The rest that the agent has to take by itself."""
        ...

    def apply(self, pid: int) -> None:
        """Slow the process `pid` with all its threads and the children it will have."""
        ...

    def close(self) -> None:
        """Let go, after the processes have ended."""
        ...


@dataclass(frozen=True)
class RestThrottle:
    """A throttle without the kernel: the agent does it all by resting.

    >>> RestThrottle(DutyCycle(0.5)).duty.rest_s(1.0)
    1.0
    """

    duty: DutyCycle

    def apply(self, pid: int) -> None:
        """Nothing to do to the process: it rests by its own will."""

    def close(self) -> None:
        """Nothing to let go."""


class CgroupThrottle:
    """A control group that grants `cores` CPU-seconds a second to one member.

    The group `coterie-<pid of the owner>-<name>` stands under this process's own group, or under
    the nearest one above that takes it: in version 2 a group with processes lends its children no
    CPU. The kernel grants no quota under 1 ms, so a small fraction lengthens the period. Raises
    JobError when `cores` cannot be had on this machine, CoterieError when no group can be written.

    >>> if can_throttle():
    ...     throttle = CgroupThrottle("slow", cores=0.25)
    ...     assert throttle.group.is_dir()
    ...     throttle.close()
    """

    def __init__(
        self, name: str, cores: float, period_s: float = PERIOD_S, root: Path = ROOT
    ) -> None:
        _check_name(name)
        limit = bandwidth_us(cores, period_s)
        granted = granted_cores(root)
        if cores > granted:
            raise JobError(
                f"expected at most the {granted:g} cores that this machine grants, found {cores:g} "
                f"for {name!r}; ask for less"
            )
        self.group = _make_group(f"coterie-{os.getpid()}-{name}", limit, root)

    @property
    def duty(self) -> DutyCycle:
        """No rest: the kernel does the slowing."""
        return DutyCycle(1.0)

    def apply(self, pid: int) -> None:
        """Move the process `pid` into the group; a process that has ended needs no slowing."""
        with suppress(ProcessLookupError):
            (self.group / "cgroup.procs").write_text(str(pid))

    def num_throttled(self) -> int:
        """Periods in which the kernel stopped this group because its quota was used up."""
        stat = dict(line.split() for line in (self.group / "cpu.stat").read_text().splitlines())
        return int(stat["nr_throttled"])

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> None:
        """Remove the group; one that is gone already is well.

        Waits up to `patience_s` for processes that are just ending, then raises CoterieError.
        """
        deadline_s = time.monotonic() + patience_s
        while refusal := _remove(self.group):
            if refusal.errno != errno.EBUSY or time.monotonic() >= deadline_s:
                raise CoterieError(
                    f"expected {self.group} to be free to remove, found {_inhabitants(self.group)} "
                    f"({refusal.strerror}); end its processes, then close again"
                ) from refusal
            time.sleep(CLOSE_POLL_S)


def choose(
    cores_by_member: Mapping[str, float | None], root: Path = ROOT
) -> dict[str, Throttle | None]:
    """A throttle for each member that has a fraction: control groups when writable, else rests.

    All are of one kind, or comparing members would compare mechanisms. A member that rests is taken
    to compute on one thread, so a core or more asks for no rest. Groups of dead owners are swept
    away first. Raises JobError for cores that cannot be had.

    >>> choose({"fast": None, "slow": 0.25}, root=Path("/nowhere"))
    {'fast': None, 'slow': RestThrottle(duty=DutyCycle(fraction=0.25))}
    """
    sweep(root)
    throttles: dict[str, Throttle | None] = dict.fromkeys(cores_by_member)
    limited = {name: cores for name, cores in cores_by_member.items() if cores is not None}
    if not can_throttle(root):
        rests = {name: RestThrottle(DutyCycle(min(1.0, cores))) for name, cores in limited.items()}
        return {**throttles, **rests}
    with ExitStack() as undo:
        for name, cores in limited.items():
            throttle = CgroupThrottle(name, cores, root=root)
            undo.callback(throttle.close)
            throttles[name] = throttle
        undo.pop_all()
    return throttles


def can_throttle(root: Path = ROOT) -> bool:
    """Whether control groups can be made here, found by making one and removing it.

    >>> can_throttle(root=Path("/nowhere"))
    False
    """
    try:
        CgroupThrottle(".probe", PROBE_CORES, root=root).close()
    except CoterieError:
        return False
    return True


def sweep(root: Path = ROOT) -> tuple[str, ...]:
    """Remove the groups that owners left behind when they died; returns their names.

    A group whose processes still run outlives its owner until they end.

    >>> sweep(root=Path("/nowhere"))
    ()
    """
    tree = cgroup_of("cpu", root)
    groups = [g for p in tree.lineage() for g in sorted(p.glob("coterie-*"))] if tree else []
    return tuple(g.name for g in groups if _is_orphan(g.name) and _remove(g) is None)


def bandwidth_us(cores: float, period_s: float) -> tuple[int, int]:
    """(quota, period) in microseconds, such that quota / period is `cores`.

    The period grows until the quota is one that the kernel takes. Raises JobError for what it would
    not take.

    >>> bandwidth_us(0.25, period_s=0.02), bandwidth_us(0.01, period_s=0.02)
    ((5000, 20000), (1000, 100000))
    """
    shortest_s, longest_s = MIN_PERIOD_US / 1e6, MAX_PERIOD_US / 1e6
    if not shortest_s <= period_s <= longest_s:
        raise JobError(
            f"expected a period from {shortest_s:g} to {longest_s:g} s, found {period_s:g}; "
            "0.02 s suits most steps"
        )
    smallest = MIN_QUOTA_US / MAX_PERIOD_US
    if not smallest <= cores < math.inf:
        raise JobError(
            f"expected at least {smallest:g} cores, found {cores:g}; "
            "the kernel cannot slow a process further"
        )
    period_us = max(round(period_s * 1e6), math.ceil(MIN_QUOTA_US / cores))
    # Rounded down: version 1 refuses a child that is granted more than its parent.
    return max(MIN_QUOTA_US, math.floor(cores * period_us + 1e-6)), period_us


def _check_name(name: str) -> None:
    if not name or "/" in name or "\0" in name or "\n" in name:
        raise JobError(
            f"expected a member's name that can name a folder, found {name!r}; "
            "leave out slashes and line ends"
        )


def _make_group(name: str, limit_us: tuple[int, int], root: Path) -> Path:
    """The group `name` with its limit, as near to this process's own group as the kernel lets."""
    tree = cgroup_of("cpu", root)
    if tree is None:
        raise _no_group("none")
    refusals = []
    for parent in tree.lineage():
        try:
            return _make_under(parent, name, limit_us, tree.version)
        except OSError as refusal:
            refusals.append(f"{parent}: {refusal.strerror}")
    raise _no_group("; ".join(refusals))


def _no_group(found: str) -> CoterieError:
    return CoterieError(
        f"expected a cpu control group that can be written, found {found}; "
        "run as root, or let the agents rest"
    )


def _make_under(parent: Path, name: str, limit_us: tuple[int, int], version: int) -> Path:
    if not os.access(parent / "cgroup.procs", os.W_OK):
        # Members are moved from below this group: without its consent they would be refused later.
        raise PermissionError(errno.EACCES, "its processes may not be moved")
    if version == 2:
        # Refused where the group has processes of its own: the caller then tries one above.
        _lend_cpu(parent)
    group = parent / name
    group.mkdir(exist_ok=True)
    try:
        _write_limit(group, limit_us, version)
    except OSError:
        _remove(group)
        raise
    return group


def _lend_cpu(parent: Path) -> None:
    control = parent / "cgroup.subtree_control"
    if "cpu" not in control.read_text().split():
        control.write_text("+cpu")


def _write_limit(group: Path, limit_us: tuple[int, int], version: int) -> None:
    quota_us, period_us = limit_us
    if version == 2:
        (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        return
    # A group that is reused has a quota that may not fit the new period.
    (group / "cpu.cfs_quota_us").write_text("-1")
    (group / "cpu.cfs_period_us").write_text(str(period_us))
    (group / "cpu.cfs_quota_us").write_text(str(quota_us))


def _remove(group: Path) -> OSError | None:
    """Remove a group if it is there; what the kernel said against it."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return None
    except OSError as refusal:
        return refusal
    return None


def _inhabitants(group: Path) -> str:
    pids = (group / "cgroup.procs").read_text().split()
    return f"processes {', '.join(pids)} in it" if pids else "no process in it"


def _is_orphan(name: str) -> bool:
    owner = re.match(r"coterie-(\d+)-", name)
    return owner is not None and not psutil.pid_exists(int(owner[1]))
