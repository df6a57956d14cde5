"""The server of the star road: it closes rounds, or holds the anchor that members push to.

Written as a generator of effects, as members are. It builds no task and runs no code of the
user's: what it knows of the model are names and shapes. Legend: N trainable parameters, K the part
of them that a sentence shares.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.agents.star import CHANNEL
from coterie.agents.state import pack_state, unpack_state
from coterie.errors import CheckpointError, CoterieError, TrainingError
from coterie.leases import Lease
from coterie.sync import fragments
from coterie.sync.chain import Strategy
from coterie.sync.exchanges import Reduce
from coterie.sync.pieces import fold
from coterie.sync.reading import parse
from coterie.sync.server import Push
from coterie.transport.messages import (
    Block,
    Bye,
    Failed,
    Hello,
    Offence,
    Report,
    Settled,
    Stop,
    Term,
    Who,
)
from coterie.types import Ctx, Layout, Message

Verdict = tuple[int, bool]  # on a push, by its round: whether it counts
NUM_VERDICTS = 16  # that each member is told of each, should the server and others die
NUM_REMEMBERED = 4096  # pushes, for a coordinator that was not there to hear of them


@dataclass
class Hub:
    """The server's life and what it remembers."""

    hello: Hello | None = None  # as it was said to the coordinator first
    term: Term = field(default_factory=lambda: Term(number=0, members=(), store=""))
    strategy: Strategy | None = None
    layout: Layout | None = None
    leases: dict[int, Mapping[str, Lease]] = field(default_factory=dict)  # by round not yet closed
    void: set[int] = field(default_factory=set)  # rounds of members that were left out since
    handed: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # until there is an anchor
    answered: dict[str, list[Verdict]] = field(default_factory=dict)  # of each member, the newest
    num_answers: int = 0
    told: deque[Report] = field(default_factory=lambda: deque(maxlen=NUM_REMEMBERED))
    brought: dict[int, dict[str, Message]] = field(default_factory=dict)  # in this term
    beside: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # that: see `heads`
    newest: int = 0  # round that was given out
    closed: int = 0  # the last one, in this term
    anchor_N: Tensor | None = None
    version: int = 0
    memory: tuple[Any, ...] = ()
    lost_K: Tensor | None = None  # what packing an outcome anew has left out
    shadows: dict[str, tuple[int, Tensor]] = field(default_factory=dict)  # see `_moved`
    early: list[tuple[str, bytes]] = field(default_factory=list)  # of terms or rounds to come

    def live(self) -> do.Life[str]:
        """Serve until told to stop; returns why."""
        try:
            while True:
                said = yield do.Next(CHANNEL)
                if isinstance(said, tuple):
                    yield from self._mail(*said)
                elif isinstance(said, Stop):
                    yield do.Tell(Bye())
                    return said.reason
                elif isinstance(said, Who) and self.hello is not None:
                    for message in (self.hello, *self.told):
                        yield do.Tell(message)
                elif isinstance(said, Term):
                    yield from self._join(said)
                elif isinstance(said, Block):
                    yield from self._block(said)
        except CoterieError as error:
            yield do.Tell(Failed(reason=f"the server: {error}"))
            return str(error)

    def _join(self, term: Term) -> do.Life[None]:
        self.term = term
        if term.strategy:
            self._adopt(term.strategy)
        self.newest = max(self.newest, term.given_out)
        self.brought.clear()
        self.beside.clear()
        if term.apart:  # what they were given is learned by others, though they may come back
            self.void |= {n for n, k in self.leases.items() if not k.keys() & set(term.members)}
        self.shadows = {name: v for name, v in self.shadows.items() if name in term.members}
        if self.anchor_N is not None or not term.apart:
            yield from self._settle()
        self.closed = 0  # what was closed and reached nobody is brought again
        yield from self._restore()
        yield from self._again()

    def _settle(self) -> do.Life[None]:
        told = Settled(term=self.term.number, round=self.closed, healed=False, seconds=0.0)
        yield do.Tell(told)

    def _adopt(self, strategy: str) -> None:
        if self.strategy is None or repr(self.strategy) != strategy:
            self.strategy = parse(strategy)

    def _block(self, block: Block) -> do.Life[None]:
        self._adopt(block.strategy)
        for number, leases in enumerate(block.rounds(), start=block.first_round):
            self.leases[number], self.newest = leases, max(self.newest, number)
        yield from self._again()

    def _again(self) -> do.Life[None]:
        """What came too early may be in time now."""
        waiting, self.early = self.early, []
        for origin, data in waiting:
            yield from self._mail(origin, data)

    def _mail(self, origin: str, data: bytes) -> do.Life[None]:
        try:
            said = unpack_state(data)
            kind, term, number = said["kind"], said["term"], said["round"]
            if kind == "pull":
                yield from self._pull(origin, said, data)
            elif term > self.term.number or number > self.newest:
                self.early.append((origin, data))
            elif kind == "push":
                yield from self._push(origin, said)
            elif term == self.term.number and number > self.closed:
                yield from self._bring(origin, said)
        except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
            yield do.Tell(Offence(member=origin, reason=f"expected a packet, found {error!r}"))

    # -- rounds that all wait for ------------------------------------------------------------------

    def _bring(self, origin: str, said: Mapping[str, Any]) -> do.Life[None]:
        number = said["round"]
        if origin not in self.term.members:
            return
        row, offence = self._opened(said["payload"], number, float(said["weight"]))
        if not offence and row is not None and said.get("beside") is not None:
            offence = self._lay_beside(origin, number, said["beside"])
            row = None if offence else row
        if offence:
            yield do.Tell(Offence(member=origin, reason=offence))
        weight = float(said["weight"]) if row is not None else 0.0
        held = self.brought.setdefault(number, {})
        held[origin] = Message(origin, said["payload"] if row is None else row, weight)
        exchange = self._sentence().exchange
        assert isinstance(exchange, Reduce)
        heard = [message for message in held.values() if message.weight > 0]
        whole = held.keys() >= set(self.term.members)
        if whole or (exchange.quorum and len(heard) >= exchange.quorum):
            yield from self._close(number, heard)

    def _lay_beside(self, origin: str, number: int, told_P: Any) -> str:
        """Keep what a member tells beside what it shares; or say what is wrong with it."""
        held = self.beside.setdefault(number, {})
        is_vector = isinstance(told_P, Tensor) and told_P.dim() == 1
        if not (is_vector and told_P.is_floating_point() and bool(told_P.isfinite().all())):
            return "expected finite values beside what is shared, found others"
        if any(told_P.shape != other.shape for other in held.values()):
            return f"expected as many values beside as others tell, found {told_P.numel()}"
        held[origin] = told_P
        return ""

    def _opened(self, payload: Any, number: int, weight: float) -> tuple[Tensor | None, str]:
        """The row that a member brings, and what is wrong with it if it cannot be counted."""
        strategy, layout = self._sentence(), self._layout()
        like_K = torch.zeros(strategy.shared(layout, number).size)
        if not weight > 0:
            return None, ""
        if not math.isfinite(weight):
            return None, f"expected a finite weight, found {weight}"
        try:
            row = strategy.open(payload, like_K, Ctx(round=number))
        except TrainingError as error:
            return None, str(error)
        if row.shape != like_K.shape:
            return None, f"expected {like_K.numel()} values, found {row.numel()}"
        if not bool(torch.isfinite(row).all()):
            return None, "expected finite values, found others"
        return row, ""

    def _close(self, number: int, heard: list[Message]) -> do.Life[None]:
        """Combine what came, and tell everybody; who comes later comes too late."""
        strategy = self._sentence()
        weights = {message.member: message.weight for message in heard}
        refused, payload = "", torch.zeros(0)
        if heard:
            agreed_K = strategy.exchange.meet(heard)[0]
            chance = torch.Generator()
            chance.seed()  # known to nobody
            agreed_K = strategy.veil(agreed_K, len(heard), chance)
            payload = self._packed(agreed_K, number)
        else:
            refused = "expected a member that brings finite values, found none"
        told = self.beside.get(number, {})
        rows = [told[name] for name in sorted(weights) if name in told]
        beside = torch.stack(rows).sum(0) if rows else None
        self.closed = number
        for past in [n for n in self.leases if n <= number]:
            del self.leases[past]
            self.brought.pop(past, None)
            self.beside.pop(past, None)
        outcome = {"round": number, "weights": weights, "refused": refused, "payload": payload}
        outcome["beside"] = beside
        yield from self._tell_all(outcome)
        yield from self._again()

    def _packed(self, agreed_K: Tensor, number: int) -> Tensor:
        """An outcome in as few bytes as what came; what is lost is told with the next one."""
        codec = self._sentence().downlink
        if codec is None:
            return agreed_K
        if self.lost_K is None or self.lost_K.shape != agreed_K.shape:
            self.lost_K = torch.zeros_like(agreed_K)
        wanted_K, ctx = agreed_K + self.lost_K, Ctx(round=number)
        packet = codec.encode(wanted_K, ctx)
        self.lost_K = wanted_K - codec.decode(packet, wanted_K, ctx)
        return packet

    # -- pushes that nobody waits for --------------------------------------------------------------

    def _pull(self, origin: str, said: Mapping[str, Any], data: bytes) -> do.Life[None]:
        if self.anchor_N is not None:
            yield from self._answer(origin, {"round": 0, **self._whole(origin)})
        elif "vector" in said:
            self.handed[origin] = said
            yield from self._restore()
        else:
            self.early.append((origin, data))

    def _restore(self) -> do.Life[None]:
        """Go on from the freshest anchor that a member holds, once all have handed theirs in.

        What moved the anchor of a server before this one, and is not in it, its member still
        holds, and brings again. What is in it counts, though nobody may have heard so.
        """
        members = set(self.term.members)  # none before the first term: nor is a layout known then
        if self.anchor_N is not None or not members or not self.handed.keys() >= members:
            return
        handed, self.handed = self.handed, {}
        whole = {name: said for name, said in handed.items() if self._is_anchor(said)}
        for name in handed.keys() - whole.keys():
            yield do.Tell(Offence(member=name, reason="expected an anchor, found something else"))
        if not whole:
            return
        freshest = max(whole, key=lambda name: (whole[name]["version"], name))
        said = whole[freshest]
        self.anchor_N, self.version = said["vector"], max(0, said["version"])
        self.answered = {
            name: [(int(n), bool(counts)) for n, counts in verdicts]
            for name, verdicts in said["answered"].items()
        }
        for name, verdicts in self.answered.items():
            for number, counts in verdicts:
                yield do.Tell(_accepted(self.term.number, number, (name,) if counts else ()))
        yield from self._settle()
        for name in handed:
            yield from self._answer(name, {"round": 0, **self._whole(name)})

    def _is_anchor(self, said: Mapping[str, Any]) -> bool:
        """Whether what a member handed in can be one: no more pushes than rounds moved it."""
        vector_N, size = said["vector"], self._layout().size
        fits = isinstance(vector_N, Tensor) and vector_N.shape == (size,)
        return fits and bool(vector_N.isfinite().all()) and said["version"] <= self.newest

    def _push(self, origin: str, said: Mapping[str, Any]) -> do.Life[None]:
        number, strategy = said["round"], self._sentence()
        staleness = max(0, self.version - said["base"])
        done, counts = self.answered.get(origin, [(0, False)])[-1]
        if number < done or self.anchor_N is None:
            return  # nobody waits for it any more, or it is said again
        if number == done:  # its answer was lost
            yield from self._verdict(origin, number, counts, self._whole(origin))
            return
        if origin not in self.leases.get(number, (origin,)):
            reason = f"expected a push of its own rounds, found {number}"
            yield do.Tell(Offence(member=origin, reason=reason))
            return
        exchange = strategy.exchange
        assert isinstance(exchange, Push)
        row, offence = self._opened(said["payload"], number, float(said["weight"]))
        if offence:
            yield do.Tell(Offence(member=origin, reason=offence))
        stands = origin in self.term.members and number not in self.void
        is_fresh = stands and staleness <= exchange.max_staleness
        if row is not None and is_fresh:
            self._apply(row, number, staleness, said["num_steps"])
        counts = row is not None and is_fresh
        self.leases.pop(number, None)
        self.answered.setdefault(origin, []).append((number, counts))
        del self.answered[origin][:-NUM_VERDICTS]
        self.told.append(_accepted(self.term.number, number, (origin,) if counts else ()))
        yield do.Tell(self.told[-1])
        yield from self._verdict(origin, number, counts, self._moved(origin, said["heard"]))

    def _verdict(
        self, origin: str, number: int, counts: bool, anchor: Mapping[str, Any]
    ) -> do.Life[None]:
        yield from self._answer(origin, {"round": number, "accepted": counts, **anchor})

    def _apply(self, row_N: Tensor, number: int, staleness: int, num_steps: int) -> None:
        strategy, layout = self._sentence(), self._layout()
        assert self.anchor_N is not None
        if not self.memory:
            self.memory = strategy.init(layout, self.anchor_N)
        ctx = Ctx(round=number, num_steps=num_steps, staleness=staleness)
        after = strategy.after
        update_K, theirs = fold(strategy.pieces[after:], row_N, self.memory[after:], ctx)
        self.memory = (*self.memory[:after], *theirs)
        shared = strategy.shared(layout, number)
        moved_K = fragments.take(self.anchor_N, layout, shared) - update_K
        self.anchor_N = fragments.put(self.anchor_N, moved_K, layout, shared)
        self.version += 1

    def _whole(self, origin: str) -> dict[str, Any]:
        """The anchor as it is, and what a member is to know should it hand it in one day."""
        assert self.anchor_N is not None
        self.num_answers += 1
        self.shadows[origin] = (self.num_answers, self.anchor_N.clone())
        answered = {name: list(map(list, v)) for name, v in self.answered.items()}
        told = {"version": self.version, "answer": self.num_answers, "answered": answered}
        return {**told, "payload": self.anchor_N}

    def _moved(self, origin: str, heard: int) -> dict[str, Any]:
        """How far the anchor is from what a member thinks it is, by the last answer it heard.

        Where an answer was lost, the anchor is sent as it is.
        """
        before, shadow_N = self.shadows.get(origin, (0, None))
        told, codec = self._whole(origin), self._sentence().downlink
        if codec is None or shadow_N is None or before != heard:
            return told
        ctx = Ctx(round=self.version)
        packet = codec.encode(told["payload"] - shadow_N, ctx)
        moved_N = shadow_N + codec.decode(packet, shadow_N, ctx)
        self.shadows[origin] = (self.num_answers, moved_N)
        return {**told, "payload": packet}

    # -- telling ----------------------------------------------------------------------------------

    def _answer(self, to: str, fields: Mapping[str, Any]) -> do.Life[None]:
        yield do.Post(to, CHANNEL, pack_state({**fields, "term": self.term.number}))

    def _tell_all(self, fields: Mapping[str, Any]) -> do.Life[None]:
        for name in self.term.members:
            yield from self._answer(name, fields)

    def _sentence(self) -> Strategy:
        assert self.strategy is not None
        return self.strategy

    def _layout(self) -> Layout:
        if self.layout is None:
            names, shapes = self.term.names, self.term.shapes
            self.layout = Layout(names, shapes)
        return self.layout


def _accepted(term: int, number: int, cohort: tuple[str, ...]) -> Report:
    """That a push counts, or, without a cohort, that its samples are to be learned again."""
    return Report(
        term=term,
        first_round=number,
        last_round=number,
        cohort=cohort,
        num_samples=0,
        num_steps=0,
        loss=0.0,
        compute_s=0.0,
        exchange_s=0.0,
    )
