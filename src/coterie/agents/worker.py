"""A member's life: hear an order, carry it out, tell; meet the others, and outlive them.

Written as a generator of effects, so that real sockets and virtual time drive the very same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from coterie.agents import effects as do
from coterie.agents.measure import probe_links, probe_steps
from coterie.agents.meet import meet, report, talk, tell_apart
from coterie.agents.member import Member
from coterie.agents.pushes import came_late, catch_up, push_round
from coterie.agents.settle import Stopped, join, regroup
from coterie.agents.snapshot import MODEL_FILE, Snapshot, state_file
from coterie.agents.turns import LoopEnded
from coterie.agents.walks import finish, learn
from coterie.errors import CoterieError, Torn
from coterie.leases import Lease
from coterie.transport.messages import (
    Begun,
    Block,
    Bye,
    Ended,
    Evaluate,
    Failed,
    Land,
    Probe,
    ProbeLinks,
    Save,
    Saved,
    Scores,
    State,
    Stop,
    Term,
    Turn,
    Who,
)
from coterie.transport.parcels import pieces


class Worker(Member):
    """One agent, from its first order to its last."""

    def live(self) -> do.Life[str]:
        """Carry out orders until told to stop; returns why."""
        try:
            while True:
                order = self.backlog.popleft() if self.backlog else (yield do.Hear())
                yield from self._carry_out(order)
        except Stopped as stop:
            self.again = stop.again
            yield do.Tell(Bye())
            return str(stop)
        except CoterieError as error:
            yield do.Tell(Failed(reason=f"{self.name}: {error}"))
            return str(error)

    def _carry_out(self, order: Any) -> do.Life[None]:
        if isinstance(order, Stop):
            raise Stopped(order)
        if isinstance(order, Who):
            yield do.Tell(self.back())
        elif isinstance(order, Probe):
            room_bytes = self.hello.memory_bytes if self.hello else math.inf
            probed = yield from probe_steps(self.learner, order, room_bytes)
            yield do.Tell(probed.model_copy(update={"cores": self.granted()}))
        elif isinstance(order, Term):
            if order.number > self.term.number:
                if not order.at_once:  # else the others have left the meeting that goes on
                    yield from self._land()
                    yield from report(self)
                yield from join(self, order)
                if order.at_once:
                    yield from self._land()
        elif isinstance(order, Block):
            yield from self._block(order)
        elif order.term == self.term.number:  # an order of an earlier term is void
            yield from self._errand(order)

    def _errand(self, order: Any) -> do.Life[None]:
        if isinstance(order, ProbeLinks):
            try:
                yield do.Tell((yield from probe_links(self.name, self.term)))
            except Torn:
                yield from regroup(self)
        elif isinstance(order, Land):
            yield from self._land()
            yield from report(self)
        elif isinstance(order, Evaluate):
            yield from catch_up(self)
            began_s = yield do.Now()
            num_scored = self.learner.task.num_train // 4
            metrics = yield do.Compute(self._score, (num_scored,))
            seconds = (yield do.Now()) - began_s
            yield do.Tell(Scores(round=self.round, metrics=metrics, seconds=seconds))
        elif isinstance(order, Turn):
            yield from self._turn(order)
        elif isinstance(order, Save):
            yield from self._save(order)

    def _turn(self, order: Turn) -> do.Life[None]:
        """Hand the turn to the user's own loop, which ends its pass and begins another or none."""
        yield from self._land()
        yield from report(self)
        self.learner.end_epoch(order.data_epoch, order.epoch_loss)
        goes_on = yield do.Await(partial(self.learner.begins, order.data_epoch))
        yield do.Tell(Begun(data_epoch=order.data_epoch) if goes_on else Ended())

    def _land(self) -> do.Life[None]:
        """Wait for a meeting that still goes on."""
        if self.contribution is not None:
            yield from finish(self)

    def _score(self) -> dict[str, float]:
        """Held-out metrics of where all agreed to be, wherever this member has walked since."""
        here_N = self.learner.vector()
        self.learner.place(self.agreed_vector())
        metrics = self.learner.score()
        self.learner.place(here_N)
        return metrics

    # -- rounds -----------------------------------------------------------------------------------

    def _block(self, block: Block) -> do.Life[None]:
        if self.strategy is not None and repr(self.strategy) != block.strategy:
            yield from self._land()
        rounds = block.rounds()
        last = block.first_round + len(rounds) - 1
        if block.digest:
            self.check_round = last
        self.tell_rounds = {n for n in self.tell_rounds if n > self.round} | {block.tells}
        for number, leases in enumerate(rounds, start=block.first_round):
            outdated = block.term < self.term.number and number > self.stands
            if number > max(self.round, self.held) and not outdated:
                self.adopt_strategy(block.strategy)
                self.trust, self.hands_out = block.trust, block.hands_out
                self.learner.end_epoch(block.data_epoch, block.epoch_loss)
                if self.sentence.exchange.asynchronous:
                    yield from push_round(self, number, block.data_epoch, leases)
                else:
                    yield from self._one_round(number, block, leases)
        if block.tells in (0, last):
            yield from report(self)

    def _one_round(self, number: int, block: Block, leases: dict[str, Lease]) -> do.Life[None]:
        while self.round < number and self.name in self.term.members:
            if block.term < self.term.number and number > self.stands:
                return  # what it was to bring is leased again
            self.cohort = tuple(m for m in self.term.members if m in leases)
            if not any(leases[member].num_samples for member in self.cohort):
                if self.contribution is not None and self.contribution.round < number:
                    yield from self._land()  # in whatever term: this round may be void then
                else:
                    yield from tell_apart(self, number)
                    self._skip(number)  # whoever had work in it has died
                continue
            fresh = self.contribution is None or self.contribution.round < number
            if fresh:
                if self.sentence.exchange.quorum and (yield from came_late(self, number, leases)):
                    continue
                try:
                    mine = yield from learn(self, number, block.data_epoch, leases)
                except LoopEnded:
                    yield from regroup(self)
                    continue
                if mine is None:
                    continue
                self.contribution, self.walking = mine, 0
                self.cohort = tuple(m for m in self.term.members if m in leases)
            try:
                if fresh and self.sentence.overlap:
                    self.handle = yield do.Begin(talk(self))
                    return
                yield from meet(self)
            except Torn:
                yield from regroup(self)

    def _skip(self, number: int) -> None:
        """Nobody learns in this round: what it held is leased again elsewhere."""
        self.tally.skip(number, self.cohort)
        self.round = number
        self.drop()

    # -- state ------------------------------------------------------------------------------------

    def _save(self, order: Save) -> do.Life[None]:
        """Copy what this member is, and go on: the copy is packed and sent meanwhile."""
        began_s = yield do.Now()
        yield from self._land()
        yield from catch_up(self)
        snapshot = self.snapshot()
        pause_s = (yield do.Now()) - began_s
        yield do.Tell(Saved(ticket=order.ticket, pause_s=pause_s))
        yield do.TellMeanwhile(lambda: _state(snapshot, self.name, order))


def _state(snapshot: Snapshot, member: str, order: Save) -> Iterator[State]:
    """A member's part of a checkpoint, in pieces."""
    if order.whole:
        yield from pieces(order.ticket, MODEL_FILE, *snapshot.model_parts())
    yield from pieces(order.ticket, state_file(member), *snapshot.private_parts())
