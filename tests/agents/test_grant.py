"""What a machine grants is read as it stands now, on a made-up tree of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.agents.grant import Grant

MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
GROUP, CLOCK = "sys/fs/cgroup/a", "sys/devices/system/cpu/cpufreq/policy0"
LIMITS = {
    "the quota": (f"{GROUP}/cpu.max", "50000 100000", 0.5),
    "the quota above": ("sys/fs/cgroup/cpu.max", "25000 100000", 0.25),
    "the affinity": ("proc/self/status", "Cpus_allowed_list:\t3", 1.0),
    "the clock": (f"{CLOCK}/scaling_max_freq", "1000000", 1.0),
}


def told(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    told(tmp_path, "proc/self/cgroup", "0::/a")
    told(tmp_path, "proc/self/mountinfo", MOUNT)
    told(tmp_path, "proc/self/status", "Cpus_allowed_list:\t0-3")
    told(tmp_path, f"{GROUP}/cpu.max", "max 100000")
    for name in ("scaling_max_freq", "cpuinfo_max_freq"):
        told(tmp_path, f"{CLOCK}/{name}", "2000000")
    return tmp_path


@pytest.mark.parametrize("limit", LIMITS)
def test_whatever_is_limited_under_way_is_seen_at_the_next_look(root: Path, limit: str) -> None:
    grant = Grant(num_threads=2, root=root)
    assert grant.cores() == 2.0
    file, text, cores = LIMITS[limit]
    told(root, file, text)
    assert grant.cores() == cores


def test_a_process_that_is_moved_to_another_group_is_granted_what_that_is(root: Path) -> None:
    grant = Grant(num_threads=1, root=root)
    assert grant.cores() == 1.0
    told(root, "sys/fs/cgroup/b/cpu.max", "10000 100000")
    told(root, "proc/self/cgroup", "0::/b")
    assert grant.cores() == 0.1


def test_a_quota_of_more_than_its_threads_can_use_changes_nothing(root: Path) -> None:
    grant = Grant(num_threads=1, root=root)
    for quota in ("400000 100000", "150000 100000"):
        told(root, f"{GROUP}/cpu.max", quota)
        assert grant.cores() == 1.0


def test_where_nothing_is_told_nothing_is_limited(tmp_path: Path) -> None:
    assert 0 < Grant(num_threads=1, root=tmp_path).cores() <= 1.0
