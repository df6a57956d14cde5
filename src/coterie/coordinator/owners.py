"""Which members learn which task, where tasks have owners: laid into the shares that they have.

Shares are decided first, so that all finish together. Tasks are then laid into them: those of the
highest priority first, on who has them already, else on who fails least and has most; whole where
they fit, else cut. What a task has too much for a member by a little is not cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from coterie.coordinator.listing import named, shared
from coterie.coordinator.model import predict, shares_for
from coterie.errors import JobError
from coterie.leases import Part, apportion
from coterie.placing import Place, check_agents
from coterie.specs import MultiSpec
from coterie.sync.reading import parse

if TYPE_CHECKING:
    from coterie.config import Job
    from coterie.coordinator.run import Run
    from coterie.types import Layout
    from coterie.world import Decision, Option, World

Sources = Sequence[tuple[tuple[str, ...], int]]  # the tasks that learn from each, and its size

SLACK = 0.1  # of a member's share, that it may have more, rather than that a task is cut


@dataclass(frozen=True)
class Wish:
    """What is wanted of the owners of one source's tasks, and who they are."""

    wanted: Sequence[str] = ()  # agents that a job names; none where it leaves that open
    priority: float = 1.0
    before: Sequence[str] = ()


def entrust(
    sources: Sequence[int], shares: Mapping[str, int], wishes: Sequence[Wish], order: Sequence[str]
) -> tuple[Part, ...]:
    """The owners of each source's samples, so that members have about their shares of all.

    `order` is of members, those first that are to have what counts most.

    >>> parts = entrust([60, 30, 10], {"a": 5, "b": 5}, [Wish()] * 3, ["a", "b"])
    >>> [dict(part.shares) for part in parts]
    [{'a': 50, 'b': 10}, {'b': 30}, {'b': 10}]
    """
    rooms = apportion(sum(sources), shares)
    slack = {name: SLACK * room for name, room in rooms.items()}
    owners: dict[int, dict[str, int]] = {}
    open_ = []
    for number, (size, wish) in enumerate(zip(sources, wishes, strict=True)):
        asked = {name: shares[name] for name in wish.wanted if name in shares}
        if not asked:
            open_.append(number)
            continue
        owners[number] = apportion(size, asked if any(asked.values()) else dict.fromkeys(asked, 1))
        for name, num in owners[number].items():
            rooms[name] -= num
    for number in sorted(open_, key=lambda n: (-wishes[n].priority, -sources[n], n)):
        stay = [name for name in wishes[number].before if name in rooms]
        first = [*stay, *(name for name in order if name not in stay)]
        owners[number] = {}
        for name, num in _laid(sources[number], first, len(stay), rooms, slack):
            owners[number][name] = owners[number].get(name, 0) + num
    stops = accumulate(sources)
    return tuple(
        Part(stop, {name: num for name, num in owners[number].items() if num})
        for number, stop in enumerate(stops)
    )


def _laid(
    num: int,
    first: Sequence[str],
    num_staying: int,
    rooms: dict[str, int],
    slack: Mapping[str, float],
) -> Iterator[tuple[str, int]]:
    """Lay `num` samples into members' rooms: on one of them, or cut, on as few as can be.

    The first of those that may have them are those who have the task already.
    """
    while num:
        whole = [name for name in first if rooms[name] + slack[name] >= num and rooms[name] > 0]
        stay = [name for name in first[:num_staying] if rooms[name] > 0]
        name = whole[0] if whole else max(stay or first, key=lambda each: rooms[each])
        given = num if whole or rooms[name] <= 0 else min(num, rooms[name])
        rooms[name] -= given
        num -= given
        yield name, given


def check_sources(job: Job, sources: Sources, num_train: int) -> None:
    """Raise JobError for an agent that numbers the samples of other tasks than the job's."""
    if not isinstance(job.task, MultiSpec) or job.task.place == "everywhere":
        return
    told = sorted(task for tasks, _ in sources for task in tasks)
    if told != sorted(job.task.tasks) or sum(size for _, size in sources) != num_train:
        raise JobError(
            f"expected {num_train} samples of {', '.join(sorted(job.task.tasks))}, found sources "
            f"{tuple(sources)}; give each machine the same code and dataset"
        )


def stops(sources: Sources) -> list[int]:
    """Where the positions of each source stop, in an epoch that is laid out in parts."""
    return list(accumulate(size for _, size in sources))


def parts_of(run: Run, shares: Mapping[str, int]) -> tuple[Part, ...]:
    """Who owns which positions: by the owners of tasks, or everybody by shares."""
    if run.parts or len(run.sources) < 2:
        return run.parts
    return tuple(Part(stop, shares) for stop in stops(run.sources))


def placed(
    run: Run, world: World, layout: Layout, option: Option
) -> tuple[Option, tuple[Part, ...]]:
    """An option as it is where tasks have owners: what each member then has of a step, and who."""
    if not _has_owners(run):
        return option, ()
    strategy, shares = parse(option.strategy), dict(option.shares)
    if not isinstance(_place(run), str) and len(shares) < len(world.devices):
        shares = shares_for(strategy, world)  # whoever is named has its tasks, however slow
    parts = entrust(
        [size for _, size in run.sources],
        shares,
        [_wish(run, tasks) for tasks, _ in run.sources],
        sorted(shares, key=lambda name: (run.losses[name], -shares[name], name)),
    )
    loads = {name: sum(part.shares.get(name, 0) for part in parts) for name in shares}
    asked = apportion(world.batch, loads)
    if asked == dict(option.shares):
        return option, parts
    members = world.only(tuple(sorted(shares)))
    return predict(members, layout, strategy, asked), parts


def decided(run: Run, decision: Decision) -> Decision:
    """The decision with the owners of tasks, and why it is they."""
    if not _has_owners(run):
        return decision
    assert run.layout is not None
    if run.plan is None:
        check_agents(_place(run), run.members)
    before = decision.chosen
    option, run.parts = placed(run, decision.world, run.layout, before)
    reasons = [_reason(run, task, owners) for task, owners in _owned(run).items()]
    if option.shares != before.shares:
        reasons.append(
            f"So members have {shared(option.shares)} of each step's samples, and a round takes "
            f"{1e3 * option.round_s:.1f} ms, where {1e3 * before.round_s:.1f} ms could be."
        )
    return replace(decision, chosen=option, reasons=(*decision.reasons, *reasons))


def hand_over(run: Run, decision: Decision) -> None:
    """Put on record who owns which task from now on, and what was handed over."""
    if not run.parts:
        return
    now = _owned(run)
    for task, owners in now.items():
        lost = sorted(run.owned.get(task, owners).keys() - owners.keys())
        came = sorted(owners.keys() - run.owned.get(task, owners).keys())
        if lost or came:
            text = f"{task} from {named(lost) or 'nobody'} to {named(came or owners)}"
            told = {"task": task, "lost": lost, "came": came, "text": text}
            run.event("handover", decision=decision.number, reason=decision.cause, **told)
    if now != run.owned:
        run.event("owners", decision=decision.number, tasks=now)
    run.owned = now


def _place(run: Run) -> Place:
    assert isinstance(run.job.task, MultiSpec)
    return run.job.task.place


def _has_owners(run: Run) -> bool:
    return isinstance(run.job.task, MultiSpec) and _place(run) != "everywhere"


def _wish(run: Run, tasks: Sequence[str]) -> Wish:
    assert isinstance(run.job.task, MultiSpec)
    place, priority = run.job.task.place, run.job.task.priority
    return Wish(
        () if isinstance(place, str) else place[tasks[0]],
        max(priority.get(task, 1.0) for task in tasks),
        tuple(run.owned.get(tasks[0], ())),
    )


def _owned(run: Run) -> dict[str, dict[str, float]]:
    """By task: which part of it each owner has."""
    return {
        task: {name: num / size for name, num in part.shares.items()}
        for (tasks, size), part in zip(run.sources, run.parts, strict=True)
        for task in tasks
    }


def _reason(run: Run, task: str, owners: Mapping[str, float]) -> str:
    """Who learns a task, and why."""
    place, before = _place(run), run.owned.get(task, {})
    who = ", ".join(
        name if len(owners) == 1 else f"{name} ({part:.0%})" for name, part in owners.items()
    )
    wanted = () if isinstance(place, str) else place[task]
    if set(owners) <= set(wanted):
        why = "as the job says"
    elif wanted:
        why = f"for {named(wanted)} {'is' if len(wanted) == 1 else 'are'} not here"
    elif before and set(before) == set(owners):
        why = "as before"
    elif len(owners) > 1:
        why = "for it is more than the share of one of them"
    else:
        why = "whose share has room for it"
    return f"{task} is learned by {who}, {why}."
