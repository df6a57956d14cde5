"""A member's life: hear an order, carry it out, tell; meet the others, and outlive them.

Written as a generator of effects, so that real sockets and virtual time drive the very same code.
Legend: N trainable parameters, K the part of them that a sentence shares.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.agents.learner import Learner
from coterie.agents.measure import probe_links, probe_steps
from coterie.agents.snapshot import MODEL_FILE, Snapshot, state_file
from coterie.agents.stream import Stream
from coterie.agents.tally import Contribution, Tally
from coterie.errors import CoterieError, Torn, TrainingError
from coterie.leases import Lease
from coterie.sync.chain import Strategy
from coterie.sync.recipes import parse
from coterie.transport.messages import (
    Block,
    Bye,
    Evaluate,
    Failed,
    Probe,
    ProbeLinks,
    Save,
    Scores,
    Settled,
    Stop,
    Term,
    TornRound,
    pieces,
)
from coterie.types import Ctx, Message

REPORT_S = 0.25  # short rounds are told together


class Stopped(CoterieError):
    """The coordinator ended the run."""


@dataclass
class Worker:
    """One agent, from its first order to its last."""

    name: str
    learner: Learner
    round: int = 0  # the last one committed
    term: Term = field(default_factory=lambda: Term(number=0, members=(), store=""))
    _strategy: Strategy | None = None
    _memory: tuple[Any, ...] = ()
    _contribution: Contribution | None = None
    _agreed_K: Tensor | None = None
    _agreed_round: int = 0  # the round whose outcome that is: none where one was skipped
    _cohort: tuple[str, ...] = ()  # who meets in the round under way
    _stands: int = 0  # the last round that orders given in an earlier term still ask for
    _committed_at_s: float | None = None
    _torn_at_s: float | None = None
    _backlog: deque[Any] = field(default_factory=deque)
    _tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._stream = Stream(self.learner.task.num_train, self.learner.setup.seed)

    def live(self) -> do.Life[str]:
        """Carry out orders until told to stop; returns why."""
        try:
            while True:
                order = self._backlog.popleft() if self._backlog else (yield do.Hear())
                yield from self._carry_out(order)
        except Stopped as stop:
            yield do.Tell(Bye())
            return str(stop)
        except CoterieError as error:
            yield do.Tell(Failed(reason=f"{self.name}: {error}"))
            return str(error)

    def _carry_out(self, order: Any) -> do.Life[None]:
        if isinstance(order, Stop):
            raise Stopped(order.reason)
        if isinstance(order, Probe):
            yield do.Tell((yield from probe_steps(self.learner, order)))
        elif isinstance(order, Term):
            if order.number > self.term.number:
                yield from self._join(order)
        elif isinstance(order, Block):
            yield from self._block(order)
        elif order.term == self.term.number:  # an order of an earlier term is void
            yield from self._errand(order)

    def _errand(self, order: Any) -> do.Life[None]:
        if isinstance(order, ProbeLinks):
            try:
                yield do.Tell((yield from probe_links(self.name, self.term)))
            except Torn:
                yield from self._regroup()
        elif isinstance(order, Evaluate):
            began_s = yield do.Now()
            num_scored = self.learner.task.num_train // 4
            metrics = yield do.Compute(self.learner.score, (num_scored,))
            seconds = (yield do.Now()) - began_s
            yield do.Tell(Scores(round=self.round, metrics=metrics, seconds=seconds))
        elif isinstance(order, Save):
            yield from self._save(order)

    # -- rounds -----------------------------------------------------------------------------------

    def _block(self, block: Block) -> do.Life[None]:
        for number, leases in enumerate(block.rounds(), start=block.first_round):
            outdated = block.term < self.term.number and number > self._stands
            if number > self.round and not outdated:
                self._adopt_strategy(block.strategy)
                self.learner.end_epoch(block.data_epoch, block.epoch_loss)
                yield from self._one_round(number, block.data_epoch, leases)
        yield from self._report()

    def _one_round(self, number: int, data_epoch: int, leases: dict[str, Lease]) -> do.Life[None]:
        lease = leases.get(self.name, Lease((), 1))
        while self.round < number and self.name in self.term.members:
            if self._contribution is None:
                self._contribution = yield from self._learn(number, data_epoch, lease)
            self._cohort = tuple(m for m in self.term.members if m in leases)
            if not any(leases[member].num_samples for member in self._cohort):
                self._skip(number)  # whoever had work in it has died: it is leased again elsewhere
                continue
            began_s = yield do.Now()
            try:
                agreed_K = yield from self._meet(self._contribution, leases)
            except Torn:
                yield from self._regroup()
            else:
                self._tally.exchange_s += (yield do.Now()) - began_s
                yield from self._commit(agreed_K)

    def _skip(self, number: int) -> None:
        assert self._contribution is not None
        self._tally.count(self._contribution, self._cohort)
        self.round, self._contribution = number, None

    def _learn(self, number: int, data_epoch: int, lease: Lease) -> do.Life[Contribution]:
        """Walk, or compute one gradient; then do what the sentence asks before the exchange."""
        strategy = self._sentence()
        batches = list(self._stream.batches(data_epoch, lease))
        anchor_N = self.learner.vector() if strategy.walks else None
        began_s = yield do.Now()
        sizes = tuple(len(batch) for batch in batches)
        work = self._walk if strategy.walks else self._gradient
        loss_sum, own_N = yield do.Compute(lambda: work(batches), sizes)
        if not bool(torch.isfinite(own_N).all()):
            raise TrainingError(f"expected finite values to share, found others in round {number}")
        if anchor_N is not None:
            own_N = anchor_N - own_N
        payload, memory = strategy.prepare(own_N, self._memory, Ctx(round=number))
        compute_s = (yield do.Now()) - began_s
        return Contribution(
            number,
            lease.num_samples,
            len(batches),
            loss_sum,
            compute_s,
            own_N,
            payload,
            memory if batches else self._memory,  # nothing learned: keep what is still unsaid
            anchor_N,
        )

    def _walk(self, batches: list[list[int]]) -> tuple[float, Tensor]:
        loss_sum = sum(self.learner.step(batch) * len(batch) for batch in batches)
        return loss_sum, self.learner.vector()

    def _gradient(self, batches: list[list[int]]) -> tuple[float, Tensor]:
        if not batches:
            return 0.0, self.learner.vector().zero_()
        (batch,) = batches
        loss, gradient_N = self.learner.gradient(batch)
        return loss * len(batch), gradient_N

    def _meet(self, mine: Contribution, leases: dict[str, Lease]) -> do.Life[Tensor]:
        """The agreed vector of a round; a plain sum on the road where the law is one."""
        strategy = self._sentence()
        weights = {member: float(leases[member].num_samples) for member in self._cohort}
        factor = strategy.factor(weights.get(self.name, 0.0), tuple(weights.values()))
        if factor is not None:
            total_K: Tensor = yield do.Total(mine.payload * factor)
            return total_K
        payloads = yield do.Gather(mine.payload)
        like_K = mine.own_N[: strategy.narrowed(self.learner.layout).size]
        messages = [
            Message(member, strategy.open(payload, like_K), weights[member])
            for member, payload in zip(self.term.members, payloads, strict=True)
            if weights.get(member)
        ]
        agreed: list[Tensor] = strategy.exchange.meet(messages)
        return agreed[0]

    def _commit(self, agreed_K: Tensor) -> do.Life[None]:
        """Land what was agreed; from here on the round counts."""
        mine, strategy = self._contribution, self._sentence()
        assert mine is not None
        began_s = yield do.Now()
        self._agreed_K, self._agreed_round = agreed_K.clone(), mine.round
        update_N, self._memory = strategy.land(
            agreed_K, mine.own_N, self.learner.layout, mine.memory, Ctx(round=mine.round)
        )
        if mine.anchor_N is None:
            self.learner.apply(update_N)
        else:
            self.learner.place(mine.anchor_N - update_N)
        self.round, self._contribution = mine.round, None
        now_s = yield do.Now()
        self._tally.compute_s += now_s - began_s
        if self._torn_at_s is not None and self._committed_at_s is not None:
            self._tally.gap_s, self._torn_at_s = now_s - self._committed_at_s, None
        self._committed_at_s = now_s
        self._tally.count(mine, self._cohort)
        if now_s - self._tally.since_s > REPORT_S or self._tally.gap_s:
            yield from self._report()

    def _report(self) -> do.Life[None]:
        report = self._tally.report(self.term.number)
        self._tally = Tally(since_s=(yield do.Now()))
        if report is not None:
            yield do.Tell(report)

    # -- membership -------------------------------------------------------------------------------

    def _regroup(self) -> do.Life[None]:
        """A meeting broke off: hold the contribution and wait for the term that replaces it."""
        self._torn_at_s = yield do.Now()
        yield from self._report()
        yield do.Tell(TornRound(term=self.term.number))
        while True:
            order = yield do.Hear()
            if isinstance(order, Stop) and order.at_once:
                raise Stopped(order.reason)
            if isinstance(order, Term) and order.at_once and order.number > self.term.number:
                yield from self._join(order)
                return
            self._backlog.append(order)

    def _join(self, term: Term) -> do.Life[None]:
        self.term = term
        if self.name not in term.members:
            self._stands, self._contribution = self.round, None  # no earlier order counts
            return
        began_s = yield do.Now()
        try:
            yield do.Form(self.name, term)
            healed = yield from self._settle()
        except Torn:
            yield from self._regroup()
            return
        seconds = (yield do.Now()) - began_s
        yield do.Tell(
            Settled(
                term=term.number,
                round=self.round,
                holds=self._stands > self.round,
                healed=healed,
                seconds=seconds,
            )
        )

    def _settle(self) -> do.Life[bool]:
        """Bring every member of a new group to the same round; whether this one had to heal.

        One gather of (round, contribution held, outcome known, digest) tells all. A member that
        holds the contribution to the newest round only missed its outcome, and is given that; any
        other that is behind, or differs, takes over the whole state of the freshest member. Of
        earlier orders the next round alone stands, and only if a member holds its part of it.
        """
        held = self._contribution.round if self._contribution else 0
        mine = [self.round, held, self._agreed_round, self._digest()]
        row = torch.tensor(mine, dtype=torch.int64)
        rows = [tuple(int(v) for v in r) for r in (yield do.Gather(row))]
        newest = max(number for number, *_ in rows)
        self._stands = newest + any(holds == newest + 1 for _, holds, *_ in rows)
        donor = next(i for i, r in enumerate(rows) if r[0] == newest)
        healed = False
        _, _, outcome, agreed = rows[donor]
        for member, (number, holds, _, digest) in zip(self.term.members, rows, strict=True):
            if number == newest and digest == agreed:
                continue
            missed = number == newest - 1 and holds == newest == outcome
            give = self._give_outcome if missed else self._give_state
            take = self._take_outcome if missed else self._take_state
            if self.name == self.term.members[donor]:
                yield from give(member)
            elif self.name == member:
                yield from take(self.term.members[donor])
                healed = not missed
        return healed

    def _give_outcome(self, peer: str) -> do.Life[None]:
        assert self._agreed_K is not None
        yield do.Give(peer, self._agreed_K)

    def _take_outcome(self, peer: str) -> do.Life[None]:
        mine = self._contribution
        assert mine is not None
        size = self._sentence().narrowed(self.learner.layout).size
        agreed_K = yield do.Take(peer, mine.own_N.new_empty(size))
        yield from self._commit(agreed_K)

    def _give_state(self, peer: str) -> do.Life[None]:
        data = torch.frombuffer(bytearray(self.snapshot().to_bytes()), dtype=torch.uint8)
        digest = torch.frombuffer(
            bytearray(hashlib.sha256(data.numpy().tobytes()).digest()), dtype=torch.uint8
        )
        yield do.Give(peer, torch.tensor([data.numel()]))
        yield do.Give(peer, digest)
        yield do.Give(peer, data)

    def _take_state(self, peer: str) -> do.Life[None]:
        (length,) = (yield do.Take(peer, torch.zeros(1, dtype=torch.int64))).tolist()
        digest = yield do.Take(peer, torch.zeros(32, dtype=torch.uint8))
        data = yield do.Take(peer, torch.zeros(length, dtype=torch.uint8))
        if hashlib.sha256(data.numpy().tobytes()).digest() != digest.numpy().tobytes():
            raise TrainingError(f"expected the state of {peer} whole, found it damaged on the way")
        self.inherit(Snapshot.from_bytes(data.numpy().tobytes()))

    def _digest(self) -> int:
        """Of what members agree on: private parameters differ, and are to stay so."""
        agreed_N = self._agreed_vector()
        if self._strategy is not None:
            views = self.learner.layout.views(agreed_N)
            shared = self._strategy.narrowed(self.learner.layout).names
            agreed_N = torch.cat([views[name].reshape(-1) for name in shared])
        return int.from_bytes(hashlib.sha256(agreed_N.numpy().tobytes()).digest()[:7], "big")

    def _agreed_vector(self) -> Tensor:
        """The parameters all agreed on last: where the walk began, if one is under way."""
        mine = self._contribution
        walking = mine is not None and mine.anchor_N is not None
        return mine.anchor_N if walking else self.learner.vector()  # type: ignore[union-attr, return-value]

    # -- state ------------------------------------------------------------------------------------

    def resume(self, files: Mapping[str, bytes]) -> None:
        """Start from a checkpoint: as this member was, or as a peer of one that was there."""
        take_over = self.adopt if state_file(self.name) in files else self.inherit
        take_over(Snapshot.from_files(files, self.name))

    def snapshot(self) -> Snapshot:
        """All that this member is, as of the last committed round."""
        return Snapshot(
            round=self.round,
            strategy=repr(self._strategy) if self._strategy else "",
            memory=self._memory,
            agreed_N=self._agreed_vector(),
            weights=self.learner.weights(),
            private=self.learner.private(),
        )

    def adopt(self, snapshot: Snapshot) -> None:
        """Become what this member was when the snapshot was taken."""
        self.learner.restore(snapshot.weights, snapshot.private)
        self.learner.place(snapshot.agreed_N)
        self.round = snapshot.round
        self._strategy = parse(snapshot.strategy) if snapshot.strategy else None
        self._memory = tuple(snapshot.memory)
        self._contribution = None

    def inherit(self, snapshot: Snapshot) -> None:
        """Become a peer of the member that the snapshot was taken of."""
        self.adopt(snapshot)
        if self._strategy is not None:
            like_N = self.learner.vector()
            self._memory = self._strategy.inherit(self._memory, self.learner.layout, like_N)

    def _save(self, order: Save) -> do.Life[None]:
        files = self.snapshot().files(self.name)
        for file, data in files.items():
            if order.whole or file != MODEL_FILE:
                for piece in pieces(order.ticket, file, data):
                    yield do.Tell(piece)

    def _sentence(self) -> Strategy:
        assert self._strategy is not None
        return self._strategy

    def _adopt_strategy(self, text: str) -> None:
        if self._strategy is None or repr(self._strategy) != text:
            self._strategy = parse(text)
            self._memory = self._strategy.init(self.learner.layout, self.learner.vector())
