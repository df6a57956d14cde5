"""What drives a coordinator in virtual time, as `engines.local.Host` does for real, and mishaps."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from coterie.coordinator.coordinator import Coordinator
from coterie.coordinator.run import Checkpoint
from coterie.engines.strands import Agent
from coterie.transport import messages as say
from coterie.world import Device

CONTROL_S = 0.001  # of a control message
DETECT_S = 0.01  # until the engine's word of a death arrives
BEAT_S = 0.25
START_S = 0.5  # of a server in the place of another
ASK_S = 1.0  # between two times that a stranger is asked who it is


@dataclass(frozen=True)
class Fault:
    """What befalls a member at a virtual time, and when it is over; never, where that is not said.

    One is killed, and started again later. One is stopped: it neither acts nor speaks until it
    continues. One is cut off: it computes, and what it tells and is told, and its meetings, come
    through later. One is stuck: it hears and beats, but whatever it computes does not end before it
    gets on. One is slowed: all that it computes takes `factor` times as long; by its quota, where
    its machine says that it grants so much less. The link between two is narrowed: what goes over
    it takes `factor` times as long; between one and all others, where no peer is named. Or the
    coordinator is killed, and one that remembers takes its place.
    """

    member: str  # of no account where the coordinator is killed
    at_s: float
    back_after_s: float | None = None
    kind: Literal["kill", "stop", "cut", "stuck", "slow", "quota", "narrow", "coordinator"] = "kill"
    factor: float = 1.0
    peer: str = ""


def slowed(device: Device, factor: float) -> Device:
    """A device that takes so many times as long.

    >>> slowed(Device("pi", 0.25, 0.5, 64), 2.0).step_s(2)
    2.5
    """
    return replace(
        device,
        overhead_s=factor * device.overhead_s,
        per_sample_s=factor * device.per_sample_s,
    )


class VirtualHost:
    """One coordinator after the other, who is known to it, and what it left on record."""

    def __init__(
        self,
        make: Callable[[Sequence[dict[str, Any]]], Coordinator],
        send: Callable[[str, say.Wire], None],
        end: Callable[[str], None],
    ) -> None:
        self._make, self._send, self._end = make, send, end
        self.coordinator = make(())
        self.is_up = True
        self.life = 1  # of the coordinators: what one of them said last dies with it
        self._pids: dict[str, int] = {}  # of those who said who they are
        self._asked_at_s: dict[str, float] = {}
        self.events: list[dict[str, Any]] = []
        self.checkpoints: list[Checkpoint] = []

    def hear(self, name: str, message: Any, now_s: float) -> None:
        """An agent's word arrives; who is not known is asked who it is."""
        if not self.is_up:
            return
        hello = message.hello if isinstance(message, say.Back) else message
        if isinstance(hello, say.Hello):
            if name in self.coordinator.run.members and self._pids.get(name) == hello.pid:
                return  # it was asked twice
            self._pids[name] = hello.pid
        if name in self._pids:
            self.coordinator.receive(name, message, now_s)
        elif not isinstance(message, say.Bye) and now_s >= self._asked_at_s.get(name, 0.0) + ASK_S:
            self._asked_at_s[name] = now_s
            self._send(name, say.Who())

    def lost(self, name: str, now_s: float) -> None:
        """The engine's word of a death."""
        if self.is_up:
            self.coordinator.lost(name, "killed", now_s)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        if self.is_up:
            self.coordinator.tick(now_s)

    def flush(self, now_s: float) -> None:
        """Carry out what the coordinator laid out."""
        c = self.coordinator.run
        for kind, fields in c.log:
            self.note(now_s, kind, fields)
        for name, message in c.outbox:
            self._send(name, message)
        for point in c.checkpoints:
            self.note(now_s, "checkpoint", {"step": point.step, "round": point.meta["round"]})
        self.checkpoints += c.checkpoints
        for name in c.evicted:  # should it be heard again, it is asked who it is
            self._pids.pop(name, None)
            self._end(name)
        for laid_out in (c.log, c.outbox, c.checkpoints, c.evicted):
            laid_out.clear()

    def note(self, now_s: float, kind: str, fields: Mapping[str, Any]) -> None:
        """Put an event on record."""
        stamp = {"seq": len(self.events), "time_s": now_s, "kind": kind}
        self.events.append({**stamp, **fields})

    def die(self) -> bool:
        """The coordinator is killed; False where there is none, or nothing to go on with.

        Before anything was decided a launcher does not start another one.
        """
        if not self.is_up or self.coordinator.run.plan is None:
            return False
        self.is_up, self.life = False, self.life + 1
        self._pids.clear()
        self._asked_at_s.clear()
        return True

    def come_back(self, now_s: float) -> None:
        """A coordinator takes its place that knows what is on record, and nobody yet."""
        self.coordinator, self.is_up = self._make(self.events), True
        self.coordinator.start(now_s)


class VirtualTime(ABC):
    """Things happen in order of virtual time, ties as they were scheduled, so that runs repeat.

    Agents and a coordinator speak to each other, and mishaps come between them.
    """

    beat_s = BEAT_S

    def __init__(self, make: Callable[[Sequence[dict[str, Any]]], Coordinator]) -> None:
        self._host = VirtualHost(make, self._send, self._give_up)
        self._agents: dict[str, Agent] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._num_scheduled = 0
        self._now_s = 0.0

    @property
    def coordinator(self) -> Coordinator:
        """The one at work, or the one that was last."""
        return self._host.coordinator

    @abstractmethod
    def _start(self, name: str) -> None:
        """An agent begins."""

    @abstractmethod
    def _leave(self, member: str) -> None:
        """An agent is dead: whoever it met with waits in vain."""

    @abstractmethod
    def _change(self, fault: Fault) -> None:
        """A device is slowed, or a link narrowed."""

    @abstractmethod
    def _deliver(self, name: str, message: Any) -> None:
        """The coordinator's word arrives."""

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._num_scheduled += 1
        heapq.heappush(self._queue, (self._now_s + seconds, self._num_scheduled, happen))

    def _go_on(self) -> bool:
        """Let the next thing happen; False where there is none."""
        if not self._queue:
            return False
        self._now_s, _, happen = heapq.heappop(self._queue)
        happen()
        self._host.flush(self._now_s)
        return True

    def _beat(self) -> None:
        for name, agent in list(self._agents.items()):
            if agent.held is None:
                since_s = self._now_s if agent.stuck_at_s is None else agent.stuck_at_s
                self._host.hear(name, say.Beat(computing_s=self._now_s - since_s), self._now_s)
        self._host.tick(self._now_s)
        self._after(self.beat_s, self._beat)

    def _within(self, name: str, happen: Callable[[], None], alone: bool = False) -> None:
        """Something happens in an agent: of itself, or between it and others; at once, if it can.

        Whoever is stopped does nothing, and whoever is cut off nothing that others have a part in.
        """
        agent = self._agents.get(name)
        if agent is not None and alone and agent.stuck is not None:
            agent.stuck.append(happen)
            agent.stuck_at_s = self._now_s if agent.stuck_at_s is None else agent.stuck_at_s
        elif agent is None or agent.held is None or (alone and not agent.stopped):
            happen()
        else:
            agent.held.append(happen)

    def _tell(self, name: str, message: say.Wire) -> None:
        def arrive() -> None:
            self._within(name, lambda: self._host.hear(name, message, self._now_s))

        self._after(CONTROL_S, arrive)

    def _send(self, name: str, message: say.Wire) -> None:
        life = self._host.life

        def arrive() -> None:
            if self._host.life == life:
                self._within(name, lambda: self._deliver(name, message))

        self._after(CONTROL_S, arrive)

    # -- mishaps ----------------------------------------------------------------------------------

    def _befall(self, fault: Fault) -> None:
        if fault.kind == "kill":
            self._kill(fault)
        elif fault.kind == "coordinator":
            if self._host.die() and fault.back_after_s is not None:
                self._after(fault.back_after_s, self._replace_coordinator)
        elif fault.kind in ("slow", "quota", "narrow"):
            self._change(fault)
            if fault.back_after_s is not None:
                undone = replace(fault, factor=1 / fault.factor)
                self._after(fault.back_after_s, lambda: self._change(undone))
        elif (agent := self._agents.get(fault.member)) is not None:
            if fault.kind == "stuck" and agent.stuck is None:
                agent.stuck, go_on = [], self._get_on
            elif fault.kind != "stuck" and agent.held is None:
                agent.held, agent.stopped, go_on = [], fault.kind == "stop", self._let_go
            else:
                return
            if fault.back_after_s is not None:
                self._after(fault.back_after_s, lambda: go_on(fault.member, agent))

    def _kill(self, fault: Fault) -> None:
        if self._agents.pop(fault.member, None) is None:
            return
        self._leave(fault.member)
        self._after(DETECT_S, lambda: self._host.lost(fault.member, self._now_s))
        if fault.back_after_s is not None:
            self._after(fault.back_after_s, lambda: self._start(fault.member))

    def _give_up(self, name: str) -> None:
        """A server that is given up is ended, and another one started."""
        if name == say.HUB:
            self._kill(Fault(name, self._now_s, START_S))

    def _replace_coordinator(self) -> None:
        self._host.come_back(self._now_s)
        for name in self.coordinator.run.term.members:
            if name not in self._agents:
                self._host.lost(name, self._now_s)

    def _get_on(self, name: str, agent: Agent) -> None:
        """What a stuck agent computed comes to an end now, in order."""
        stuck, agent.stuck, agent.stuck_at_s = agent.stuck or [], None, None
        for happen in stuck:
            if self._agents.get(name) is agent:
                self._within(name, happen, alone=True)

    def _let_go(self, name: str, agent: Agent) -> None:
        """What was to happen in a stopped or cut off agent meanwhile happens now, in order."""
        held, agent.held, agent.stopped = agent.held or [], None, False
        for happen in held:
            if self._agents.get(name) is agent:
                happen()
