"""The board on the star road: its keeper in the server's process, and an agent's own copy of it.

An agent reads each lesson once, whoever of its learners want it, and none of its own. What it asks
is answered when it is answered: nobody waits for the board, and one that died and came back is
asked from its beginning.
"""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from coterie.agents import effects as do
from coterie.errors import JoinError, LessonError
from coterie.knowledge.board import Heard, MemoryBoard
from coterie.transport.messages import HUB, Bye, Hello, Stop, Who

BOARD, ANSWERS = "board", "lessons"  # channels
PUBLISH, ASK = b"P", b"A"
MOST_BYTES = 1 << 28  # of lessons that a board keeps
ANSWER_BYTES = 1 << 24  # of one answer; the rest comes with the next
AGAIN_S = 2.0  # without an answer, after which is asked again
SILENT_S = 15.0  # without an answer, after which the board is taken for dead
_ASKED = struct.Struct("!QQ")  # the keeper's life, 0 for none yet, and a cursor
_ANSWERED = struct.Struct("!QQQ")  # its life, and the cursors from which and up to which it tells
_LENGTH = struct.Struct("!I")


@dataclass
class Keeper:
    """Keeps what was published, and tells each agent what others published since it last asked.

    >>> keeper = Keeper(life=7)
    >>> keeper.heard("ann", PUBLISH + b"greek"), keeper.heard("bob", ASK + _ASKED.pack(0, 0))
    (b'', b'\\x00...\\x00\\x05greek')
    """

    max_age_s: float = 600.0
    clock: Callable[[], float] = time.monotonic
    life: int = field(default_factory=lambda: secrets.randbits(63) + 1)  # no two alike

    def __post_init__(self) -> None:
        self._posted: dict[int, tuple[str, float, bytes]] = {}  # number: by whom, when, what
        self._newest: dict[tuple[str, str], int] = {}  # the number of each topic's lesson
        self._number = self._kept_bytes = 0

    def heard(self, origin: str, data: bytes) -> bytes:
        """Take a word of an agent's; the answer to it, if it is to have one."""
        if data[:1] == PUBLISH:
            self._take(origin, data[1:])
            self._tidy()
        elif data[:1] == ASK and len(data) == 1 + _ASKED.size:
            life, cursor = _ASKED.unpack(data[1:])
            self._tidy()
            return self._answer(origin, cursor if life == self.life else 0)
        return b""

    def _take(self, origin: str, data: bytes) -> None:
        """Keep a lesson, in the place of the one that its teacher gave before."""
        self._number += 1
        topic = topic_of(data)
        if topic is not None and topic in self._newest:
            self._drop(self._newest[topic])
        if topic is not None:
            self._newest[topic] = self._number
        self._posted[self._number] = (origin, self.clock(), data)
        self._kept_bytes += len(data)

    def _drop(self, number: int) -> None:
        if number in self._posted:  # it may have come off already
            self._kept_bytes -= len(self._posted.pop(number)[2])

    def _answer(self, origin: str, first: int) -> bytes:
        told: list[bytes] = []
        num_bytes, cursor = 0, first
        for number, (author, _, data) in self._posted.items():
            if number <= cursor:
                continue
            if author != origin:
                num_bytes += len(data)
                if told and num_bytes > ANSWER_BYTES:
                    break
                told.append(_LENGTH.pack(len(data)) + data)
            cursor = number
        return _ANSWERED.pack(self.life, first, cursor) + b"".join(told)

    def _tidy(self) -> None:
        oldest_s = self.clock() - self.max_age_s
        for number in list(self._posted):
            if self._posted[number][1] >= oldest_s and self._kept_bytes <= MOST_BYTES:
                return
            self._drop(number)


def keep(first: Hello, keeper: Keeper) -> do.Life[str]:
    """The life of the server's process where agents learn apart: it keeps the board."""
    while True:
        said = yield do.Next(BOARD)
        if isinstance(said, tuple):
            origin, data = said
            if answer := keeper.heard(origin, data):
                yield do.Post(origin, ANSWERS, answer)
        elif isinstance(said, Stop):
            yield do.Tell(Bye())
            return said.reason
        elif isinstance(said, Who):
            yield do.Tell(first)


def topic_of(data: bytes) -> tuple[str, str] | None:
    """The teacher and the currency of a lesson, by the head of its bytes; None for other bytes.

    >>> topic_of(b"no lesson")
    """
    try:
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        told = json.loads(head["__metadata__"]["lesson"])
        return str(told["teacher"]), str(told["currency"])
    except (ValueError, LookupError, TypeError):
        return None


class Mail(Protocol):
    """What a board needs of a party's road: `transport.mail.Mailbox` has it."""

    lost: str

    def post(self, to: str, channel: str, data: bytes) -> None:
        """Queue mail."""

    def fetch(self, channel: str) -> tuple[str, bytes]:
        """The next whole mail."""

    def waiting(self, channel: str) -> bool:
        """Whether whole mail lies there."""

    def forget(self, prefix: str) -> None:
        """Drop mail, both ways, whose channel starts so."""


class StarBoard:
    """An agent's end of the board: it reads by itself what others published, and never waits."""

    def __init__(
        self,
        mail: Mail | None = None,
        max_age_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mail, self._clock = mail, clock
        self._copy = MemoryBoard(MOST_BYTES, max_age_s, clock)
        self._life = self._cursor = 0
        self._asked_s: float | None = None
        self._heard_s = clock()
        self.sent_bytes = self.received_bytes = 0  # of lessons, over the road

    def dial(self, mail: Mail) -> None:
        """Go on by another road, to a board that came in the place of one that died."""
        self._mail, self._asked_s, self._heard_s = mail, None, self._clock()

    def publish(self, data: bytes) -> None:
        """Show a lesson to all; JoinError where the board has been silent for long."""
        self._copy.publish(data)
        self._reached().post(HUB, BOARD, PUBLISH + data)
        self.sent_bytes += len(data)

    def since(self, cursor: int) -> Heard:
        """What has come since a cursor, one's own lessons with it."""
        self._read()
        return self._copy.since(cursor)

    def _read(self) -> None:
        if self._mail is None:
            return
        while self._mail.waiting(ANSWERS):
            _, answer = self._mail.fetch(ANSWERS)
            self._take(answer)
        now_s = self._clock()
        if self._asked_s is None or now_s - self._asked_s > AGAIN_S:
            self._asked_s = now_s
            self._mail.post(HUB, BOARD, ASK + _ASKED.pack(self._life, self._cursor))

    def _take(self, answer: bytes) -> None:
        self._asked_s, self._heard_s = None, self._clock()
        if len(answer) < _ANSWERED.size:
            raise LessonError(f"expected an answer of the board, found {len(answer)} bytes")
        life, first, cursor = _ANSWERED.unpack_from(answer)
        if first != (self._cursor if life == self._life else 0):
            return  # it was asked twice, and answers once more
        self._life, self._cursor = life, cursor
        for data in _cut(memoryview(answer)[_ANSWERED.size :]):
            self.received_bytes += len(data)
            self._copy.publish(data)

    def _reached(self) -> Mail:
        """The road to the board; JoinError where nothing is heard from there."""
        if self._mail is None:
            raise JoinError("no board is here yet")
        silent_s = self._clock() - self._heard_s
        if self._mail.lost or (self._asked_s is not None and silent_s > SILENT_S):
            self._mail.forget(BOARD)  # it would be old when it arrived
            raise JoinError(self._mail.lost or f"the board has not answered for {silent_s:.0f} s")
        return self._mail


class Topic(Protocol):
    """A road that all write to and read from: `transport.kafka.KafkaTopic` is one."""

    def send(self, data: bytes) -> None:
        """Write, without waiting."""

    def read(self) -> list[bytes]:
        """What others wrote since this was last asked, without waiting."""


class TopicBoard:
    """An agent's end of a board that is a topic of somebody else's broker."""

    def __init__(self, topic: Topic, max_age_s: float = 600.0) -> None:
        self._topic = topic
        self._copy = MemoryBoard(MOST_BYTES, max_age_s)

    def publish(self, data: bytes) -> None:
        """Show a lesson to all."""
        self._copy.publish(data)
        self._topic.send(data)

    def since(self, cursor: int) -> Heard:
        """What has come since a cursor, one's own lessons with it."""
        for data in self._topic.read():
            self._copy.publish(data)
        return self._copy.since(cursor)


def _cut(told: memoryview) -> Iterator[bytes]:
    while told:
        length = int.from_bytes(told[: _LENGTH.size], "big")
        if len(told) < _LENGTH.size + length:
            raise LessonError("expected whole lessons from the board, found a part of one")
        yield bytes(told[_LENGTH.size : _LENGTH.size + length])
        told = told[_LENGTH.size + length :]
