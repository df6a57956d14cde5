"""The ring road carries what the law says, and breaks off rather than hang.

Most members here are threads of one process, each with a transport of its own: sockets and groups
are real. Legend of shape suffixes: N values of a vector, M members.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.errors import Torn
from coterie.sync.reading import parse
from coterie.transport import group as group_module
from coterie.transport.control import Inbox
from coterie.transport.group import GroupTransport
from coterie.transport.messages import Beat, Stop, Term
from coterie.types import Ctx, Layout, Message

NAMES = ("ann", "bob", "cy")
DEADLINE_S = 60.0  # bounds a test that hangs; none waits for it otherwise
HERE = "127.0.0.1"
NEWS = Term(number=9, members=("ann",), store="", at_once=True)


class Watched(Inbox):
    """An inbox that tells when its owner waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        self.waiting.set()
        return super().wait(done, timeout_s)


class Peer:
    """A member: its transport, its inbox and the thread it lives in."""

    def __init__(self, address: str = HERE, name: str = "") -> None:
        self.name = name
        self.inbox = Watched()
        self.road = GroupTransport(address, self.inbox)
        self._thread = ThreadPoolExecutor(1)

    def begin(self, act: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin something that may wait for others."""
        self.inbox.waiting.clear()
        return self._thread.submit(act, *args)

    def begin_and_wait(self, act: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin something that has to wait for others, and see that it does."""
        begun = self.begin(act, *args)
        assert self.inbox.waiting.wait(DEADLINE_S)
        return begun

    def close(self) -> None:
        self.inbox.put(NEWS)  # ends whatever a failed test left waiting
        self._thread.shutdown()
        self.road.leave()


def results(begun: Sequence[Future[Any]]) -> list[Any]:
    return [future.result(DEADLINE_S) for future in begun]


def begin_term(
    peers: Sequence[Peer], number: int, missing: tuple[str, ...] = ()
) -> list[Future[Any]]:
    store = peers[0].road.store_endpoint
    members = (*(peer.name for peer in peers), *missing)
    return [p.begin(p.road.form, number, members, p.name, store) for p in peers]


def form(peers: Sequence[Peer], number: int = 1) -> None:
    results(begin_term(peers, number))


def total(peers: Sequence[Peer], value: float = 1.0) -> list[float]:
    sums = results([p.begin(p.road.total, torch.tensor([value])) for p in peers])
    return [vector_N.item() for vector_N in sums]


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made = [Peer(name=name) for name in NAMES]
    yield made
    for peer in made:
        peer.close()


@pytest.fixture
def group(peers: list[Peer]) -> list[Peer]:
    form(peers)
    return peers


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_total_is_the_sum_and_the_same_in_every_bit(group: list[Peer], size: int) -> None:
    rows_MN = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    vectors = [row_N.clone() for row_N in rows_MN]
    totals = results([p.begin(p.road.total, v) for p, v in zip(group, vectors, strict=True)])
    torch.testing.assert_close(totals[0], rows_MN.sum(0), rtol=0, atol=1e-6)
    for total_N, vector_N in zip(totals, vectors, strict=True):
        assert torch.equal(total_N, totals[0])
        assert total_N is vector_N, "in place"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_a_gather_brings_every_row_in_the_order_of_ranks(
    group: list[Peer], dtype: torch.dtype
) -> None:
    rows = [torch.arange(rank, rank + 5).to(dtype) for rank in range(3)]
    gathered = results([p.begin(p.road.gather, r) for p, r in zip(group, rows, strict=True)])
    assert [[row.tolist() for row in found] for found in gathered] == [
        [row.tolist() for row in rows]
    ] * 3
    assert all(row.dtype == dtype for found in gathered for row in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_a_vector_is_sent_to_one_member(group: list[Peer], dtype: torch.dtype) -> None:
    ann, _, cy = group
    sent = ann.begin(ann.road.send, "cy", torch.arange(100).to(dtype))
    taken = cy.begin(cy.road.receive, "ann", torch.zeros(100, dtype=dtype))
    results([sent])
    assert results([taken])[0].tolist() == list(range(100))


@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 4, 3), (0, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_parts_go_to_their_owners(
    group: list[Peer], sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    parts = {
        p.name: tuple(torch.full((n,), 10 * i + j).to(dtype) for j, n in enumerate(sizes))
        for i, p in enumerate(group)
    }
    heard = results([p.begin(p.road.shuffle, parts[p.name]) for p in group])
    for j, mine in enumerate(heard):
        wanted = [parts[peer.name][j] for peer in group]
        assert [part.tolist() for part in mine] == [part.tolist() for part in wanted]
        assert all(part.dtype == dtype for part in mine)


@pytest.mark.parametrize("shift", [1, 2])
def test_all_swap_at_once(group: list[Peer], shift: int) -> None:
    def swap(place: int, peer: Peer) -> Future[Any]:
        to, origin = group[(place + shift) % 3].name, group[(place - shift) % 3].name
        return peer.begin(peer.road.swap, to, origin, torch.full((50,), float(place)))

    heard = results([swap(place, peer) for place, peer in enumerate(group)])
    assert [vector_N[0].item() for vector_N in heard] == [(i - shift) % 3 for i in range(3)]


def test_some_meet_without_the_others(group: list[Peer]) -> None:
    ann, bob, cy = group
    some = ("ann", "cy")
    for _ in range(2):  # a group of some is built once
        begun = [p.begin(p.road.total, torch.ones(3), some) for p in (ann, cy)]
        assert [vector_N.tolist() for vector_N in results(begun)] == [[2.0] * 3] * 2
    alone = bob.begin(bob.road.gather, torch.ones(1), ("bob",))
    assert [row.item() for row in results([alone])[0]] == [1.0]


def test_parts_are_summed_one_behind_the_other(group: list[Peer]) -> None:
    parts = {p.name: [torch.full((n,), float(n)) for n in (3, 1, 2)] for p in group}

    def stream(peer: Peer) -> list[torch.Tensor]:
        sums = peer.road.totals()
        for part in parts[peer.name]:
            sums.add(part)
        return sums.finish()

    for peer, summed in zip(group, results([p.begin(stream, p) for p in group]), strict=True):
        assert [part.tolist() for part in summed] == [[9.0] * 3, [3.0], [6.0] * 2]
        assert all(map(lambda a, b: a is b, summed, parts[peer.name])), "in place"


def test_it_counts_the_bytes_that_it_was_given(group: list[Peer]) -> None:
    before = [peer.road.told_bytes for peer in group]
    results([p.begin(p.road.gather, torch.ones(10)) for p in group])
    assert [p.road.told_bytes - b for p, b in zip(group, before, strict=True)] == [40] * 3


def test_one_alone_agrees_with_itself(peers: list[Peer]) -> None:
    form(peers[:1])
    assert total(peers[:1], 3.0) == [3.0]


def test_one_transport_serves_term_after_term(peers: list[Peer]) -> None:
    for number, members in enumerate((peers, peers[:2], peers[1:], peers[::-1]), start=1):
        form(members, number)
        assert total(members) == [len(members)] * len(members)


def test_without_a_group_nothing_meets(peers: list[Peer]) -> None:
    road = peers[0].road
    with pytest.raises(Torn, match="no group"):
        road.total(torch.ones(1))
    form(peers)
    road.leave()
    with pytest.raises(Torn, match="no group"):
        road.gather(torch.ones(1))


# -- where it listens -------------------------------------------------------------------------


def listening() -> set[tuple[str, int]]:
    connections = psutil.Process().net_connections("tcp")
    return {tuple(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_nothing_listens_but_on_the_address_given(address: str) -> None:
    before = listening()
    made = [Peer(address, name) for name in NAMES[:2]]
    try:
        form(made)
        opened = listening() - before
    finally:
        for peer in made:
            peer.close()
    stores = {peer.road.store_endpoint for peer in made}
    assert stores < {f"{host}:{port}" for host, port in opened}
    assert {host for host, _ in opened} == {address}


# -- what breaks it off -----------------------------------------------------------------------


def test_news_breaks_off_the_wait_for_a_member_that_never_comes(peers: list[Peer]) -> None:
    ann, bob, _ = peers
    formed = begin_term([ann, bob], 1, missing=("cy",))
    for peer, waits in zip((ann, bob), formed, strict=True):
        assert peer.inbox.waiting.wait(DEADLINE_S)
        peer.inbox.put(NEWS)
        with pytest.raises(Torn, match="term 1 was not formed"):
            waits.result(DEADLINE_S)


def test_the_next_term_is_formed_although_an_abandoned_one_still_waits(peers: list[Peer]) -> None:
    ann, bob, _ = peers
    formed = begin_term([ann, bob], 1, missing=("cy",))
    for peer in (ann, bob):
        peer.inbox.put(NEWS)
    for waits in formed:
        assert isinstance(waits.exception(DEADLINE_S), Torn)
    for peer in (ann, bob):
        assert peer.inbox.get(0) == NEWS
    again = begin_term([ann, bob], 2)
    # Well within the minute that the abandoned wait goes on for.
    assert [future.result(group_module.TIMEOUT_S / 4) for future in again] == [None, None]
    assert total([ann, bob]) == [2.0, 2.0]


def test_a_member_that_never_comes_is_given_up(
    peers: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "TIMEOUT_S", 0.02)
    road = peers[0].road
    with pytest.raises(Torn, match="term 1 was not formed"):
        road.form(1, ("ann", "bob"), "ann", road.store_endpoint)


MEETINGS: dict[str, Callable[[GroupTransport], Any]] = {
    "total": lambda road: road.total(torch.ones(1000)),
    "gather": lambda road: road.gather(torch.ones(1000)),
    "receive": lambda road: road.receive("cy", torch.ones(1000)),
}
every_meeting = pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS)


@every_meeting
def test_news_breaks_off_a_meeting_with_a_silent_member(
    group: list[Peer], meet: Callable[[GroupTransport], Any]
) -> None:
    """The third neither answers nor hangs up, as one that is stopped or cut off."""
    ann, bob, _ = group
    begun = [peer.begin_and_wait(meet, peer.road) for peer in (ann, bob)]
    for peer, waits in zip((ann, bob), begun, strict=True):
        peer.inbox.put(NEWS)
        with pytest.raises(Torn, match="a new membership"):
            waits.result(DEADLINE_S)
        assert peer.inbox.get(0) == NEWS
    form([ann, bob], number=2)
    assert total([ann, bob]) == [2.0, 2.0]


def test_news_that_can_wait_breaks_nothing_off(group: list[Peer]) -> None:
    ann, *others = group
    begun = ann.begin_and_wait(ann.road.total, torch.ones(1))
    for message in (Beat(), Stop(reason="later"), NEWS.model_copy(update={"at_once": False})):
        ann.inbox.put(message)
    assert total(others) == [3.0, 3.0]
    assert begun.result(DEADLINE_S).item() == 3.0


@every_meeting
def test_a_member_that_leaves_tears_the_meeting(
    group: list[Peer], meet: Callable[[GroupTransport], Any]
) -> None:
    *staying, leaving = group
    begun = [peer.begin_and_wait(meet, peer.road) for peer in staying]
    leaving.road.leave()
    for waits in begun:
        with pytest.raises(Torn, match="left the meeting"):
            waits.result(DEADLINE_S)


def test_an_address_that_is_none_is_told_at_once(peers: list[Peer]) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        peers[0].road.form(1, ("ann",), "ann", "nowhere")


# -- members in processes of their own --------------------------------------------------------


class Member:
    """A process that takes orders."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("member.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )

    def order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it ended, or was killed at the deadline"
        return json.loads(line)


@contextmanager
def _members(num: int) -> Iterator[list[Member]]:
    members = [Member(name) for name in NAMES[:num]]
    watch = threading.Timer(DEADLINE_S, lambda: [m.process.kill() for m in members])
    watch.start()
    try:
        yield members
    finally:
        watch.cancel()
        for member in members:
            member.process.kill()
            member.process.communicate()


def form_of(members: Sequence[Member], term: int, store: str) -> None:
    names = [member.name for member in members]
    for member in members:
        member.order(do="form", term=term, members=names, me=member.name, store=store)
    assert [member.answer() for member in members] == [None] * len(members)


SUMMED = ["chain(Reduce())", "chain(Reduce(weighted=False))"]
GATHERED = ["chain(TopK(0.2), Reduce())"]
IN_PARTS = ["chain(ErrorFeedback(Int8(64)), Reduce())", "chain(Reduce(Median()))"]
SENTENCES = [*SUMMED, *GATHERED, *IN_PARTS]


def law(sentence: str, rows_MN: torch.Tensor, weight_M: torch.Tensor) -> torch.Tensor:
    """What the members should agree on, by the pure meaning of the sentence's exchange."""
    strategy, ctx = parse(sentence), Ctx(round=1)
    layout = Layout(("w",), (tuple(rows_MN[0].shape),))
    memory = strategy.init(layout, rows_MN[0])
    payloads = [strategy.prepare(r, r, memory, layout, ctx)[0] for r in rows_MN]
    rows = [strategy.open(payload, rows_MN[0], ctx) for payload in payloads]
    met = zip(NAMES, rows, weight_M.tolist(), strict=True)
    return strategy.exchange.meet([Message(*each) for each in met if each[2]])[0]


@pytest.mark.processes
@pytest.mark.slow
def test_three_processes_agree_on_what_the_law_says(tmp_path: Path) -> None:
    weights = {"unequal": [5.0, 1.0, 10.0], "one-idle": [5.0, 0.0, 10.0]}
    generator = torch.Generator().manual_seed(0)
    with _members(3) as members:
        store, *_ = [member.answer() for member in members]
        form_of(members, 1, store)
        for case, weight_M in weights.items():
            for size in (1, 10_007):
                rows_MN = torch.randn(3, size, generator=generator)
                given = {"rows_MN": rows_MN, "weight_M": torch.tensor(weight_M)}
                folder = tmp_path / f"{case}-{size}"
                folder.mkdir()
                save_file(given, folder / "rows.safetensors")
                ask = {"do": "agree", "sentences": SENTENCES, "folder": str(folder)}
                for member in members:
                    member.order(**ask, me=member.name)
                assert [member.answer() for member in members] == [None] * 3
                _check_agreed(folder, **given)


def _check_agreed(folder: Path, rows_MN: torch.Tensor, weight_M: torch.Tensor) -> None:
    agreed = [load_file(folder / f"{name}.safetensors") for name in NAMES]
    for sentence in SENTENCES:
        mine_N, *others = (each[sentence] for each in agreed)
        assert all(torch.equal(mine_N, other_N) for other_N in others), sentence
        packed_twice = 2 * rows_MN.abs().max().item() / 127 if "Int8" in sentence else 0.0
        expected_N = law(sentence, rows_MN, weight_M)
        torch.testing.assert_close(mine_N, expected_N, rtol=0, atol=1e-6 + packed_twice)
        if sentence in GATHERED:  # bytes travel as they are, and all combine them alike
            assert torch.equal(mine_N, expected_N)


@pytest.mark.processes
@pytest.mark.slow
def test_survivors_of_a_killed_member_are_told_and_go_on() -> None:
    with _members(3) as members:
        stores = [member.answer() for member in members]
        form_of(members, 1, stores[0])
        dead, *survivors = members  # it held the store of the term as well
        for survivor in survivors:
            survivor.order(do="total", value=1.5)
            assert survivor.answer() == "begun"
        dead.process.send_signal(signal.SIGKILL)
        for survivor in survivors:
            assert survivor.answer().startswith("torn: a member left the meeting")
        form_of(survivors, 2, stores[1])
        for survivor in survivors:
            survivor.order(do="total", value=1.5)
        for survivor in survivors:
            assert survivor.answer() == "begun"
            assert survivor.answer() == 3.0
