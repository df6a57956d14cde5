"""A coordinator on a stage: members who answer its orders in virtual time, and die on cue."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator.coordinator import Coordinator
from coterie.coordinator.run import Resume
from coterie.transport import messages as say
from coterie.transport.parcels import pieces

BATCH, NUM_TRAIN = 32, 640  # 20 rounds an epoch
OVERHEAD_S, PER_SAMPLE_S = 0.002, 0.001
NAMES = "abcdefgh"


def make_job(num_agents: int = 3, **words: Any) -> Job:
    parts = {part: Ref(call=f"m:{part}") for part in ("model", "train", "test")}
    known: dict[str, Any] = {
        "name": "play",
        "task": TaskSpec(**parts, metrics={"accuracy": Ref(call="m:accuracy")}),
        "optimizer": Ref(call="torch.optim:SGD"),
        "batch": BATCH,
        "strategy": "all-reduce",
        "until": {"epochs": 3.0},
        "agents": {"local": num_agents},
        "checkpoint_every_s": 1e6,
    }
    return Job(**{**known, **words})


class Play:
    """What the real engines do for a coordinator, with actors instead of workers.

    Every actor carries out its orders one after the other, as workers do: a term named at once
    overtakes what waits, and of the blocks before it no more counts than a round half done.
    """

    def __init__(self, num_agents: int = 3, resume: Resume | None = None, **words: Any) -> None:
        self.coordinator = Coordinator(make_job(num_agents, **words), num_agents, resume)
        self.run = self.coordinator.run
        self.now_s, self.num_train = 0.0, NUM_TRAIN
        self.names = tuple(NAMES[:num_agents])
        self.pace_s = PER_SAMPLE_S  # seconds a sample, of all but
        self.per_sample_s: dict[str, float] = {}
        self.memory_bytes: dict[str, int] = {}  # where it is not boundless
        self.bytes_per_s: dict[frozenset[str], float] = {}  # where it is not 1e9
        self.chain: tuple[tuple[str, float, int, float, float], ...] = ()  # of the model's layers
        self.meeting_s = 0.0  # of a round, beyond the work
        self.scoring_s = 0.001
        self.num_passes = 0  # of scripts' own loops
        self.evaluating: set[str] = set()  # whose loops do not come to the next pass yet
        self.saving_s = 0.0  # that a member stands still for a save
        self.accuracy, self.loss = 0.5, 1.0
        self.mute: set[str] = set()  # alive, but neither beating nor answering
        self.computing: dict[str, float] = {}  # who beats and answers nothing, and since when
        self.alive: set[str] = set()
        self.rounds: dict[str, int] = {}  # the last one committed, by actor
        self.reported: dict[str, int] = {}
        self.held: dict[int, bool] = {}  # by term: whether the next round stood when it was formed
        self.books: dict[int, tuple[Any, tuple[str, ...]]] = {}  # by round: leases and cohort
        self.terms: dict[str, say.Term] = {}
        self.stands: dict[str, int] = {}  # the last round that orders of earlier terms ask for
        self.holding = True  # whether a term that breaks does so in the middle of a round
        self.orders: deque[tuple[str, Any]] = deque()  # told, and not answered yet
        self.told: list[tuple[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.checkpoints: list[Any] = []
        self.script: list[Callable[[Coordinator], None]] = []  # all that the coordinator was told
        self.named: dict[int, tuple[str, ...]] = {0: ()}  # members by term
        self.whole = 0  # the newest term that all its members have settled in
        self.counted: set[int] = set()  # rounds that count and are not final
        self._do(lambda c: c.start(0.0))

    # -- cues ---------------------------------------------------------------------------------

    def enter(self, *names: str) -> Play:
        """Agents say hello and have built the task; all of the job, if none is named."""
        for name in names or self.names:
            self.hello(name)
            self.say(name, self.ready())
        return self

    def hello(self, name: str, store: str = "") -> None:
        self.alive.add(name)
        self.rounds[name] = self.run.resume.meta["round"] if self.run.resume else 0
        self.reported[name] = self.stands[name] = self.rounds[name]
        self.say(name, self._hello(name, store))

    def _hello(self, name: str, store: str = "") -> say.Hello:
        return say.Hello(
            name=name,
            pid=1,
            cores=1.0,
            memory_bytes=self.memory_bytes.get(name, 1 << 40),
            device="cpu",
            store=store or f"{name}:1",
        )

    def hello_of_server(self, pid: int) -> say.Hello:
        """What a server of the star road says first."""
        return self._hello(say.HUB, f"there:{pid}").model_copy(update={"pid": pid})

    def ready(self, shape: tuple[int, ...] = (10,), needs_closure: bool = False) -> say.Ready:
        return say.Ready(
            names=("w",),
            shapes=(shape,),
            num_train=self.num_train,
            needs_closure=needs_closure,
            batch=BATCH if self.run.job.script else None,
        )

    def back(self, name: str, **words: Any) -> say.Back:
        """What an actor says to a coordinator that does not know it."""
        known: dict[str, Any] = {
            "hello": self._hello(name),
            "ready": self.ready(),
            "term": self.terms[name].number if name in self.terms else 0,
            "round": self.rounds[name],
            "reports": (),
        }
        return say.Back(**{**known, **words})

    def say(self, name: str, message: say.Wire) -> None:
        now_s = self.now_s
        self._do(lambda c: c.receive(name, message, now_s))

    def kill(self, *names: str) -> None:
        now_s = self.now_s
        for name in names:
            self._forget(name)
            self._do(lambda c, name=name: c.lost(name, "killed", now_s))

    def doubt(self, name: str, reason: str, since_s: float) -> bool:
        """An engine lost sight of an actor; whether that is settled."""
        now_s, settled = self.now_s, list[bool]()
        self._do(lambda c: settled.append(c.doubt(name, reason, since_s, now_s)))
        return settled[-1]

    def stop(self, reason: str = "interrupted") -> None:
        self._do(lambda c: c.stop(reason))

    def wait(self, seconds: float, step_s: float = 0.25) -> None:
        """Time passes; whoever is not mute beats."""
        until_s = self.now_s + seconds
        while self.now_s < until_s - 1e-9:
            self.now_s = now_s = min(until_s, self.now_s + step_s)
            for name in sorted(self.alive - self.mute):
                since_s = self.computing.get(name, now_s)
                self.say(name, say.Beat(computing_s=now_s - since_s))
            self._do(lambda c, now_s=now_s: c.tick(now_s))

    def until(self, kind: type[say.Wire], to: str = "", num: int = 1) -> tuple[str, Any]:
        """Play until an order of a kind is told for the num-th time, and leave it unanswered."""
        for _ in range(20_000):
            wanted = [(n, m) for n, m in self.orders if isinstance(m, kind) and to in ("", n)]
            if len(wanted) >= num:
                return wanted[num - 1]
            if self.run.done:
                break
            self.answer()
        raise AssertionError(f"no {kind.__name__} was told: {self.run.failure or self.told[-3:]}")

    def until_true(self, happened: Callable[[], object]) -> None:
        """Play until something is so."""
        for _ in range(20_000):
            if happened():
                return
            assert not self.run.done, f"the run ended before: {self.run.failure}"
            self.answer()
        raise AssertionError("it never was so")

    def to_the_end(self) -> Play:
        """Play until the run is done."""
        for _ in range(20_000):
            if self.run.done:
                return self
            self.answer()
        raise AssertionError(f"no end in sight: {self.told[-3:]}")

    def until_training(self) -> Play:
        """Enter and play until the first block is told to everybody."""
        self.enter()
        self.until(say.Block, to=self.names[-1])
        return self

    # -- what it came to ----------------------------------------------------------------------

    def of(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of a kind, with these fields."""
        return [
            e
            for e in self.events
            if e["kind"] == kind and all(e.get(key) == value for key, value in fields.items())
        ]

    def orders_of(self, kind: type[say.Wire], to: str = "") -> list[Any]:
        """All that was told of a kind."""
        return [m for name, m in self.told if isinstance(m, kind) and to in ("", name)]

    @property
    def memberships(self) -> list[tuple[str, ...]]:
        """Of all terms, in order."""
        return [tuple(event["members"]) for event in self.of("term")]

    def times_learned(self) -> dict[int, set[int]]:
        """By data epoch: how often its positions were learned, by what is on record as final."""
        counts: dict[int, Counter[int]] = {}
        for event in self.of("committed"):
            spans = [span for lease in event["leases"].values() for span in lease]
            positions = [p for start, stop in spans for p in range(start, stop)]
            counts.setdefault(event["data_epoch"], Counter()).update(positions)
        num = self.run.ledger.num_train
        return {epoch: {count[p] for p in range(num)} for epoch, count in counts.items()}

    # -- the actors ---------------------------------------------------------------------------

    def answer(self) -> None:
        """One actor carries out one order; if none has one, time passes."""
        for index, (name, message) in enumerate(self.orders):
            if name not in self.mute and name not in self.computing:
                del self.orders[index]
                for reply in self._replies(name, message):
                    self.say(name, reply)
                return
        self.wait(0.25)

    def _do(self, act: Callable[[Coordinator], None]) -> None:
        self.script.append(act)
        act(self.coordinator)
        run = self.run
        for name, message in run.outbox:
            self.told.append((name, message))
            if name in self.alive:
                first = isinstance(message, say.Term) and message.at_once
                (self.orders.appendleft if first else self.orders.append)((name, message))
        self.events += [{"kind": kind, **fields} for kind, fields in run.log]
        self._is_of_one_mind()
        self.checkpoints += run.checkpoints
        for laid_out in (run.outbox, run.log, run.checkpoints):
            laid_out.clear()

    def _is_of_one_mind(self) -> None:
        """No split brain: terms are named one by one, and only the newest can make a round count.

        Once all its members have settled, what those of an earlier term do counts for nothing.
        """
        run = self.run
        for number, members in [(f["number"], f["members"]) for k, f in run.log if k == "term"]:
            assert number == len(self.named), "two terms of one number, or one left out"
            self.named[number] = tuple(members)
        provisional, newest = run.ledger.provisional, run.term.number
        since = range(self.whole, newest + 1)
        for number in provisional.keys() - self.counted:
            owners = {m for m, lease in provisional[number].leases.items() if lease.num_samples}
            assert any(owners <= set(self.named[term]) for term in since), (
                "two cohorts in one round"
            )
        self.counted = set(provisional)
        if run.settled.keys() >= set(run.term.members):
            self.whole = newest

    def _forget(self, name: str) -> None:
        self.alive.discard(name)
        self.terms.pop(name, None)
        self.orders = deque((n, m) for n, m in self.orders if n != name)

    def _replies(self, name: str, message: Any) -> Iterator[say.Wire]:
        match message:
            case say.Probe():
                yield self._probed(name, message)
            case say.ProbeLinks():
                yield self._linked(name, message)
            case say.Term():
                yield from self._settle(name, message)
            case say.Block():
                yield from self._learn(name, message)
            case say.Evaluate() if message.term == self.terms[name].number:
                self.wait(self.scoring_s)
                yield say.Scores(
                    round=self.rounds[name],
                    metrics={"accuracy": self.accuracy},
                    seconds=self.scoring_s,
                )
            case say.Turn() if message.term == self.terms[name].number:
                goes_on = message.data_epoch < self.num_passes
                if name not in self.evaluating:
                    yield say.Begun(data_epoch=message.data_epoch) if goes_on else say.Ended()
            case say.Save() if message.term == self.terms[name].number:
                yield say.Saved(ticket=message.ticket, pause_s=self.saving_s)
                files = [f"state/{name}", *(["model"] if message.whole else [])]
                for file in files:
                    yield from pieces(message.ticket, file, b"x")
            case say.Stop():
                self._forget(name)
                yield say.Bye()

    def _step_s(self, name: str, batch: int) -> float:
        return OVERHEAD_S + self.per_sample_s.get(name, self.pace_s) * batch if batch else 0.0

    def _probed(self, name: str, probe: say.Probe) -> say.Probed:
        timings = tuple((size, self._step_s(name, size)) for size in probe.sizes)
        return say.Probed(timings=timings, fixed_bytes=0, bytes_per_sample=1.0, chain=self.chain)

    def _linked(self, name: str, order: say.ProbeLinks) -> say.Linked:
        peers = [peer for peer in self.terms[name].members if peer != name]
        rates = [(p, 1e-4, self.bytes_per_s.get(frozenset((name, p)), 1e9)) for p in peers]
        return say.Linked(term=order.term, links=tuple(rates))

    def _settle(self, name: str, term: say.Term) -> Iterator[say.Wire]:
        if term.number <= (self.terms[name].number if name in self.terms else 0):
            return
        yield from self._report(name)
        self.terms[name] = term
        if name not in term.members:
            self.stands[name] = self.rounds[name]
            return
        newest = max(self.rounds[m] for m in term.members if m in self.alive)
        self.held.setdefault(term.number, self.holding and self._asks_for(newest + 1, term))
        healed, self.rounds[name] = self.rounds[name] < newest - 1, newest
        self.reported[name] = newest if healed else self.reported[name]
        self.stands[name] = stands = newest + self.held[term.number]
        yield say.Settled(
            term=term.number, round=newest, stands=stands, healed=healed, seconds=0.01
        )

    def _asks_for(self, number: int, term: say.Term) -> bool:
        """Whether a block that a member of the term has still to carry out holds this round."""
        terms = [(n, m) for n, m in self.orders if isinstance(m, say.Term)]
        there = set(term.members) - {n for n, between in terms if n not in between.members}
        blocks = [(n, m) for n, m in self.orders if isinstance(m, say.Block) and n in there]
        return any(
            block.first_round <= number < block.first_round + len(block.rounds())
            and (block.term == self.terms[name].number or number <= self.stands[name])
            for name, block in blocks
        )

    def _learn(self, name: str, block: say.Block) -> Iterator[say.Report]:
        """A block's rounds; whoever has met in one must have met in all before with the others."""
        term, took_s = self.terms[name], 0.0
        for number, leases in enumerate(block.rounds(), start=block.first_round):
            outdated = block.term < term.number and number > self.stands[name]
            if number <= self.rounds[name] or outdated or name not in term.members:
                continue
            cohort = tuple(m for m in term.members if m in leases)
            if number not in self.books or self.books[number][1] != cohort:
                took_s += self.meeting_s + max(self._walk_s(m, leases) for m in cohort)
            self.books[number] = (leases, cohort)
            self.rounds[name] = number
            for peer in cohort:
                self.rounds[peer] = max(self.rounds[peer], number - 1)
            if number == block.tells < block.first_round + len(block.rounds()) - 1:
                self._put_off(name, block)  # the rest of it, once this is told
                break
        self.wait(took_s, step_s=max(0.25, took_s / 8))
        yield from self._report(name)

    def _put_off(self, name: str, order: Any) -> None:
        """The actor goes on with an order before its other ones, once others had their turn."""
        later = (at for at, (to, _) in enumerate(self.orders) if to == name)
        self.orders.insert(next(later, len(self.orders)), (name, order))

    def _report(self, name: str) -> Iterator[say.Report]:
        first, last = self.reported[name] + 1, self.rounds[name]
        if first > last:
            return
        self.reported[name] = last
        done = [self.books[number] for number in range(first, last + 1)]
        mine = [leases[name] for leases, _ in done if name in leases]
        own_s = sum(self._walk_s(name, leases) for leases, _ in done)
        took_s = sum(max(self._walk_s(m, leases) for m in cohort) for leases, cohort in done)
        yield say.Report(
            term=self.terms[name].number,
            first_round=first,
            last_round=last,
            cohort=done[-1][1],
            num_samples=sum(lease.num_samples for lease in mine),
            num_steps=sum(lease.num_steps for lease in mine),
            loss=self.loss,
            compute_s=own_s,
            exchange_s=took_s - own_s + self.meeting_s * len(done),
        )

    def _walk_s(self, name: str, leases: Any) -> float:
        lease = leases.get(name)
        if lease is None or not lease.num_samples:
            return 0.0
        whole, rest = divmod(lease.num_samples, lease.batch)
        return whole * self._step_s(name, lease.batch) + self._step_s(name, rest)


@pytest.fixture
def play() -> type[Play]:
    """Stages a run: `play(num_agents, **words of the job)`."""
    return Play


@pytest.fixture
def job() -> Callable[..., Job]:
    """A small job, with some of its words changed."""
    return make_job
