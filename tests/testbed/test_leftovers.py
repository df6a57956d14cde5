from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.testbed import leftovers
from benchmarks.testbed.leftovers import Leftovers, bed_of, counters, find, remove

# /proc/net/dev as it stands on a machine with a bed.
NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:    1200       4    0    0    0     0          0         0     1200       4    0    0    0
cotbed3h1: 340 4 0 0 0 0 0 0 90123456789 1 0 0 0 0 0 0
"""


def test_counters_are_read_whether_a_blank_follows_the_colon_or_not() -> None:
    assert counters(NET_DEV) == {"lo": (1200, 1200), "cotbed3h1": (340, 90123456789)}
    assert counters(NET_DEV.replace(": 340", ":340"))["cotbed3h1"] == (340, 90123456789)


@pytest.mark.parametrize(
    ("name", "bed"),
    [
        ("cotbed3", "cotbed3"),
        ("cotbed3h1", "cotbed3"),
        ("cotbed31h1", "cotbed31"),
        ("cotbed3-h1", "cotbed3"),
        ("coterie-12-cotbed3-slow-one", "cotbed3"),
        ("coterie-12-slow", None),
        ("mycotbed3", None),
        ("cotbed", None),
        ("docker0", None),
    ],
)
def test_a_bed_knows_its_own_from_strangers(name: str, bed: str | None) -> None:
    assert bed_of(name) == bed


def test_groups_of_other_beds_and_members_stand(tmp_path: Path) -> None:
    for name in ("coterie-1-cotbed777-a", "coterie-1-cotbed7770-a", "coterie-1-slow"):
        (tmp_path / name / "below").mkdir(parents=True)
    remove("cotbed777", [tmp_path])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"coterie-1-cotbed7770-a", "coterie-1-slow"}
    assert find("cotbed777", [tmp_path]) == Leftovers((), (), (), ())


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    stuck = tmp_path / "coterie-1-cotbed777-a"
    stuck.mkdir()
    (stuck / "file").touch()
    with pytest.raises(TimeoutError, match="cotbed777"):
        remove("cotbed777", [tmp_path], patience_s=0.0)


def test_a_group_that_somebody_else_removes_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "coterie-1-cotbed777-a"
    (group / "below").mkdir(parents=True)
    (group / "cgroup.procs").touch()

    def read_as_it_goes(path: object) -> str:
        if str(path).endswith("cgroup.procs"):
            shutil.rmtree(group)
        return ""

    monkeypatch.setattr(leftovers, "_text", read_as_it_goes)
    assert find("cotbed777", [tmp_path]).pids == ()
    assert find("cotbed777", [tmp_path]) == Leftovers((), (), (), ())
