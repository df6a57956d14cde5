"""The control channel: ZeroMQ on one port, encrypted and authenticated by CURVE.

Agents dial out and reconnect by themselves; the coordinator listens. A thread of the agent's own
beats while its main thread computes, and fills an inbox that a collective can be woken from.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq
import zmq.utils.monitor
from zmq.auth.thread import ThreadAuthenticator

from coterie.errors import JobError, JoinError
from coterie.transport.door import Door
from coterie.transport.frames import BadMessage, decode_from_agent, decode_from_coordinator, encode
from coterie.transport.messages import Beat, Stop, Term, Wire
from coterie.transport.secure import JoinKey, Keys

BEAT_S = 0.5
# A line on which nothing passes is hung up and dialled anew: TCP alone would wait for minutes.
PING_MS, SILENT_MS, DIAL_MS, REDIAL_MS = 2000, 8000, 1000, 200
LINGER_MS = 1000  # how long an end that closes goes on sending what is queued
LEAVE = b""  # no message has an empty frame
HOLD_S = 120.0  # without a word from the coordinator, after which an agent gives up
KNOCK_S = 15.0  # for a coordinator to answer whoever knocks
NUM_GREETINGS = 3  # broken off in a row before an agent takes its key for another run's


_PROCESS = secrets.token_hex(8)  # tells the coordinator who dials in again, and nobody else
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_BROKEN_OFF = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED


class Inbox:
    """Messages in order of arrival, and a bell that other waits can share."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._bell = threading.Condition()

    def put(self, message: Any) -> None:
        """Add a message and ring."""
        with self._bell:
            self._messages.append(message)
            self._bell.notify_all()

    def ring(self) -> None:
        """Wake whoever waits, to look at its own condition again."""
        with self._bell:
            self._bell.notify_all()

    def get(self, timeout_s: float | None = None) -> Any | None:
        """The next message, or None after `timeout_s`."""
        with self._bell:
            self._bell.wait_for(lambda: bool(self._messages), timeout_s)
            return self._messages.popleft() if self._messages else None

    def waiting(self) -> bool:
        """Whether a message waits."""
        return bool(self._messages)

    def urgent(self) -> bool:
        """Whether a message waits that breaks off a meeting."""
        return any(getattr(message, "at_once", False) for message in list(self._messages))

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `done()` or an urgent message or the timeout; returns `done()`."""
        with self._bell:
            self._bell.wait_for(lambda: done() or self.urgent(), timeout_s)
            return done()


class ControlClient:
    """An agent's end of the control channel."""

    def __init__(self, endpoint: str, key: JoinKey, identity: str) -> None:
        self.inbox = Inbox()
        self._context = _boundless()
        self._outgoing = self._context.socket(zmq.PUSH)
        self._outgoing.bind("inproc://outgoing")
        self._sending = threading.Lock()  # a socket is not for two threads at once
        self._left = False
        self.given_up = ""  # why, if this end gave the coordinator up
        self.computing_since_s: float | None = None  # on the monotonic clock, if the agent does
        self.heard_s = time.monotonic()  # when the coordinator was heard last
        self._newest = (0, False)  # term, and whether it was at once
        self._num_broken_off = 0  # handshakes, in a row
        self._let_in = False  # once: its key is good
        self._thread = threading.Thread(
            target=self._serve, args=(endpoint, key, identity), daemon=True
        )
        self._thread.start()

    def tell(self, message: Wire) -> None:
        """Send a message to the coordinator; never blocks, even where none is reached yet.

        Any thread may; what is told after the end goes nowhere.
        """
        frames = encode(message)
        with self._sending:
            if not self._left:
                self._outgoing.send_multipart(frames)

    def close(self) -> None:
        """Send what is queued, then leave."""
        with self._sending:
            if self._left:
                return
            self._left = True
            self._outgoing.send(LEAVE)
        self._thread.join(timeout=2.0)
        self._context.destroy(linger=0)

    def _serve(self, endpoint: str, key: JoinKey, identity: str) -> None:
        dealer = self._context.socket(zmq.DEALER)
        dealer.identity = identity.encode()
        dealer.curve_serverkey = key.server_public
        dealer.curve_publickey, dealer.curve_secretkey = key.agent_public, key.agent_secret
        dealer.linger = LINGER_MS
        dealer.heartbeat_ivl, dealer.heartbeat_timeout = PING_MS, SILENT_MS
        dealer.connect_timeout, dealer.reconnect_ivl = DIAL_MS, REDIAL_MS
        monitor = dealer.get_monitor_socket(_REFUSED | _BROKEN_OFF | _LET_IN)
        dealer.connect(f"tcp://{endpoint}")
        outgoing = self._context.socket(zmq.PULL)
        outgoing.connect("inproc://outgoing")
        poller = zmq.Poller()
        for source in (dealer, outgoing, monitor):
            poller.register(source, zmq.POLLIN)
        beat_at = self.heard_s = time.monotonic()
        while True:
            ready = dict(poller.poll(max(1, int(1000 * (beat_at - time.monotonic())))))
            if monitor in ready:
                self._greeted(zmq.utils.monitor.recv_monitor_message(monitor)["event"])
            if outgoing in ready:
                frames = outgoing.recv_multipart()
                if frames == [LEAVE]:
                    break
                _send(dealer, frames)
            if dealer in ready:
                self.heard_s = time.monotonic()
                self._take(dealer.recv_multipart())
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_S
                _send(dealer, encode(Beat(computing_s=self._computing_s())))
            if time.monotonic() - self.heard_s > HOLD_S:
                self.heard_s = time.monotonic()
                self._give_up(f"no word from the coordinator at {endpoint} for {HOLD_S:.0f} s")
        dealer.close()  # it lingers until what it holds is sent

    def _computing_s(self) -> float:
        since_s = self.computing_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _greeted(self, event: int) -> None:
        """How a handshake ended: a coordinator hangs up on whoever has another one's key."""
        self._num_broken_off = self._num_broken_off + 1 if event == _BROKEN_OFF else 0
        self._let_in = self._let_in or event == _LET_IN
        if event == _REFUSED:
            self._give_up("the coordinator refused this agent's key; use its join.key file")
        elif self._num_broken_off == NUM_GREETINGS and not self._let_in:
            self._give_up(
                "whoever listens there hung up on this key, which is another run's or another "
                "program's port; check the address, and copy that run's join.key again"
            )

    def _take(self, frames: list[bytes]) -> None:
        try:
            message = decode_from_coordinator(frames)
        except BadMessage as error:
            self._give_up(str(error))
            return
        if isinstance(message, Term):
            newest = (message.number, message.at_once)
            if newest <= self._newest:
                return  # it is told again in case a line that broke took it along
            self._newest = newest
        if not isinstance(message, Beat):
            self.inbox.put(message)

    def _give_up(self, reason: str) -> None:
        self.given_up = reason
        self.inbox.put(Stop(reason=reason, at_once=True))


def identity(name: str) -> str:
    """What this process is called on the channel: whoever dials in again is known by it."""
    return f"{name}:{os.getpid()}:{_PROCESS}"


def knock(endpoint: str, key: JoinKey, name: str, patience_s: float) -> None:
    """Raise JoinError where a key opens nothing, before all is loaded that an agent needs.

    A coordinator that hears a stranger's beat asks who it is, and refuses it by the same word as
    it would its greeting.
    """
    client = ControlClient(endpoint, key, identity(name))
    try:
        heard = client.inbox.get(patience_s)
    finally:
        client.close()
    if isinstance(heard, Stop):
        raise JoinError(f"expected to join the run at {endpoint}, found: {heard.reason}")
    if heard is None:
        raise JoinError(
            f"expected a coordinator at {endpoint} that knows this key, found none within "
            f"{patience_s:.0f} s; check the address, and copy join.key again"
        )


class ControlServer:
    """The coordinator's end: one port, only agents that hold the join key."""

    def __init__(self, listen: str, keys: Keys, door: Door | None = None) -> None:
        self._context = _boundless()
        self._door = door or Door(frozenset({keys.join.agent_public}))
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(domain="*", credentials_provider=self._door)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_secretkey = keys.server_secret
        self._socket.router_handover = True
        self._socket.linger = LINGER_MS
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = PING_MS, SILENT_MS
        free = listen.endswith(":0")  # any port that is free
        try:
            self._socket.bind(f"tcp://{listen.removesuffix(':0')}:*" if free else f"tcp://{listen}")
        except zmq.ZMQError as error:
            self.close()
            raise JobError(
                f"expected to listen on {listen}, found: {error.strerror}; "
                "choose another port with --set listen=HOST:PORT (port 0 takes a free one)"
            ) from error

    @property
    def endpoint(self) -> str:
        """host:port as bound."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")

    def wait(self, timeout_s: float, bell: socket.socket) -> None:
        """Wait for a message, for a byte on `bell`, or for the timeout."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(bell, zmq.POLLIN)
        poller.poll(int(1000 * timeout_s))

    def receive(self) -> tuple[bytes, Any] | None:
        """The next (identity, message), or None when nothing waits; raises BadMessage."""
        while True:
            try:
                first, *rest = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            identity, frames = first.bytes, [frame.bytes for frame in rest]
            key = str(rest[-1].get("User-Id")).encode() if rest else b""
            refusal = self._door.refusal(identity, key, time.monotonic())
            if not refusal:
                break
            self.send(identity, Stop(reason=refusal, at_once=True))
        try:
            return identity, decode_from_agent(frames)
        except BadMessage as error:
            return identity, error

    def send(self, identity: bytes, message: Wire) -> None:
        """Send a message to an agent; one that is gone is not an error here."""
        self._socket.send_multipart([identity, *encode(message)])

    def close(self) -> None:
        """Send what is queued, then close the port."""
        self._socket.close(linger=LINGER_MS)
        self._authenticator.stop()
        self._context.term()


def _send(dealer: zmq.Socket[bytes], frames: list[bytes]) -> None:
    # A refused key leaves no road at all: to wait for one would be to wait for ever.
    with contextlib.suppress(zmq.Again):
        dealer.send_multipart(frames, zmq.NOBLOCK)


def _boundless() -> zmq.Context[zmq.Socket[bytes]]:
    """A context whose sockets queue all they are given: else the 1001st blocks, or is lost."""
    context = zmq.Context()
    context.setsockopt(zmq.SNDHWM, 0)
    return context
