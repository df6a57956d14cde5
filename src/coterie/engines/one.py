"""A run of separate tasks in this process: its folder, its events, its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.agents import checkpoint
from coterie.agents.learner import Setup
from coterie.config import Job
from coterie.coordinator.run import Resume
from coterie.engines.together import Cost, Together, measured
from coterie.engines.writer import Writer
from coterie.watch.lessons import save_graph
from coterie.watch.patience import PatientLog

Show = Callable[[dict[str, Any]], None]


class OneProcess:
    """A run whose agents live in this process."""

    def __init__(
        self,
        job: Job,
        run: Path,
        show: Show,
        agents: Sequence[str],
        setups: Mapping[str, Setup] | None = None,
        origin: Path | None = None,
        cost: Cost = measured,
    ) -> None:
        self._job, self._run, self._show, self._agents = job, run, show, agents
        self._log = PatientLog(run / "events.jsonl")
        self._writer = Writer(run, job.keep_checkpoints)
        point = checkpoint.load(origin) if origin is not None else None
        resume = Resume(point.files, point.meta) if point is not None else None
        self._resumed = {"resumed_from": f"step {point.step}"} if point is not None else {}
        self.stopped = ""
        self._together = Together(job, agents, self._note, setups, cost, resume)
        self._together.keeping(self._writer.add)

    def stop(self, *_: object) -> None:
        """End early, resumably."""
        self.stopped = "interrupted"
        self._together.stop(self.stopped)

    def see_through(self) -> tuple[dict[str, Any], str]:
        """Learn to the end: the summary, and what went wrong."""
        job, name = self._job, self._run.name
        about = {"name": name, "folder": str(self._run), "agents": len(self._agents)}
        self._note("run", **about, batch=job.batch, until=job.until, **self._resumed)
        school = self._together.run()
        for done in self._writer.close():
            if done.error:
                self._note("warning", text=done.error)
            else:
                self._note("checkpoint", **done.event())
        failure, saved = school.run.failure, checkpoint.good_checkpoints(self._run)
        where = {"checkpoint": str(saved[0]) if saved else None, "folder": str(self._run)}
        told = self._note("summary", **school.run.summary(), **where)
        reason = failure or self.stopped or school.run.reached()
        self._note("stopped", reason=reason, ok=not failure, resumable=bool(saved))
        self._log.close()
        save_graph(self._run)
        return told, failure

    def _note(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = self._log.write(kind, **fields)
        self._show(event)
        return event
