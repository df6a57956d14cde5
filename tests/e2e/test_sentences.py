"""Every way to agree comes to the same on four real processes as in memory, and costs what it says.

The same orders are played twice: to agents in processes of their own, over sockets, and to the
simulated engine. Legend of shape suffixes: N values of a vector.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.agents import serve
from coterie.agents.hub import Hub
from coterie.agents.join import setup_of
from coterie.agents.snapshot import Snapshot
from coterie.config import Job, parse_job
from coterie.engines import simulated
from coterie.parent import Watch
from coterie.sync import fragments
from coterie.sync.chain import Strategy
from coterie.sync.codecs import Codec, ErrorFeedback
from coterie.sync.meetings import WEIGHT_BYTES
from coterie.sync.reading import parse
from coterie.transport import messages as say
from coterie.transport.control import ControlServer
from coterie.transport.parcels import Assembly
from coterie.transport.secure import Keys
from coterie.types import Layout
from coterie.world import Device, Link, World

pytestmark = pytest.mark.processes

NAMES = ("ann", "bob", "cid", "dan")
SHARES = {"ann": 5, "bob": 3, "cid": 4, "dan": 2}
NUM_ROUNDS = 6  # the last of them for three samples only: somebody has nothing to bring
LEFT_OVER = 3
DEADLINE_S = 30.0  # bounds a test that hangs; none waits for it otherwise
SETTLE_BYTES = 5 * 8  # what a member tells the others of where it stands, once in a term
HERE = "127.0.0.1"

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def samples(num=1024):
    inputs = torch.randn(num, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs[:, :4].argmax(dim=1))
"""
JOB = {
    "name": "meadow",
    "task": {"model": "meadow:net", "train": "meadow:samples", "test": "meadow:samples"},
    "optimizer": {"call": "torch.optim:SGD", "with": {"lr": 0.1, "momentum": 0.9}},
    "batch": sum(SHARES.values()),
    "until": {"steps": 1},
    "agents": len(NAMES),
}

RING = [
    "all-reduce",
    "all-reduce-fp16",
    "all-reduce-int8",
    "chain(ErrorFeedback(Int8(16)), Reduce())",  # packed in parts, and anew
    "chain(Int4(16), Reduce(weighted=False))",
    "chain(ErrorFeedback(Stochastic(16)), Reduce())",
    "chain(ErrorFeedback(Sign(16)), Reduce())",
    "chain(ErrorFeedback(TopK(0.1)), Reduce())",
    "chain(ErrorFeedback(RandomK(0.1)), Reduce())",
    "power-sgd(2)",
    "chain(Reduce(Median()))",
    "chain(Reduce(weighted='score'))",
    "chain(Clip(0.5), Reduce())",
    "robust(2)",
    "median(2)",
    "krum(2, 0)",
    "multi-krum(2, 0)",
    "centred-clip(2)",
    "kin(2)",
    "local-sgd(3)",
    "average(2)",
    "average-by-score(2)",
    "dylu(3)",
    "diloco(3)",
    "diloco-int8(3)",
    "chain(Every(3), ErrorFeedback(Int8(16)), Reduce(), Outer(0.7, 0.9, nesterov=True))",
    "sparse-loco(3)",
    "chain(Every(4, fragments=2), Reduce(), Outer(0.7))",
    "chain(Every(3, overlap=1), Reduce(), Outer(0.7, 0.9))",
    "streaming-diloco(8, 4, 1)",
    "gossip(2, 'ring')",
    "gossip(2, 'exponential')",
    "gossip(2, 'complete')",
    "noloco(2)",
    "fed-prox(3, 0.1)",
    "fed-nova(3)",
    "fed-adam(3)",
    "fed-yogi(3)",
    "tiers(3, 2)",
    "chain(Every(2), Islands((('ann', 'dan', 'cid'), ('bob',))), Reduce(), Outer(1.0))",
    "chain(Every(2), Only('0.*'), Reduce(), Outer(1.0))",
]
STAR = [
    "parameter-server",
    "chain(Every(2), ErrorFeedback(Int8(16)), Reduce(road='star'), Outer(0.7, 0.9))",
    "chain(Every(2), Reduce(TrimmedMean(1), road='star'), Outer(1.0))",
]
# Who is heard depends on who is first, or on chance: no two plays of these are alike.
CHANCY = [
    "parameter-server(3)",
    "private(2, 1.0, 0.5)",
    "chain(Every(2), Clip(1.0), Noise(0.5), Reduce(weighted=False), Outer(1.0))",
]
APART = [
    "asynchronous(2)",
    "delayed-nesterov(2, 3)",
    "chain(DyLU(2), ErrorFeedback(Int8(16)), Push(), Discount(0.5), Outer(1.0))",
]


# -- orders -------------------------------------------------------------------------------------


@dataclass
class Orders:
    """A coordinator that has made up its mind: one term, its blocks, the members' state, an end."""

    sentence: str
    members: tuple[str, ...] = NAMES
    job: dict[str, Any] = field(default_factory=dict)
    hellos: dict[str, say.Hello] = field(default_factory=dict)
    ready: dict[str, say.Ready] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    states: dict[str, Assembly] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    heard: list[tuple[str, Any]] = field(default_factory=list)
    named: bool = False  # whether the term has been

    def __post_init__(self) -> None:
        self.strategy = parse(self.sentence)
        by_star = self.strategy.exchange.road == "star"
        self.party = (*self.members, *([say.HUB] if by_star else []))
        self.run = SimpleNamespace(
            log=[],
            outbox=[],
            checkpoints=[],
            evicted=[],
            members={},
            done=not self.members,
            by_star=by_star,
        )

    def start(self, now_s: float) -> None:
        """Nothing is to be said before anybody has come."""

    def tick(self, now_s: float) -> None:
        """No deadline is kept here."""

    def tell(self, message: say.Wire, *names: str) -> None:
        self.run.outbox += [(name, message) for name in names or self.party]

    def receive(self, name: str, message: Any, now_s: float) -> None:
        self.heard.append((name, message))
        match message:
            case say.Hello():
                self.hellos[name] = message
                self.tell(say.Welcome(job={} if name == say.HUB else self.job), name)
                self._name_term()
            case say.Ready():
                self.ready[name] = message
                self._name_term()
            case say.Settled():
                self.settled.add(name)
                if self.settled == set(self.party):
                    self._give_out()
            case say.State():
                self.states.setdefault(name, Assembly()).add(message)
                if all(len(self.files(member)) == 2 for member in self.members):
                    self.tell(say.Stop(reason="on to the next"), *self.hellos)
            case say.Bye():
                self.gone.add(name)
                self.run.done = self.gone >= self.hellos.keys()
            case say.Failed() | say.Refused() | say.TornRound() | say.Offence():
                raise AssertionError(f"{name} in {self.sentence}: {message}")

    @property
    def layout(self) -> Layout:
        """Of the model that the members have built."""
        return Layout(self.ready[self.members[0]].names, self.ready[self.members[0]].shapes)

    def files(self, member: str) -> dict[str, bytes]:
        return self.states.get(member, Assembly()).files

    def _name_term(self) -> None:
        there = self.ready.keys() >= set(self.members) and self.hellos.keys() >= set(self.party)
        if self.named or not there:
            return
        self.named = True
        first, by_star = self.members[0], self.run.by_star
        self.tell(
            say.Term(
                number=1,
                members=self.members,
                store=self.hellos[first].store,
                hub=self.hellos[say.HUB].store if by_star else "",
                apart=self.strategy.exchange.asynchronous,
                names=self.ready[first].names if by_star else (),
                shapes=self.ready[first].shapes if by_star else (),
            )
        )

    def blocks(self) -> list[say.Block]:
        """All at once; where nobody meets, each member's own rounds, their numbers in turn."""
        every, walk = self.strategy.every, self.strategy.walk
        batch = 4 if walk is not None and walk.paced else None
        fixed = {"term": 1, "data_epoch": 0, "every": every, "strategy": repr(self.strategy)}
        if not self.strategy.exchange.asynchronous:
            size = sum(SHARES.values()) * every * (NUM_ROUNDS - 1) + LEFT_OVER
            shares = {name: SHARES[name] for name in self.members}
            spans = ((0, size),)
            return [say.Block(first_round=1, spans=spans, shares=shares, batch=batch, **fixed)]
        blocks, start = [], 0
        for turn in range(NUM_ROUNDS):
            for place, name in enumerate(self.members):
                stop, number = start + SHARES[name] * every, turn * len(self.members) + place + 1
                shares = {name: SHARES[name]}
                blocks.append(
                    say.Block(
                        first_round=number,
                        spans=((start, stop),),
                        shares=shares,
                        batch=batch,
                        **fixed,
                    )
                )
                start = stop
        return blocks

    def _give_out(self) -> None:
        for block in self.blocks():
            self.tell(block)
        if self.strategy.overlap:
            self.tell(say.Land(term=1))
        self.tell(say.Save(term=1, ticket=1, whole=True), *self.members)


@dataclass
class Witness(Hub):
    """A server that remembers who was heard in each round that it closed, and each push."""

    heard: dict[int, set[str]] = field(default_factory=dict)
    pushes: list[int] = field(default_factory=list)  # the version after each that counted

    def _tell_all(self, fields: Any) -> Any:
        self.heard[fields["round"]] = set(fields["weights"])
        yield from super()._tell_all(fields)

    def _apply(self, *args: Any) -> None:
        super()._apply(*args)
        self.pushes.append(self.version)


# -- real agents --------------------------------------------------------------------------------


@dataclass
class Played:
    """What a play of some orders on real processes came to."""

    orders: Orders
    snapshots: dict[str, Snapshot]
    carried: dict[str, dict[str, int]]  # bytes by member and road
    hub: Witness | None


class Agents:
    """Four agents in processes of their own, and a coordinator's port."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (folder / "meadow.py").write_text(TASK)
        self.job = parse_job({**JOB, "root": str(folder)})
        self.keys, self.hubs = Keys.make(), deque[Witness]()
        self._server = ControlServer(f"{HERE}:0", self.keys)
        stack.callback(self._server.close)
        self._bell, ringer = socket.socketpair()
        stack.callback(self._bell.close)
        stack.callback(ringer.close)
        self._identities: dict[str, bytes] = {}
        self._lost = ""  # the sentence in the middle of which agents were left
        self.key_path = folder / "join.key"
        self.keys.join.write(self.key_path)
        words = [str(Path(__file__).with_name("member.py")), self._server.endpoint]
        self._agents = {
            name: subprocess.Popen(
                [sys.executable, *words, str(folder / "join.key"), name, str(folder)],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in NAMES
        }
        stack.callback(self._end)
        assert [self._line(name) for name in NAMES] == ["here"] * len(NAMES)

    def play(self, sentence: str, members: tuple[str, ...] = NAMES) -> Played:
        """Play a sentence's orders; raises AssertionError where somebody cannot follow them."""
        assert not self._lost, f"an earlier play did not end: {self._lost}"
        job = self.job.model_dump(by_alias=True, mode="json")
        orders = Orders(sentence, members, job)
        server = threading.Thread(target=self._serve, daemon=True)
        if orders.run.by_star:
            server.start()
        until_s = time.monotonic() + DEADLINE_S
        for agent in self._agents.values():
            assert agent.stdin is not None
            print("take part", file=agent.stdin, flush=True)
        while not (orders.run.done and set(NAMES) <= orders.gone):
            self._assert_going(time.monotonic() < until_s, orders)
            self._server.wait(0.5, self._bell)
            while (said := self._server.receive()) is not None:
                name = said[0].decode().partition(":")[0]
                self._identities[name] = said[0]
                self._hear(orders, name, said[1])
        if orders.run.by_star:
            server.join(DEADLINE_S)
        snapshots = {m: Snapshot.from_files(orders.files(m), m) for m in members}
        carried = {name: self._line(name) for name in NAMES}
        return Played(orders, snapshots, carried, self.hubs.pop() if self.hubs else None)

    def hub(self, hello: say.Hello) -> Witness:
        """A server for the play that begins."""
        self.hubs.append(Witness(hello))
        return self.hubs[-1]

    def _hear(self, orders: Orders, name: str, message: Any) -> None:
        orders.receive(name, message, 0.0)
        for to, told in orders.run.outbox:
            self._server.send(self._identities[to], told)
        orders.run.outbox.clear()

    def _assert_going(self, in_time: bool, orders: Orders) -> None:
        ended = [name for name, agent in self._agents.items() if agent.poll() is not None]
        if ended or not in_time:
            self._lost = orders.sentence
            raise AssertionError(f"{self._lost}: {ended} ended, heard {orders.heard[-9:]}")

    def _serve(self) -> None:
        serve.serve(self._server.endpoint, self.key_path, f"{HERE}:0", Watch(0))

    def _line(self, name: str) -> Any:
        stdout = self._agents[name].stdout
        assert stdout is not None
        while (line := stdout.readline()) and line[0] not in '{["':
            pass  # why it ended
        assert line, f"{name} has ended"
        return json.loads(line)

    def _end(self) -> None:
        for agent in self._agents.values():
            agent.kill()
            agent.communicate()


Real = Callable[..., Played]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        made = Agents(tmp_path_factory.mktemp("meadow"), stack)
        patch.setattr(serve, "Hub", made.hub)
        yield made


@pytest.fixture(scope="module")
def real(agents: Agents) -> Real:
    """Plays a sentence for real, once for all tests."""
    done: dict[Any, Played] = {}

    def play(sentence: str, members: tuple[str, ...] = NAMES) -> Played:
        if (sentence, members) not in done:
            done[sentence, members] = agents.play(sentence, members)
        return done[sentence, members]

    return play


# -- in memory ----------------------------------------------------------------------------------


def in_memory(
    sentence: str, job: Job, patch: pytest.MonkeyPatch, members: tuple[str, ...] = NAMES
) -> dict[str, Snapshot]:
    """What the same orders come to in the simulated engine, by member."""
    orders = Orders(sentence, members)
    patch.setattr(simulated, "Coordinator", lambda *_: orders)
    patch.setattr(simulated, "summary", lambda _: {})
    devices = tuple(Device(name, 0.01, 0.001, 1000) for name in members)
    ends = (*members, "switch")
    links = tuple(Link(a, b, 0.001, 1e6) for a in members for b in ends if a < b)
    world = World(devices, links, batch=1, num_train=1)
    outcome = simulated.simulate(job, setup_of(job, "cpu"), world)
    assert orders.run.done, f"{sentence}: no end, heard {orders.heard[-9:]}"
    return {name: outcome.workers[name].snapshot() for name in members}


def differs(left: Any, right: Any) -> float:
    """How far two memories are apart at most; infinitely, where they are of different kinds."""
    if isinstance(left, Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return math.inf
        return float((left.double() - right.double()).abs().max()) if left.numel() else 0.0
    if isinstance(left, tuple):
        pairs = zip(left, right, strict=True)
        return max((differs(a, b) for a, b in pairs), default=0.0)
    return 0.0 if left == right else math.inf


def assert_same(played: dict[str, Snapshot], law: dict[str, Snapshot]) -> None:
    assert played.keys() == law.keys()
    for name, mine in played.items():
        assert mine.round == law[name].round
        torch.testing.assert_close(mine.agreed_N, law[name].agreed_N, rtol=0, atol=1e-6)
        assert differs(mine.memory, law[name].memory) <= 1e-6, name


def start_of(job: Job) -> Tensor:
    task = setup_of(job, "cpu").task
    torch.manual_seed(job.seed)
    return torch.cat([p.detach().reshape(-1) for p in task.build().parameters()])


@pytest.mark.parametrize("sentence", [*RING, *STAR])
def test_four_processes_come_to_what_the_law_says(
    sentence: str, real: Real, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = real(sentence).snapshots
    assert_same(played, in_memory(sentence, agents.job, monkeypatch))
    moved_N = played["ann"].agreed_N - start_of(agents.job)
    assert float(moved_N.abs().max()) > 1e-3, "nothing was learned"


@pytest.mark.parametrize("sentence", [*RING, *STAR, *CHANCY])
def test_members_agree_in_every_bit_or_stay_apart(sentence: str, real: Real) -> None:
    played = real(sentence)
    strategy, layout = played.orders.strategy, played.orders.layout
    shared = strategy.narrowed(layout)
    vectors = [fragments.take(s.agreed_N, layout, shared) for s in played.snapshots.values()]
    assert all(bool(vector_K.isfinite().all()) for vector_K in vectors)
    same = [torch.equal(vector_K, vectors[0]) for vector_K in vectors[1:]]
    assert same == [strategy.exchange.agrees] * 3
    if not strategy.exchange.agrees:
        spread = float((torch.stack(vectors) - torch.stack(vectors).mean(0)).abs().max())
        assert 0 < spread < 0.5


@pytest.mark.parametrize("sentence", [*RING, *STAR, *CHANCY])
def test_members_tell_of_every_round_with_whom_it_was_learned(sentence: str, real: Real) -> None:
    """Short rounds are told together, and who is heard in them may change from one to the next."""
    played = real(sentence)
    (block,) = played.orders.blocks()
    brought = [{n for n, k in leases.items() if k.num_samples} for leases in block.rounds()]
    heard = dict(enumerate(brought, start=1))
    if played.hub is not None:
        assert played.hub.heard.keys() == heard.keys()
        heard = played.hub.heard
    for name in NAMES:
        told = {
            number: set(message.cohort)
            for who, message in played.orders.heard
            if isinstance(message, say.Report) and who == name
            for number in range(message.first_round, message.last_round + 1)
        }
        assert told == heard, name


def test_a_quorum_is_waited_for_and_no_more(real: Real) -> None:
    hub = real("parameter-server(3)").hub
    assert hub is not None
    assert {len(heard) for heard in hub.heard.values()} == {3}


def test_what_gradients_count_by_is_what_the_sentence_says(real: Real) -> None:
    kinds = ("chain(Reduce())", "chain(Reduce(weighted=False))", "chain(Reduce(weighted='score'))")
    ends = [real(sentence).snapshots["ann"].agreed_N for sentence in kinds]
    apart = [float((a - b).abs().max()) for a, b in itertools.combinations(ends, 2)]
    assert min(apart) > 1e-3


# -- without meetings ---------------------------------------------------------------------------


@pytest.mark.parametrize("sentence", APART)
def test_one_that_pushes_alone_comes_to_what_the_law_says(
    sentence: str, real: Real, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ("cid",)
    assert_same(
        real(sentence, alone).snapshots, in_memory(sentence, agents.job, monkeypatch, alone)
    )


@pytest.mark.parametrize("sentence", APART)
def test_each_push_of_four_counts_once_and_is_told_by_who_made_it(
    sentence: str, real: Real
) -> None:
    played = real(sentence)
    owner = {block.first_round: set(block.shares) for block in played.orders.blocks()}
    assert played.hub is not None
    assert played.hub.pushes == list(range(1, len(owner) + 1))
    assert played.hub.version == len(owner)
    told = [(who, m) for who, m in played.orders.heard if isinstance(m, say.Report)]
    by_server = {m.first_round: set(m.cohort) for who, m in told if who == say.HUB}
    assert by_server == owner
    assert sum(who == say.HUB for who, _ in told) == len(owner)
    for name in NAMES:
        mine = [m for who, m in told if who == name]
        rounds = [n for m in mine for n in range(m.first_round, m.last_round + 1)]
        assert sorted(rounds) == [n for n, names in owner.items() if names == {name}]
        assert {m.cohort for m in mine} == {(name,)}
        assert sum(m.num_samples for m in mine) == sum(
            leases[name].num_samples
            for block in played.orders.blocks()
            for leases in block.rounds()
            if name in leases
        )


@pytest.mark.parametrize("sentence", APART)
def test_the_last_to_push_stands_where_the_server_stands(sentence: str, real: Real) -> None:
    played = real(sentence)
    assert played.hub is not None
    assert played.hub.anchor_N is not None
    apart = [
        float((snapshot.agreed_N - played.hub.anchor_N).abs().max())
        for snapshot in played.snapshots.values()
    ]
    # What is packed on its way down comes a little late, by what the codec has left out.
    assert min(apart) <= (1e-2 if played.orders.strategy.pack else 0.0)


# -- what travels -------------------------------------------------------------------------------


def in_parts_bytes(strategy: Strategy, size: int, block: int) -> int:
    """A part for each member and the part that one owns, each with a weight or alone."""
    block = math.lcm(block, 8)  # whole blocks, and whole bytes of codes
    owned = -(-size // (len(NAMES) * block)) * block
    pack = strategy.pack.codec if isinstance(strategy.pack, ErrorFeedback) else strategy.pack
    assert isinstance(pack, Codec)
    packet = pack.packet_bytes(owned)
    return len(NAMES) * (packet + WEIGHT_BYTES) + packet


# By sentence, what one member brings to each of the rounds, besides or beyond its payload.
HEADERS: dict[str, Callable[[Strategy, Layout], int]] = {
    "all-reduce": lambda s, k: s.num_bytes(k),
    "local-sgd(3)": lambda s, k: s.num_bytes(k) + len(NAMES) * WEIGHT_BYTES,
    "chain(Every(2), Only('0.*'), Reduce(), Outer(1.0))": (
        lambda s, k: s.num_bytes(k) + len(NAMES) * WEIGHT_BYTES
    ),
    "all-reduce-int8": lambda s, k: s.num_bytes(k) + WEIGHT_BYTES,
    "all-reduce-fp16": lambda s, k: in_parts_bytes(s, k.size, 1),
    "chain(ErrorFeedback(TopK(0.1)), Reduce())": lambda s, k: s.num_bytes(k) + WEIGHT_BYTES,
    "chain(ErrorFeedback(RandomK(0.1)), Reduce())": (
        lambda s, k: s.num_bytes(k) + len(NAMES) * WEIGHT_BYTES
    ),
    "sparse-loco(3)": lambda s, k: s.num_bytes(k) + WEIGHT_BYTES,
    "power-sgd(2)": lambda s, k: s.num_bytes(k) + len(NAMES) * WEIGHT_BYTES,
    "kin(2)": lambda s, k: s.num_bytes(k) + WEIGHT_BYTES,
    "chain(ErrorFeedback(Int8(16)), Reduce())": lambda s, k: in_parts_bytes(s, k.size, 16),
    "gossip(2, 'ring')": lambda s, k: 2 * (s.num_bytes(k) + WEIGHT_BYTES),
    "gossip(2, 'exponential')": lambda s, k: s.num_bytes(k) + WEIGHT_BYTES,
    "gossip(2, 'complete')": lambda s, k: 3 * (s.num_bytes(k) + WEIGHT_BYTES),
    "noloco(2)": lambda s, k: s.num_bytes(k) + WEIGHT_BYTES,
}


@pytest.mark.parametrize("sentence", HEADERS)
def test_a_round_brings_the_bytes_that_the_sentence_names(sentence: str, real: Real) -> None:
    played = real(sentence)
    each = HEADERS[sentence](played.orders.strategy, played.orders.layout)
    wanted = {"ring": SETTLE_BYTES + NUM_ROUNDS * each, "star": 0}
    assert played.carried == dict.fromkeys(NAMES, wanted)


def test_a_fragment_brings_its_own_bytes(real: Real) -> None:
    played = real("streaming-diloco(8, 4, 1)")
    strategy, layout = played.orders.strategy, played.orders.layout
    assert strategy.pack is not None
    packets = [
        strategy.pack.num_bytes(strategy.part(layout, number))
        for number in range(1, NUM_ROUNDS + 1)
    ]
    assert max(packets) == strategy.num_bytes(layout)
    carried = SETTLE_BYTES + sum(packets) + NUM_ROUNDS * WEIGHT_BYTES
    assert {road["ring"] for road in played.carried.values()} == {carried}


def test_only_one_of_an_island_brings_a_packet_to_the_others(real: Real) -> None:
    played = real("tiers(3, 2)")
    strategy, layout = played.orders.strategy, played.orders.layout
    (block,) = played.orders.blocks()
    islands = strategy.team.teams(NAMES)  # type: ignore[union-attr]
    dense = 4 * layout.size
    for island in islands:
        steps = sum(max(leases[name].num_steps for name in island) for leases in block.rounds())
        inside = steps * (dense + len(island) * WEIGHT_BYTES) + NUM_ROUNDS * dense
        for name in island:
            between = NUM_ROUNDS * (strategy.num_bytes(layout) + WEIGHT_BYTES)
            marks = NUM_ROUNDS * 4 * len(NAMES)  # whether anybody's step was not finite
            wanted = SETTLE_BYTES + inside + marks + (between if name == island[0] else 0)
            assert played.carried[name]["ring"] == wanted


@pytest.mark.parametrize("sentence", STAR)
def test_by_star_little_more_than_the_payload_travels(sentence: str, real: Real) -> None:
    """A mail has a header, and so has the state in it; each that comes is acknowledged."""
    played = real(sentence)
    payload = played.orders.strategy.num_bytes(played.orders.layout)
    for road in played.carried.values():
        assert road["ring"] == 0
        assert NUM_ROUNDS * payload < road["star"] < NUM_ROUNDS * (payload + 600) + 1200
