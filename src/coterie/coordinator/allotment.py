"""What several jobs are given of a described cluster, and how that is told in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coterie.coordinator.assign import Members
from coterie.coordinator.forecast import NOTABLE, Forecast
from coterie.coordinator.forecast import sentences as words_of_plan
from coterie.coordinator.listing import named


@dataclass(frozen=True)
class Given:
    """What one job is given, and what it comes to there."""

    task: str
    priority: float
    whole_per_s: float  # its goodput with all machines to itself
    there: Forecast | None  # None where it is given nothing
    why_not: str = ""

    @property
    def machines(self) -> Members:
        """Those that it learns on."""
        return tuple(self.there.decision.chosen.shares) if self.there else ()

    @property
    def part(self) -> float:
        """Of the goodput that it would reach with all machines to itself."""
        now_per_s = self.there.decision.chosen.goodput_per_s if self.there else 0.0
        return min(1.0, now_per_s / self.whole_per_s) if self.whole_per_s else 0.0

    @property
    def utility(self) -> float:
        """What it adds to U."""
        return self.priority * math.sqrt(self.part)

    def as_dict(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {
            "priority": self.priority,
            "machines": list(self.machines),
            "whole_goodput_per_s": self.whole_per_s,
            "part": self.part,
            "utility": self.utility,
            "why_not": self.why_not,
            "plan": self.there.as_dict() if self.there else None,
        }


@dataclass(frozen=True)
class Rival:
    """Another assignment, and what it would have brought."""

    placed: Mapping[str, Members]
    utility: float


@dataclass(frozen=True)
class Shift:
    """Another cluster, and what the best assignment there would bring."""

    what: str
    utility: float | None  # None where it cannot be done
    gain: float | None  # relative
    refused: str = ""


@dataclass(frozen=True)
class Allotment:
    """What each job is given, what is left, what else there was and could be."""

    given: tuple[Given, ...]
    free: Members
    rivals: tuple[Rival, ...]
    machines: tuple[Shift, ...]  # one more and one less of each kind

    @property
    def utility(self) -> float:
        """U."""
        return math.fsum(each.utility for each in self.given)

    @property
    def most(self) -> float:
        """U, had every job all machines to itself."""
        return math.fsum(each.priority for each in self.given if each.whole_per_s)

    def as_dict(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {
            "utility": self.utility,
            "most": self.most,
            "tasks": {each.task: each.as_dict() for each in self.given},
            "free": list(self.free),
            "rejected": [asdict(rival) for rival in self.rivals],
            "machines": [asdict(shift) for shift in self.machines],
        }


def sentences(told: Allotment) -> Iterator[str]:
    """An allotment in plain words, one sentence each; then every job's own plan."""
    placed = {each.task: each.machines for each in told.given}
    left = f"; {_listed(told.free)} left over" if told.free else ""
    yield f"Machines: {_placed_words(placed)}{left}."
    yield (
        f"Utility: {told.utility:.2f} of at most {told.most:.2f}, priority × the root of the part "
        "of its goodput that each job keeps."
    )
    for each in told.given:
        yield _given_words(each)
    if told.free:
        yield f"Because: {_listed(told.free)} left over: no job would learn faster with more."
    for rival in told.rivals:
        lost = 1 - rival.utility / told.utility
        less = f"{100 * lost:.0f} % less" if lost >= NOTABLE / 2 else "as much"
        words = _placed_words({each.task: rival.placed.get(each.task, ()) for each in told.given})
        yield f"Rejected: {words}: utility {rival.utility:.2f}, {less}."
    yield from map(_shift_words, told.machines)
    for each in told.given:
        if each.there is not None:
            yield from words_of_plan(each.there)


def _placed_words(placed: Mapping[str, Members]) -> str:
    """Who is given what; those who are given nothing wait.

    >>> _placed_words({"digits": ("a", "b"), "cats": ()})
    'digits on a, b; cats waits'
    """
    return "; ".join(
        f"{task} on {named(machines)}" if machines else f"{task} waits"
        for task, machines in placed.items()
    )


def _given_words(given: Given) -> str:
    lead = f"Because: {given.task}, of priority {given.priority:g},"
    if given.there is None:
        return f"{lead} is given nothing: {given.why_not.rstrip('.')}."
    now_per_s = given.there.decision.chosen.goodput_per_s
    return (
        f"{lead} reaches {_amount(now_per_s)} of the {_amount(given.whole_per_s)} samples/s that "
        f"all machines would bring it: utility {given.priority:g} × √{given.part:.2f} = "
        f"{given.utility:.2f}."
    )


def _shift_words(shift: Shift) -> str:
    lead = shift.what[:1].upper() + shift.what[1:]
    if shift.utility is None or shift.gain is None:
        return f"{lead}: impossible: {shift.refused.rstrip('.')}."
    if abs(shift.gain) < NOTABLE:
        return f"{lead}: no change."
    return f"{lead}: utility {shift.utility:.2f} ({100 * shift.gain:+.0f} %)."


def _listed(names: Members) -> str:
    return f"{named(names)} {'is' if len(names) == 1 else 'are'}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
