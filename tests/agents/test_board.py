from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
import torch

from coterie.agents.board import (
    ANSWERS,
    PUBLISH,
    Keeper,
    StarBoard,
    TopicBoard,
    keep,
    topic_of,
)
from coterie.agents.effects import Next, Post, Tell
from coterie.errors import JoinError, LessonError
from coterie.knowledge.lesson import Evidence, Lesson
from coterie.transport.messages import HUB, Hello, Stop, Who


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Road:
    """Mail between one agent and a keeper in the same process; what is sent waits for `carry`."""

    keeper: Keeper
    me: str
    lost: str = ""
    sent: deque[bytes] = field(default_factory=deque)
    came: deque[bytes] = field(default_factory=deque)

    def post(self, to: str, channel: str, data: bytes) -> None:
        assert to == HUB
        self.sent.append(data)

    def fetch(self, channel: str) -> tuple[str, bytes]:
        return HUB, self.came.popleft()

    def waiting(self, channel: str) -> bool:
        return channel == ANSWERS and bool(self.came)

    def forget(self, prefix: str) -> None:
        self.sent.clear()

    def carry(self) -> None:
        while self.sent:
            if answer := self.keeper.heard(self.me, self.sent.popleft()):
                self.came.append(answer)


def lesson(teacher: str, num_steps: int = 1, currency: str = "labels") -> bytes:
    arrays = {"p": torch.full((3,), float(num_steps))}
    return Lesson(teacher, "t", currency, num_steps, arrays, Evidence(1)).to_bytes()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(clock: Clock) -> Keeper:
    return Keeper(max_age_s=60.0, clock=clock)


def test_a_lesson_is_read_once_by_others_and_not_sent_back_to_its_author(keeper: Keeper) -> None:
    roads = [Road(keeper, name) for name in ("ann", "bob")]
    ann, bob = (StarBoard(road) for road in roads)
    ann.publish(b"greek")
    for board, road in zip((ann, bob), roads, strict=True):
        board.since(0)
        road.carry()
    cursor, lessons = bob.since(0)
    assert lessons == (b"greek",)
    assert bob.since(cursor).lessons == ()
    assert ann.since(0).lessons == (b"greek",)  # from its own copy: learners of one agent
    assert (ann.received_bytes, bob.received_bytes) == (0, 5)


def test_the_newest_of_a_teacher_takes_the_place_of_the_one_before(keeper: Keeper) -> None:
    road = Road(keeper, "bob")
    bob = StarBoard(road)
    for num_steps in (1, 2, 3):
        keeper.heard("ann", PUBLISH + lesson("greek", num_steps))
    keeper.heard("ann", PUBLISH + lesson("greek", 3, "prototypes"))
    bob.since(0)
    road.carry()
    found = [Lesson.from_bytes(data) for data in bob.since(0).lessons]
    assert [(each.currency, each.num_steps) for each in found] == [("labels", 3), ("prototypes", 3)]


def test_old_lessons_come_off(keeper: Keeper, clock: Clock) -> None:
    keeper.heard("ann", PUBLISH + b"greek")
    clock.now_s = 61.0
    road = Road(keeper, "bob")
    bob = StarBoard(road, clock=clock)
    bob.since(0)
    road.carry()
    assert bob.since(0).lessons == ()


def test_asked_twice_a_lesson_is_taken_once(keeper: Keeper, clock: Clock) -> None:
    keeper.heard("ann", PUBLISH + b"greek")
    road = Road(keeper, "bob")
    bob = StarBoard(road, clock=clock)
    bob.since(0)
    clock.now_s = 5.0
    bob.since(0)  # no answer came for long
    assert len(road.sent) == 2
    road.carry()
    assert bob.since(0).lessons == (b"greek",)


def test_a_board_that_came_back_is_read_from_its_beginning(clock: Clock) -> None:
    before, after = Keeper(clock=clock), Keeper(clock=clock)
    road = Road(before, "bob")
    bob = StarBoard(road, clock=clock)
    for _ in range(3):
        before.heard("ann", PUBLISH + b"old")
    bob.since(0)
    road.carry()
    cursor = bob.since(0).cursor
    after.heard("ann", PUBLISH + b"new")
    road = Road(after, "bob")
    bob.dial(road)
    bob.since(cursor)
    road.carry()
    assert bob.since(cursor).lessons == (b"new",)


def test_a_board_that_is_silent_for_long_is_done_without(keeper: Keeper, clock: Clock) -> None:
    road = Road(keeper, "bob")
    bob = StarBoard(road, clock=clock)
    bob.since(0)
    clock.now_s = 16.0
    bob.since(0)
    with pytest.raises(JoinError, match="has not answered for 16 s"):
        bob.publish(b"greek")
    assert not road.sent  # it would be old when it arrived
    road.lost = "the switch is gone"
    with pytest.raises(JoinError, match="the switch is gone"):
        bob.publish(b"greek")


def test_before_a_board_is_there_lessons_reach_learners_of_the_same_agent() -> None:
    bob = StarBoard()
    with pytest.raises(JoinError, match="no board is here yet"):
        bob.publish(b"greek")
    assert bob.since(0).lessons == (b"greek",)


@pytest.mark.parametrize("data", [b"", b"x" * 24 + b"\0\0\0\xffshort"])
def test_garbage_from_the_board_is_refused(keeper: Keeper, data: bytes) -> None:
    road = Road(keeper, "bob")
    bob = StarBoard(road)
    if data:
        data = bytes(24) + data[24:]
    road.came.append(data)
    with pytest.raises(LessonError):
        bob.since(0)


@pytest.mark.parametrize("data", [b"", b"A", b"Ashort", b"?"])
def test_garbage_to_the_board_is_no_answer(keeper: Keeper, data: bytes) -> None:
    assert keeper.heard("eve", data) == b""


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, (8).to_bytes(8, "little") + b"[1,2,3] "])
def test_a_topic_of_other_bytes_is_none(data: bytes) -> None:
    assert topic_of(data) is None


def test_the_keeper_lives_until_it_is_told_to_stop(keeper: Keeper) -> None:
    first = Hello(name=HUB, pid=1, cores=1, memory_bytes=1, device="cpu", store="x")
    life = keep(first, keeper)
    assert isinstance(next(life), Next)
    assert isinstance(life.send(("ann", PUBLISH + b"greek")), Next)
    ask = StarBoard(road := Road(keeper, "bob"))
    ask.since(0)
    answer = life.send(("bob", road.sent.popleft()))
    assert isinstance(answer, Post)
    assert answer.to == "bob"
    assert isinstance(life.send(None), Next)
    assert life.send(Who()) == Tell(first)
    assert isinstance(life.send(None), Next)
    assert isinstance(life.send(Stop(reason="done")), Tell)


def test_a_topic_is_a_board() -> None:
    class Topic:
        def __init__(self) -> None:
            self.sent: list[bytes] = []
            self.came: list[bytes] = [b"latin"]

        def send(self, data: bytes) -> None:
            self.sent.append(data)

        def read(self) -> list[bytes]:
            came, self.came = self.came, []
            return came

    topic = Topic()
    board = TopicBoard(topic)
    board.publish(b"greek")
    cursor, lessons = board.since(0)
    assert (topic.sent, lessons) == ([b"greek"], (b"greek", b"latin"))
    assert board.since(cursor).lessons == ()
