from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie import machine
from coterie.errors import CoterieError
from coterie.machine import (
    Cgroup,
    Gpu,
    Machine,
    achieved_cores,
    affinity_cores,
    cgroup_of,
    cores,
    cpu_quota_cores,
    gpus,
    memory_available_bytes,
    memory_limit_bytes,
    perceive,
)

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
CPU_MOUNT = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
MEMORY_MOUNT = "36 31 0:33 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"
UNIFIED_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
GIB = 1024**3


def build(root: Path, files: dict[str, str]) -> Path:
    """A machine as a folder: what its kernel would say, by path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def v2(root: Path, path: str = "/a/b", **files: str) -> Path:
    """A unified-only machine; `files` are of the group the process is in."""
    own = f"sys/fs/cgroup{path}".rstrip("/")
    told = {f"{own}/{name.replace('_', '.', 1)}": text for name, text in files.items()}
    return build(
        root,
        {"proc/self/cgroup": f"0::{path}", "proc/self/mountinfo": V2_MOUNT, **told},
    )


class TestQuota:
    def test_v2_reads_the_own_group(self, tmp_path: Path) -> None:
        assert cpu_quota_cores(v2(tmp_path, cpu_max="25000 100000")) == 0.25

    @pytest.mark.parametrize("told", ["max 100000", "max"])
    def test_v2_max_is_no_limit(self, tmp_path: Path, told: str) -> None:
        assert cpu_quota_cores(v2(tmp_path, cpu_max=told)) is None

    def test_the_smallest_quota_up_the_tree_holds(self, tmp_path: Path) -> None:
        root = v2(tmp_path, cpu_max="400000 100000")
        build(root, {"sys/fs/cgroup/a/cpu.max": "150000 100000"})
        assert cpu_quota_cores(root) == 1.5

    def test_v1_legacy(self, tmp_path: Path) -> None:
        group = "sys/fs/cgroup/cpu,cpuacct"
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/job",
                "proc/self/mountinfo": f"{MEMORY_MOUNT}\n{CPU_MOUNT}",
                f"{group}/cpu.cfs_quota_us": "-1",
                f"{group}/cpu.cfs_period_us": "100000",
                f"{group}/job/cpu.cfs_quota_us": "5600",
                f"{group}/job/cpu.cfs_period_us": "20000",
            },
        )
        assert cpu_quota_cores(root) == 0.28

    def test_hybrid_takes_the_tree_that_has_the_controller(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/\n0::/job",
                "proc/self/mountinfo": f"{MEMORY_MOUNT}\n{UNIFIED_MOUNT}",
                "sys/fs/cgroup/unified/job/cpu.max": "50000 100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
        )
        cpu, memory = cgroup_of("cpu", root), cgroup_of("memory", root)
        assert cpu is not None
        assert memory is not None
        assert (cpu.version, memory.version) == (2, 1)
        assert cpu_quota_cores(root) == 0.5

    def test_a_mount_that_shows_only_our_branch(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/docker/f00/inner",
                "proc/self/mountinfo": "3 2 0:1 /docker/f00 /sys/fs/cgroup/cpu rw - cgroup c cpu",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us": "20000",
                "sys/fs/cgroup/cpu/inner/cpu.cfs_period_us": "100000",
            },
        )
        assert cpu_quota_cores(root) == 0.2

    @pytest.mark.parametrize("path", ["/docker/f00", "/../sibling"])
    def test_a_namespace_that_hides_our_path(self, tmp_path: Path, path: str) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": f"0::{path}",
                "proc/self/mountinfo": V2_MOUNT,
                "sys/fs/cgroup/cpu.max": "75000 100000",
                "sys/fs/sibling/cpu.max": "1000 100000",
            },
        )
        assert cpu_quota_cores(root) == 0.75

    def test_of_two_mounts_the_one_that_shows_most(self, tmp_path: Path) -> None:
        inner = "3 2 0:26 /a/b /mnt/branch rw - cgroup2 cgroup2 rw"
        root = v2(tmp_path, cpu_max="max 100000")
        build(
            root,
            {
                "proc/self/mountinfo": f"{inner}\n{V2_MOUNT}",
                "mnt/branch/cpu.max": "max 100000",
                "sys/fs/cgroup/a/cpu.max": "30000 100000",
            },
        )
        assert cpu_quota_cores(root) == 0.3

    def test_a_blank_in_the_mount_point(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "0::/",
                "proc/self/mountinfo": r"3 2 0:26 / /my\040groups rw - cgroup2 cgroup2 rw",
                "my groups/cpu.max": "10000 100000",
            },
        )
        assert cpu_quota_cores(root) == 0.1

    def test_no_cgroups_no_quota(self, tmp_path: Path) -> None:
        assert cpu_quota_cores(tmp_path) is None

    @settings(max_examples=20)
    @given(quotas=st.lists(st.integers(1_000, 10**7), min_size=1, max_size=4))
    def test_the_law_of_the_smallest(
        self, tmp_path_factory: pytest.TempPathFactory, quotas: list[int]
    ) -> None:
        root = v2(tmp_path_factory.mktemp("machine"), path="/g" * len(quotas))
        for depth, quota in enumerate(quotas, start=1):
            build(root, {"sys/fs/cgroup" + "/g" * depth + "/cpu.max": f"{quota} 100000"})
        assert cpu_quota_cores(root) == min(quotas) / 100_000


class TestCores:
    @pytest.mark.parametrize(("listed", "count"), [("0-3", 4), ("5", 1), ("0,2-3,8-11", 7)])
    def test_affinity(self, tmp_path: Path, listed: str, count: int) -> None:
        build(tmp_path, {"proc/self/status": f"Name:\tx\nCpus_allowed_list:\t{listed}\nA:\tb"})
        assert affinity_cores(tmp_path) == count

    def test_affinity_of_this_process(self) -> None:
        assert affinity_cores() == len(os.sched_getaffinity(0))

    @pytest.mark.parametrize(("quota", "granted"), [("50000", 0.5), ("900000", 2), ("max", 2)])
    def test_the_smaller_of_quota_and_affinity(
        self, tmp_path: Path, quota: str, granted: float
    ) -> None:
        root = v2(tmp_path, cpu_max=f"{quota} 100000")
        build(root, {"proc/self/status": "Cpus_allowed_list:\t0-1"})
        assert cores(root) == perceive(root).cores == granted

    def test_a_machine_without_proc_has_the_cores_it_has(self, tmp_path: Path) -> None:
        assert cores(tmp_path) == os.cpu_count()


class TestMemory:
    MEMINFO = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   6291456 kB"

    def test_the_smallest_limit_up_the_tree_or_what_there_is(self, tmp_path: Path) -> None:
        root = build(v2(tmp_path, memory_max="max"), {"proc/meminfo": self.MEMINFO})
        assert memory_limit_bytes(root) == 8 * GIB
        build(root, {"sys/fs/cgroup/a/memory.max": str(2 * GIB)})
        assert memory_limit_bytes(root) == 2 * GIB

    def test_v1_no_limit_is_a_huge_number(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/",
                "proc/self/mountinfo": MEMORY_MOUNT,
                "proc/meminfo": self.MEMINFO,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB),
            },
        )
        assert memory_limit_bytes(root) == 8 * GIB
        assert memory_available_bytes(root) == 6 * GIB

    def test_available_counts_file_pages_as_free(self, tmp_path: Path) -> None:
        root = v2(
            tmp_path,
            memory_max=str(4 * GIB),
            memory_current=str(3 * GIB),
            memory_stat=f"anon {GIB}\ninactive_file {2 * GIB}",
        )
        build(root, {"proc/meminfo": self.MEMINFO})
        assert memory_available_bytes(root) == 3 * GIB

    def test_v1_counts_the_file_pages_of_children(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/",
                "proc/self/mountinfo": MEMORY_MOUNT,
                "proc/meminfo": self.MEMINFO,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(4 * GIB),
                "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}",
            },
        )
        assert memory_available_bytes(root) == GIB

    def test_a_group_over_its_limit_has_nothing_left(self, tmp_path: Path) -> None:
        root = v2(tmp_path, memory_max=str(GIB), memory_current=str(2 * GIB))
        assert memory_available_bytes(root) == 0


class TestGpus:
    def driver(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    def test_none_without_the_tool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert gpus() == ()

    def test_names_and_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver(tmp_path, monkeypatch, "echo 'NVIDIA T4, 15360'; echo 'GB10, [N/A]'")
        assert gpus() == (Gpu("NVIDIA T4", 15 * GIB), Gpu("GB10", None))

    def test_a_driver_that_fails_grants_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.driver(tmp_path, monkeypatch, "echo 'no driver, 1'; exit 9")
        assert gpus() == ()


class TestAchieved:
    def test_no_more_than_there_are(self) -> None:
        # Each process gets at most one core, however short the spin; clocks differ by a hair.
        assert 0 < achieved_cores(seconds=0.01) <= affinity_cores() * 1.01

    def test_a_spinner_that_ends_early_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_SPIN", "raise SystemExit(3)")
        with pytest.raises(CoterieError, match="ended with code 3"):
            achieved_cores(seconds=0.01)


def test_the_lineage_ends_at_the_top() -> None:
    top = Path("/sys/fs/cgroup")
    assert Cgroup(2, own=top, top=top).lineage() == (top,)


def test_a_machine_is_a_value() -> None:
    box = Machine("box", None, 4, GIB, GIB, ())
    assert box == Machine("box", None, 4, GIB, GIB, ())
    assert box.cores == 4


def test_loads_without_torch() -> None:
    code = "import sys, coterie.machine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
