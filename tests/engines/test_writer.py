"""Checkpoints are written aside, in order; what is overtaken before it was begun is left out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.agents import checkpoint
from coterie.coordinator.run import Checkpoint
from coterie.engines.writer import Writer


def point(step: int) -> Checkpoint:
    return Checkpoint(step, {"model": b"w" * step}, {"round": step}, pause_s=0.5)


class Disk:
    """A disk that writes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_go_on, save = (
            threading.Semaphore(0),
            threading.Semaphore(0),
            checkpoint.save,
        )

        def slowly(*given: Any) -> Path:
            self.begun.release()
            assert self.may_go_on.acquire(timeout=10.0)
            return save(*given)

        monkeypatch.setattr(checkpoint, "save", slowly)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path, keep=9)
    yield writer
    writer.close()


def test_whoever_lays_one_out_goes_on_while_it_is_written(writer: Writer, disk: Disk) -> None:
    writer.add(point(1))
    assert disk.begun.acquire(timeout=10.0)
    assert (writer.busy, writer.written()) == (True, [])
    disk.may_go_on.release()
    (done,) = writer.written(wait=True)
    assert (done.point.step, done.error, writer.busy) == (1, "", False)
    assert checkpoint.load(done.path).files == {"model": b"w"}
    assert done.event()["num_bytes"] == 1
    assert done.event()["pause_s"] == 0.5
    assert writer.written(wait=True) == []


def test_of_those_that_wait_only_the_newest_is_written_and_it_is_awaited(
    writer: Writer, disk: Disk, tmp_path: Path
) -> None:
    writer.add(point(1))
    assert disk.begun.acquire(timeout=10.0)
    for step in (2, 3, 4):
        writer.add(point(step))
    disk.may_go_on.release(2)
    assert [done.point.step for done in writer.close()] == [1, 4]
    assert [path.name for path in checkpoint.good_checkpoints(tmp_path)] == ["step-4", "step-1"]
    assert (tmp_path / "latest").read_text().strip() == "step-4"


def test_what_cannot_be_written_is_said_and_the_next_one_is_tried(
    writer: Writer, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").write_text("no room")
    writer.add(point(1))
    (failed,) = writer.written(wait=True)
    assert "checkpoints" in failed.error
    (tmp_path / "checkpoints").unlink()
    writer.add(point(2))
    assert [done.error for done in writer.close()] == [""]
