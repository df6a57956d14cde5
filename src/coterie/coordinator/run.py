"""One run as the coordinator knows it: who is here, what is believed, what is to be said.

No sockets, clocks or files: messages, events and checkpoints are laid out in lists, for whoever
drives the coordinator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from coterie.config import Job
from coterie.coordinator.bandit import Bandit
from coterie.coordinator.fixed import refuse_owners, refuse_unlooped, refuse_unsteady
from coterie.coordinator.gauge import Flow, Gauge, Pace
from coterie.coordinator.ledger import Ledger
from coterie.coordinator.line import Line
from coterie.coordinator.members import Member, Pulse
from coterie.coordinator.noise import Noise
from coterie.coordinator.progress import Progress
from coterie.coordinator.survival import failures_per_s
from coterie.coordinator.trust import Exile, Standing
from coterie.leases import Part
from coterie.sync.chain import Strategy
from coterie.sync.reading import parse
from coterie.transport import messages as say
from coterie.transport.parcels import Assembly
from coterie.types import Layout
from coterie.world import Decision, Device, Layer, Link, Option, World

# Meetings cost as much as they are priced, give or take 20 ms each and as much again for bytes.
UNTRIED_ROAD = Line(a=0.0, c=1.0, aa=0.02**2, cc=1.0)
LINKS_STAND_S = 10.0  # before they are probed again


@dataclass(frozen=True)
class Resume:
    """A checkpoint to go on from."""

    files: Mapping[str, bytes]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint for the driver to write."""

    step: int
    files: Mapping[str, bytes]
    meta: Mapping[str, Any]
    pause_s: float = 0.0  # that the slowest of its members stood still for it


@dataclass
class Saving:
    """A checkpoint whose pieces are still coming in."""

    ticket: int
    step: int
    num_files: int
    meta: dict[str, Any]
    assembly: Assembly
    pause_s: float = 0.0


def _began_alike(resume: Resume | None) -> bool:
    """Whether all begin with one state; after a walk each goes on with an optimizer of its own."""
    told = str(resume.meta.get("strategy", "")) if resume else ""
    return not told.startswith("chain") or not parse(told).walks


class Run:
    """What is known of a run, and what is laid out to be done about it."""

    def __init__(self, job: Job, num_agents: int, resume: Resume | None = None) -> None:
        self.job, self.num_agents, self.resume = job, num_agents, resume
        self.source: dict[str, str] = {}  # the text of the user's files, by path
        self.asked = None if job.strategy == "auto" else parse(job.strategy)
        if job.deterministic and self.asked is not None:
            refuse_unsteady(self.asked)
        if job.script is not None and self.asked is not None:
            refuse_unlooped(self.asked)
        if self.asked is not None:
            refuse_owners(job, self.asked)
        self._lay_out()
        self._know_members(resume)
        self._know_progress()
        self._know_measures()

    def _lay_out(self) -> None:
        self.outbox: list[tuple[str, say.Wire]] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.checkpoints: list[Checkpoint] = []
        self.stopping = ""  # why the run ends early, and resumably
        self.failure = ""
        self.bereft = False  # nobody is left who holds the trained model
        self.by_itself = False  # it goes on after such a loss, with whoever comes
        self.leaving = False  # everybody has been told to go
        self.done = False

    def _know_members(self, resume: Resume | None) -> None:
        self.members: dict[str, Member] = {}
        self.suspects: dict[str, Member] = {}  # alive perhaps, but not heard or not getting on
        self.evicted: list[str] = []  # given up for their silence, for the driver to end
        self.unheard: set[str] = set()  # asked what they did in a long silence
        self.gone: set[str] = set()  # dead, as this coordinator was told
        self.known: dict[str, int] = {}  # every name that was ever here, and its last process
        self.beliefs: dict[str, Device] = {}  # of machines that left, should they return
        self.places: dict[str, tuple[str, float]] = {}  # host and cores of each name's machine
        self.missed: set[str] = set()  # lost, and not yet back at work
        self.healthy: set[str] = set()  # members that hold the agreed state
        self.left_out: set[str] = set()  # by the plan
        self.alike = _began_alike(resume)  # whether members' optimizers hold the same
        self.term = say.Term(number=0, members=(), store="")
        self.settled: dict[str, say.Settled] = {}  # by member of the term: where all stand
        self.torn = False  # a member of the term is gone, or its meeting broke off
        self.mended = 0  # the newest term that was named at once: what tore before it is settled
        self.torn_at_s: float | None = None
        self.why_torn = ""  # where nobody was lost
        self.digests: dict[int, dict[str, int]] = {}  # by round: where members say they stand
        self.checked_s = 0.0  # when they were asked last
        self.layout: Layout | None = None
        self.hub: say.Hello | None = None  # the server of the star road, once it is here
        self.hub_pulse = Pulse(0.0)
        self.hub_awaited_s, self.hub_start_s = 0.0, 0.0  # since when; how long it took to come
        self.hub_pid = 0  # of the server that was here last
        self.fenced: set[int] = set()  # servers that were given up, and may live: not to be heard
        self.links: dict[frozenset[str], Link] = {}
        self.linked: set[str] = set()
        self.regranted = False  # whether a machine grants another part of itself since
        self.chain: tuple[Layer, ...] = ()  # of the model, as the first to measure it told

    def _know_progress(self) -> None:
        self.now_s = self.started_s = self.began_s = 0.0
        self.elapsed_before_s = 0.0  # under the coordinator before this one
        self.reuniting = False  # its members are still coming back
        self.ledger = Ledger(num_train=0)
        self.gauge = Gauge()
        self.solo: dict[str, Flow] = {}  # by member: free steps on the whole batch
        self.probing = False  # members are told to time themselves as soon as they are ready
        self.passes = 0  # over the data that members' own loops have begun
        self.restates = False  # whether such a loop changes gradients it has computed
        self.over = ""  # which of those loops has ended
        self.awaited: set[str] = set()  # whose loops are to say yet whether they begin the next
        self.plan: Option | None = None
        self.sources: tuple[tuple[tuple[str, ...], int], ...] = ()  # see Ready
        self.parts: tuple[Part, ...] = ()  # who owns which of them, where tasks have owners
        self.owned: dict[str, dict[str, float]] = {}  # by task: which part of it each owner has
        self.equal_per_s: float | None = None  # predicted for equal shares under the plan
        self.with_all: Decision | None = None  # the last one with every agent in it
        self.strategy: Strategy | None = None
        self.waits_for = 0  # the quorum that was told last
        self.decisions: list[Decision] = []
        self.reconsidered_s = 0.0
        self.told: dict[str, int] = {}  # by member: the newest round that it told of
        self.company: tuple[str, ...] = ()  # who met in the newest of all

    def _know_measures(self) -> None:
        self.bandit, self.tried_s = Bandit(), 0.0  # what trials taught, and the time they took
        self.paces: dict[str, Pace] = {}  # by member, since it was last folded into a belief
        self.road = UNTRIED_ROAD  # what meetings cost against their price on the links as probed
        self.scores: say.Scores | None = None
        self.scored_s, self.scored_epoch = 0.0, 0
        self.saving: Saving | None = None
        self.saved_s, self.saved_round = 0.0, 0  # the newest round that a checkpoint holds
        self.save_cost_s = 0.0  # that saving held up its members the last time
        self.fewer_since_saved = False  # whether the group has lost or left out members
        self.at_work_s: dict[str, float] = {}  # by member: for how long it was at work
        self.standings: dict[str, Standing] = {}  # by member: how its vectors lie to others'
        self.trust: dict[str, float] = {}  # what samples of some count for
        self.exiles: dict[str, Exile] = {}  # who is, or was, left out for what it brought
        self.progress = Progress()  # that sentences keep, as far as losses tell
        self.noise = Noise()  # of gradients
        self.told_scale: float | None = None  # of that noise, when it was told last
        self.losses: Counter[str] = Counter()  # by member: how often it was lost meanwhile
        self.watched_s = 0.0  # until when
        self.doubts_links = False  # as what meetings take is not what they explain
        self.probe_links_s, self.links_stand_s = 0.0, LINKS_STAND_S  # not before; for how long
        self.loss: float | None = None
        self.loss_sum, self.num_losses = 0.0, 0  # of the epoch under way
        self.epoch_loss: float | None = None  # of the newest epoch that was learned whole
        self.asides: list[tuple[float, float]] = []  # when members were to do other than rounds
        self.pauses: list[dict[str, float]] = []  # by survivor, of each loss
        self.num_kills = self.num_suspected = self.num_rejoined = 0

    # -- what it knows ----------------------------------------------------------------------------

    @property
    def meeting_s(self) -> float:
        """See World.meeting_s."""
        return self.road.a

    @property
    def world(self) -> World:
        """What is believed of the measured agents and of the links among them."""
        probed = self.probed_world
        links = tuple(replace(k, bytes_per_s=k.bytes_per_s / self.road.c) for k in probed.links)
        return replace(probed, links=links, meeting_s=self.meeting_s)

    @property
    def probed_world(self) -> World:
        """The same, with links as they were probed."""
        measured = [m.device for m in self.members.values() if m.device is not None]
        devices = [self.as_granted(self.as_reliable(device)) for device in measured]
        names = frozenset(device.name for device in devices)
        links = [link for link in self.links.values() if link.joins(names)]
        return World(
            tuple(sorted(devices, key=lambda d: d.name)),
            tuple(sorted(links, key=lambda k: (k.a, k.b))),
            self.job.batch,
            self.ledger.num_train,
            chain=self.chain,
            learned=self.progress.learned,
        )

    def as_reliable(self, device: Device) -> Device:
        """A device that fails as often as it was seen to."""
        counted = self.losses[device.name], self.at_work_s.get(device.name, 0.0)
        return replace(device, failures_per_s=failures_per_s(*counted))

    def as_granted(self, device: Device) -> Device:
        """A device on as many cores as its machine said last."""
        member = self.members.get(device.name)
        cores = (member.cores or member.hello.cores) if member else 1.0
        return replace(device, cores=cores if cores > 0 else 1.0)

    @property
    def member_s(self) -> float:
        """All that members were at work, together."""
        return sum(self.at_work_s.values())

    @property
    def by_star(self) -> bool:
        """Whether members meet by the star road, where a server waits for them."""
        return self.asked is not None and self.asked.exchange.road == "star"

    @property
    def wants_alike(self) -> bool:
        """Whether all have to step alike from now on: each takes its own step on one gradient."""
        strategy = self.strategy or self.asked
        if strategy is None or self.layout is None:
            return False
        shares_all = bool(self.parts) or strategy.narrowed(self.layout) == self.layout
        return shares_all and strategy.exchange.agrees and not (strategy.walks or self.apart)

    def is_fenced(self, hello: say.Hello) -> bool:
        """Whether this is a server in whose place another one was asked for."""
        return hello.name == say.HUB and hello.pid in self.fenced

    @property
    def apart(self) -> bool:
        """Whether members are to meet the server alone, whenever each is ready."""
        return self.strategy is not None and self.strategy.exchange.asynchronous

    @property
    def elapsed_s(self) -> float:
        """Since the first plan."""
        return self.now_s - self.began_s if self.plan else 0.0

    def fraction(self) -> float:
        """How far the run is, 0..1, by the first of its limits; metrics alone say nothing ahead."""
        done = {
            "epochs": self.ledger.epochs_done,
            "steps": float(self.ledger.num_steps),
            "minutes": self.elapsed_s / 60,
        }
        limits = [done[key] / limit for key, limit in self.job.until.items() if key in done]
        return min(1.0, max(limits, default=0.0))

    def reached(self) -> str:
        """Which limit or metric of `until` is reached; empty while none is."""
        metrics = self.scores.metrics if self.scores else {}
        for key, limit in self.job.until.items():
            if key in metrics and metrics[key] >= limit:
                return f"{key} {metrics[key]:.4g} reached {limit:g}"
        if self.over and self.members.keys().isdisjoint(self.awaited):
            return self.over  # else somebody still evaluates, maybe: it is to have the last word
        if self.fraction() >= 1.0:
            return f"{' or '.join(self.job.until)} reached"
        return ""

    def watch(self) -> None:
        """Count for how long members have been at work: what their losses are measured against."""
        for name in self.members.keys() & set(self.term.members) if self.plan else ():
            before_s = self.at_work_s.get(name, 0.0)
            self.at_work_s[name] = before_s + self.now_s - self.watched_s
        self.watched_s = self.now_s

    def probe(self, seconds: float = 0.6) -> say.Probe:
        """The order to time steps at two batch sizes."""
        sizes = {max(1, self.job.batch // 8), max(2, self.job.batch)}
        return say.Probe(sizes=tuple(sorted(sizes)), seconds=seconds)

    def fail(self, reason: str) -> None:
        """End now; what was saved before is kept."""
        if not self.failure and not self.done:
            self.failure = reason
            self.event("error", text=reason)
            self.tell_all(say.Stop(reason=reason, at_once=True, again=self.bereft))
            self.done = True

    @property
    def everybody(self) -> list[str]:
        """All who are here, the server of the star road as well."""
        return [*self.members, *([say.HUB] if self.hub is not None else [])]

    def unanswered(self) -> list[tuple[str, say.Term]]:
        """Whom the term was told that have not settled in it, and how."""
        waited_for = (name for name in self.term.members if name not in self.settled)
        return [(name, self.term_for(name)) for name in waited_for]

    def term_for(self, name: str) -> say.Term:
        """The term as a member is to hear of it: one that was missed may know of none before it."""
        member = self.members.get(name)
        if member is None or not member.outdated:
            return self.term
        return self.term.model_copy(update={"at_once": True, "anew": True})

    # -- what it says -----------------------------------------------------------------------------

    def tell(self, name: str, message: say.Wire) -> None:
        """Lay out a message to one agent."""
        self.outbox.append((name, message))

    def tell_all(self, message: say.Wire) -> None:
        """Lay out a message to every agent that is here."""
        for name in self.everybody:
            self.tell(name, message)

    def tell_term(self, message: say.Wire) -> None:
        """Lay out a message to every living member of the term, and to the server of its road."""
        if self.hub is not None:
            self.tell(say.HUB, message)
        for name in self.term.members:
            if name in self.members:
                self.tell(name, message)

    def event(self, kind: str, **fields: Any) -> None:
        """Lay out an event for the run's log."""
        self.log.append((kind, fields))
