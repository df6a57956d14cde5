"""Events outlive a full disk: held in order, with their own time, and not without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.errors import CoterieError
from coterie.watch import patience
from coterie.watch.events import read
from coterie.watch.patience import PatientLog


class Disk:
    """A file on a disk that has room for some bytes more."""

    def __init__(self, log: PatientLog, room_bytes: int) -> None:
        self._file, self.room_bytes, self.closed = log._file, room_bytes, False
        self.truncate, self.close = log._file.truncate, log._file.close
        log._file = self  # type: ignore[assignment]

    def write(self, data: bytes) -> int:
        fits = data[: self.room_bytes]
        self.room_bytes -= len(fits)
        if not fits:
            raise OSError(28, "No space left on device")
        return int(self._file.write(fits))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_events_are_held_and_written_in_order_with_their_time(path: Path) -> None:
    now_s = iter(range(100))
    log = PatientLog(path, clock=lambda: float(next(now_s)))
    told = [log.write("before")]
    disk = Disk(log, room_bytes=10)
    told += [log.write("held", number=number) for number in range(5)]
    assert read(path) == told[:1]
    assert log.held() == told[1:]
    assert "No space left on device" in log.flush()
    disk.room_bytes = 80  # for one of them
    log.flush()
    assert read(path) == told[:2]
    disk.room_bytes = 10**6
    told += [log.write("after")]
    assert log.held() == []
    assert read(path) == told
    assert [event["time_s"] for event in told] == [float(second) for second in range(7)]


def test_each_failure_is_said_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = PatientLog(path)
    disk = Disk(log, room_bytes=0)
    for _ in range(3):
        log.write("held")
    said = capsys.readouterr().err
    assert said.startswith(f"warning: events cannot be appended to {path}: No space left on device")
    assert said.count("\n") == 1
    disk.room_bytes = 10**6
    assert log.flush() == ""
    disk.room_bytes = 0
    log.write("held")
    assert capsys.readouterr().err == said


def test_not_more_is_held_than_memory_allows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MOST_HELD", 3)
    log = PatientLog(path)
    Disk(log, room_bytes=0)
    for _ in range(3):
        log.write("held")
    with pytest.raises(CoterieError, match="No space left on device, and 3 of them wait"):
        log.write("held")


def test_what_is_held_is_written_when_it_closes(path: Path) -> None:
    log = PatientLog(path)
    disk = Disk(log, room_bytes=0)
    told: list[Any] = [log.write("held")]
    disk.room_bytes = 10**6
    log.close()
    assert read(path) == told
