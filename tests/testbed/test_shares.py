from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.testbed.links import BedError
from benchmarks.testbed.shares import DutyShare, GroupShare, _account, _lift


def group_share(group: Path) -> GroupShare:
    """A share over a folder that stands for a control group."""
    share = object.__new__(GroupShare)
    share._group = share._account = group
    return share


def test_version_2_counts_in_the_group_itself(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nnr_periods 9\nnr_throttled 7\n")
    (tmp_path / "cpu.max").write_text("5000 20000")
    share = group_share(tmp_path)
    assert _account(tmp_path) == tmp_path
    assert (share.cpu_seconds(), share.num_throttled()) == (1.5, 7)
    _lift(tmp_path)
    assert (tmp_path / "cpu.max").read_text() == "max"


def test_version_1_counts_in_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("nr_periods 9\nnr_throttled 7\nthrottled_time 5\n")
    (tmp_path / "cpuacct.usage").write_text("2500000000\n")
    (tmp_path / "cpu.cfs_quota_us").write_text("5000")
    share = group_share(tmp_path)
    assert _account(tmp_path) == tmp_path
    assert (share.cpu_seconds(), share.num_throttled()) == (2.5, 7)
    _lift(tmp_path)
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "-1"


def test_a_program_that_rests_is_told_once() -> None:
    assert DutyShare(None).environment() == {}
    assert DutyShare(2.0).environment() == {"COTERIE_DUTY": "1.0"}
    with pytest.raises(BedError, match="by themselves"):
        DutyShare(0.5).change(0.25)
