"""The board in memory: what is told to whom, counted, and thrown away."""

from __future__ import annotations

import pytest

from coterie.errors import LessonError
from coterie.knowledge import MemoryBoard


def test_each_reader_hears_all_once_from_its_own_cursor() -> None:
    board = MemoryBoard()
    board.publish(b"one")
    early = board.since(0)
    board.publish(b"two")
    assert early.lessons == (b"one",)
    assert board.since(early.cursor).lessons == (b"two",)
    assert board.since(0).lessons == (b"one", b"two")
    assert board.since(board.since(0).cursor).lessons == ()
    assert (board.written_bytes, board.read_bytes) == (6, 3 + 3 + 6 + 6)


def test_it_is_bounded_and_the_oldest_come_off() -> None:
    board = MemoryBoard(max_bytes=5)
    for data in (b"aa", b"bb", b"cc"):
        board.publish(data)
    assert board.since(0).lessons == (b"bb", b"cc")
    with pytest.raises(LessonError, match="at most 5 bytes on this board, found 6"):
        board.publish(b"dddddd")


def test_what_is_old_comes_off() -> None:
    now = [0.0]
    board = MemoryBoard(max_age_s=10.0, clock=lambda: now[0])
    board.publish(b"old")
    now[0] = 8.0
    board.publish(b"new")
    now[0] = 11.0
    assert board.since(0).lessons == (b"new",)
