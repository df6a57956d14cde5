"""A run of separate tasks as its coordinator knows it: who is here, who learns where, what is kept.

No sockets, clocks or files: messages, events and checkpoints are laid out in lists, for whoever
drives the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from coterie.config import Job
from coterie.coordinator.homes import Host, Learner
from coterie.coordinator.members import Member, Pulse
from coterie.coordinator.run import Checkpoint
from coterie.coordinator.survival import failures_per_s
from coterie.specs import SeparateSpec
from coterie.transport import messages as say
from coterie.transport.duties import Able, Duties, Learned
from coterie.transport.parcels import Assembly, pieces


@dataclass
class Record:
    """One learner: where it lives, how far it is, and the state it told last."""

    name: str
    task: str
    priority: float = 1.0
    home: str = ""  # the agent that holds it
    moving_to: str = ""  # once it was laid down there
    since_s: float = 0.0  # that it lives there
    learned: Learned | None = None  # what it told last
    files: Mapping[str, bytes] = field(default_factory=dict)  # its state
    kept_steps: int = 0  # at which that was
    broken: str = ""  # why it cannot go on
    num_taken: int = 0  # lessons
    num_refused: int = 0

    @property
    def num_steps(self) -> int:
        """As told last."""
        return self.learned.num_steps if self.learned else self.kept_steps

    @property
    def metrics(self) -> Mapping[str, float]:
        """As scored last."""
        return self.learned.metrics if self.learned else {}

    def reached(self, until: Mapping[str, float]) -> bool:
        """Whether it has done all the steps or epochs that are asked of it."""
        told = self.learned
        done = {"steps": told.num_steps, "epochs": told.num_epochs} if told else {}
        return any(done.get(key, 0.0) >= limit for key, limit in until.items() if key in done)

    def row(self) -> dict[str, Any]:
        """What a screen shows of it."""
        told = self.learned
        return {
            "agent": self.home,
            "steps": self.num_steps,
            "loss": told.loss if told else None,
            "metrics": dict(self.metrics),
            "taken": self.num_taken,
            "refused": self.num_refused,
            "sent_bytes": sum(told.published_bytes.values()) if told else 0,
            "heard_bytes": sum(told.heard_bytes.values()) if told else 0,
            "broken": self.broken,
        }


class Register:
    """What is known of a run, and what is laid out to be done about it."""

    def __init__(self, job: Job, num_agents: int) -> None:
        assert isinstance(job.task, SeparateSpec)
        self.job, self.num_agents, self.spec = job, num_agents, job.task
        self.source: dict[str, str] = {}  # the text of the user's files, by path
        self._lay_out()
        self._know()
        self.learners = {
            name: Record(name, task, self.spec.tasks[task].priority)
            for name, task in self.spec.pupils.items()
        }

    def _lay_out(self) -> None:
        self.outbox: list[tuple[str, say.Wire]] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.checkpoints: list[Checkpoint] = []
        self.stopping = self.failure = self.ended = ""  # why
        self.plan: Any = None  # the homes, once there are some
        self.leaving = self.done = False

    def _know(self) -> None:
        self.members: dict[str, Member] = {}
        self.able: dict[str, Able] = {}  # by agent
        self.hub: say.Hello | None = None  # the board's process
        self.losses: dict[str, int] = {}  # of each agent
        self.since_s: dict[str, float] = {}  # that each agent is here
        self.kinship: dict[str, dict[str, tuple[float, float]]] = {}  # by learner: see Kinship
        self.groups: tuple[tuple[str, ...], ...] = ()
        self.suspects: dict[str, Pulse] = {}  # silent, and perhaps alive
        self.evicted: list[str] = []  # silent for so long that whoever drives this may end them
        self.assemblies: dict[str, Assembly] = {}  # of states that come in, by agent
        self.told: dict[str, Duties] = {}  # what each agent was told last
        self.now_s = self.started_s = self.began_s = self.before_s = 0.0
        self.num_handed_over = 0

    # -- what whoever drives a coordinator asks of a run, and has no meaning here ------------------

    by_star = True  # a server keeps the board
    by_itself = bereft = False
    layout = ledger = None
    unheard: frozenset[str] = frozenset()
    missed: frozenset[str] = frozenset()

    def unanswered(self) -> list[tuple[str, say.Term]]:
        """What is to be said again: agents that learn apart form no group."""
        return []

    def is_fenced(self, hello: say.Hello) -> bool:
        """Whether this is a second keeper of the board: the first stays."""
        return hello.name == say.HUB and self.hub is not None and hello.pid != self.hub.pid

    # -- figures ----------------------------------------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        """Since learning began."""
        return self.before_s + (self.now_s - self.began_s if self.plan is not None else 0.0)

    @property
    def active(self) -> list[Record]:
        """Those who have something left to learn."""
        until = self.job.until
        return [r for r in self.learners.values() if not (r.broken or r.reached(until))]

    @property
    def metrics(self) -> dict[str, float]:
        """METRIC, the mean over tasks, and TASK/METRIC, the mean over those who learn the task."""
        told: dict[str, dict[str, list[float]]] = {}
        for record in self.learners.values():
            for metric, value in record.metrics.items():
                told.setdefault(metric, {}).setdefault(record.task, []).append(value)
        found = {metric: fmean(map(fmean, tasks.values())) for metric, tasks in told.items()}
        for metric, tasks in told.items():
            found |= {f"{task}/{metric}": fmean(values) for task, values in tasks.items()}
        return found

    def fraction(self) -> float:
        """How far the run is, 0..1, by the first of its limits."""
        told = [r.learned for r in self.learners.values() if not r.broken]
        least = min((t.num_steps if t else 0 for t in told), default=0)
        epochs = min((t.num_epochs if t else 0.0 for t in told), default=0.0)
        done = {"steps": least, "epochs": epochs, "minutes": self.elapsed_s / 60}
        parts = [done[key] / limit for key, limit in self.job.until.items() if key in done]
        return min(1.0, max(parts, default=0.0))

    def reached(self) -> str:
        """Which limit or metric of `until` is reached; empty while none is."""
        if self.ended:
            return self.ended
        minutes = self.job.until.get("minutes")
        if minutes is not None and self.elapsed_s >= 60 * minutes:
            return f"minutes {self.elapsed_s / 60:.4g} reached {minutes:g}"
        metrics = self.metrics
        for name, target in self.job.until.items():
            if name in metrics and metrics[name] >= target:
                return f"{name} {metrics[name]:.4g} reached {target:g}"
        return "" if self.active else "every task has done what was asked of it"

    def progress(self) -> dict[str, Any]:
        """How far all are."""
        told = [r.learned for r in self.learners.values() if r.learned]
        losses = [t.loss for t in told if t.loss == t.loss]
        elapsed_s, part = self.elapsed_s, self.fraction()
        num_samples = sum(t.num_samples for t in told)
        return {
            "steps": min((r.num_steps for r in self.active), default=self.job.until.get("steps")),
            "data_epoch": min((t.data_epoch for t in told), default=0),
            "loss": sum(losses) / len(losses) if losses else None,
            "samples": num_samples,
            "per_s": num_samples / elapsed_s if elapsed_s else 0.0,
            "elapsed_s": elapsed_s,
            "eta_s": elapsed_s * (1 / part - 1) if part > 0.02 else None,
            "fraction": part,
            "metrics": self.metrics,
            "pupils": {r.name: r.row() for r in self.learners.values()},
        }

    def summary(self) -> dict[str, Any]:
        """What the run came to."""
        sent: dict[str, int] = {}
        for record in self.learners.values():
            for currency, num in (record.learned.published_bytes if record.learned else {}).items():
                sent[currency] = sent.get(currency, 0) + num
        records = list(self.learners.values())
        return {
            "accuracy": self.metrics.get("accuracy"),
            "metrics": self.metrics,
            "agents": self.num_agents,
            "seconds": self.elapsed_s,
            "steps": sum(r.num_steps for r in records),
            "kills_survived": sum(self.losses.values()),
            "handed_over": self.num_handed_over,
            "lessons_taken": sum(r.num_taken for r in records),
            "lessons_refused": sum(r.num_refused for r in records),
            "published_bytes": sent,
            "groups": self.groups,
            "pupils": {r.name: r.row() for r in records},
        }

    # -- where learners live ----------------------------------------------------------------------

    def hosts(self) -> list[Host]:
        """The agents that can learn, and how fast."""
        found = []
        for name, able in self.able.items():
            if name in self.members:
                here = self.now_s - self.since_s[name] if self.plan is not None else 0.0
                rate = failures_per_s(self.losses.get(name, 0), here)
                found.append(Host(name, able.step_s, rate))
        return found

    def wanting(self) -> list[Learner]:
        """Those who want a home, and where they have one."""
        return [
            Learner(r.name, r.task, r.priority, r.home, self.now_s - r.since_s) for r in self.active
        ]

    def duties(self, agent: str) -> Duties:
        """All that an agent is to hold."""
        held = {
            r.name: r.kept_steps
            for r in self.learners.values()
            if r.home == agent and not (r.moving_to or r.broken)
        }
        board = self.hub.store if self.hub else ""
        return Duties(pupils=held, groups=self.groups, board=board)

    def tell_duties(self) -> None:
        """Tell each agent what it holds, where that is news; states of newcomers go before."""
        for agent in self.able.keys() & self.members.keys():
            duties, before = self.duties(agent), self.told.get(agent)
            if duties == before:
                continue
            for name in duties.pupils.keys() - (before.pupils.keys() if before else set()):
                if name not in self.able[agent].holds:
                    self._send_state(agent, self.learners[name])
            self.told[agent] = duties
            self.able[agent] = self.able[agent].model_copy(update={"holds": {}})
            self.tell(agent, duties)

    def _send_state(self, agent: str, record: Record) -> None:
        for file, data in record.files.items():
            for piece in pieces(record.kept_steps, file, data):
                self.tell(agent, piece)

    # -- what it says -----------------------------------------------------------------------------

    def tell(self, name: str, message: say.Wire) -> None:
        """Lay out a message to one agent."""
        self.outbox.append((name, message))

    def tell_all(self, message: say.Wire) -> None:
        """Lay out a message to everybody who is here."""
        for name in self.members:
            self.tell(name, message)
        if self.hub is not None:
            self.tell(say.HUB, message)

    def event(self, kind: str, **fields: Any) -> None:
        """Lay out an event for the run's log."""
        self.log.append((kind, fields))

    def fail(self, reason: str) -> None:
        """End now; what was kept before is kept."""
        if not self.failure and not self.done:
            self.failure = reason
            self.event("error", text=reason)
            self.tell_all(say.Stop(reason=reason, at_once=True))
            self.done = True

    def save(self, pause_s: float = 0.0) -> None:
        """Lay out a checkpoint of all states that were told."""
        files = {path: data for r in self.learners.values() for path, data in r.files.items()}
        if not files:
            return
        steps = {r.name: r.kept_steps for r in self.learners.values() if r.files}
        meta = {
            "round": sum(steps.values()),
            "steps": steps,
            "elapsed_s": self.elapsed_s,
            "metrics": self.metrics,
            "groups": self.groups,
            "job": self.job.model_dump(by_alias=True, mode="json"),
        }
        self.checkpoints.append(Checkpoint(sum(steps.values()), files, meta, pause_s))

    def joined(self, hello: say.Hello) -> None:
        """Somebody is here."""
        self.members[hello.name] = Member(hello, Pulse(self.now_s))
        self.since_s[hello.name] = self.now_s


def files_of(learner: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of one learner's state.

    >>> files_of("greek", {"greek/model": b"", "greek-2/model": b""})
    {'greek/model': b''}
    """
    return {path: data for path, data in files.items() if path.startswith(f"{learner}/")}


def spread(learners: Sequence[Record]) -> str:
    """Who lives where, in words.

    >>> spread([Record("a", "a", home="pi"), Record("b", "b", home="pi"), Record("c", "c")])
    'a and b on pi; c nowhere'
    """
    homes: dict[str, list[str]] = {}
    for record in learners:
        homes.setdefault(record.home or "", []).append(record.name)
    told = [f"{_listed(names)} on {home}" for home, names in sorted(homes.items()) if home]
    return "; ".join([*told, *([f"{_listed(homes[''])} nowhere"] if "" in homes else [])])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
