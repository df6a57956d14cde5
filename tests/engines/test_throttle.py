from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.engines.throttle import (
    MAX_PERIOD_US,
    MIN_QUOTA_US,
    CgroupThrottle,
    DutyCycle,
    RestThrottle,
    bandwidth_us,
    can_throttle,
    choose,
    sweep,
)
from coterie.errors import CoterieError, JobError
from coterie.machine import cgroup_of

real_groups = pytest.mark.skipif(
    not can_throttle(), reason="control groups cannot be written here: run as root"
)

# Waits for a word, burns a given amount of CPU time on two threads, then waits for the end.
BURN = """
import sys, threading, time
def burn():
    while time.process_time() - start_cpu_s < 0.02:
        pass
second = threading.Thread(target=lambda: (word.wait(), burn()))
word = threading.Event()
second.start()
print(flush=True)
sys.stdin.readline()
start_s, start_cpu_s = time.perf_counter(), time.process_time()
word.set()
burn()
second.join()
print((time.process_time() - start_cpu_s) / (time.perf_counter() - start_s), flush=True)
sys.stdin.readline()
"""


class Child:
    """A real process with two threads that answers and obeys by lines."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-I", "-S", "-c", BURN]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self.hear()

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    started = Child()
    yield started
    started.end()


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    ended.wait()
    return ended.pid


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def fake_v2(root: Path) -> Path:
    """A unified tree in which /user lends CPU to its children and /user/session has processes."""
    return build(
        root,
        {
            "proc/self/cgroup": "0::/user/session",
            "proc/self/mountinfo": "3 2 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "sys/fs/cgroup/user/cgroup.procs": "",
            "sys/fs/cgroup/user/cgroup.subtree_control": "cpu memory",
            "sys/fs/cgroup/user/session/cgroup.procs": "1",
        },
    )


class TestDutyCycle:
    @given(
        fraction=st.floats(0.01, 1.0),
        busy_s=st.floats(0.0, 1e3),
    )
    def test_busy_time_is_the_fraction_of_all_time(self, fraction: float, busy_s: float) -> None:
        rest_s = DutyCycle(fraction).rest_s(busy_s)
        assert busy_s == pytest.approx(fraction * (busy_s + rest_s))

    def test_a_whole_core_never_rests(self) -> None:
        assert DutyCycle(1.0).rest_s(5.0) == 0.0

    @pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
    def test_refuses_what_is_no_fraction(self, fraction: float) -> None:
        with pytest.raises(JobError, match="expected a fraction"):
            DutyCycle(fraction)


class TestBandwidth:
    @given(cores=st.floats(0.001, 64.0), period_s=st.floats(0.001, 1.0))
    def test_the_kernel_takes_it_and_it_is_what_was_asked(
        self, cores: float, period_s: float
    ) -> None:
        quota_us, period_us = bandwidth_us(cores, period_s)
        assert quota_us >= MIN_QUOTA_US
        assert round(period_s * 1e6) <= period_us <= MAX_PERIOD_US
        assert quota_us / period_us == pytest.approx(cores, rel=1e-3)

    def test_never_more_than_asked(self) -> None:
        assert bandwidth_us(1.99999, 0.02) == (39_999, 20_000)

    def test_float_noise_costs_no_microsecond(self) -> None:
        assert bandwidth_us(0.29, 0.02) == (5_800, 20_000)

    @pytest.mark.parametrize("cores", [0.0, -1.0, 0.0009, float("nan"), float("inf")])
    def test_refuses_cores(self, cores: float) -> None:
        with pytest.raises(JobError, match="cores"):
            bandwidth_us(cores, 0.02)

    @pytest.mark.parametrize("period_s", [0.0, 0.0001, 2.0, float("nan")])
    def test_refuses_periods(self, period_s: float) -> None:
        with pytest.raises(JobError, match="period"):
            bandwidth_us(0.5, period_s)


class TestMaking:
    def test_v2_goes_up_to_a_group_that_lends_cpu(self, tmp_path: Path) -> None:
        throttle = CgroupThrottle("slow", 0.25, root=fake_v2(tmp_path))
        assert throttle.group == tmp_path / f"sys/fs/cgroup/user/coterie-{os.getpid()}-slow"
        assert (throttle.group / "cpu.max").read_text() == "1250 5000"

    def test_v1_is_made_under_the_own_group(self, tmp_path: Path) -> None:
        root = build(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/job",
                "proc/self/mountinfo": "3 2 0:1 / /cpu rw - cgroup cgroup rw,cpu",
                "cpu/job/cgroup.procs": "1",
            },
        )
        group = CgroupThrottle("slow", 0.05, root=root).group
        assert group.parent == root / "cpu/job"
        limit = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        assert limit == ["1000", "20000"]

    def test_refuses_more_than_is_granted(self, tmp_path: Path) -> None:
        root = build(fake_v2(tmp_path), {"sys/fs/cgroup/user/cpu.max": "50000 100000"})
        with pytest.raises(JobError, match=r"at most the 0\.5 cores.*found 0\.75"):
            CgroupThrottle("slow", 0.75, root=root)

    @pytest.mark.parametrize("name", ["", "a/b", "../up", "a\n"])
    def test_refuses_names_that_are_no_folder(self, name: str) -> None:
        with pytest.raises(JobError, match="member's name"):
            CgroupThrottle(name, 0.5)

    def test_says_why_no_group_can_be_made(self, tmp_path: Path) -> None:
        build(fake_v2(tmp_path), {"sys/fs/cgroup/user/cgroup.subtree_control": ""})
        (tmp_path / "sys/fs/cgroup/user/cgroup.procs").unlink()
        with pytest.raises(CoterieError, match="may not be moved"):
            CgroupThrottle("slow", 0.25, root=tmp_path)
        assert not list(tmp_path.rglob("coterie-*"))

    def test_says_that_there_are_no_control_groups(self, tmp_path: Path) -> None:
        with pytest.raises(CoterieError, match="found none"):
            CgroupThrottle("slow", 0.25, root=tmp_path)


class TestChoose:
    def test_rests_where_groups_cannot_be_written(self, tmp_path: Path) -> None:
        wanted = {"a": None, "b": 0.25, "c": 1.5}
        assert choose(wanted, root=tmp_path) == {
            "a": None,
            "b": RestThrottle(DutyCycle(0.25)),
            "c": RestThrottle(DutyCycle(1.0)),
        }

    def test_refuses_no_core_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(JobError, match="fraction"):
            choose({"a": 0.0}, root=tmp_path)

    def test_a_rest_throttle_leaves_the_process_alone(self) -> None:
        throttle = RestThrottle(DutyCycle(0.5))
        throttle.apply(os.getpid())
        throttle.close()
        assert throttle.duty.rest_s(1.0) == 1.0

    @real_groups
    def test_groups_where_they_can_be_written(self) -> None:
        throttles = choose({"a": None, "b": 0.25})
        slow = throttles["b"]
        assert isinstance(slow, CgroupThrottle)
        slow.close()
        assert throttles["a"] is None
        assert slow.duty.rest_s(1.0) == 0.0

    @real_groups
    def test_one_refused_leaves_none_behind(self) -> None:
        with pytest.raises(JobError, match="at most"):
            choose({"good": 0.25, "greedy": 1e6})
        assert not [g for p in _lineage() for g in p.glob(f"coterie-{os.getpid()}-good")]


class TestSweep:
    def test_removes_what_dead_owners_left(self, tmp_path: Path) -> None:
        root, dead = fake_v2(tmp_path), dead_pid()
        kept = [f"coterie-{os.getpid()}-a", "coterie-notes", "system.slice"]
        for name in [*kept, f"coterie-{dead}-b", f"coterie-{dead}-c-d"]:
            (root / "sys/fs/cgroup/user" / name).mkdir()
        (root / f"sys/fs/cgroup/coterie-{dead}-e").mkdir()
        assert sweep(root) == tuple(f"coterie-{dead}-{member}" for member in ("b", "c-d", "e"))
        assert all((root / "sys/fs/cgroup/user" / name).is_dir() for name in kept)
        assert sweep(root) == ()

    def test_choosing_sweeps(self, tmp_path: Path) -> None:
        root = fake_v2(tmp_path)
        (root / "sys/fs/cgroup/user/cgroup.procs").unlink()  # no group can be made here
        stale = root / f"sys/fs/cgroup/coterie-{dead_pid()}-b"
        stale.mkdir()
        assert choose({"a": 0.5}, root=root) == {"a": RestThrottle(DutyCycle(0.5))}
        assert not stale.exists()

    @real_groups
    def test_a_group_whose_processes_run_outlives_its_owner(
        self, child: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dead = dead_pid()
        monkeypatch.setattr(os, "getpid", lambda: dead)
        throttle = CgroupThrottle("orphan", 0.5)
        throttle.apply(child.pid)
        assert throttle.group.name not in sweep()
        child.end()
        assert throttle.group.name in sweep()


@real_groups
class TestRealGroup:
    def test_the_kernel_slows_the_whole_process(self, child: Child) -> None:
        throttle = CgroupThrottle("slow", cores=0.1)
        throttle.apply(child.pid)
        tids = {str(thread.id) for thread in psutil.Process(child.pid).threads()}
        inside = {
            tid
            for tid in tids
            if throttle.group.name in Path(f"/proc/{child.pid}/task/{tid}/cgroup").read_text()
        }
        assert inside == tids
        assert len(tids) == 2
        child.say()
        cores = float(child.hear())
        assert throttle.num_throttled() > 0
        assert cores < 0.5  # the kernel's own bound, with room for slices handed out ahead
        child.end()
        throttle.close()
        assert not throttle.group.exists()

    def test_the_limit_as_the_kernel_reads_it_back(self) -> None:
        throttle = CgroupThrottle("slow", cores=0.01)
        tree = cgroup_of("cpu")
        assert tree is not None
        names = ["cpu.max"] if tree.version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        told = " ".join((throttle.group / name).read_text() for name in names).split()
        throttle.close()
        assert told == ["1000", "100000"]

    def test_a_member_perceives_what_it_is_granted(self) -> None:
        code = "import sys; sys.stdin.readline(); from coterie.machine import cores; print(cores())"
        pipe = subprocess.PIPE
        agent = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        throttle = CgroupThrottle("half", cores=0.5)
        throttle.apply(agent.pid)
        told, _ = agent.communicate("\n")
        throttle.close()
        assert float(told) == 0.5

    def test_a_name_is_reused_with_its_new_limit(self) -> None:
        first = CgroupThrottle("again", cores=0.5)
        second = CgroupThrottle("again", cores=0.01)
        assert first.group == second.group
        first.close()
        second.close()

    def test_close_is_loud_while_a_process_is_left(self, child: Child) -> None:
        throttle = CgroupThrottle("busy", cores=0.5)
        throttle.apply(child.pid)
        with pytest.raises(CoterieError, match=f"processes {child.pid} in it"):
            throttle.close(patience_s=0.0)
        child.end()
        throttle.close()

    def test_closing_twice_and_slowing_the_dead_are_well(self) -> None:
        throttle = CgroupThrottle("gone", cores=0.5)
        throttle.apply(dead_pid())
        throttle.close()
        throttle.close()


def _lineage() -> tuple[Path, ...]:
    tree = cgroup_of("cpu")
    return tree.lineage() if tree else ()
