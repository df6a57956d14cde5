"""How much computing a machine grants, read again and again while others may change it.

A quota, a set of cores or a cap on the clock may be changed under a run, by an orchestrator or by
the machine's own care for its battery. To read that is quicker and surer than to time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from coterie.machine import ROOT, Cgroup, affinity_cores, cgroup_of, quota_cores

POLICIES = "sys/devices/system/cpu/cpufreq"


@dataclass
class Grant:
    """Cores of full clock that `num_threads` can have; where to look is looked up once.

    >>> 0 < Grant(num_threads=1).cores() <= 1
    True
    """

    num_threads: int
    root: Path = ROOT
    _place: str = field(default="", init=False)  # of this process among the groups
    _group: Cgroup | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._policies = sorted((self.root / POLICIES).glob("policy*"))

    def cores(self) -> float:
        """The least of quota, affinity and threads, by the part of their clock that cores may run.

        What the kernel does not tell limits nothing.
        """
        quota = quota_cores(self._own_group())
        cores = min(self.num_threads, affinity_cores(self.root))
        return self._clock() * (cores if quota is None else min(quota, cores))

    def _own_group(self) -> Cgroup | None:
        place = _read(self.root / "proc/self/cgroup")
        if place != self._place:
            self._place, self._group = place, cgroup_of("cpu", self.root)
        return self._group

    def _clock(self) -> float:
        """The cap on the clock as a part of the highest, on the mean of all groups of cores."""
        parts = [
            _hertz(policy / "scaling_max_freq") / _hertz(policy / "cpuinfo_max_freq")
            for policy in self._policies
            if _hertz(policy / "scaling_max_freq") and _hertz(policy / "cpuinfo_max_freq")
        ]
        return sum(parts) / len(parts) if parts else 1.0


def granted(device: str) -> Callable[[], float | None]:
    """What this process is granted to compute with, from now on; of a GPU nothing is known.

    >>> granted("cuda")() is None
    True
    """
    return Grant(torch.get_num_threads()).cores if device == "cpu" else lambda: None


def _hertz(file: Path) -> int:
    text = _read(file).strip()
    return int(text) if text.isdecimal() else 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
