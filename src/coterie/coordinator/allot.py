"""Which machines each of several jobs is given on a described cluster, and what else there was.

U = Σ priority · √(goodput / goodput with all machines to itself)

The root is Sia's power of 0.5 (Jayaram Subramanya et al. 2023): half of the speed counts 0.71, so
that one job is given its first machine before another is given its last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from coterie.cluster import Cluster, NoRoom
from coterie.coordinator.allotment import Allotment, Given, Rival, Shift
from coterie.coordinator.assign import Assignment, Claim, Members, assign, device_sets
from coterie.coordinator.decide import best_together, decide
from coterie.coordinator.forecast import Question, outlook
from coterie.coordinator.islands import islands
from coterie.errors import JobError
from coterie.inventory import Known, Load
from coterie.world import World

MOST_RIVALS = 8

Allowed = Callable[[str, Members], bool]


class WorldOf(Protocol):
    """What a job finds on a cluster, or on some of its machines."""

    def __call__(self, cluster: Cluster, on: Sequence[str] | None = None, /) -> World: ...


@dataclass(frozen=True)
class Wish:
    """A job that wants machines, and how much its progress counts."""

    task: str
    priority: float
    question: Question
    world_of: WorldOf  # what it finds on some machines of a cluster


def allot(cluster: Cluster, wishes: Sequence[Wish]) -> Allotment:
    """Give machines to jobs so that U is largest, then decide each job on its own.

    Raises JobError for priorities that contradict, and where no job can learn on any machine.

    >>> from coterie.inventory import Links, Machine, Road
    >>> from coterie.types import Layout
    >>> pc = Machine(name="pc", count=3, speed=1)
    >>> three = Cluster(machines=[pc], links=Links(default=Road(mbit_per_s=1000)))
    >>> def world_of(cluster, on):
    ...     return cluster.world(64, 6_400, 10, Load(0.01, 0.001), on)
    >>> question = Question(Layout(("w",), ((10,),)), {"epochs": 3.0}, None)
    >>> wishes = [Wish(*job, question, world_of) for job in (("digits", 2.0), ("cats", 1.0))]
    >>> {each.task: len(each.machines) for each in allot(three, wishes).given}
    {'digits': 2, 'cats': 1}
    """
    _check(cluster, wishes)
    prices = _Prices()
    here = prices.lot(cluster, wishes)
    if not any(here.whole_per_s.values()):
        task, reason = next(iter(here.why_not.items()))
        raise JobError(
            f"expected machines on which one of the jobs can learn, found none: {task}: {reason}"
        )
    best = here.assigned()
    given = tuple(
        _given(cluster, wish, here, best, number) for number, wish in enumerate(wishes, start=1)
    )
    used = {name for each in given for name in each.machines}
    return Allotment(
        given=given,
        free=tuple(device.name for device in here.bare.devices if device.name not in used),
        rivals=_rivals(here, best),
        machines=tuple(_shifts(here, best, prices)),
    )


@dataclass(frozen=True)
class _Lot:
    """Jobs on a cluster, with what each would reach on every set of machines worth a look."""

    cluster: Cluster
    wishes: Sequence[Wish]
    bare: World  # of machines alone, whatever they learn
    per_s: Mapping[str, Mapping[Members, float]]  # goodput, by job and machines
    whole_per_s: Mapping[str, float]
    why_not: Mapping[str, str]  # of jobs that can learn nowhere

    def assigned(self, allowed: Allowed = lambda task, on: True) -> Assignment:
        """The assignment of the largest U, among those that are allowed."""

        def utility(task: str, on: Members) -> float:
            whole_per_s, per_s = self.whole_per_s[task], self.per_s[task].get(on, 0.0)
            can = whole_per_s > 0 and allowed(task, on)
            return math.sqrt(per_s / whole_per_s) if can else 0.0

        claims = [Claim(wish.task, wish.priority) for wish in self.wishes]
        sets = dict.fromkeys(on for by_set in self.per_s.values() for on in by_set)
        return assign(self.bare, claims, utility, sets=tuple(sets))


class _Prices:
    """What jobs would reach on machines; so many of each kind are priced once for all clusters."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[tuple[str, int], ...]], float] = {}

    def lot(self, cluster: Cluster, wishes: Sequence[Wish]) -> _Lot:
        """The jobs on a cluster."""
        bare = cluster.world(1, 1, 0, Load(0.0, 1.0))
        sets = device_sets(bare, islands(bare))
        per_s, whole_per_s, why_not = {}, {}, {}
        for wish in wishes:
            by_set = {on: self._per_s(cluster, wish, on) for on in sets}
            alone, reason = _alone(cluster, wish)
            by_set |= {on: max(by_set.get(on, 0.0), goodput) for on, goodput in alone.items()}
            per_s[wish.task] = by_set
            whole_per_s[wish.task] = max(by_set.values())
            if not whole_per_s[wish.task]:
                why_not[wish.task] = reason
        return _Lot(cluster, wishes, bare, per_s, whole_per_s, why_not)

    def _per_s(self, cluster: Cluster, wish: Wish, on: Members) -> float:
        key = wish.task, cluster.num_of_kinds(on)
        if key not in self._known:
            self._known[key] = _together_per_s(cluster, wish, on)
        return self._known[key]


def _together_per_s(cluster: Cluster, wish: Wish, on: Members) -> float:
    """The goodput of a job on all of these machines; 0 where it does not fit on them."""
    asked = (wish.question.asked,) if wish.question.asked else None
    try:
        best = best_together(wish.world_of(cluster, on), wish.question.layout, asked)
    except JobError:  # said once, of all machines: see `_alone`
        return 0.0
    return best.goodput_per_s if best else 0.0


def _alone(cluster: Cluster, wish: Wish) -> tuple[dict[Members, float], str]:
    """Where a job would learn if all machines were its own, and its goodput; or why nowhere.

    Raises JobError where it is not known how fast a machine learns it.
    """
    able: list[str] = []
    reason = ""
    for kind in cluster.machines:
        try:
            wish.world_of(cluster, kind.names[:1])
            able += kind.names
        except NoRoom as error:
            reason = str(error)
    if not able:
        return {}, reason
    question, world = wish.question, wish.world_of(cluster, tuple(able))
    try:
        asked = (question.asked,) if question.asked else None
        option = decide(world, question.layout, 1, "", asked).chosen
    except JobError as error:
        return {}, str(error)
    return {tuple(sorted(option.shares)): option.goodput_per_s}, ""


def _given(cluster: Cluster, wish: Wish, here: _Lot, best: Assignment, number: int) -> Given:
    whole_per_s, on = here.whole_per_s[wish.task], best.placed.get(wish.task)
    if on is None:
        why_not = here.why_not.get(wish.task) or best.unplaced[wish.task]
        return Given(wish.task, wish.priority, whole_per_s, None, why_not)
    there = outlook(
        wish.world_of(cluster, on), wish.question, number, f"{wish.task} on what it is given"
    )
    return Given(wish.task, wish.priority, whole_per_s, there)


def _rivals(here: _Lot, best: Assignment) -> tuple[Rival, ...]:
    """Each job on other machines than it is given, and each served first; the best of them."""
    kinds = here.cluster.num_of_kinds

    def elsewhere(mine: str) -> Allowed:
        taken = kinds(best.placed[mine])
        return lambda task, on: task != mine or kinds(on) != taken

    def first(mine: str) -> Allowed:
        by_set = here.per_s[mine]
        whole = max(by_set, key=by_set.__getitem__)
        return lambda task, on: on == whole if task == mine else not set(on) & set(whole)

    able = [w.task for w in here.wishes if w.priority > 0 and here.whole_per_s[w.task] > 0]
    ways = [*(elsewhere(task) for task in able if task in best.placed), *map(first, able)]
    found = [here.assigned(way) for way in ways]

    def alike(each: Assignment) -> tuple[object, ...]:
        return tuple(sorted((task, kinds(on)) for task, on in each.placed.items()))

    others = {alike(each): each for each in found if alike(each) != alike(best)}
    ranked = sorted(others.values(), key=lambda each: -each.total)[:MOST_RIVALS]
    return tuple(Rival(each.placed, each.total) for each in ranked)


def _shifts(here: _Lot, best: Assignment, prices: _Prices) -> Iterator[Shift]:
    """What one more and one less of each kind would bring, in the units of what is here."""
    for kind in here.cluster.machines:
        for more, what in ((1, f"one more {kind.name}"), (-1, f"one {kind.name} less")):
            try:
                other = here.cluster.counting(kind.name, kind.count + more)
                if other is None:
                    raise JobError("nobody would be left")
                there = prices.lot(other, here.wishes)
            except JobError as error:
                yield Shift(what, None, None, str(error))
                continue
            total = replace(there, whole_per_s=here.whole_per_s).assigned().total
            yield Shift(what, total, total / best.total - 1)


def _check(cluster: Cluster, wishes: Sequence[Wish]) -> None:
    """Refuse what is said of one job where there are several; `assign` looks at priorities."""
    if len(wishes) > 1 and cluster.task != Known():
        raise JobError(
            "expected what is known of each of several jobs under tasks, by their names, found "
            "task, which is of one; move it there"
        )
    for kind in cluster.machines:
        if len(wishes) > 1 and kind.per_sample_ms is not None:
            raise JobError(
                f"expected the speed of {kind.name} where several jobs are planned, found "
                "per_sample_ms, which is of one job; say its speed, and the step of each job "
                "under tasks"
            )
