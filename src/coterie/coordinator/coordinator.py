"""The coordinating agent: what it is told changes what it knows; `life` says what it does next.

No sockets, clocks or files here: messages come in, and messages, events and checkpoints to write
are laid out in lists, for whoever drives it. Real engines and the simulation drive the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coterie.config import Job
from coterie.coordinator.account import as_event, progress
from coterie.coordinator.adapt import observe
from coterie.coordinator.gauge import Flow, Gauge
from coterie.coordinator.ledger import Ledger
from coterie.coordinator.life import life
from coterie.coordinator.members import Member, Pulse
from coterie.coordinator.model import fit_device
from coterie.errors import CoterieError
from coterie.leases import unlearned
from coterie.sync.chain import Strategy
from coterie.transport import messages as say
from coterie.types import Layout
from coterie.world import Decision, Link, Option, World

TORN_GRACE_S = 1.0  # a broken meeting with nobody dead is tried again after this
PROGRESS_S = 0.5
MEMORY_PART = 0.8  # of what is free on a machine, for all its agents together


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


@dataclass
class Saving:
    """A checkpoint whose pieces are still coming in."""

    ticket: int
    step: int
    expected: int
    meta: dict[str, Any]
    assembly: say.Assembly


class Coordinator:
    """Who is here, what is believed, what is decided; one run from its first word to its last."""

    def __init__(self, job: Job, num_agents: int, resume: Resume | None = None) -> None:
        self.job, self.num_agents, self.resume = job, num_agents, resume
        self.outbox: list[tuple[str, say.Wire]] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.checkpoints: list[Checkpoint] = []
        self.now_s = self.started_s = self.began_s = 0.0
        self.members: dict[str, Member] = {}
        self.known: set[str] = set()  # every name that was ever here
        self.term = say.Term(number=0, members=(), store="")
        self.layout: Layout | None = None
        self.links: dict[frozenset[str], Link] = {}
        self.ledger = Ledger(num_train=0)
        self.gauge = Gauge()
        self.solo: dict[str, Flow] = {}
        self.plan: Option | None = None
        self.full_plan: Option | None = None  # the last one with every agent in it
        self.strategy: Strategy | None = None
        self.decisions: list[Decision] = []
        self.settled: dict[str, int] = {}  # by member of the term under way: the round it stands on
        self.linked: set[str] = set()
        self.healthy: set[str] = set()  # members that hold the agreed state
        self.left_out: set[str] = set()
        self.scores: say.Scores | None = None
        self.saving: Saving | None = None
        self.saved_round = 0  # the newest one that a checkpoint holds
        self.saved_s = self.scored_s = self.reshared_s = 0.0
        self.scored_epoch, self.scores_wanted = 0, 0
        self.saved_last = False
        self.torn = False  # a member of the term is gone, or its meeting broke off
        self.torn_at_s: float | None = None
        self.stopping = ""  # why the run ends early, and resumably
        self.failure = ""
        self.done = False
        self.losses = Flow()  # of the epoch under way: loss sums as seconds, see `epoch_loss`
        self.epoch_loss: float | None = None
        self.loss: float | None = None
        self.pauses: list[dict[str, float]] = []
        self.num_kills = self.num_rejoined = 0
        self._progress_s = 0.0
        self._life = life(self)
        self._ready: Callable[[], bool] = lambda: True

    # -- what happens to it ------------------------------------------------------------------------

    def start(self, now_s: float) -> None:
        """The clock begins."""
        self.now_s = self.started_s = now_s
        self._advance()

    def receive(self, name: str, message: Any, now_s: float) -> None:
        """A member said something."""
        self.now_s = now_s
        if isinstance(message, say.Hello):
            self._on_hello(message)
        elif name in self.members:
            self.members[name].pulse.beat(now_s)
            try:
                self._handle(name, message)
            except CoterieError as error:
                self.fail(str(error))
        self._advance()

    def lost(self, name: str, reason: str, now_s: float) -> None:
        """A member is dead, by the engine's word or its silence."""
        self.now_s = now_s
        if self.members.pop(name, None) is None:
            return
        self.event("agent", member=name, state="lost", reason=reason)
        self.healthy.discard(name)
        self.left_out.discard(name)
        self.saving = None  # its part will never come
        if name in self.term.members:
            self.torn = True
            self.num_kills += 1
        self._advance()

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        self.now_s = now_s
        for name, member in list(self.members.items()):
            if now_s > member.pulse.deadline_s():
                self.lost(name, f"silent for {now_s - member.pulse.heard_s:.1f} s", now_s)
        if self.torn_at_s is not None and now_s > self.torn_at_s + TORN_GRACE_S:
            self.torn, self.torn_at_s = True, None
        if self.plan and now_s > self._progress_s + PROGRESS_S:
            self._progress_s = now_s
            self.event("progress", **progress(self))
        self._advance()

    def stop(self, reason: str) -> None:
        """End at the next boundary with a checkpoint."""
        self.stopping = self.stopping or reason
        self._advance()

    def fail(self, reason: str) -> None:
        """End now; what was saved before is kept."""
        if not self.failure and not self.done:
            self.failure = reason
            self.event("error", text=reason)
            self.tell_all(say.Stop(reason=reason, at_once=True))
            self.done = True

    def _advance(self) -> None:
        """Go on with life as far as what is known allows."""
        try:
            while not self.done and self._ready():
                self._ready = next(self._life)
        except StopIteration:
            self.done = True
        except CoterieError as error:
            self.fail(str(error))

    def _handle(self, name: str, message: Any) -> None:
        match message:
            case say.Ready():
                self._on_ready(name, message)
            case say.Refused():
                self._on_refused(name, message)
            case say.Probed():
                self._on_probed(name, message)
            case say.Linked():
                self._on_linked(name, message)
            case say.TornRound():
                self._on_torn(message)
            case say.Settled():
                self._on_settled(name, message)
            case say.Report():
                self._on_report(name, message)
            case say.Scores():
                self._on_scores(name, message)
            case say.State():
                self._on_state(message)
            case say.Failed():
                self.fail(message.reason)
            case say.Bye():
                self.members.pop(name, None)

    # -- what it is told -----------------------------------------------------------------------------

    def _on_hello(self, hello: say.Hello) -> None:
        if hello.name in self.members:
            self.tell(hello.name, say.Stop(reason=f"an agent {hello.name} is here already", at_once=True))
            return
        state = "returned" if hello.name in self.known else "joined"
        self.known.add(hello.name)
        self.members[hello.name] = Member(hello, Pulse(self.now_s))
        self.event("agent", member=hello.name, state=state, cores=hello.cores, pid=hello.pid)
        files = dict(self.resume.files) if self.resume else {}
        self.tell(
            hello.name,
            say.Welcome(job=self.job.model_dump(by_alias=True, mode="json"), num_files=len(files)),
        )
        for file, data in files.items():
            for piece in say.pieces(-1, file, data):
                self.tell(hello.name, piece)

    def _on_ready(self, name: str, ready: say.Ready) -> None:
        layout = Layout(ready.names, ready.shapes)
        if self.layout is None:
            self._adopt(layout, ready.num_train)
        elif (self.layout, self.ledger.num_train) != (layout, ready.num_train):
            self.fail(
                f"expected the same model and data on every agent, found others on {name}; "
                "give each machine the same code and dataset"
            )
            return
        member = self.members[name]
        member.ready, member.state = ready, "ready"
        self.event("agent", member=name, state="ready", cores=member.hello.cores)
        if self.plan:
            self.tell(name, self.probe())

    def _adopt(self, layout: Layout, num_train: int) -> None:
        self.layout = layout
        self.ledger = Ledger(num_train=num_train)
        if self.resume:
            ledger, meta = self.ledger, self.resume.meta
            ledger.num_epochs, ledger.free = unlearned(meta, num_train)
            ledger.committed = self.saved_round = meta["round"]
            ledger.next_round = meta["round"] + 1
            ledger.num_steps = meta["num_steps"]

    def _on_refused(self, name: str, message: say.Refused) -> None:
        if self.plan is None:
            self.fail(f"{name}: {message.reason}")
        else:
            self.event("agent", member=name, state="refused", reason=message.reason)
            del self.members[name]

    def _on_probed(self, name: str, probed: say.Probed) -> None:
        member = self.members[name]
        if member.device is None:
            member.device = fit_device(name, probed.timings, self._max_batch(name, probed))
            member.state = "measured"
        solo = self.solo.setdefault(name, Flow())
        for batch, seconds in probed.timings:
            if batch == max(b for b, _ in probed.timings):
                solo.add(batch, 1, seconds)
        member.solo_per_s = solo.per_s or 0.0
        self.event("measured", member=name, solo_per_s=member.solo_per_s, **_device(member.device))

    def _max_batch(self, name: str, probed: say.Probed) -> int:
        """How many samples fit beside the model, of this agent's part of its machine's memory."""
        mine = self.members[name].hello
        host = mine.store.rpartition(":")[0]
        beside = sum(m.hello.store.rpartition(":")[0] == host for m in self.members.values())
        room = MEMORY_PART * mine.memory_bytes / beside - probed.fixed_bytes
        return max(1, int(room / max(1.0, probed.bytes_per_sample)))

    def _on_linked(self, name: str, linked: say.Linked) -> None:
        for peer, latency_s, bytes_per_s in linked.links:
            link = Link(*sorted((name, peer)), latency_s, bytes_per_s)
            self.links[frozenset((name, peer))] = link
            self.event("link", **asdict(link))
        self.linked.add(name)

    def _on_torn(self, torn: say.TornRound) -> None:
        if torn.term == self.term.number and not self.torn and self.torn_at_s is None:
            self.torn_at_s = self.now_s

    def _on_settled(self, name: str, settled: say.Settled) -> None:
        if settled.term != self.term.number:
            return
        self.settled[name] = settled.round
        self.healthy.add(name)
        if settled.healed:
            self.num_rejoined += 1
            self.event("agent", member=name, state="rejoined", reason=f"healed in {settled.seconds:.2f} s")

    def _on_report(self, name: str, report: say.Report) -> None:
        for number in range(report.first_round, report.last_round + 1):
            self.ledger.commit(number, report.cohort)
        self._measure(name, report)
        if name == self.term.members[0]:
            self.gauge.commit(self.now_s, self.ledger.num_samples, self.ledger.committed)
        self._log_final()

    def _measure(self, name: str, report: say.Report) -> None:
        member = self.members[name]
        if report.num_samples:
            self.losses.add(report.num_samples, 1, report.loss * report.num_samples)
            self.loss = report.loss if self.loss is None else 0.9 * self.loss + 0.1 * report.loss
        if report.num_steps and member.device and self.gauge.arm == "ours" and report.compute_s > 0:
            batch = max(1, round(report.num_samples / report.num_steps))
            member.device = observe(member.device, batch, report.compute_s / report.num_steps)
        if report.gap_s:
            pause_s = max(0.0, report.gap_s - self.gauge.typical_round_s())
            if not self.pauses:
                self.pauses.append({})
            self.pauses[-1][name] = pause_s
            self.event("pause", member=name, seconds=pause_s)

    def _log_final(self) -> None:
        final, finished = self.ledger.drain()
        for number, done in final:
            leases = {m: k.spans for m, k in done.leases.items() if k.num_samples}
            self.event(
                "committed",
                term=self.term.number,
                first_round=number,
                last_round=number,
                data_epoch=done.data_epoch,
                leases=leases,
            )
        for data_epoch in finished:
            self.epoch_loss = self.losses.seconds / max(1, self.losses.num_samples)
            self.losses = Flow()
            self.event("epoch", data_epoch=data_epoch, loss=self.epoch_loss)

    def _on_scores(self, name: str, scores: say.Scores) -> None:
        self.scores = scores
        self.event("scores", round=scores.round, metrics=scores.metrics, seconds=scores.seconds, member=name)

    def _on_state(self, piece: say.State) -> None:
        saving = self.saving
        if saving is None or piece.ticket != saving.ticket:
            return
        saving.assembly.add(piece)
        if len(saving.assembly.files) == saving.expected:
            self.checkpoints.append(Checkpoint(saving.step, saving.assembly.files, saving.meta))
            self.saved_round, self.saving = saving.ticket, None

    def decided(self, decision: Decision) -> None:
        """Put a decision on record."""
        self.event("decision", **as_event(decision))

    def begin_saving(self, ticket: int, num_steps: int) -> None:
        """Note what a checkpoint after round `ticket` will hold beside the members' files."""
        ledger, layout = self.ledger, self.layout
        assert layout is not None
        meta = {
            "round": ticket,
            "num_steps": num_steps,
            "num_epochs": ledger.num_epochs,
            "num_train": ledger.num_train,
            "free": {str(epoch): spans for epoch, spans in ledger.free.items()},
            "layout": {"names": layout.names, "shapes": layout.shapes},
            "strategy": repr(self.strategy),
            "members": self.term.members,
            "metrics": self.scores.metrics if self.scores else {},
            "job": self.job.model_dump(by_alias=True, mode="json"),
        }
        num_files = len(self.term.members) + 1
        self.saving = Saving(ticket, num_steps, num_files, meta, say.Assembly())

    def close_books(self) -> None:
        """The run ends: what is committed is final."""
        self.ledger.close()
        self._log_final()
        self.event("progress", **progress(self))

    # -- what it knows -------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """What is believed of the measured agents and of the links among them."""
        devices = [m.device for m in self.members.values() if m.device is not None]
        names = frozenset(device.name for device in devices)
        links = [link for link in self.links.values() if link.joins(names)]
        return World(
            tuple(sorted(devices, key=lambda d: d.name)),
            tuple(sorted(links, key=lambda k: (k.a, k.b))),
            self.job.batch,
            self.ledger.num_train,
        )

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
        if self.fraction() >= 1.0:
            return f"{' or '.join(self.job.until)} reached"
        return ""

    def probe(self, seconds: float = 0.6) -> say.Probe:
        """The order to time steps at two batch sizes."""
        sizes = {max(1, self.job.batch // 8), max(2, self.job.batch)}
        return say.Probe(sizes=tuple(sorted(sizes)), seconds=seconds)

    # -- what it says --------------------------------------------------------------------------------

    def tell(self, name: str, message: say.Wire) -> None:
        """Lay out a message to one agent."""
        self.outbox.append((name, message))

    def tell_all(self, message: say.Wire) -> None:
        """Lay out a message to every agent that is here."""
        for name in self.members:
            self.tell(name, message)

    def tell_term(self, message: say.Wire) -> None:
        """Lay out a message to every living member of the term."""
        for name in self.term.members:
            if name in self.members:
                self.tell(name, message)

    def event(self, kind: str, **fields: Any) -> None:
        """Lay out an event for the run's log."""
        self.log.append((kind, fields))


def _device(device: Any) -> dict[str, Any]:
    fields = asdict(device)
    return {k: fields[k] for k in ("overhead_s", "per_sample_s", "max_batch")}
