"""The doors of `coterie plan` and `coterie simulate`: a job, a described cluster, an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.cluster import Cluster
from coterie.config import Job, dump_job, parse_job
from coterie.coordinator.allot import Wish, allot
from coterie.coordinator.allotment import Allotment
from coterie.coordinator.forecast import Forecast, Question, forecast
from coterie.coordinator.model import fit_device
from coterie.coordinator.run import Checkpoint
from coterie.engines.launch import free_folder
from coterie.engines.processes import DONE, FAILED
from coterie.engines.writer import Writer
from coterie.errors import JobError
from coterie.inventory import Claimant, Load
from coterie.machine import cores, memory_available_bytes
from coterie.sync.reading import parse
from coterie.transport.messages import HUB, Probe
from coterie.types import Layout
from coterie.watch.events import EventLog, audit, read
from coterie.world import World

if TYPE_CHECKING:
    from coterie.agents.learner import Learner
    from coterie.engines.virtual import Fault

MEASURE_S = 0.6  # at each of two batch sizes
BYTES_OF_AGENT = 32  # for each parameter: weights, gradient, optimizer, anchors, what travels
NEVER_S = 1e9  # between two checkpoints of a simulated run: what they cost there is not known
MOST_SHOWN = 24  # machines of which each is told of on the screen
OF_EACH = ("agent", "link", "measured", "pause", "work", "pace")  # events of single machines

Show = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Mishaps:
    """What befalls the machines of a simulated run."""

    kills: tuple[tuple[str, float], ...] = ()  # names, and virtual seconds
    failures: float = 0.0  # times as often as described that machines fail of themselves


def plan(job: Job, cluster: Cluster, load: Load | None = None) -> Forecast:
    """What would be done on the cluster, how long it would take, what else there could be.

    Nothing is built where the cluster file knows the job's parameters and samples.
    """
    wish = _wish(on_all(job, cluster), cluster, load)
    return forecast(cluster, wish.world_of, wish.question)


def plan_several(
    jobs: Sequence[Job], cluster: Cluster, loads: Sequence[Load | None] = ()
) -> Allotment:
    """Which machines of the cluster each job would be given, what it would do there, what else."""
    names = [job.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise JobError(
            f"expected jobs of different names, found {twice} twice; name each job once, or "
            "rename one of them in its file"
        )
    _check_names(cluster)
    paired = zip(jobs, loads or [None] * len(jobs), strict=True)
    return allot(cluster, [_wish(job, cluster, load) for job, load in paired])


def _wish(job: Job, cluster: Cluster, load: Load | None) -> Wish:
    """What a job asks of clusters; nothing is built where its file knows enough of the job."""
    known = cluster.about(job.name).task
    if known.parameters is not None and known.samples is not None:
        layout, num_train = Layout(("all",), ((int(known.parameters),),)), known.samples
    else:
        learner = built(job)
        layout, num_train = learner.layout, learner.task.num_train
    asked = None if job.strategy == "auto" else parse(job.strategy)

    def world_of(other: Cluster, on: Sequence[str] | None = None) -> World:
        return other.about(job.name).world(job.batch, num_train, layout.size, load, on)

    claim = cluster.tasks.get(job.name, Claimant())
    return Wish(job.name, claim.priority, Question(layout, job.until, asked), world_of)


def measure(job: Job) -> Load:
    """The step of the job's own task on this machine, timed at two batch sizes as agents do."""
    import torch

    from coterie.agents import effects as do
    from coterie.agents.measure import probe_steps

    torch.set_num_threads(max(1, int(cores())))
    sizes = tuple(sorted({max(1, job.batch // 8), max(2, job.batch)}))
    life = probe_steps(built(job), Probe(sizes=sizes, seconds=MEASURE_S))
    answer: Any = None
    while True:
        try:
            effect = life.send(answer)
        except StopIteration as end:
            probed = end.value
            break
        answer = effect.run() if isinstance(effect, do.Compute) else time.monotonic()
    here = fit_device("this machine", probed.timings, max_batch=1)
    return Load(here.overhead_s, here.per_sample_s, probed.bytes_per_sample)


def simulate(
    job: Job, cluster: Cluster, mishaps: Mishaps, runs: Path, show: Show
) -> tuple[int, dict[str, Any]]:
    """Run the job on the cluster in virtual time, in a folder of its own; exit code and figures."""
    from coterie.engines.described import Described

    job, cluster = on_all(job, cluster), cluster.about(job.name)
    learner = built(job)
    _check_memory(cluster.num_machines, learner.layout.size)
    world = cluster.world(job.batch, learner.task.num_train, learner.layout.size)
    faults = _faults(mishaps.kills, cluster, world)
    many = cluster.num_machines > MOST_SHOWN
    with closing(_Record(job, runs, show, OF_EACH if many else ())) as record, _in_turns():
        record.note(0.0, {"kind": "run", **_told(job, record.folder, world)})
        run = Described(job, learner.setup, (cluster, world), faults, record.hear)
        if mishaps.failures:
            run.let_fail(mishaps.failures)
        outcome = run.run(limit_s=float("inf"))
        saved = record.keep(outcome.seconds, outcome.checkpoints)
        figures = {**outcome.summary, **_achieved(outcome.events), **record.books(), **saved}
        failure, reached = run.coordinator.run.failure, run.coordinator.run.reached()
        record.note(outcome.seconds, {"kind": "summary", **figures})
        ended = {"kind": "stopped", "reason": failure or reached, "ok": not failure}
        record.note(outcome.seconds, ended)
    return (FAILED, {**figures, "error": failure}) if failure else (DONE, figures)


class _Record:
    """The folder of a simulated run: what happens is written there as it is shown."""

    def __init__(self, job: Job, runs: Path, show: Show, unshown: Sequence[str]) -> None:
        self.folder = free_folder(job, runs)
        self._show, self._unshown, self._now_s = show, unshown, 0.0
        self._log = EventLog(self.folder / "events.jsonl", clock=lambda: self._now_s)
        (self.folder / "job.yaml").write_text(dump_job(job))

    def hear(self, now_s: float, event: Mapping[str, Any]) -> None:
        """What the run tells; its last checkpoint is told of when it is kept."""
        if event["kind"] != "checkpoint":
            self.note(now_s, event)

    def keep(self, now_s: float, points: Sequence[Checkpoint]) -> dict[str, Any]:
        """Write the last checkpoint, of many machines with the states of the first; where it is."""
        if not points:
            return {"checkpoint": None}
        states = sorted(name for name in points[-1].files if name.startswith("state/"))
        unkept = states[MOST_SHOWN:]  # who is not in it goes on with another's
        files = {name: data for name, data in points[-1].files.items() if name not in unkept}
        writer = Writer(self.folder, keep=1)
        writer.add(replace(points[-1], files=files))
        (done,) = writer.close()
        if done.error:
            self.note(now_s, {"kind": "warning", "text": done.error})
            return {"checkpoint": None}
        self.note(now_s, {"kind": "checkpoint", **done.event(), "seconds": 0.0})
        return {"checkpoint": str(done.path)}

    def note(self, now_s: float, event: Mapping[str, Any]) -> None:
        """Write an event down, and show it."""
        self._now_s = now_s
        fields = {key: value for key, value in event.items() if key not in ("seq", "time_s")}
        told = self._log.write(**fields)
        if told["kind"] not in self._unshown:
            self._show(told)

    def books(self) -> dict[str, Any]:
        """Whether every sample was learned once, by what was written down."""
        found = audit(read(self.folder / "events.jsonl"))
        counts = {"samples_lost": found.num_lost, "samples_repeated": found.num_repeated}
        return {**counts, "folder": str(self.folder)}

    def close(self) -> None:
        """Nothing more happens."""
        self._log.close()


@contextmanager
def _in_turns() -> Iterator[None]:
    """Agents that compute one after the other, each on a little: threads would wait for another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def on_all(job: Job, cluster: Cluster) -> Job:
    """The job with every machine of the cluster as its agent, and none of what is of here alone."""
    _check_names(cluster)
    data = job.model_dump(by_alias=True, mode="json")
    timeout_s = job.agents.join_timeout_s
    data["agents"] = {"local": cluster.num_machines, "join_timeout_s": timeout_s}
    return parse_job({**data, "baselines": [], "drill": None, "checkpoint_every_s": NEVER_S})


def _check_names(cluster: Cluster) -> None:
    if HUB in (machine.name for machine in cluster.machines):
        raise JobError(f"expected machines not called {HUB}, as servers are, found one; rename it")


def built(job: Job) -> Learner:
    """The job's model, data and optimizer, built here once."""
    from coterie.agents.join import setup_of
    from coterie.agents.learner import Learner

    return Learner(setup_of(job, "cpu"))


def _check_memory(num_agents: int, num_values: int) -> None:
    needed_bytes, free_bytes = num_agents * num_values * BYTES_OF_AGENT, memory_available_bytes()
    if needed_bytes > free_bytes:
        raise JobError(
            f"expected memory for {num_agents:,} agents with {num_values:,} parameters each, "
            f"which is about {needed_bytes / 1e9:,.3g} GB, found {free_bytes / 1e9:,.3g} GB; "
            "simulate fewer machines or a smaller model"
        )


def _faults(
    kills: Sequence[tuple[str, float]], cluster: Cluster, world: World
) -> tuple[Fault, ...]:
    from coterie.engines.virtual import Fault

    names = {device.name for device in world.devices}
    for name, _ in kills:
        if name not in names:
            near = ", ".join(sorted(names)[:3])
            raise JobError(
                f"expected --kill to name a machine of the cluster, such as {near}, found {name!r}"
            )
    return tuple(Fault(name, at_s, cluster.restart_s) for name, at_s in kills)


def _told(job: Job, folder: Path, world: World) -> dict[str, Any]:
    return {
        "name": folder.name,
        "folder": str(folder),
        "agents": len(world.devices),
        "batch": job.batch,
        "num_train": world.num_train,
        "strategy": job.strategy,
        "until": job.until,
        "simulated": True,
    }


def _achieved(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the last decision that was compared had promised, and what it came to."""
    told = [event for event in events if event["kind"] == "outcome"]
    return {key: told[-1][key] if told else None for key in ("predicted_per_s", "achieved_per_s")}


def parse_kill(text: str) -> tuple[str, float]:
    """A machine and the virtual second at which it is killed, as NAME@SECONDS.

    >>> parse_kill("pi-3@12.5")
    ('pi-3', 12.5)
    """
    name, at, seconds = text.rpartition("@")
    try:
        at_s = float(seconds)
    except ValueError:
        at_s = -1.0
    if not (name and at and 0 <= at_s < float("inf")):
        raise JobError(f"expected --kill NAME@SECONDS, such as pi-3@12.5, found {text!r}")
    return name, at_s
