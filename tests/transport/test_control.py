"""The control channel carries every word in order, and only among holders of the right keys."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import zmq
import zmq.utils.monitor

from coterie.errors import JobError, JoinError
from coterie.transport import control
from coterie.transport.control import ControlClient, ControlServer, Inbox, knock
from coterie.transport.door import Door
from coterie.transport.frames import BadMessage, encode
from coterie.transport.messages import Beat, Bye, Failed, State, Stop, Who
from coterie.transport.secure import JoinKey, Keys

DEADLINE_S = 20.0  # bounds a test that hangs; none waits for it otherwise
KEYS, OTHER = Keys.make(), Keys.make()
HERE = "127.0.0.1:0"
Listen = Callable[..., ControlServer]
Dial = Callable[..., ControlClient]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats without rest, and nobody lingers where there is nobody to hear."""
    monkeypatch.setattr(control, "BEAT_S", 0.01)
    monkeypatch.setattr(control, "LINGER_MS", 0)


@pytest.fixture
def bell() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Servers that are closed at the end."""
    made: list[ControlServer] = []

    def make(address: str = HERE, keys: Keys = KEYS) -> ControlServer:
        made.append(ControlServer(address, keys))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Clients that are closed at the end."""
    made: list[ControlClient] = []

    def make(endpoint: str, key: JoinKey = KEYS.join, name: str = "ann") -> ControlClient:
        made.append(ControlClient(endpoint, key, name))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def server(listen: Listen) -> ControlServer:
    return listen()


Hears = Callable[..., list[tuple[bytes, Any]]]


@pytest.fixture
def hears(bell: socket.socket) -> Hears:
    """The next messages that a server hears, beats left out unless asked for."""

    def messages(server: ControlServer, num: int, kind: type = object) -> list[tuple[bytes, Any]]:
        heard: list[tuple[bytes, Any]] = []
        while len(heard) < num:
            received = server.receive()
            if received is None:
                server.wait(DEADLINE_S, bell)
                received = server.receive()
            assert received is not None, f"only {heard} within {DEADLINE_S} s"
            if isinstance(received[1], kind) and (kind is Beat or received[1] != Beat()):
                heard.append(received)
        return heard

    return messages


def numbered(num: int) -> list[Failed]:
    return [Failed(reason=str(number)) for number in range(num)]


@contextmanager
def raw(kind: int, **options: Any) -> Iterator[zmq.Socket[bytes]]:
    """A socket that is not of this package."""
    with zmq.Context() as context, context.socket(kind) as end:
        end.linger = 0
        end.rcvtimeo = int(1000 * DEADLINE_S)
        for name, value in options.items():
            setattr(end, name, value)
        yield end


def curve(key: JoinKey) -> dict[str, bytes]:
    return {
        "curve_serverkey": key.server_public,
        "curve_publickey": key.agent_public,
        "curve_secretkey": key.agent_secret,
    }


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


# -- what is said -----------------------------------------------------------------------------


def test_both_sides_hear_one_another(server: ControlServer, dial: Dial, hears: Hears) -> None:
    client = dial(server.endpoint, name="ann:7")
    client.tell(Failed(reason="é"))
    assert hears(server, 1) == [(b"ann:7", Failed(reason="é"))]
    server.send(b"ann:7", Stop(reason="done"))
    assert client.inbox.get(DEADLINE_S) == Stop(reason="done")
    assert client.given_up == ""


def test_what_an_agent_tells_arrives_in_order(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    clients = {name: dial(server.endpoint, name=name) for name in ("ann", "bob")}
    for message in numbered(50):
        for client in clients.values():
            client.tell(message)
    heard = hears(server, 100)
    for name in clients:
        assert [said for who, said in heard if who == name.encode()] == numbered(50)


def test_threads_tell_side_by_side_and_each_in_its_order(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    client, num = dial(server.endpoint), 200

    def tell(thread: int) -> None:
        for number in range(num):
            client.tell(State(ticket=thread, file="a", index=number, total=num, blob=b"x"))

    threads = [threading.Thread(target=tell, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    told = [message for _, message in hears(server, 4 * num, State)]
    for ticket in range(4):
        assert [m.index for m in told if m.ticket == ticket] == list(range(num))
    for thread in threads:
        thread.join()


def test_what_a_thread_tells_after_the_end_goes_nowhere(server: ControlServer, dial: Dial) -> None:
    client = dial(server.endpoint)
    client.close()
    client.tell(Bye())


def test_each_agent_hears_only_its_own(server: ControlServer, dial: Dial, hears: Hears) -> None:
    clients = {name: dial(server.endpoint, name=name) for name in ("ann", "bob")}
    for client in clients.values():
        client.tell(Bye())
    hears(server, 2)
    for name in clients:
        server.send(name.encode(), Stop(reason=name))
    for name, client in clients.items():
        assert client.inbox.get(DEADLINE_S) == Stop(reason=name)
        assert client.inbox.get(0) is None


def test_an_agent_that_reads_late_misses_nothing(server: ControlServer, hears: Hears) -> None:
    """More than sockets hold by themselves, to one that does not read yet."""
    num, blob = 1500, bytes(1 << 14)
    with raw(zmq.DEALER, identity=b"slow", rcvhwm=1, **curve(KEYS.join)) as slow:
        slow.connect(f"tcp://{server.endpoint}")
        slow.send_multipart(encode(Bye()))
        hears(server, 1)
        for index in range(num):
            piece = State(ticket=0, file="f", index=index, total=num, blob=blob)
            server.send(b"slow", piece)
        last, _ = encode(piece)
        heard = [slow.recv_multipart()[0] for _ in range(num)]
    assert heard[-1] == last
    assert len(set(heard)) == num


def test_telling_waits_for_nobody_and_is_heard_once_somebody_listens(
    listen: Listen, dial: Dial, hears: Hears
) -> None:
    endpoint, num = free_port(), 3000
    client = dial(endpoint)
    told = threading.Thread(target=lambda: [client.tell(m) for m in numbered(num)], daemon=True)
    told.start()
    told.join(DEADLINE_S)
    assert not told.is_alive(), "it waits for a coordinator that is not there yet"
    server = listen(endpoint)
    assert [said for _, said in hears(server, num)] == numbered(num)


def test_an_agent_finds_a_coordinator_that_starts_again(
    server: ControlServer, listen: Listen, dial: Dial, hears: Hears, quick: None
) -> None:
    client, endpoint = dial(server.endpoint), server.endpoint
    client.tell(Failed(reason="before"))
    hears(server, 1)
    server.close()
    again = listen(endpoint)
    hears(again, 1, Beat)
    client.tell(Failed(reason="after"))
    assert hears(again, 1)[0][1] == Failed(reason="after")


def test_beats_come_by_themselves(
    server: ControlServer, dial: Dial, hears: Hears, quick: None
) -> None:
    dial(server.endpoint)
    assert hears(server, 3, Beat) == [(b"ann", Beat())] * 3


def test_what_was_told_before_closing_is_heard(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    client = ControlClient(server.endpoint, KEYS.join, "ann")
    blob = bytes(1 << 18)
    said = [State(ticket=0, file="f", index=i, total=20, blob=blob) for i in range(20)]
    for message in (*said, Bye()):
        client.tell(message)
    client.close()
    assert [message for _, message in hears(server, 21)] == [*said, Bye()]


def test_the_last_word_of_a_coordinator_is_heard(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    client = dial(server.endpoint)
    client.tell(Bye())
    hears(server, 1)
    server.send(b"ann", Stop(reason="that was all"))
    server.close()
    assert client.inbox.get(DEADLINE_S) == Stop(reason="that was all")


def test_a_word_to_somebody_who_is_gone_is_lost_quietly(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    server.send(b"nobody", Stop(reason="x"))
    client = dial(server.endpoint)
    client.tell(Bye())
    assert hears(server, 1) == [(b"ann", Bye())]


def test_a_bell_ends_the_wait(server: ControlServer) -> None:
    ours, ringer = socket.socketpair()
    with ours, ringer:
        ringer.send(b"!")
        server.wait(DEADLINE_S, ours)
    assert server.receive() is None


# -- who is heard -----------------------------------------------------------------------------


def assert_given_up(client: ControlClient, why: str) -> None:
    stop = client.inbox.get(DEADLINE_S)
    assert isinstance(stop, Stop)
    assert stop.at_once, "it breaks off whatever the agent waits in"
    assert why in stop.reason
    assert client.given_up == stop.reason


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (JoinKey(KEYS.server_public, OTHER.join.agent_secret), "refused this agent's key"),
        (JoinKey(OTHER.server_public, KEYS.join.agent_secret), "another run's"),
        (OTHER.join, "another run's"),
    ],
    ids=["other-agent", "other-coordinator", "other-run"],
)
def test_one_with_another_key_is_not_heard_and_learns_why(
    server: ControlServer, dial: Dial, hears: Hears, quick: None, key: JoinKey, why: str
) -> None:
    stranger = dial(server.endpoint, key, name="stranger")
    stranger.tell(Failed(reason="let me in"))
    assert_given_up(stranger, why)
    member = dial(server.endpoint)
    member.tell(Bye())
    assert hears(server, 1) == [(b"ann", Bye())]
    assert server.receive() in (None, (b"ann", Beat()))


def test_a_key_that_has_run_out_is_refused_in_a_sentence_and_who_came_in_time_dials_in_again(
    dial: Dial, hears: Hears, quick: None
) -> None:
    guest = JoinKey.beside(KEYS.join)
    door = Door(frozenset({KEYS.join.agent_public}), guest.agent_public)
    server = ControlServer(HERE, KEYS, door)
    try:
        dial(server.endpoint, guest, name="early").tell(Failed(reason="in time"))
        assert hears(server, 1) == [(b"early", Failed(reason="in time"))]
        door.until_s = -1.0
        late = dial(server.endpoint, guest, name="late")
        late.tell(Failed(reason="let me in"))
        until_s = time.monotonic() + DEADLINE_S
        while (stop := late.inbox.get(0.01)) is None and time.monotonic() < until_s:
            assert server.receive() in (None, (b"early", Beat()))
        assert isinstance(stop, Stop)
        again = [dial(server.endpoint, guest, name="early"), dial(server.endpoint, name="own")]
        for client in again:
            client.tell(Bye())
        came = set[bytes]()
        while came != {b"early", b"own"} and time.monotonic() < until_s:
            heard = server.receive()  # who comes late is told anew with each beat
            if heard is not None and heard[1] == Bye():
                came.add(heard[0])
        assert came == {b"early", b"own"}
        assert stop.reason.startswith("expected a key that still opens this run, found one that")
    finally:
        server.close()


@pytest.mark.parametrize("until_s", [math.inf, -1.0])
def test_whoever_knocks_learns_whether_its_key_opens_the_run(
    quick: None, bell: socket.socket, until_s: float
) -> None:
    guest = JoinKey.beside(KEYS.join)
    server = ControlServer(HERE, KEYS, Door(frozenset(), guest.agent_public, until_s))
    outcome: list[str] = []

    def try_it() -> None:
        try:
            knock(server.endpoint, guest, "ann", DEADLINE_S)
            outcome.append("")
        except JoinError as error:
            outcome.append(str(error))

    knocking = threading.Thread(target=try_it)
    try:
        knocking.start()
        while knocking.is_alive():
            server.wait(0.01, bell)
            if (heard := server.receive()) is not None:
                server.send(heard[0], Who())
    finally:
        server.close()
    assert ("was good until" in outcome[0]) == (until_s < 0)


def test_a_knock_that_nobody_answers_is_refused_with_what_to_do() -> None:
    with pytest.raises(JoinError, match="check the address, and copy"):
        knock(free_port(), KEYS.join, "ann", patience_s=0.01)


def test_a_wrong_key_is_known_after_so_few_greetings_that_nobody_waits_two_seconds() -> None:
    assert control.NUM_GREETINGS * control.REDIAL_MS < 2000


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ, zmq.ROUTER])
def test_one_that_does_not_encrypt_is_not_heard(
    server: ControlServer, dial: Dial, hears: Hears, kind: int
) -> None:
    with raw(kind) as plain:
        refused = plain.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        plain.connect(f"tcp://{server.endpoint}")
        if kind != zmq.ROUTER:
            plain.send_multipart(encode(Bye()))
        assert refused.poll(int(1000 * DEADLINE_S))
        event = zmq.utils.monitor.recv_monitor_message(refused)["event"]
        plain.disable_monitor()
    assert event == zmq.EVENT_DISCONNECTED
    member = dial(server.endpoint)
    member.tell(Failed(reason="heard"))
    assert hears(server, 1) == [(b"ann", Failed(reason="heard"))]


def test_one_that_speaks_another_protocol_is_not_heard(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    host, _, port = server.endpoint.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 10)
        with suppress(ConnectionResetError):
            while stranger.recv(4096):
                continue
    dial(server.endpoint).tell(Bye())
    assert hears(server, 1) == [(b"ann", Bye())]


def test_nonsense_from_a_member_is_reported_and_the_next_word_is_heard(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    with raw(zmq.DEALER, identity=b"odd", **curve(KEYS.join)) as odd:
        odd.connect(f"tcp://{server.endpoint}")
        for frames in ([b"nonsense"], encode(Stop(reason="not mine to say")), encode(Bye())):
            odd.send_multipart(frames)
        heard = hears(server, 3)
    assert [type(said) for _, said in heard] == [BadMessage, BadMessage, Bye]
    assert {who for who, _ in heard} == {b"odd"}


def test_nonsense_from_a_coordinator_is_given_up(dial: Dial) -> None:
    with raw(zmq.ROUTER, curve_server=True, curve_secretkey=KEYS.server_secret) as odd:
        port = odd.bind_to_random_port("tcp://127.0.0.1")
        client = dial(f"127.0.0.1:{port}")
        identity, *_ = odd.recv_multipart()
        odd.send_multipart([identity, b"nonsense"])
        assert_given_up(client, "expected a message of this protocol")


def test_a_silent_coordinator_is_given_up(
    dial: Dial, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HOLD_S", 0.05)
    endpoint = free_port()
    assert_given_up(dial(endpoint), f"no word from the coordinator at {endpoint}")


def test_beats_of_the_coordinator_break_its_silence_and_nothing_else(
    server: ControlServer, dial: Dial, hears: Hears
) -> None:
    client = dial(server.endpoint)
    hears(server, 1, Beat)
    for message in (Beat(), Beat(), Stop(reason="done")):
        server.send(b"ann", message)
    assert client.inbox.get(DEADLINE_S) == Stop(reason="done")


# -- where it listens -------------------------------------------------------------------------


def test_port_zero_takes_a_free_one(listen: Listen) -> None:
    one, other = listen(HERE), listen(HERE)
    ports = [int(server.endpoint.rpartition(":")[2]) for server in (one, other)]
    assert 0 not in ports
    assert ports[0] != ports[1]


def test_nothing_listens_but_on_the_address_given(listen: Listen) -> None:
    host, _, port = listen("127.0.0.2:0").endpoint.rpartition(":")
    assert host == "127.0.0.2"
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.1", int(port))) != 0


@pytest.mark.parametrize("address", ["taken", "203.0.113.1:0", "nonsense"])
def test_an_address_that_cannot_be_had_is_refused_in_a_sentence(
    server: ControlServer, listen: Listen, address: str
) -> None:
    address = server.endpoint if address == "taken" else address
    with pytest.raises(JobError, match=rf"expected to listen on {address}, found: .+; choose"):
        listen(address)


def test_a_port_is_free_again_after_closing(server: ControlServer, listen: Listen) -> None:
    endpoint = server.endpoint
    server.close()
    assert listen(endpoint).endpoint == endpoint


# -- the inbox --------------------------------------------------------------------------------


def test_an_inbox_keeps_the_order_of_arrival() -> None:
    inbox = Inbox()
    for message in numbered(3):
        inbox.put(message)
    assert [inbox.get(0) for _ in range(4)] == [*numbered(3), None]


def test_a_message_wakes_whoever_waits_for_one() -> None:
    inbox = Inbox()
    threading.Thread(target=inbox.put, args=(Bye(),)).start()
    assert inbox.get(DEADLINE_S) == Bye()


@pytest.mark.parametrize(
    ("message", "urgent"),
    [(Stop(reason="x", at_once=True), True), (Stop(reason="x"), False), (Bye(), False)],
)
def test_only_what_is_meant_at_once_is_urgent(message: Any, urgent: bool) -> None:
    inbox = Inbox()
    inbox.put(Bye())
    inbox.put(message)
    assert inbox.urgent() is urgent
    assert inbox.get(0) == Bye(), "looking takes nothing out"


def test_a_wait_ends_when_it_is_done_or_when_something_is_urgent() -> None:
    inbox, done = Inbox(), threading.Event()

    def finish() -> None:
        done.set()
        inbox.ring()

    threading.Thread(target=finish).start()
    assert inbox.wait(done.is_set, DEADLINE_S)
    inbox.put(Stop(reason="x", at_once=True))
    assert not inbox.wait(lambda: False, DEADLINE_S)
    assert inbox.wait(lambda: True, DEADLINE_S), "what is done is done, whatever is urgent"
