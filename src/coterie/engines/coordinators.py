"""Which coordinator a job has, and what its run came to. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.agents import checkpoint
from coterie.config import Job
from coterie.coordinator.account import summary
from coterie.coordinator.coordinator import Coordinator
from coterie.coordinator.run import Resume
from coterie.coordinator.school import School
from coterie.specs import SeparateSpec
from coterie.watch.events import audit, read
from coterie.watch.lessons import save_graph
from coterie.watch.words import Event


def coordinator_of(
    job: Job, run: Path, resume: Resume | None, past: Sequence[Event]
) -> Coordinator | School:
    """One for members of a group, or one for agents that learn apart."""
    num_agents = job.agents.num_known
    assert num_agents is not None
    if not isinstance(job.task, SeparateSpec):
        return Coordinator(job, num_agents, resume, past)
    if past and (saved := checkpoint.good_checkpoints(run)):
        newest = checkpoint.load(saved[0])  # all that is known of whoever dies meanwhile
        resume = Resume(newest.files, newest.meta)
    return School(job, num_agents, resume, past)


def figures(coordinator: Coordinator | School, run: Path, held: Sequence[Event]) -> dict[str, Any]:
    """What a run came to; `held` are events that could not be written yet."""
    if isinstance(coordinator, School):
        save_graph(run)
        return coordinator.run.summary()
    books = audit([*read(run / "events.jsonl"), *held])
    exact = {"samples_lost": books.num_lost, "samples_repeated": books.num_repeated}
    return {**summary(coordinator.run), **exact}
