"""Agents that learn apart, their coordinator and the board in one process.

Each agent has a clock of its own, which goes on by what its computing costs: by what was measured,
or by what is said. Whoever is behind is next, so that many agents in one process go on as on many
machines, and faults at given moments are the same each time.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coterie.agents import effects as do
from coterie.agents.classroom import Classroom
from coterie.agents.learner import Setup
from coterie.config import Job
from coterie.coordinator.run import Checkpoint, Resume
from coterie.coordinator.school import School
from coterie.errors import CoterieError, JoinError
from coterie.knowledge.board import Heard, MemoryBoard
from coterie.machine import cores, memory_available_bytes
from coterie.sharing import Sharing
from coterie.transport.messages import HUB, Beat, Hello, Who

TICK_S = 0.25
IN_MEMORY = "memory"  # where the board is
Note = Callable[..., Any]  # an event: its kind, and its fields
Cost = Callable[[str, Sequence[int]], float | None]  # of an agent's batches; None: as measured


@dataclass(frozen=True)
class Mishap:
    """What befalls somebody at a moment, and when it is over; never, where that is not said."""

    kind: Literal["kill", "board", "coordinator"]
    at_s: float
    agent: str = ""
    back_after_s: float | None = None


def measured(agent: str, batches: Sequence[int]) -> float | None:
    """Computing costs what it took."""
    return None


@dataclass
class _Agent:
    name: str
    life: do.Life[str]
    at_s: float
    inbox: deque[Any] = field(default_factory=deque)
    answer: Any = None
    error: CoterieError | None = None  # that computing came to
    waits: bool = False  # for a message

    def next(self) -> Any:
        """What it asks for next; StopIteration where its life is over."""
        error, answer, self.error, self.answer = self.error, self.answer, None, None
        return self.life.throw(error) if error is not None else self.life.send(answer)

    @property
    def is_ready(self) -> bool:
        return not self.waits or bool(self.inbox)


class _Shared:
    """The board of all, which may be away for a while."""

    def __init__(self, board: MemoryBoard) -> None:
        self.board, self.is_up = board, True

    def publish(self, data: bytes) -> None:
        self._reached().publish(data)

    def since(self, cursor: int) -> Heard:
        return self._reached().since(cursor)

    def _reached(self) -> MemoryBoard:
        if not self.is_up:
            raise JoinError("the board is away")
        return self.board


class Together:
    """A run of separate tasks in this process, on as many agents as are named."""

    def __init__(
        self,
        job: Job,
        agents: Sequence[str],
        note: Note,
        setups: Mapping[str, Setup] | None = None,
        cost: Cost = measured,
        resume: Resume | None = None,
        mishaps: Sequence[Mishap] = (),
    ) -> None:
        self.job, self._note, self._setups, self._cost = job, note, setups, cost
        self._keep: Callable[[Checkpoint], None] = lambda point: None
        self.now_s = self._ticked_s = 0.0
        self.past: list[dict[str, Any]] = []
        self._newest: list[Checkpoint] = []
        self._num_agents = len(agents)
        self.school: School | None = School(job, len(agents), resume)
        age_s = (job.knowledge or Sharing()).max_age_s
        self._board = _Shared(MemoryBoard(max_age_s=age_s, clock=lambda: self.now_s))
        self._due = sorted(self._turning(mishaps), key=lambda due: due[0])
        self._agents: dict[str, _Agent] = {}
        self._names = tuple(agents)

    @property
    def board(self) -> MemoryBoard:
        """Where lessons meet."""
        return self._board.board

    def keeping(self, keep: Callable[[Checkpoint], None]) -> Together:
        """The same, with its checkpoints handed on."""
        self._keep = keep
        return self

    def stop(self, reason: str) -> None:
        """Have it end early, resumably."""
        if self.school is not None:
            self.school.stop(reason)

    def run(self) -> School:
        """See it through; the coordinator at its end."""
        assert self.school is not None
        self.school.start(0.0)
        self._tell(self.school, HUB, Hello(**_card(HUB, IN_MEMORY)))
        for name in self._names:
            self._come(name)
        while self.school is None or not self.school.run.done:
            self._befall()
            ready = [agent for agent in self._agents.values() if agent.is_ready]
            agent = min(ready, key=lambda each: each.at_s, default=None)
            if agent is None or agent.at_s > self._ticked_s + TICK_S:
                self._tick()
                continue
            self.now_s = max(self.now_s, agent.at_s)
            self._turn(agent)
            self._flush()
        return self.school

    def _tick(self) -> None:
        self._ticked_s += TICK_S
        self.now_s = max(self.now_s, self._ticked_s)
        if self.school is not None:
            for name in self._agents:
                self.school.receive(name, Beat(), self.now_s)
            self.school.tick(self.now_s)
        self._flush()

    def _come(self, name: str) -> None:
        first = Hello(**_card(name, ""))
        room = Classroom(
            self.job, first, self._board, lambda _: None, self._setups, clock=self._clock(name)
        )
        self._agents[name] = _Agent(name, room.live(), self.now_s)
        if self.school is not None:
            self._tell(self.school, name, first)

    def _clock(self, name: str) -> Callable[[], float]:
        """What a rehearsal is timed by: real seconds, or none where costs are said."""
        is_said = self._cost(name, (1,)) is not None
        return (lambda: self.now_s) if is_said else time.perf_counter

    # -- agents -----------------------------------------------------------------------------------

    def _turn(self, agent: _Agent) -> None:
        """An agent goes on until it has computed something, or waits."""
        if agent.waits:
            agent.waits, agent.answer = False, agent.inbox.popleft()
            agent.at_s = max(agent.at_s, self.now_s)
        while True:
            try:
                effect = agent.next()
            except StopIteration:
                del self._agents[agent.name]
                return
            if isinstance(effect, do.Compute):
                self._compute(agent, effect)
                return
            if isinstance(effect, do.Hear) and not agent.inbox:
                agent.waits = True
                return
            agent.answer = self._carry_out(agent, effect)

    def _carry_out(self, agent: _Agent, effect: Any) -> Any:
        match effect:
            case do.Now():
                return agent.at_s
            case do.Tell(message):
                if self.school is not None:
                    self._tell(self.school, agent.name, message)
                return None
            case do.Hear() | do.Glance():
                return agent.inbox.popleft() if agent.inbox else None
        raise AssertionError(f"no such effect of an agent that learns apart: {effect}")

    def _compute(self, agent: _Agent, effect: do.Compute) -> None:
        began_s = time.perf_counter()
        try:
            agent.answer = effect.run()
        except CoterieError as error:
            agent.error = error
        took_s = self._cost(agent.name, effect.batches)
        agent.at_s += time.perf_counter() - began_s if took_s is None else took_s

    # -- the coordinator --------------------------------------------------------------------------

    def _tell(self, school: School, name: str, message: Any) -> None:
        school.receive(name, message, self.now_s)

    def _flush(self) -> None:
        if self.school is None:
            return
        run = self.school.run
        for kind, fields in run.log:
            self.past.append({"kind": kind, **fields})
            self._note(kind, **fields)
        for name, message in run.outbox:
            if name in self._agents:
                self._agents[name].inbox.append(message)
        for point in run.checkpoints:
            self._keep(point)
        self._newest = [*self._newest, *run.checkpoints][-1:]
        for laid_out in (run.log, run.outbox, run.checkpoints, run.evicted):
            laid_out.clear()

    # -- mishaps ----------------------------------------------------------------------------------

    def _turning(self, mishaps: Sequence[Mishap]) -> Iterator[tuple[float, str, Mishap]]:
        for each in mishaps:
            yield each.at_s, "begins", each
            if each.back_after_s is not None:
                yield each.at_s + each.back_after_s, "ends", each

    def _befall(self) -> None:
        while self._due and self._due[0][0] <= self.now_s:
            _, what, mishap = self._due.pop(0)
            if mishap.kind == "board":
                self._board.is_up = what == "ends"
            elif mishap.kind == "kill":
                self._killed(mishap.agent) if what == "begins" else self._come(mishap.agent)
            elif what == "begins":
                self._flush()
                self.school = None
            else:
                self._replace()

    def _killed(self, name: str) -> None:
        self._agents.pop(name).life.close()
        if self.school is not None:
            self.school.lost(name, "killed", self.now_s)

    def _replace(self) -> None:
        """Another coordinator in the place of one that died: it knows what is on record."""
        newest = [Resume(point.files, point.meta) for point in self._newest]
        self.school = School(self.job, self._num_agents, newest[0] if newest else None, self.past)
        self.school.start(self.now_s)
        self._tell(self.school, HUB, Hello(**_card(HUB, IN_MEMORY)))
        for agent in self._agents.values():
            agent.inbox.append(Who())


def _card(name: str, store: str) -> dict[str, Any]:
    memory = memory_available_bytes()
    about = {"cores": cores(), "memory_bytes": memory, "device": "cpu"}
    return {"name": name, "pid": os.getpid(), "store": store, **about}
