"""A whole run in one process and in virtual time: real gradients, real decisions, no waiting.

The coordinator and the workers are the very ones that real engines drive. Only clocks, roads and
deaths are made up here, from a `World` that says how fast machines and links truly are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.agents.hub import Hub
from coterie.agents.learner import Learner, Setup
from coterie.agents.worker import Worker
from coterie.config import Job
from coterie.coordinator.account import summary
from coterie.coordinator.coordinator import Coordinator
from coterie.coordinator.run import Checkpoint, Resume
from coterie.engines import strands
from coterie.engines.strands import Agent, Strand
from coterie.engines.virtual import Fault, VirtualTime, slowed
from coterie.errors import CoterieError, Torn
from coterie.transport import messages as say
from coterie.transport.memory import Call, MemoryTransport
from coterie.world import Link, World

WAITS = object()  # an effect that time or others will answer
SPREAD = 0.02  # the last member hears a meeting's outcome so much later than the first


__all__ = ["Fault", "Outcome", "Simulation", "simulate"]


@dataclass(frozen=True)
class Outcome:
    """What a simulated run came to."""

    events: list[dict[str, Any]]
    summary: dict[str, Any]
    checkpoints: list[Checkpoint]
    workers: dict[str, Worker]  # of those that live, or lived until told to leave
    seconds: float


class Simulation(VirtualTime):
    """A run in virtual time: agents that carry out their effects, and meet."""

    def __init__(
        self,
        job: Job,
        setup: Setup,
        world: World,
        faults: Sequence[Fault] = (),
        resume: Resume | None = None,
    ) -> None:
        num_agents = len(world.devices)
        super().__init__(lambda past: Coordinator(job, num_agents, resume, past))
        self._setup, self._world = setup, world
        self._hub = MemoryTransport()
        self._left: dict[str, Worker] = {}
        self._terms: dict[str, say.Term] = {}
        self._hellos: dict[str, say.Hello] = {}
        self._cores = {device.name: 1.0 for device in world.devices}
        self._num_started = 0
        if self.coordinator.run.by_star:
            self._after(0.0, lambda: self._start(say.HUB))
        for device in world.devices:
            self._after(0.0, partial(self._start, device.name))
        for fault in faults:
            self._after(fault.at_s, partial(self._befall, fault))

    def run(self, limit_s: float = 1e6) -> Outcome:
        """Play until the run is done, or until `limit_s` of virtual time."""
        self.coordinator.start(0.0)
        self._beat()
        while not self.coordinator.run.done and self._now_s < limit_s and self._go_on():
            pass
        living = {n: a.worker for n, a in self._agents.items() if a.worker is not None}
        figures = summary(self.coordinator.run)
        workers = dict(sorted({**self._left, **living}.items()))
        told = self._host.events, figures, self._host.checkpoints
        return Outcome(*told, workers, self._now_s)

    # -- agents -----------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        self._agents[name] = Agent(None if name == say.HUB else self._world.device(name))
        self._num_started += 1
        hello = say.Hello(
            name=name,
            pid=self._num_started,
            cores=1.0,
            memory_bytes=1 << 40,
            device="cpu",
            store=f"{name}:{self._num_started}",
        )
        self._hellos[name] = hello
        self._tell(name, hello)

    def _leave(self, member: str) -> None:
        """Who has not yet heard the outcome of a meeting with the dead will not hear it."""
        self._hub.withdraw(member)
        term = self._terms.get(member)
        for name, agent in self._agents.items():
            for strand in agent.strands:
                if strand.waits_for == "outcome" and self._terms.get(name) == term:
                    strand.turn += 1
                    strand.waits_for = "meeting"

    def _change(self, fault: Fault) -> None:
        """The world is another one from now on; what is under way ends as it was begun."""
        if fault.kind == "quota":
            self._cores[fault.member] /= fault.factor
        if fault.kind in ("slow", "quota"):
            self._world = self._world.with_device(
                slowed(self._world.device(fault.member), fault.factor)
            )
            if fault.member in self._agents:
                self._agents[fault.member].device = self._world.device(fault.member)
        else:
            self._world = self._world.with_links(
                tuple(
                    replace(link, bytes_per_s=link.bytes_per_s / fault.factor)
                    for link in self._world.links
                    if fault.member in (link.a, link.b) and fault.peer in ("", link.a, link.b)
                )
            )

    def _deliver(self, name: str, message: Any) -> None:
        agent = self._agents.get(name)
        if agent is None:
            return
        if agent.main is None:
            self._settle_in(name, agent, message)
            return
        agent.inbox.append(message)
        if agent.main.waits_for == "order":
            self._resume(name, agent.main, agent.inbox.popleft())
        elif getattr(message, "at_once", False):
            self._hub.withdraw(name)
            for strand in agent.strands:
                if strand.waits_for in ("meeting", "mail"):
                    self._resume(name, strand, Torn("a new membership was named"))

    def _post(self, origin: str, to: str, channel: str, data: bytes) -> None:
        """Mail of the star road arrives after its way over the member's own link."""
        member = origin if to == say.HUB else to
        links = [link for link in self._world.links if member in (link.a, link.b)]
        seconds = min(
            (link.latency_s + len(data) / link.bytes_per_s for link in links), default=0.0
        )
        server = self._agents.get(say.HUB)

        def arrive() -> None:
            if server is self._agents.get(say.HUB):  # else it was on its way to or from the dead
                self._within(to, lambda: self._arrive(to, origin, channel, data))

        self._within(origin, lambda: self._after(seconds, arrive))

    def _arrive(self, to: str, origin: str, channel: str, data: bytes) -> None:
        agent = self._agents.get(to)
        if agent is None:
            return
        agent.mail.append((origin, channel, data))
        main = agent.main
        listens = main is not None and main.waits_for in ("mail", "order")
        if main is not None and listens and main.channel == channel:
            self._resume(to, main, agent.fetch(channel))

    def _settle_in(self, name: str, agent: Agent, message: Any) -> None:
        """Before its life begins an agent waits for its welcome and the files that follow."""
        if isinstance(message, say.Welcome):
            agent.welcome = message
        elif isinstance(message, say.State):
            agent.assembly.add(message)
        else:
            if isinstance(message, say.Who):  # of a coordinator that came after the one it told
                self._tell(name, self._hellos[name])
            return
        files = agent.assembly.files
        if agent.welcome is None or len(files) < agent.welcome.num_files:
            return
        if agent.device is None:
            agent.main = Strand(Hub(self._hellos[name]).live())
            self._resume(name, agent.main, None)
            return
        learner, hello = Learner(self._setup), self._hellos[name]
        worker = Worker(name, learner, hello=hello, granted=lambda: self._cores[name])
        try:
            if files:
                worker.resume(files)
        except CoterieError as error:
            self._tell(name, say.Refused(reason=str(error)))
            return
        agent.worker = worker
        self._tell(name, worker.learner.ready())
        agent.main = Strand(worker.live())
        self._resume(name, agent.main, None)

    # -- effects ----------------------------------------------------------------------------------

    def _resume(self, name: str, strand: Strand, answer: Any) -> None:
        """Carry a strand on until it waits for time or for others."""
        agent = self._agents[name]
        strand.waits_for, strand.channel, strand.turn = "", "", strand.turn + 1
        if strand.convert is not None:
            convert, strand.convert = strand.convert, None
            answer = convert(answer)
        while True:
            try:
                failed = isinstance(answer, CoterieError)
                effect = strand.life.throw(answer) if failed else strand.life.send(answer)
            except StopIteration as end:
                self._end(name, strand, end.value)
                return
            except CoterieError as error:
                self._end(name, strand, error)
                return
            strand.waits_for, strand.channel = "", ""
            answer = self._at_once(name, agent, strand, effect)
            if answer is WAITS:
                return

    def _end(self, name: str, strand: Strand, value: Any) -> None:
        agent = self._agents[name]
        strand.value, strand.over = value, True
        if strand is agent.main:
            if agent.worker is not None:
                self._left[name] = agent.worker
            del self._agents[name]
        elif agent.main is not None and agent.main.waits_for == "aside":
            agent.aside = None
            self._resume(name, agent.main, value)

    def _at_once(self, name: str, agent: Agent, strand: Strand, effect: Any) -> Any:
        """What an effect comes to without waiting; WAITS where time or others decide."""
        match effect:
            case do.Now():
                return self._now_s
            case do.Tell(message):
                self._tell(name, message)
                return None
            case do.TellMeanwhile(make):
                for message in make():
                    self._tell(name, message)
                return None
            case do.Leave(handle):
                agent.aside, handle.turn = None, handle.turn + 1
                self._hub.withdraw(name)
                return None
            case do.Hear():
                strand.waits_for = "order"
                return agent.inbox.popleft() if agent.inbox else WAITS
            case do.Next(channel):
                strand.waits_for, strand.channel = "order", channel
                return agent.inbox.popleft() if agent.inbox else agent.fetch(channel) or WAITS
            case do.Compute(run, batches):
                assert agent.device is not None
                self._later(
                    name, strand, sum(map(agent.device.step_s, batches)), strands.attempt(run)
                )
                return WAITS
            case do.Stream(run, batches):
                self._stream(name, agent, strand, run, batches)
                return WAITS
            case do.Pass():
                self._pass(name, agent, strand, effect)
                return WAITS
            case _ if agent.urgent():
                return Torn("a new membership was named")
        return self._with_others(name, agent, strand, effect)

    def _with_others(self, name: str, agent: Agent, strand: Strand, effect: Any) -> Any:
        match effect:
            case do.Begin(talk):
                agent.aside = aside = Strand(talk)
                begin = partial(self._aside, name, agent, aside)
                self._after(0.0, lambda: self._within(name, begin, alone=True))
                return aside
            case do.Finish(handle):
                strand.waits_for = "aside"
                return handle.value if handle.over else WAITS
            case do.Post(to, channel, data):
                self._post(name, to, channel, data)
                return None
            case do.Fetch(channel, wait, patience_s):
                strand.waits_for, strand.channel = "mail", channel
                if (mail := agent.fetch(channel)) is None and wait and patience_s is not None:
                    self._later(name, strand, patience_s, None)
                return mail or (WAITS if wait else None)
        self._meet(name, strand, effect)
        return WAITS

    def _aside(self, name: str, agent: Agent, aside: Strand) -> None:
        if self._agents.get(name) is agent and agent.aside is aside:
            self._resume(name, aside, None)

    def _stream(
        self, name: str, agent: Agent, strand: Strand, run: Any, batches: tuple[int, ...]
    ) -> None:
        """Parts are summed together: as early as one after another they would have begun."""
        assert agent.device is not None
        parts: list[Tensor] = []
        value = strands.attempt(lambda: run(parts.append))
        seconds = sum(map(agent.device.step_s, batches))

        def summed(total: Any) -> Any:
            if isinstance(total, Torn):
                return value if isinstance(value, CoterieError) else (value, False, seconds)
            for part, sum_P in zip(parts, total.split([p.numel() for p in parts]), strict=True):
                part.copy_(sum_P)
            return value if isinstance(value, CoterieError) else (value, True, seconds)

        strand.convert = summed
        turn, total = strand.turn, do.Total(torch.cat(parts))
        members = self._terms[name].members
        call, links = strands.call_of(name, 0, total), self._links_among(members)
        begins_s = seconds - strands.early_s(call, members, links, seconds, len(parts))

        def meet() -> None:
            if self._agents.get(name) is agent and strand.turn == turn:
                if agent.urgent():
                    self._resume(name, strand, Torn("a new membership was named"))
                else:
                    self._meet(name, strand, total)

        self._after(begins_s, lambda: self._within(name, meet, alone=True))

    def _pass(self, name: str, agent: Agent, strand: Strand, effect: do.Pass) -> None:
        """A stage's part of a batch; it is over when the batch went through all stages and back."""
        world = replace(self._world, chain=self._world.chain or self.coordinator.run.chain)
        passing_s, told = strands.pass_through(agent, effect, name, world)
        self._later(name, strand, passing_s, told)

    def _later(
        self, name: str, strand: Strand, seconds: float, answer: Any, alone: bool = True
    ) -> None:
        agent, turn = self._agents[name], strand.turn

        def go_on() -> None:
            if self._agents.get(name) is agent and strand.turn == turn:
                self._resume(name, strand, answer)

        self._after(seconds, lambda: self._within(name, go_on, alone))

    def _meet(self, name: str, strand: Strand, effect: Any) -> None:
        strand.waits_for = "meeting"
        if isinstance(effect, do.Form):
            if name in self._terms and self._terms[name].hub != effect.term.hub:
                self._agents[name].mail.clear()
            self._terms[name] = effect.term
            self._hub.enter(effect.term.number, effect.term.members)
            if effect.term.apart:
                self._later(name, strand, strands.FORM_S, None)
                return
        turn = strand.turn

        def come() -> None:
            if strand.turn == turn:
                self._offer(name, strands.call_of(name, self._terms[name].number, effect))

        self._within(name, come)

    def _links_among(self, members: tuple[str, ...]) -> tuple[Link, ...]:
        return self._world.only(members).links

    def _offer(self, name: str, call: Call) -> None:
        results = self._hub.offer(name, call)
        if results is None:
            return
        seconds = strands.price_of(call, tuple(results), self._links_among(tuple(results)))
        for rank, (member, result) in enumerate(results.items()):
            late_s = seconds * (1 + SPREAD * rank / len(results))
            for other in self._agents[member].strands:
                if other.waits_for == "meeting":
                    other.waits_for = "outcome"
                    self._later(member, other, late_s, result, alone=False)


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
