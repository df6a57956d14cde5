"""Mail in chunks over a line that loses, doubles and breaks comes whole and in order."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import TrainingError
from coterie.transport.control import Inbox
from coterie.transport.frames import BadMessage
from coterie.transport.mail import (
    ACK,
    BACK,
    CHUNK_BYTES,
    HEAD,
    HELLO,
    LOST,
    PART,
    VOID,
    WINDOW,
    Mailbox,
    Part,
    _Incoming,
    _Outgoing,
    _term_of,
    read_part,
    term_channel,
)

SIZES = st.sampled_from([0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
names = st.text(min_size=1, max_size=8)


class Party(Mailbox):
    """A mailbox whose line is worked by hand."""

    def __init__(self, me: str) -> None:
        super().__init__(me, Inbox())

    def close(self) -> None:
        self._bell.close()
        self._ringer.close()

    def leaving(self) -> Part | None:
        part = self._next()
        return None if part is None else part._replace(peer=self.me)

    def come(self, part: Part) -> None:
        self._arrive(part)

    def again(self, peer: Party) -> None:
        """The line to a peer, who still lives, broke and stands again."""
        self._arrive(Part(BACK, peer.me, mail=peer._life))


@pytest.fixture
def pair() -> tuple[Party, Party]:
    return Party("ann"), Party("bob")


def settle(ann: Party, bob: Party) -> None:
    """Carry all that either has to say to the other, until both are silent."""
    while True:
        moved = False
        for end, other in ((ann, bob), (bob, ann)):
            while (part := end.leaving()) is not None:
                other.come(part)
                moved = True
        if not moved:
            return


# -- frames -------------------------------------------------------------------------------------


@given(names, st.text(max_size=20), st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=99))
def test_a_part_is_read_as_it_was_written(
    peer: str, channel: str, mail: int, payload: bytes
) -> None:
    part = Part(PART, peer, channel, mail, 0, len(payload), 5, payload)
    assert read_part(part.frames()) == part


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_other_frames_are_refused_and_nothing_else_is_raised(frames: list[bytes]) -> None:
    with pytest.raises(BadMessage):
        read_part(frames)


@pytest.mark.parametrize(
    "broken",
    [
        Part(PART, "bob", "c", 1, 0, 10, 0, b"short"),
        Part(PART, "bob", "c", 1, 1, 10, 0, b""),  # there is no second chunk of ten bytes
        Part(PART, "bob", "c", 1, 0, 1 << 40, 0, bytes(CHUNK_BYTES)),
        Part(ACK, "bob", "", 1, 0, 0, 0, b"more"),
        Part(HELLO - 1, "bob"),
        Part(LOST + 1, "bob"),
        Part(PART, "", "c", 1, 0, 1, 0, b"!"),
    ],
)
def test_a_part_that_contradicts_itself_is_refused(broken: Part) -> None:
    with pytest.raises(BadMessage):
        read_part(broken.frames())


def test_a_header_is_small() -> None:
    assert HEAD.size <= 40


# -- a line -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("xyz"), SIZES), max_size=12))
def test_mail_comes_whole_and_in_order_per_channel(posts: list[tuple[str, int]]) -> None:
    ann, bob = Party("ann"), Party("bob")
    sent: dict[str, list[bytes]] = {}
    for number, (channel, size) in enumerate(posts):
        data = bytes([number]) * size
        ann.post("bob", channel, data)
        sent.setdefault(channel, []).append(data)
    settle(ann, bob)
    for channel, mails in sent.items():
        assert [bob.fetch(channel, timeout_s=0.0) for _ in mails] == [("ann", m) for m in mails]
        assert not bob.waiting(channel)
    ann.close()
    bob.close()


@given(
    st.lists(st.tuples(st.sampled_from("xy"), SIZES), min_size=1, max_size=8),
    st.lists(st.sampled_from(["carry", "lose", "double"]), max_size=40),
)
def test_what_a_broken_line_loses_is_sent_again_and_never_comes_twice(
    posts: list[tuple[str, int]], fate: list[str]
) -> None:
    """Chunks and their answers are lost or doubled; then the line breaks, and stands again."""
    ann, bob = Party("ann"), Party("bob")
    for number, (channel, size) in enumerate(posts):
        ann.post("bob", channel, bytes([number]) * size)
    fates = deque(fate)
    while fates:
        parts = [(end, other, end.leaving()) for end, other in ((ann, bob), (bob, ann))]
        if not any(part for _, _, part in parts):
            break
        for _, other, part in parts:
            what = fates.popleft() if fates else "lose"
            for _ in range({"carry": 1, "lose": 0, "double": 2}[what] if part else 0):
                other.come(part)
    ann.again(bob)
    bob.again(ann)
    settle(ann, bob)
    for channel in {channel for channel, _ in posts}:
        wanted = [bytes([i]) * size for i, (ch, size) in enumerate(posts) if ch == channel]
        assert [bob.fetch(channel, timeout_s=0.0)[1] for _ in wanted] == wanted
        assert not bob.waiting(channel)
    ann.close()
    bob.close()


def test_at_most_a_window_is_on_its_way_unanswered(pair: tuple[Party, Party]) -> None:
    ann, bob = pair
    ann.post("bob", "large", bytes(30 * CHUNK_BYTES))
    flying = 0
    while (part := ann.leaving()) is not None:
        bob.come(part)
        flying += 1
    assert flying == WINDOW
    settle(ann, bob)
    assert len(bob.fetch("large", timeout_s=0.0)[1]) == 30 * CHUNK_BYTES


def test_channels_take_turns(pair: tuple[Party, Party]) -> None:
    ann, _ = pair
    ann.post("bob", "large", bytes(20 * CHUNK_BYTES))
    ann.post("bob", "small", b"!")
    order = [part.channel for _ in range(3) if (part := ann.leaving()) is not None]
    assert order == ["large", "small", "large"]


def test_what_is_forgotten_leaves_no_trace_on_either_side(pair: tuple[Party, Party]) -> None:
    ann, bob = pair
    ann.post("bob", "old/1", bytes(3 * CHUNK_BYTES))
    first = ann.leaving()
    assert first is not None
    bob.come(first)  # a half
    for end in pair:
        end.forget("old")
    settle(ann, bob)
    assert not bob.waiting("old/1")
    ann.post("bob", "old/1", b"new")
    settle(ann, bob)
    assert bob.fetch("old/1", timeout_s=0.0) == ("ann", b"new")


def test_a_term_channel_names_its_term_and_no_other_channel_does() -> None:
    assert _term_of(term_channel(12, 3)) == 12
    assert {_term_of(name) for name in ("server", "term-x/1", "term", "term-")} == {-1}


def test_a_chunk_that_came_twice_is_answered_and_not_kept() -> None:
    incoming = _Incoming()
    part = Part(PART, "ann", "c", 7, 0, 2, 0, b"hi")
    assert [incoming.take(part), incoming.take(part)] == [ACK, ACK]
    assert list(incoming.whole["c"]) == [("ann", b"hi")]


def test_a_chunk_before_its_time_is_asked_for_again() -> None:
    incoming = _Incoming()
    late = Part(PART, "ann", "c", 7, 1, CHUNK_BYTES + 1, 0, b"!")
    assert incoming.take(late) == LOST
    assert incoming.take(late._replace(number=0, payload=bytes(CHUNK_BYTES))) == ACK
    assert incoming.take(late) == ACK
    assert len(incoming.whole["c"]) == 1


def test_a_void_keeps_the_order_without_keeping_mail() -> None:
    outgoing = _Outgoing()
    outgoing.turns.put(Part(PART, "bob", "c", 1, 0, 1, 0, b"x"))
    outgoing.turns.put(Part(PART, "bob", "c", 2, 0, 1, 0, b"y"))
    first, second = outgoing.next(), outgoing.next()
    assert first is not None
    assert second is not None
    assert second.after == first.mail
    outgoing.drop(lambda channel: channel == "c")
    outgoing.again(lambda peer: True)
    kinds = Counter(part.kind for part in outgoing.first)
    assert kinds == {VOID: 2}


def test_mail_beyond_all_bounds_is_refused(
    pair: tuple[Party, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.transport.mail.MAX_MAIL_BYTES", 10)
    with pytest.raises(TrainingError, match="at most 10 bytes"):
        pair[0].post("bob", "c", bytes(11))
