"""Where lessons meet: written once, read by whoever asks, kept for a while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from coterie.errors import LessonError


class Heard(NamedTuple):
    """What a board tells: the lessons that were published, and where to go on reading."""

    cursor: int
    lessons: tuple[bytes, ...]


class Board(Protocol):
    """A place to publish lessons on and read them from; a road of any kind lies behind it.

    It may raise any CoterieError, OSError or TimeoutError: who reads or writes goes on without it.
    """

    def publish(self, data: bytes) -> None:
        """Show a lesson, as `Lesson.to_bytes` wrote it, to all who read."""

    def since(self, cursor: int) -> Heard:
        """What was published since a cursor, 0 at first, and is still kept."""


@dataclass(frozen=True)
class _Posted:
    number: int
    at_s: float
    data: bytes


class MemoryBoard:
    """A board in this process: of bounded size, and what is old comes off.

    >>> board = MemoryBoard()
    >>> board.publish(b"lesson")
    >>> cursor, lessons = board.since(0)
    >>> lessons, board.since(cursor).lessons, board.written_bytes, board.read_bytes
    ((b'lesson',), (), 6, 6)
    """

    def __init__(
        self,
        max_bytes: int = 1 << 30,
        max_age_s: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes, self.max_age_s = max_bytes, max_age_s
        self.written_bytes = 0  # by all who published
        self.read_bytes = 0  # by all who read
        self._clock = clock
        self._posted: deque[_Posted] = deque()
        self._kept_bytes = 0
        self._number = 0

    def publish(self, data: bytes) -> None:
        """Show a lesson; the oldest make room for it. LessonError where it is too big."""
        if len(data) > self.max_bytes:
            raise LessonError(
                f"expected a lesson of at most {self.max_bytes:,} bytes on this board, found "
                f"{len(data):,}; teach less of it, or pack it by a codec"
            )
        self._number += 1
        self.written_bytes += len(data)
        self._kept_bytes += len(data)
        self._posted.append(_Posted(self._number, self._clock(), data))
        self._tidy()

    def since(self, cursor: int) -> Heard:
        """What was published since a cursor, and is still kept."""
        self._tidy()
        new = tuple(posted.data for posted in self._posted if posted.number > cursor)
        self.read_bytes += sum(map(len, new))
        return Heard(self._number, new)

    def _tidy(self) -> None:
        oldest_s = self._clock() - self.max_age_s
        while self._posted and (
            self._kept_bytes > self.max_bytes or self._posted[0].at_s < oldest_s
        ):
            self._kept_bytes -= len(self._posted.popleft().data)
