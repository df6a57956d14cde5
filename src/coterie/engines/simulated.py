"""A whole run in one process and in virtual time: real gradients, real decisions, no waiting.

The coordinator and the workers are the very ones that real engines drive. Only clocks, roads and
deaths are made up here, from a `World` that says how fast machines and links truly are.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from coterie.agents import effects as do
from coterie.agents.learner import Learner, Setup
from coterie.agents.worker import Worker
from coterie.config import Job
from coterie.coordinator.account import summary
from coterie.coordinator.coordinator import Coordinator
from coterie.coordinator.run import Checkpoint, Resume
from coterie.errors import CoterieError, Torn
from coterie.sync.exchanges import Payload, Reduce
from coterie.transport import messages as say
from coterie.transport.memory import Call, MemoryTransport
from coterie.world import Device, World

CONTROL_S = 0.001  # of a control message
FORM_S = 0.005  # to build a group
DETECT_S = 0.01  # until the engine's word of a death arrives
SPREAD = 0.02  # the last member hears a meeting's outcome so much later than the first


@dataclass(frozen=True)
class Fault:
    """A member killed at a virtual time, and started again some time later, or never."""

    member: str
    at_s: float
    back_after_s: float | None = None


@dataclass
class Agent:
    """A simulated agent process."""

    device: Device
    inbox: deque[Any] = field(default_factory=deque)
    assembly: say.Assembly = field(default_factory=say.Assembly)
    welcome: say.Welcome | None = None
    worker: Worker | None = None
    life: Generator[do.Effect, Any, str] | None = None
    waits_for: str = ""  # "order" | "meeting" | "" while it computes
    turn: int = 0  # what was scheduled for an earlier turn is void


@dataclass(frozen=True)
class Outcome:
    """What a simulated run came to."""

    events: list[dict[str, Any]]
    summary: dict[str, Any]
    checkpoints: list[Checkpoint]
    workers: dict[str, Worker]  # of those that live, or lived until told to leave
    seconds: float


class Simulation:
    """Events in order of virtual time; ties in the order they were scheduled, so runs repeat."""

    def __init__(
        self,
        job: Job,
        setup: Setup,
        world: World,
        faults: Sequence[Fault] = (),
        resume: Resume | None = None,
    ) -> None:
        self.coordinator = Coordinator(job, len(world.devices), resume)
        self._setup, self._world = setup, world
        self._hub = MemoryTransport()
        self._agents: dict[str, Agent] = {}
        self._left: dict[str, Worker] = {}
        self._terms: dict[str, say.Term] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._num_scheduled = 0
        self._now_s = 0.0
        self.events: list[dict[str, Any]] = []
        self.checkpoints: list[Checkpoint] = []
        for device in world.devices:
            self._after(0.0, lambda device=device: self._start(device))  # type: ignore[misc]
        for fault in faults:
            self._after(fault.at_s, lambda fault=fault: self._kill(fault))  # type: ignore[misc]

    def run(self, limit_s: float = 1e6) -> Outcome:
        """Play until the run is done, or until `limit_s` of virtual time."""
        self.coordinator.start(0.0)
        self._beat()
        while self._queue and not self.coordinator.run.done and self._now_s < limit_s:
            self._now_s, _, happen = heapq.heappop(self._queue)
            happen()
            self._flush()
        living = {n: a.worker for n, a in self._agents.items() if a.worker is not None}
        figures = summary(self.coordinator.run)
        workers = dict(sorted({**self._left, **living}.items()))
        return Outcome(self.events, figures, self.checkpoints, workers, self._now_s)

    # -- time -------------------------------------------------------------------------------------

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._num_scheduled += 1
        heapq.heappush(self._queue, (self._now_s + seconds, self._num_scheduled, happen))

    def _beat(self) -> None:
        for name in list(self._agents):
            self.coordinator.receive(name, say.Beat(), self._now_s)
        self.coordinator.tick(self._now_s)
        self._after(0.25, self._beat)

    def _flush(self) -> None:
        c = self.coordinator.run
        for kind, fields in c.log:
            seq = len(self.events)
            self.events.append({"seq": seq, "time_s": self._now_s, "kind": kind, **fields})
        for name, message in c.outbox:
            self._after(CONTROL_S, lambda n=name, m=message: self._deliver(n, m))  # type: ignore[misc]
        self.checkpoints += c.checkpoints
        c.log.clear()
        c.outbox.clear()
        c.checkpoints.clear()

    # -- agents -----------------------------------------------------------------------------------

    def _start(self, device: Device) -> None:
        self._agents[device.name] = Agent(device)
        hello = say.Hello(
            name=device.name,
            pid=0,
            cores=1.0,
            memory_bytes=1 << 40,
            device="cpu",
            store=f"{device.name}:0",
        )
        self._tell(device.name, hello)

    def _kill(self, fault: Fault) -> None:
        if self._agents.pop(fault.member, None) is None:
            return
        self._hub.withdraw(fault.member)
        self._tear(fault.member)
        reason = "killed"
        self._after(DETECT_S, lambda: self.coordinator.lost(fault.member, reason, self._now_s))
        if fault.back_after_s is not None:
            device = self._world.device(fault.member)
            self._after(fault.back_after_s, lambda: self._start(device))

    def _tear(self, member: str) -> None:
        """Who has not yet heard the outcome of a meeting with the dead will not hear it."""
        term = self._terms.get(member)
        for name, agent in self._agents.items():
            if agent.waits_for == "outcome" and self._terms.get(name) == term:
                agent.turn += 1
                agent.waits_for = "meeting"

    def _tell(self, name: str, message: say.Wire) -> None:
        self._after(CONTROL_S, lambda: self.coordinator.receive(name, message, self._now_s))

    def _deliver(self, name: str, message: Any) -> None:
        agent = self._agents.get(name)
        if agent is None:
            return
        if agent.life is None:
            self._settle_in(name, agent, message)
            return
        agent.inbox.append(message)
        if agent.waits_for == "order":
            self._resume(name, agent.inbox.popleft())
        elif agent.waits_for == "meeting" and getattr(message, "at_once", False):
            self._hub.withdraw(name)
            self._resume(name, Torn("a new membership was named"))

    def _settle_in(self, name: str, agent: Agent, message: Any) -> None:
        """Before its life begins an agent waits for its welcome and the files that follow."""
        if isinstance(message, say.Welcome):
            agent.welcome = message
        elif isinstance(message, say.State):
            agent.assembly.add(message)
        else:
            return
        files = agent.assembly.files
        if agent.welcome is None or len(files) < agent.welcome.num_files:
            return
        worker = Worker(name, Learner(self._setup))
        try:
            if files:
                worker.resume(files)
        except CoterieError as error:
            self._tell(name, say.Refused(reason=str(error)))
            return
        agent.worker = worker
        self._tell(name, worker.learner.ready())
        agent.life = worker.live()
        self._resume(name, None)

    # -- effects ----------------------------------------------------------------------------------

    def _resume(self, name: str, answer: Any) -> None:
        """Carry a worker on until it waits for time or for others."""
        agent = self._agents[name]
        assert agent.life is not None
        agent.waits_for, agent.turn = "", agent.turn + 1
        while True:
            try:
                failed = isinstance(answer, CoterieError)
                effect = agent.life.throw(answer) if failed else agent.life.send(answer)
            except StopIteration:
                assert agent.worker is not None
                self._left[name] = agent.worker
                del self._agents[name]
                return
            match effect:
                case do.Now():
                    answer = self._now_s
                case do.Tell(message):
                    self._tell(name, message)
                    answer = None
                case do.Hear() if agent.inbox:
                    answer = agent.inbox.popleft()
                case do.Hear():
                    agent.waits_for = "order"
                    return
                case do.Compute(run, batches):
                    self._later(name, sum(map(agent.device.step_s, batches)), _attempt(run))
                    return
                case _ if any(getattr(m, "at_once", False) for m in agent.inbox):
                    answer = Torn("a new membership was named")
                case _:
                    self._meet(name, effect)
                    return

    def _later(self, name: str, seconds: float, answer: Any) -> None:
        agent = self._agents[name]
        turn = agent.turn

        def go_on() -> None:
            if self._agents.get(name) is agent and agent.turn == turn:
                self._resume(name, answer)

        self._after(seconds, go_on)

    def _meet(self, name: str, effect: do.Effect) -> None:
        self._agents[name].waits_for = "meeting"
        if isinstance(effect, do.Form):
            self._terms[name] = effect.term
            self._hub.enter(effect.term.number, effect.term.members)
        call = _call(name, self._terms[name].number, effect)
        results = self._hub.offer(name, call)
        if results is None:
            return
        seconds = self._price(call, tuple(results))
        for rank, (member, result) in enumerate(results.items()):
            self._agents[member].waits_for = "outcome"
            self._later(member, seconds * (1 + SPREAD * rank / len(results)), result)

    def _price(self, call: Call, members: tuple[str, ...]) -> float:
        """Seconds of a collective on the true links."""
        if call.op == "form":
            return FORM_S
        assert call.vector_N is not None
        num_bytes = call.vector_N.numel() * call.vector_N.element_size()
        links = self._world.only(members).links
        if call.op.startswith("pass:"):
            return sum(link.latency_s + num_bytes / link.bytes_per_s for link in links)
        return Reduce().price(Payload(num_bytes, summable=call.op == "total"), len(members), links)


def _attempt(run: Callable[[], Any]) -> Any:
    """What a computation comes to: its value, or the error to raise in the worker."""
    try:
        return run()
    except CoterieError as error:
        return error


def _call(name: str, term: int, effect: do.Effect) -> Call:
    match effect:
        case do.Form():
            return Call(term, "form")
        case do.Total(vector_N):
            return Call(term, "total", vector_N)
        case do.Gather(vector_N):
            return Call(term, "gather", vector_N)
        case do.Give(peer, vector_N):
            return Call(term, f"pass:{name}:{peer}", vector_N)
        case do.Take(peer, into_N):
            return Call(term, f"pass:{peer}:{name}", into_N)
    raise AssertionError(f"no such meeting: {effect}")


def simulate(
    job: Job,
    setup: Setup,
    world: World,
    faults: Sequence[Fault] = (),
    resume: Resume | None = None,
) -> Outcome:
    """Play a job on a described world; the same arguments give the same outcome, bit for bit."""
    with torch.random.fork_rng(devices=[]):
        return Simulation(job, setup, world, faults, resume).run()
