"""The star road: parties that can only dial out exchange mail through a switch, under CURVE.

The switch lives in the hub's process and is itself the road's end for the party "hub". It holds at
most twice `WINDOW` chunks for each pair of parties, and has at most `WINDOW` on their way to any
one, so that a slow party fills neither the switch nor the kernel. Whoever holds the agents' key may
take any name. The coordinator loads this module without torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import zmq
import zmq.utils.monitor
from zmq.auth.thread import ThreadAuthenticator

from coterie.errors import JobError, JoinError
from coterie.transport.collectives import Collectives
from coterie.transport.control import (
    _BROKEN_OFF,
    _LET_IN,
    _REFUSED,
    LINGER_MS,
    NUM_GREETINGS,
    Inbox,
)
from coterie.transport.door import Door
from coterie.transport.frames import BadMessage
from coterie.transport.mail import (
    ACK,
    BACK,
    HELLO,
    WINDOW,
    Mailbox,
    Part,
    _Turns,
    read_part,
)
from coterie.transport.secure import JoinKey, _is_key

BUFFER_BYTES = 1 << 18  # of the kernel, each way: what waits there cannot be overtaken
LOST_S = 15.0  # without the switch before whoever waits for mail is told
MAX_FRAME_BYTES = 1 << 20  # beyond it ZeroMQ hangs up unread
MAX_NAME_BYTES = 64

_NUM_AT_ONCE = 64  # frames heard before one's own have their turn
_POLL_MS = 500
_KEY_LENGTH = 40  # in Z85, whose alphabet has ":" and "#" in it


class StarTransport(Collectives):
    """A party's road through the switch, and the collectives of a term on it; bytes are counted.

    `address` is the switch's. Members of a term call the same collectives in the same order.

    >>> from coterie.transport.secure import Keys
    >>> join = Keys.make().join
    >>> switch = StarSwitch("127.0.0.1:0", [join.agent_public], Inbox())
    >>> ann = StarTransport(switch.address, join, "ann", Inbox())
    >>> ann.post("hub", "greeting", b"hello")
    >>> switch.fetch("greeting")
    ('ann', b'hello')
    >>> ann.close(); switch.close()
    """

    def __init__(self, address: str, key: JoinKey, me: str, inbox: Inbox) -> None:
        endpoint, server_public = _endpoint_and_key(address)
        super().__init__(me, inbox)
        self._context = zmq.Context()
        self._open = False  # whether the switch knows that this end is here
        self._hello: Part | None = None  # to be said before anything else
        self._heard_at, self._num_broken_off = time.monotonic(), 0
        self._thread = threading.Thread(
            target=self._serve, args=(endpoint, server_public, key), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Leave at once; what was not yet sent is lost."""
        self._end(self._thread)
        self._context.destroy(linger=0)

    def _serve(self, endpoint: str, server_public: bytes, key: JoinKey) -> None:
        dealer = _tuned(self._context.socket(zmq.DEALER))
        dealer.identity = self.me.encode()
        dealer.curve_serverkey = server_public
        dealer.curve_publickey, dealer.curve_secretkey = key.agent_public, key.agent_secret
        dealer.sndhwm = WINDOW // 2
        monitor = dealer.get_monitor_socket(
            _REFUSED | _BROKEN_OFF | _LET_IN | zmq.EVENT_DISCONNECTED
        )
        dealer.connect(f"tcp://{endpoint}")
        poller = zmq.Poller()
        for source in (monitor, self._bell):
            poller.register(source, zmq.POLLIN)
        full = False
        while not self._closing:
            poller.register(dealer, zmq.POLLIN | (zmq.POLLOUT if full else 0))
            ready = dict(poller.poll(_POLL_MS))
            if monitor in ready:
                self._greeted(zmq.utils.monitor.recv_monitor_message(monitor)["event"])
            self._drain()
            for frames in _heard(dealer):
                self._hear(frames)
            full = self._speak(dealer)
            if not (self._open or self.lost) and time.monotonic() - self._heard_at > LOST_S:
                self._lose(f"the switch at {endpoint} has not answered for {LOST_S:.0f} s")
        dealer.disable_monitor()
        dealer.close()

    def _greeted(self, event: int) -> None:
        self._num_broken_off += event == _BROKEN_OFF
        if event == _LET_IN:
            self._num_broken_off = 0
            self._hello = Part(HELLO, self.me, mail=self._life)
        elif event == zmq.EVENT_DISCONNECTED:
            self._heard_at = time.monotonic() if self._open else self._heard_at
            self._open = False
        elif event == _REFUSED:
            self._lose("the switch refused this agent's key; use its join.key file")
        elif self._num_broken_off == NUM_GREETINGS:
            self._lose("whoever listens at the switch's address has another key")

    def _hear(self, frames: list[bytes]) -> None:
        self.received_bytes += sum(map(len, frames))
        try:
            part = read_part(frames)
        except BadMessage as error:
            self._report("switch", error)
            return
        self._arrive(part)
        if part.kind == BACK and part.peer == self.me:
            self._open, self.lost = True, ""

    def _speak(self, dealer: zmq.Socket[bytes]) -> bool:
        """Send what may be sent, and say whether more waits for room."""
        if self._hello is not None:
            if not self._send(dealer, self._hello):
                return True
            self._hello = None
        while self._open and (part := self._next()) is not None:
            if not self._send(dealer, part):
                self._first(part)
                return True
        return False

    def _send(self, dealer: zmq.Socket[bytes], part: Part) -> bool:
        frames = part.frames()
        try:
            dealer.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.sent_bytes += sum(map(len, frames))
        return True

    def _lose(self, reason: str) -> None:
        self.lost = reason
        self._inbox.ring()


class _Line:
    """What waits at the switch for one party, and what is on its way there."""

    def __init__(self, life: int) -> None:
        self.life = life
        self.turns = _Turns()
        self.flying: set[tuple[str, int, int]] = set()

    def take(self) -> Part | None:
        part = self.turns.take() if len(self.flying) < WINDOW else None
        if part is not None:
            self.flying.add(part.key)
        return part


class StarSwitch(Mailbox):
    """The hub's end: one port that only holders of agents' keys may use, and its own mailbox."""

    def __init__(self, listen: str, agents: Iterable[bytes], inbox: Inbox, me: str = "hub") -> None:
        super().__init__(me, inbox)
        self._lines: dict[str, _Line] = {}
        self._public, secret = zmq.curve_keypair()
        self._context = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(
            domain="*", credentials_provider=Door(frozenset(agents))
        )
        self._router = _tuned(self._context.socket(zmq.ROUTER))
        self._router.curve_server, self._router.curve_secretkey = True, secret
        self._router.router_handover = True
        self._router.sndhwm = 0  # the lines hold what is sent to bounds
        self._thread = threading.Thread(target=self._serve, daemon=True)
        host, _, port = listen.rpartition(":")
        try:
            self._router.bind(f"tcp://{host}:{'*' if port == '0' else port}")
        except zmq.ZMQError as error:
            self.close()
            raise JobError(
                f"expected to listen on {listen}, found: {error.strerror}; choose another port"
            ) from error
        endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
        self.address = f"{endpoint}#{self._public.decode()}"  # host:port#key, for StarTransport
        self._thread.start()

    def close(self) -> None:
        """Close the port."""
        self._end(self._thread)
        self._router.close(linger=LINGER_MS)
        self._authenticator.stop()
        self._context.term()

    def _serve(self) -> None:
        poller = zmq.Poller()
        for source in (self._router, self._bell):
            poller.register(source, zmq.POLLIN)
        while not self._closing:
            poller.poll(_POLL_MS)
            self._drain()
            for identity, *frames in _heard(self._router):
                self.received_bytes += sum(map(len, frames))
                origin = identity.decode(errors="replace")
                try:
                    self._route(origin, self._admit(identity, origin, frames))
                except BadMessage as error:
                    self._report(origin, error)
            while (part := self._next()) is not None:
                self._route(self.me, part)
            for name, line in self._lines.items():
                while (part := line.take()) is not None:
                    self._send(name, part)

    def _admit(self, identity: bytes, origin: str, frames: list[bytes]) -> Part:
        """What a party said; raises BadMessage if it may not say it."""
        part = read_part(frames)
        named = origin.encode() == identity and len(identity) <= MAX_NAME_BYTES
        if part.kind == BACK or (part.kind == HELLO and (origin == self.me or not named)):
            raise BadMessage("expected the word of a party, found another's")
        if part.kind != HELLO and origin not in self._lines:
            raise BadMessage("expected a greeting first, found a chunk of an unknown party")
        return part

    def _route(self, origin: str, part: Part) -> None:
        if part.kind == HELLO:
            self._welcome(origin, part.mail)
            return
        if part.kind >= ACK and origin in self._lines:
            self._lines[origin].flying.discard(part.key)
        onward, line = part._replace(peer=origin), self._lines.get(part.peer)
        if part.peer == self.me:
            self._arrive(onward)
        elif line is None:
            return  # its sender keeps it, and sends it again once that party has come
        elif part.kind >= ACK:
            self._send(part.peer, onward)
        elif line.turns.count(origin) >= 2 * WINDOW:
            raise BadMessage(f"expected {WINDOW} chunks unanswered, found more for {part.peer}")
        else:
            line.turns.put(onward)

    def _welcome(self, name: str, life: int) -> None:
        """Tell everybody who has come, and it who is here: what was lost is then sent again."""
        for other, line in self._lines.items():
            if other != name:
                line.turns.drop(lambda origin, _: origin == name)
                self._send(other, Part(BACK, name, mail=life))
                self._send(name, Part(BACK, other, mail=line.life))
        self._lines[name] = _Line(life)
        self._send(name, Part(BACK, name, mail=life))
        self._arrive(Part(BACK, name, mail=life))

    def _send(self, name: str, part: Part) -> None:
        frames = part.frames()
        self._router.send_multipart([name.encode(), *frames])
        self.sent_bytes += sum(map(len, frames))


def _tuned(end: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    end.sndbuf = end.rcvbuf = BUFFER_BYTES
    end.rcvhwm = 2 * WINDOW
    end.maxmsgsize = MAX_FRAME_BYTES
    end.linger = LINGER_MS
    end.heartbeat_ivl, end.heartbeat_timeout = 5_000, 20_000  # a line may end without a word
    return end


def _heard(end: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    for _ in range(_NUM_AT_ONCE):
        try:
            yield end.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return


def _endpoint_and_key(address: str) -> tuple[str, bytes]:
    endpoint, mark, key = address[:-41], address[-41:-40], address[-40:]  # Z85 may hold : and #
    if not endpoint or mark != "#" or not _is_key(key.encode()):
        raise JoinError(f"expected a switch's host:port#key, found {address!r:.80}")
    return endpoint, key.encode()
