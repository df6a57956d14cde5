"""Mail between parties: cut into chunks that take turns, and put together again. No network here.

Each (party, channel) is a queue of its own and queues take turns, so that a small mail passes a
large one. At most `WINDOW` chunks from one party to another are on their way unanswered, so that no
queue on the road grows. A chunk is kept until its receiver has answered it and is sent again when
either end dials in again: a line that breaks for a moment loses nothing. Order is kept per channel
of a pair.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from coterie.errors import Torn, TrainingError
from coterie.transport.control import Inbox
from coterie.transport.frames import BadMessage

CHUNK_BYTES = 1 << 16
WINDOW = 8  # chunks from one party to another, and to any one party, that nobody has answered
MAX_MAIL_BYTES = 1 << 33
TIMEOUT_S = 60.0
HELLO, BACK, PART, VOID, ACK, LOST = range(1, 7)
HEAD = struct.Struct("!2sBBBQIQQ")  # magic, kind, lengths of peer and channel, then as in Part

_MAGIC = b"*1"


class Part(NamedTuple):
    """A chunk of mail, or a word about one.

    `peer` is to whom it goes on the way to the switch, and from whom it is on the way from there.
    HELLO and BACK name a party's life in `mail`. A VOID stands for a chunk that nobody wants now.
    A PART or a VOID is answered by ACK, or by LOST where the chunk before it is missing.
    """

    kind: int
    peer: str
    channel: str = ""
    mail: int = 0  # the sender's life and a count, so that no two are alike
    number: int = 0
    total_bytes: int = 0
    after: int = 0  # the mail before it on its channel, if that may not have arrived yet
    payload: bytes | memoryview = b""

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells this chunk from others at one place."""
        return self.peer, self.mail, self.number

    @property
    def is_last(self) -> bool:
        """Whether the mail ends here."""
        return (self.number + 1) * CHUNK_BYTES >= self.total_bytes

    def follows(self, other: Part) -> bool:
        """Whether the other one is to arrive first."""
        mine, theirs = (self.peer, self.channel), (other.peer, other.channel)
        return mine == theirs and (self.mail, self.number) > (other.mail, other.number)

    def frames(self) -> list[bytes | memoryview]:
        """The part as it travels: a header and a payload."""
        peer, channel = self.peer.encode(), self.channel.encode()
        lengths = len(peer), len(channel)
        head = HEAD.pack(_MAGIC, self.kind, *lengths, *self[3:7])
        return [head + peer + channel, self.payload]


def read_part(frames: Sequence[bytes]) -> Part:
    """The part that frames hold; raises BadMessage for anything else.

    >>> read_part(Part(PART, "bob", "greeting", 7, 0, 2, 0, b"hi").frames()).payload
    b'hi'
    """
    if len(frames) != 2 or len(frames[0]) < HEAD.size:
        raise BadMessage(f"expected a header and a payload, found {len(frames)} frames")
    magic, kind, *lengths, mail, number, total_bytes, after = HEAD.unpack_from(frames[0])
    names = frames[0][HEAD.size :]
    if magic != _MAGIC or not HELLO <= kind <= LOST or len(names) != sum(lengths) or not lengths[0]:
        raise BadMessage("expected the header of a chunk, found something else")
    if total_bytes > MAX_MAIL_BYTES:
        raise BadMessage(f"expected at most {MAX_MAIL_BYTES} bytes of mail, found {total_bytes}")
    rest = total_bytes - number * CHUNK_BYTES
    if kind in (PART, VOID) and rest <= 0 < number:
        raise BadMessage(f"expected a chunk of {total_bytes} bytes of mail, found number {number}")
    wanted = min(CHUNK_BYTES, rest) if kind == PART else 0
    if len(frames[1]) != wanted:
        raise BadMessage(f"expected {wanted} bytes of payload, found {len(frames[1])}")
    try:
        peer, channel = names[: lengths[0]].decode(), names[lengths[0] :].decode()
    except UnicodeDecodeError as error:
        raise BadMessage("expected names in UTF-8, found other bytes") from error
    return Part(kind, peer, channel, mail, number, total_bytes, after, frames[1])


def _cut(to: str, channel: str, mail: int, data: bytes) -> Iterator[Part]:
    view = memoryview(data)
    for number in range(max(1, -(-len(data) // CHUNK_BYTES))):
        chunk = view[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        yield Part(PART, to, channel, mail, number, len(data), 0, chunk)


class _Turns:
    """Queues of parts, one for each (peer, channel), that take turns."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Part]] = {}

    def put(self, part: Part) -> None:
        self._queues.setdefault((part.peer, part.channel), deque()).append(part)

    def take(self, may: Callable[[str], bool] = bool) -> Part | None:
        key = next((key for key in self._queues if may(key[0])), None)
        if key is None:
            return None
        queue = self._queues.pop(key)
        part = queue.popleft()
        if queue:
            self._queues[key] = queue  # at the end: it had its turn
        return part

    def count(self, peer: str) -> int:
        return sum(len(queue) for key, queue in self._queues.items() if key[0] == peer)

    def drop(self, unwanted: Callable[[str, str], bool]) -> None:
        self._queues = {key: q for key, q in self._queues.items() if not unwanted(*key)}


class _Outgoing:
    """What a party still has to send, and what it has sent that nobody has acknowledged."""

    def __init__(self) -> None:
        self.turns = _Turns()
        self.first: deque[Part] = deque()  # acknowledgements, and what is sent again
        self._flying: dict[tuple[str, int, int], Part] = {}
        self._load: Counter[str] = Counter()

    def next(self) -> Part | None:
        if self.first:
            return self.first.popleft()
        part = self.turns.take(lambda peer: self._load[peer] < WINDOW)
        if part is None:
            return None
        self._load[part.peer] += 1
        self._flying[part.key] = part
        return self._following(part)

    def _following(self, part: Part) -> Part:
        if part.number:
            return part  # within its mail chunks are counted
        before = (other for other in self._flying.values() if part.follows(other))
        return part._replace(after=max((other.mail for other in before), default=0))

    def answered(self, answer: Part) -> None:
        part = self._flying.get(answer.key)
        if part is None or (
            answer.kind == LOST and any(part.follows(other) for other in self._flying.values())
        ):
            return  # it is sent again after what is missing
        del self._flying[answer.key]
        self._load[part.peer] -= 1

    def again(self, peers: Callable[[str], bool]) -> None:
        kept = (part for part in self.first if part.kind >= ACK or not peers(part.peer))
        lost = (self._following(part) for part in self._flying.values() if peers(part.peer))
        self.first = deque([*kept, *lost])

    def drop(self, unwanted: Callable[[str], bool]) -> None:
        self.turns.drop(lambda _, channel: unwanted(channel))
        for key, part in self._flying.items():
            if unwanted(part.channel):  # it still counts as on its way, but holds no mail
                self._flying[key] = part._replace(kind=VOID, payload=b"")


class _Incoming:
    """Mail that came: the halves, and what is whole by channel in order of arrival."""

    def __init__(self) -> None:
        self.whole: dict[str, deque[tuple[str, bytes]]] = {}
        self.first_term = 0
        self._halves: dict[tuple[str, int], tuple[str, list[bytes]]] = {}
        self._done: dict[str, deque[int]] = {}  # the last mails of each party

    def take(self, part: Part) -> int:
        """Take a chunk in, and say how to answer it."""
        mail = (part.peer, part.mail)
        done = self._done.setdefault(part.peer, deque(maxlen=8 * WINDOW))
        if part.kind == VOID or 0 <= _term_of(part.channel) < self.first_term:
            self._halves.pop(mail, None)
            done.append(part.mail)
        if part.mail in done:
            return ACK  # it came twice, or nobody wants it
        missing = part.after and part.after not in done and not part.number
        if missing or part.number > len(self._halves.get(mail, ("", []))[1]):
            return LOST
        _, chunks = self._halves.setdefault(mail, (part.channel, []))
        if part.number == len(chunks):
            chunks.append(bytes(part.payload))
            if part.is_last:
                del self._halves[mail]
                done.append(part.mail)
                self.deliver(part.peer, part.channel, b"".join(chunks))
        return ACK

    def deliver(self, origin: str, channel: str, data: bytes) -> None:
        self.whole.setdefault(channel, deque()).append((origin, data))

    def find(self, channel: str, origin: str) -> tuple[str, bytes] | None:
        mails = self.whole.get(channel, ())
        return next((mail for mail in mails if origin in ("", mail[0])), None)

    def progress(self, channel: str, origin: str) -> int:
        halves = self._halves.items()
        return sum(len(c) for (o, _), (ch, c) in halves if ch == channel and origin in ("", o))

    def returned(self, peer: str, life: int) -> None:
        for origin, mail in list(self._halves):
            if origin == peer and mail >> 32 != life >> 32:
                del self._halves[origin, mail]

    def drop(self, unwanted: Callable[[str], bool]) -> None:
        self.whole = {ch: mails for ch, mails in self.whole.items() if not unwanted(ch)}
        for (origin, mail), (channel, _) in list(self._halves.items()):
            if unwanted(channel):
                del self._halves[origin, mail]
                self._done[origin].append(mail)  # what is still to come of it is not kept


class Mailbox:
    """Where a party posts mail and fetches what came for it, from any thread."""

    def __init__(self, me: str, inbox: Inbox) -> None:
        self.me = me
        self.lost = ""  # why no mail can come now, if that is so
        self.sent_bytes = self.received_bytes = 0  # headers included, as handed to ZeroMQ
        self.reports: deque[str] = deque(maxlen=1000)  # what was refused at the door
        self.on_bad: Callable[[str, str], None] | None = None  # told (origin, reason) as well
        self._inbox, self._lock = inbox, threading.Lock()
        self._outgoing, self._incoming = _Outgoing(), _Incoming()
        self._life = secrets.randbits(32) << 32
        self._num_posted = 0
        self._closing = False
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)

    def post(self, to: str, channel: str, data: bytes | bytearray | memoryview) -> None:
        """Queue mail; returns at once. Mail to a party that is not there waits for it."""
        if len(data) > MAX_MAIL_BYTES:
            raise TrainingError(f"expected mail of at most {MAX_MAIL_BYTES} bytes, cut it up")
        data = bytes(data)  # no copy if it is bytes already: else its owner may change it
        with self._lock:
            self._num_posted += 1
            if to == self.me:
                self._incoming.deliver(to, channel, data)
            else:
                for part in _cut(to, channel, self._life + self._num_posted, data):
                    self._outgoing.turns.put(part)
        self._inbox.ring() if to == self.me else self._nudge()

    def fetch(
        self, channel: str, origin: str = "", timeout_s: float = TIMEOUT_S
    ) -> tuple[str, bytes]:
        """The next whole mail as (origin, data). Raises Torn after `timeout_s` without any of it,
        if an urgent message comes first, or if the switch is lost for long.
        """
        progress = 0
        while not self._inbox.wait(lambda: self._there(channel, origin), timeout_s):
            before, progress = progress, self._incoming.progress(channel, origin)
            if self._inbox.urgent():
                raise Torn("a new membership was named")
            if progress == before:
                raise Torn(f"no mail from {origin or 'anybody'} on {channel} for {timeout_s:g} s")
        with self._lock:
            mail = self._incoming.find(channel, origin)
            if mail is None:
                raise Torn(self.lost or "the mail was dropped")
            self._incoming.whole[channel].remove(mail)
            if not self._incoming.whole[channel]:
                del self._incoming.whole[channel]
        return mail

    def waiting(self, channel: str, origin: str = "") -> bool:
        """Whether whole mail lies there."""
        with self._lock:
            return self._incoming.find(channel, origin) is not None

    def forget(self, prefix: str) -> None:
        """Drop mail, both ways, whose channel starts so."""
        self._drop(lambda channel: channel.startswith(prefix))

    def _forget_terms_before(self, number: int) -> None:
        self._drop(lambda channel: 0 <= _term_of(channel) < number)
        self._incoming.first_term = number

    def _drop(self, unwanted: Callable[[str], bool]) -> None:
        with self._lock:
            self._outgoing.drop(unwanted)
            self._incoming.drop(unwanted)

    def _there(self, channel: str, origin: str) -> bool:
        return bool(self.lost) or self.waiting(channel, origin)

    def _next(self) -> Part | None:
        with self._lock:
            return self._outgoing.next()

    def _first(self, part: Part) -> None:
        with self._lock:
            self._outgoing.first.appendleft(part)

    def _arrive(self, part: Part) -> None:
        with self._lock:
            if part.kind in (ACK, LOST):
                self._outgoing.answered(part)
            elif part.kind == BACK:
                self._incoming.returned(part.peer, part.mail)
                self._outgoing.again(lambda peer: part.peer in (peer, self.me))
            else:
                kind = self._incoming.take(part)
                answer = Part(kind, part.peer, mail=part.mail, number=part.number)
                self._outgoing.first.append(answer)
        if part.kind == PART and part.is_last:
            self._inbox.ring()  # not under the lock: who waits asks for it with the bell in hand

    def _report(self, origin: str, error: BadMessage) -> None:
        self.reports.append(f"{origin:.64}: {error}")
        if self.on_bad is not None:
            self.on_bad(origin, str(error))

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):  # full, so it rings already; or closed
            self._ringer.send(b"!")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._bell.recv(4096):
                continue

    def _end(self, thread: threading.Thread) -> None:
        self._closing = True
        self._nudge()
        if thread.ident is not None:
            thread.join(timeout=2.0)
        for end in (self._bell, self._ringer):
            end.close()


def term_channel(number: int, serial: int) -> str:
    """The channel of one mail between two members of a term.

    >>> term_channel(3, 17)
    'term-3/17'
    """
    return f"term-{number}/{serial}"


def _term_of(channel: str) -> int:
    """The term that a channel belongs to, or -1."""
    number = channel.removeprefix("term-").partition("/")[0]
    return int(number) if channel.startswith("term-") and number.isdecimal() else -1
