"""The star road carries mail whole and in order, past large mail, bad frames and broken lines.

Parties are threads of one process, each with a road of its own: sockets and keys are real. Legend
of shape suffixes: N values of a vector, M members.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq
from torch import Tensor

from coterie.errors import JobError, JoinError, Torn, TrainingError
from coterie.transport import star
from coterie.transport.control import ControlClient, ControlServer, Inbox
from coterie.transport.mail import ACK, BACK, CHUNK_BYTES, HELLO, PART, WINDOW, Part
from coterie.transport.messages import Beat, Term
from coterie.transport.secure import JoinKey, Keys
from coterie.transport.star import StarSwitch, StarTransport

DEADLINE_S = 30.0  # bounds a test that hangs; none waits for it otherwise
KEYS, OTHER = Keys.make(), Keys.make()
HERE = "127.0.0.1:0"
NEWS = Term(number=9, members=("ann",), store="", at_once=True)
NAMES = ("ann", "bob", "cid", "dan")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8]


class Street:
    """A switch and parties around it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.hub = StarSwitch(HERE, [KEYS.join.agent_public], Inbox())
        stack.callback(self.hub.close)

    def party(self, name: str, key: JoinKey = KEYS.join, address: str = "") -> StarTransport:
        made = StarTransport(address or self.hub.address, key, name, Inbox())
        self._stack.callback(made.close)
        return made

    def parties(self, num: int) -> list[StarTransport]:
        return [self.party(name) for name in NAMES[:num]]

    def each(self, parties: list[StarTransport], act: Callable[..., Any]) -> list[Any]:
        """What an act comes to on every party at once, called with the party and its rank."""
        with ThreadPoolExecutor(len(parties)) as pool:
            begun = [pool.submit(act, party, rank) for rank, party in enumerate(parties)]
            return [future.result(DEADLINE_S) for future in begun]

    def form(self, parties: list[StarTransport], number: int = 1) -> None:
        names = tuple(party.me for party in parties)
        self.each(parties, lambda party, _: party.form(number, names, DEADLINE_S))

    def stranger(self, name: bytes = b"odd") -> zmq.Socket[bytes]:
        """A socket that holds the right key, but is not of this package."""
        end = self._stack.enter_context(zmq.Context()).socket(zmq.DEALER)
        self._stack.callback(end.close)
        endpoint, server_public = star._endpoint_and_key(self.hub.address)
        end.linger, end.rcvtimeo = 0, int(1000 * DEADLINE_S)
        end.identity, end.curve_serverkey = name, server_public
        end.curve_publickey, end.curve_secretkey = KEYS.join.agent_public, KEYS.join.agent_secret
        end.connect(f"tcp://{endpoint}")
        return end


@pytest.fixture
def street() -> Iterator[Street]:
    with contextlib.ExitStack() as stack:
        yield Street(stack)


def rows_of(num: int, dtype: torch.dtype, length: int = 5) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [(torch.rand(length, generator=rng) * 100).to(dtype) for _ in range(num)]


# -- mail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES])
def test_mail_arrives_whole_whichever_way_it_goes(street: Street, size: int) -> None:
    ann, bob = street.parties(2)
    data = os.urandom(size)
    ends = {"hub": street.hub, "ann": ann, "bob": bob}
    for to in ends:
        for origin, end in ends.items():
            end.post(to, origin, data)
    for end in ends.values():
        for origin in ends:
            assert end.fetch(origin) == (origin, data)


def test_the_poster_may_change_its_buffer_at_once(street: Street) -> None:
    (ann,) = street.parties(1)
    data = bytearray(b"before")
    ann.post("hub", "c", memoryview(data))
    data[:] = b"after!"
    assert street.hub.fetch("c") == ("ann", b"before")


def test_order_is_kept_per_channel_of_a_pair(street: Street) -> None:
    ann, bob = street.parties(2)
    sizes = [3 * CHUNK_BYTES, 1, 2 * CHUNK_BYTES, 0, 5]
    said = [bytes([number]) * size for number, size in enumerate(sizes)] * 4
    for data in said:
        ann.post("bob", "c", data)
        street.hub.post("bob", "c", data)
    assert [bob.fetch("c", "ann")[1] for _ in said] == said
    assert [bob.fetch("c", "hub")[1] for _ in said] == said


def test_mail_from_anybody_comes_in_order_of_arrival(street: Street) -> None:
    ann, bob = street.parties(2)
    for origin in (bob, ann, bob):
        origin.post("hub", "c", origin.me.encode())
        origin.post("hub", "done", b"")
        street.hub.fetch("done", origin.me)
    assert [street.hub.fetch("c")[0] for _ in range(3)] == ["bob", "ann", "bob"]


def test_a_small_mail_overtakes_a_large_one(street: Street) -> None:
    ann, bob = street.parties(2)
    ann.post("bob", "large", bytes(30 << 20))
    ann.post("bob", "small", b"!")
    assert bob.fetch("small") == ("ann", b"!")
    assert not bob.waiting("large")
    assert len(bob.fetch("large")[1]) == 30 << 20


def test_a_party_that_reads_nothing_holds_up_nobody_and_fills_nothing(street: Street) -> None:
    """It says hello and never answers: what is on its way to it stays within the window."""
    ann, bob = street.parties(2)
    mute = street.stranger(b"mute")
    mute.send_multipart(Part(HELLO, "mute").frames())
    mute.recv_multipart()
    ann.post("mute", "large", bytes(40 * CHUNK_BYTES))
    ann.post("bob", "large", bytes(40 * CHUNK_BYTES))
    assert len(bob.fetch("large")[1]) == 40 * CHUNK_BYTES
    line = street.hub._lines["mute"]
    assert len(line.flying) + line.turns.count("ann") <= WINDOW


def test_mail_to_one_who_comes_later_waits_for_it(street: Street) -> None:
    (ann,) = street.parties(1)
    ann.post("bob", "c", bytes(20 * CHUNK_BYTES))
    ann.post("hub", "c", b"")
    street.hub.fetch("c")
    said = [bytes([number]) for number in range(3 * WINDOW)]
    for data in said:
        ann.post("bob", "c", data)
    bob = street.party("bob")
    assert bob.fetch("c") == ("ann", bytes(20 * CHUNK_BYTES))
    assert [bob.fetch("c")[1] for _ in said] == said


def test_what_is_forgotten_never_arrives(street: Street) -> None:
    ann, bob = street.parties(2)
    for channel in ("old/1", "new/1"):
        street.hub.post("bob", channel, b"x")
    bob.fetch("new/1")
    ann.post("ann", "old/1", b"x")
    ann.post("cid", "old/1", bytes(20 * CHUNK_BYTES))
    for end in (ann, bob):
        end.forget("old")
    assert not ann.waiting("old/1")
    assert not bob.waiting("old/1")
    ann.post("cid", "new/1", b"y")
    cid = street.party("cid")
    assert cid.fetch("new/1") == ("ann", b"y")
    assert not cid.waiting("old/1")


def test_bytes_are_counted_with_their_headers(street: Street) -> None:
    ann, bob = street.parties(2)
    street.form([ann, bob])
    ann.post("bob", "round", b"")
    bob.fetch("round")
    bob.post("ann", "round", b"")  # after it no acknowledgement of ann's is left
    ann.fetch("round")
    before = ann.sent_bytes
    ann.post("bob", "c", bytes(2 * CHUNK_BYTES + 7))
    bob.fetch("c")
    head = star.read_part.__globals__["HEAD"].size + len("bob") + len("c")
    late_ack = len(Part(ACK, "bob").frames()[0])
    counted = ann.sent_bytes - before - 2 * CHUNK_BYTES - 7 - 3 * head
    assert counted in (0, late_ack)
    assert bob.received_bytes > 2 * CHUNK_BYTES + 7


# -- breaking off -------------------------------------------------------------------------------


def test_an_urgent_message_breaks_off_the_wait(street: Street) -> None:
    (ann,) = street.parties(1)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(ann.fetch, "c", "", DEADLINE_S)
        ann._inbox.put(NEWS)
        with pytest.raises(Torn, match="a new membership was named"):
            begun.result(DEADLINE_S)


def test_silence_tears_a_meeting(street: Street) -> None:
    ann, bob = street.parties(2)
    with pytest.raises(Torn, match="no mail from bob on c"):
        ann.fetch("c", "bob", timeout_s=0.01)
    with pytest.raises(Torn, match="no mail from bob"):
        ann.form(1, ("ann", "bob"), timeout_s=0.01)
    with pytest.raises(Torn, match="there is no group"):
        ann.total(torch.ones(1))
    bob.post("ann", "c", b"late")
    assert ann.fetch("c", "bob") == ("bob", b"late")


def test_a_switch_that_is_lost_for_long_tears_a_meeting(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(star, "LOST_S", 0.0)
    nobody = f"127.0.0.1:1#{street.hub.address[-40:]}"
    with pytest.raises(Torn, match="has not answered"):
        street.party("ann", address=nobody).fetch("c", timeout_s=DEADLINE_S)


@pytest.mark.parametrize("whose", ["agent", "switch"])
def test_one_with_another_key_is_not_heard_and_learns_why(street: Street, whose: str) -> None:
    address = street.hub.address
    if whose == "agent":
        stranger = street.party("odd", OTHER.join)
    else:
        stranger = street.party("odd", address=address[:-40] + OTHER.server_public.decode())
    stranger.post("hub", "c", b"let me in")
    with pytest.raises(Torn, match=r"refused this agent's key|has another key"):
        stranger.fetch("c", timeout_s=DEADLINE_S)
    (ann,) = street.parties(1)
    ann.post("hub", "c", b"me")
    assert street.hub.fetch("c") == ("ann", b"me")


@pytest.mark.parametrize("address", ["", "host:1", "host:1#short", "#" + "0" * 40, "é#" + "é" * 40])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(JoinError, match="host:port#key"):
        StarTransport(address, KEYS.join, "ann", Inbox())


def test_a_port_that_is_taken_is_told(street: Street) -> None:
    taken = street.hub.address[:-41]
    with pytest.raises(JobError, match="choose another port"):
        StarSwitch(taken, [KEYS.join.agent_public], Inbox())


# -- lines that break -----------------------------------------------------------------------------


def relay(to: str) -> tuple[str, Callable[[], None], Callable[[], None]]:
    """A relay in front of a port: its address, how to cut what runs through it, and its end."""
    import socket

    host, _, port = to.rpartition(":")
    door = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = door.accept()
                there = socket.create_connection((host, int(port)))
                ends.extend((here, there))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def cut() -> None:
        while ends:
            with contextlib.suppress(OSError):
                ends.pop().shutdown(socket.SHUT_RDWR)

    def close() -> None:
        with contextlib.suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
        door.close()
        cut()

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{door.getsockname()[1]}", cut, close


@pytest.mark.parametrize("broken", ["sender", "receiver"])
def test_a_line_that_breaks_for_a_moment_loses_nothing(street: Street, broken: str) -> None:
    address, key = street.hub.address[:-41], street.hub.address[-41:]
    through, cut, close = relay(address)
    try:
        ann = street.party("ann", address=through + key if broken == "sender" else "")
        bob = street.party("bob", address=through + key if broken == "receiver" else "")
        said = [os.urandom(size) for size in (100, 40 * CHUNK_BYTES, 3, 90 * CHUNK_BYTES)]
        for number, data in enumerate(said):
            ann.post("bob", "c", data)
            ann.post("bob", f"c{number}", data)
        for number, data in enumerate(said):
            assert bob.fetch("c") == ("ann", data)
            cut()
            assert bob.fetch(f"c{number}") == ("ann", data)
        assert not bob.waiting("c")
        assert list(street.hub.reports) == []
    finally:
        close()


def test_a_new_party_takes_the_place_and_the_name_of_an_old_one(street: Street) -> None:
    """The old one dies in the middle of its mail: nothing of it is mixed into the new one's."""
    bob = street.party("bob")
    bob.post("hub", "here", b"")
    street.hub.fetch("here")
    old = street.stranger(b"cid")
    old.send_multipart(Part(HELLO, "cid", mail=1 << 32).frames())
    half = Part(PART, "bob", "c", (1 << 32) + 1, 0, 2 * CHUNK_BYTES, 0, b"o" * CHUNK_BYTES)
    old.send_multipart(half.frames())
    while ACK not in [frame[2] for frame in old.recv_multipart()[:1]]:
        continue
    old.close()
    cid = street.party("cid")
    cid.post("bob", "c", b"new")
    assert bob.fetch("c", "cid") == ("cid", b"new")
    assert bob._incoming._halves == {}
    bob.post("cid", "c", b"welcome")
    assert cid.fetch("c") == ("bob", b"welcome")


# -- bad frames -----------------------------------------------------------------------------------

GOOD = Part(PART, "hub", "c", 1, 0, 5, 0, b"hello")
BAD = {
    "nothing": [b""],
    "one frame": GOOD.frames()[:1],
    "three frames": [*GOOD.frames(), b""],
    "noise": [b"\xff" * 40, b"x"],
    "a short header": [GOOD.frames()[0][:10], b"hello"],
    "a longer name than told": [GOOD.frames()[0] + b"x", b"hello"],
    "a short payload": GOOD._replace(payload=b"hell").frames(),
    "a long payload": GOOD._replace(payload=b"hello!").frames(),
    "a chunk beyond the end": GOOD._replace(number=1).frames(),
    "more than mail may hold": GOOD._replace(total_bytes=1 << 60).frames(),
    "no party": GOOD._replace(peer="").frames(),
    "a kind that is none": GOOD._replace(kind=99).frames(),
    "another's word": Part(BACK, "ann").frames(),
    "a name that is no text": [GOOD.frames()[0][:-4] + b"\xff\xff\xffc", b"hello"],
}


def test_bad_frames_are_reported_and_the_next_good_ones_heard(street: Street) -> None:
    told: list[tuple[str, str]] = []
    street.hub.on_bad = lambda origin, reason: told.append((origin, reason))
    odd = street.stranger()
    odd.send_multipart(GOOD.frames())  # before its greeting
    odd.send_multipart(Part(HELLO, "odd").frames())
    for frames in BAD.values():
        odd.send_multipart(frames)
    odd.send_multipart(GOOD.frames())
    assert street.hub.fetch("c") == ("odd", b"hello")
    assert [origin for origin, _ in told] == ["odd"] * (1 + len(BAD))
    assert "unknown party" in told[0][1]
    assert len(street.hub.reports) == len(told)
    assert not street.hub.waiting("c")


def test_nobody_else_may_be_the_hub(street: Street) -> None:
    false = street.stranger(b"hub")
    false.send_multipart(Part(HELLO, "hub").frames())
    (ann,) = street.parties(1)
    ann.post("hub", "c", b"x")
    assert street.hub.fetch("c") == ("ann", b"x")
    while not street.hub.reports:
        time.sleep(0.001)
    assert "another's" in street.hub.reports[0]


def test_one_that_heeds_no_window_is_cut_short(street: Street) -> None:
    mute, greedy = street.stranger(b"mute"), street.stranger(b"greedy")
    mute.send_multipart(Part(HELLO, "mute").frames())
    mute.recv_multipart()
    greedy.send_multipart(Part(HELLO, "greedy").frames())
    for number in range(5 * WINDOW):
        greedy.send_multipart(Part(PART, "mute", "c", number, 0, 1, 0, b"x").frames())
    greedy.send_multipart(GOOD.frames())
    street.hub.fetch("c")
    assert street.hub._lines["mute"].turns.count("greedy") <= 2 * WINDOW
    assert "unanswered" in street.hub.reports[0]


# -- collectives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num", [1, 2, 3, 4])
def test_collectives_come_to_what_torch_says(street: Street, num: int, dtype: torch.dtype) -> None:
    parties, rows = street.parties(num), rows_of(num, dtype)
    street.form(parties)
    total_N = rows[0].clone()
    for row_N in rows[1:]:
        total_N += row_N

    def meet(party: StarTransport, rank: int) -> None:
        assert torch.equal(party.total(rows[rank]), total_N)
        gathered = party.gather(rows[rank])
        assert torch.equal(torch.stack(gathered), torch.stack(rows))
        assert gathered[0].dtype == dtype
        parts = [rows[rank][: 1 + j] + j for j in range(num)]
        for row_N, part_N in zip(rows, party.shuffle(parts), strict=True):
            assert torch.equal(part_N, row_N[: 1 + rank] + rank)
        to, origin = NAMES[(rank + 1) % num], NAMES[(rank - 1) % num]
        assert torch.equal(party.swap(to, origin, rows[rank]), rows[rank - 1])

    street.each(parties, meet)


def test_empty_and_strided_vectors_travel(street: Street) -> None:
    parties = street.parties(2)
    street.form(parties)

    def meet(party: StarTransport, rank: int) -> None:
        assert party.total(torch.ones(0)).shape == (0,)
        assert torch.equal(party.total(torch.arange(6.0)[::2]), torch.tensor([0.0, 4.0, 8.0]))
        assert torch.equal(party.total(torch.ones(2, requires_grad=True)), torch.full((2,), 2.0))

    street.each(parties, meet)


def test_what_was_given_is_left_as_it_was(street: Street) -> None:
    parties = street.parties(2)
    street.form(parties)
    rows = rows_of(2, torch.float32)
    kept = [row_N.clone() for row_N in rows]
    street.each(parties, lambda party, rank: party.total(rows[rank]))
    assert torch.equal(torch.stack(rows), torch.stack(kept))


def test_some_meet_among_themselves_in_the_terms_order(street: Street) -> None:
    parties, rows = street.parties(3), rows_of(3, torch.float32)
    street.form(parties)
    among = ("cid", "ann")

    def meet(party: StarTransport, rank: int) -> None:
        if party.me in among:
            assert torch.equal(torch.stack(party.gather(rows[rank], among)), torch.stack(rows[::2]))
        assert torch.equal(torch.stack(party.gather(rows[rank])), torch.stack(rows))

    street.each(parties, meet)


def test_one_member_may_run_ahead(street: Street) -> None:
    ann, bob = street.parties(2)
    street.form([ann, bob])
    for value in range(5):
        ann.send("bob", torch.tensor([value]))
    into_N = torch.zeros(1, dtype=torch.int64)
    heard = [bob.receive("ann", into_N).item() for _ in range(5)]
    assert heard == [0, 1, 2, 3, 4]
    assert into_N.item() == 4


def test_a_vector_of_another_length_is_refused(street: Street) -> None:
    ann, bob = street.parties(2)
    street.form([ann, bob])
    ann.send("bob", torch.ones(3))
    with pytest.raises(TrainingError, match="expected 8 bytes from ann, found 12"):
        bob.receive("ann", torch.ones(2))


def test_mail_of_an_older_term_is_dropped_before_and_after_it_arrives(street: Street) -> None:
    ann, bob = street.parties(2)
    street.form([ann, bob], 3)
    ann.send("bob", torch.ones(1))
    ann.post("bob", "term-30/9", b"of a later one")
    bob.fetch("term-30/9")
    ann.post("bob", "term-30/9", b"of a later one")
    street.form([ann, bob], 4)
    for channel in ("term-3/2", "term-30/10"):
        ann.post("bob", channel, b"")
    bob.fetch("term-30/10")
    assert bob.waiting("term-30/9")
    assert not bob.waiting("term-3/1")
    assert not bob.waiting("term-3/2")


def test_members_of_different_rolls_do_not_meet(street: Street) -> None:
    ann, bob = street.parties(2)
    bob.post("ann", "term-1/0", b"ann\nbob\ncid")
    with pytest.raises(Torn, match="bob has other members"):
        ann.form(1, ("ann", "bob"))
    street.form([ann, bob], 2)


# -- a slow link ----------------------------------------------------------------------------------

MAIL_BYTES = 5_000_000
HUB_IP, AGENT_IP = "10.213.77.1", "10.213.77.2"


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=DEADLINE_S)


@contextlib.contextmanager
def slow_link(rate: str) -> Iterator[tuple[str, str]]:
    """Two network namespaces with one link of a rate each way between them."""
    spaces = (f"cth{os.getpid()}", f"cta{os.getpid()}")
    try:
        for space in spaces:
            run("ip", "netns", "add", space)
        hub, agent = spaces
        veth = ("ip", "link", "add", "name", "eth0", "netns", hub, "type", "veth")
        run(*veth, "peer", "name", "eth0", "netns", agent)
        for space, ip in ((hub, HUB_IP), (agent, AGENT_IP)):
            run("ip", "-n", space, "addr", "add", f"{ip}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", space, "link", "set", device, "up")
            bucket = ("tbf", "rate", rate, "burst", "64kb", "latency", "50ms")
            run("tc", "-n", space, "qdisc", "add", "dev", "eth0", "root", *bucket)
        yield hub, agent
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@contextlib.contextmanager
def inside(space: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """This file as a program in a network namespace."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", space, sys.executable, __file__, *words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.processes
def test_heartbeats_pass_while_large_mail_does() -> None:
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("needs root, ip and tc to make a slow link")
    with slow_link("10mbit") as (hub, agent), inside(hub, "hub") as heard:
        assert heard.stdout is not None
        text = heard.stdout.readline().strip()
        with inside(agent, "agent", text):
            found = json.loads(heard.stdout.readline())
    assert found["seconds"] > 2 * 0.9 * MAIL_BYTES * 8 / 10e6 * 0.8, "the link was not slow"
    assert found["num_beats"] > 5
    assert found["silence_s"] < 2.0


def be_hub() -> None:
    """Take a large mail and give it back; tell the longest silence of an agent meanwhile."""
    import socket

    keys = Keys.make()
    server, switch = (
        ControlServer(f"{HUB_IP}:0", keys),
        StarSwitch(f"{HUB_IP}:0", [keys.join.agent_public], Inbox()),
    )
    print(json.dumps([server.endpoint, switch.address, keys.join.text()]), flush=True)
    bell, _ringer = socket.socketpair()
    done = threading.Event()

    def carry() -> None:
        _, data = switch.fetch("large")
        switch.post("ann", "large", data)
        switch.fetch("thanks")
        done.set()
        _ringer.send(b"!")

    threading.Thread(target=carry, daemon=True).start()
    while server.receive() is None:
        server.wait(DEADLINE_S, bell)
    beats = [time.monotonic()]
    while not done.is_set():
        server.wait(DEADLINE_S, bell)
        while (received := server.receive()) is not None:
            if received[1] == Beat():
                beats.append(time.monotonic())
    gaps = [after - before for before, after in pairwise(beats)]
    print(
        json.dumps(
            {
                "num_beats": len(gaps),
                "silence_s": max(gaps),
                "seconds": time.monotonic() - beats[0],
            }
        ),
        flush=True,
    )


def be_agent(text: str) -> None:
    endpoint, address, key = json.loads(text)
    join = JoinKey.parse(key)
    client = ControlClient(endpoint, join, "ann")
    road = StarTransport(address, join, "ann", client.inbox)
    road.post("hub", "large", os.urandom(MAIL_BYTES))
    road.fetch("large")
    road.post("hub", "thanks", b"")
    sys.stdin.read()


if __name__ == "__main__":
    be_hub() if sys.argv[1] == "hub" else be_agent(sys.argv[2])
