"""A run on a described cluster, in virtual time: real gradients on made-up machines."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from coterie.agents.learner import Setup
from coterie.cluster import Cluster
from coterie.config import Job
from coterie.coordinator.hear import MEMORY_PART
from coterie.engines.simulated import Simulation
from coterie.engines.virtual import Fault
from coterie.transport import messages as say
from coterie.world import Link, World

Show = Callable[[float, Mapping[str, Any]], None]  # virtual seconds, and an event


class Described(Simulation):
    """Agents tell of their steps and links what was described: there is nothing to measure."""

    beat_s = 2.0  # as real agents: a thousand of them are heard often enough

    def __init__(
        self,
        job: Job,
        setup: Setup,
        where: tuple[Cluster, World],
        faults: Sequence[Fault] = (),
        show: Show = lambda now_s, event: None,
    ) -> None:
        cluster, world = where
        super().__init__(job, setup, world, faults)
        self._restart_s, self._show, self._num_shown = cluster.restart_s, show, 0
        self._roads = lru_cache(maxsize=8)(cluster.links_among)
        self._told_by = lru_cache(maxsize=2)(self._by_teller)  # by the term's number

    def let_fail(self, times: float) -> None:
        """Machines fail so many times as often as described from now on, and return."""
        for device in self._world.devices:
            chances = random.Random(f"{self.coordinator.run.job.seed} {device.name}")
            self._fail_later(
                device.name, partial(chances.expovariate, times * device.failures_per_s)
            )

    def _fail_later(self, name: str, draw_s: Callable[[], float]) -> None:
        def fail() -> None:
            self._befall(Fault(name, self._now_s, self._restart_s))
            self._after(self._restart_s, lambda: self._fail_later(name, draw_s))

        self._after(draw_s(), fail)

    def _befall(self, fault: Fault) -> None:
        if fault.member in self._agents:
            self._host.note(self._now_s, "fault", {"action": fault.kind, "member": fault.member})
        super()._befall(fault)

    def _go_on(self) -> bool:
        goes_on = super()._go_on()
        for event in self._host.events[self._num_shown :]:
            self._show(self._now_s, event)
        self._num_shown = len(self._host.events)
        return goes_on

    # -- what there is to measure -----------------------------------------------------------------

    def _deliver(self, name: str, message: Any) -> None:
        match message:
            case say.Probe(sizes=sizes):
                self._tell(name, self._probed(name, sizes))
            case say.ProbeLinks(term=term):
                self._tell(name, say.Linked(term=term, links=self._unknown_links(name)))
            case _:
                super()._deliver(name, message)

    def _probed(self, name: str, sizes: tuple[int, ...]) -> say.Probed:
        device = self._world.device(name)
        timings = tuple((size, device.step_s(size)) for size in sizes)
        # So many that the memory it says it has is enough for its largest batch, and no more.
        each_bytes = MEMORY_PART * self._hellos[name].memory_bytes / (device.max_batch + 0.5)
        return say.Probed(timings=timings, fixed_bytes=0, bytes_per_sample=each_bytes)

    def _unknown_links(self, name: str) -> tuple[tuple[str, float, float], ...]:
        """What a member has to tell of its links; those of many stand for the others'."""
        return tuple(
            (link.b if name == link.a else link.a, link.latency_s, link.bytes_per_s)
            for link in self._told_by(self.coordinator.run.term.number).get(name, ())
            if frozenset((link.a, link.b)) not in self.coordinator.run.links
        )

    def _by_teller(self, term: int) -> Mapping[str, Sequence[Link]]:
        """Each link once, with the member that tells of it; those apart hear no orders."""
        members = self.coordinator.run.term.members
        here = frozenset(members)
        everyone = (device.name for device in self._world.devices)
        apart = tuple(name for name in everyone if name not in here)
        told = defaultdict(list)
        for link in self._roads(members + apart):
            told[link.a if link.a in here else link.b].append(link)
        return told

    def _links_among(self, members: tuple[str, ...]) -> tuple[Link, ...]:
        return self._roads(members)
