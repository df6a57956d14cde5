"""Which agents learn which task, as a job says it: all, those it names, or auto.

Bottom layer: names alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from coterie.errors import JobError

Place = Literal["everywhere", "auto"] | Mapping[str, Sequence[str]]


def check_place(place: Place, priority: Mapping[str, float], tasks: Collection[str]) -> None:
    """Raise JobError for a placement that names other tasks, or leaves one without an owner.

    >>> check_place({"digit": ["agent-0"]}, {}, ["digit", "ink"])
    Traceback (most recent call last):
    coterie.errors.JobError: expected an owner of each task, found none of ink; name agents for \
it, or let place be auto
    """
    told = ", ".join(tasks)
    for what, named in (("place", () if isinstance(place, str) else place), ("priority", priority)):
        if unknown := [name for name in named if name not in tasks]:
            raise JobError(
                f"expected in {what} names of {told}, found {', '.join(unknown)}; call it as the "
                "task is called"
            )
    for name, value in priority.items():
        if not 0 <= value < float("inf"):
            raise JobError(f"expected a priority of {name} of 0 or more, found {value}; mend it")
    if isinstance(place, str):
        if place not in ("everywhere", "auto"):
            raise JobError(
                f"expected place to be everywhere, auto or {{task: [agents]}}, found {place!r}; "
                "write one of these"
            )
        return
    if bare := [name for name in tasks if not place.get(name)]:
        raise JobError(
            f"expected an owner of each task, found none of {', '.join(bare)}; name agents for it, "
            "or let place be auto"
        )


def check_agents(place: Place, agents: Collection[str] | None) -> None:
    """Raise JobError for a task on an agent that is none of these, if all are known.

    >>> check_agents({"digit": ["agent-7"]}, ["agent-0", "agent-1"])
    Traceback (most recent call last):
    coterie.errors.JobError: expected digit on agents that are here (agent-0, agent-1), found it \
on agent-7; name others, or start that agent
    """
    if agents is None or isinstance(place, str):
        return
    for task, owners in place.items():
        if unknown := [name for name in owners if name not in agents]:
            raise JobError(
                f"expected {task} on agents that are here ({', '.join(sorted(agents))}), found it "
                f"on {', '.join(unknown)}; name others, or start that agent"
            )


def parts_tasks(place: Place) -> bool:
    """Whether members may come to learn different tasks.

    >>> parts_tasks("auto"), parts_tasks({"a": ["x"], "b": ["x"]})
    (True, False)
    """
    if isinstance(place, str):
        return place == "auto"
    return len({frozenset(owners) for owners in place.values()}) > 1
