"""Where requests are answered, among device, edge and cloud: parts p of all that is asked.

no_load_s  = Σ pᵢ · (tᵢ + Σⱼ≠ᵢ tᵢⱼ),  tᵢ = 1 / served_per_sᵢ,  Σⱼ≠ᵢ tᵢⱼ = moving_sᵢ
expected_s = Σ pᵢ · (1 / (served_per_sᵢ − asked_per_s · pᵢ) + moving_sᵢ)

The first is linear in p, so that one place alone is best by it; it holds while hardly anything is
asked. The second lets requests wait for one another, as in an M/M/1 queue. At its optimum all
places in use have the same marginal cost ν = μ / (μ − λp)² + c, and p = (μ − √(μ / (ν − c))) / λ.

With h = μ · (ν − c) − 1 this is λp = μ · h / (√(1 + h) · (1 + √(1 + h))), and what stays free is
μ / √(1 + h): no difference of nearly equal numbers, however little or much is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coterie.errors import JobError
from coterie.world import Link

MOST_PER_S = 1e100  # that a place serves: sums and products stay finite


@dataclass(frozen=True)
class Place:
    """Where a request may be answered."""

    name: str
    served_per_s: float  # μ: requests a second, one after another
    moving_s: float = 0.0  # c: of what a request needs from other places; infinite if out of reach
    num: int = 1  # of places alike, each with as many requests as the others

    @property
    def alone_s(self) -> float:
        """Seconds of a request that waits for no other."""
        return 1 / self.served_per_s + self.moving_s


@dataclass(frozen=True)
class Offloading:
    """Which part of the requests goes where, and what one is predicted to take."""

    parts: Mapping[str, float]
    expected_s: float  # with the waiting for one another
    no_load_s: float  # without


def offload(places: Sequence[Place], asked_per_s: float) -> Offloading:
    """The parts with which a request is answered soonest on average.

    Raises JobError where as much is asked as all places serve, or more.

    >>> device, cloud = Place("device", 5.0), Place("cloud", 100.0, moving_s=0.25)
    >>> {name: round(part, 2) for name, part in offload([device, cloud], 10.0).parts.items()}
    {'device': 0.06, 'cloud': 0.94}
    >>> offload([device, cloud], 0.0).parts
    {'device': 1.0, 'cloud': 0.0}
    """
    _check(places, asked_per_s)
    reached = [place for place in places if math.isfinite(place.moving_s)]
    soonest = min(reached, key=lambda place: place.alone_s)
    if asked_per_s == 0:
        parts = {place.name: float(place is soonest) for place in places}
        return Offloading(parts, soonest.alone_s, soonest.alone_s)
    excess_s = _excess(reached, soonest.alone_s, asked_per_s)
    served, free = _flows(reached, soonest.alone_s, excess_s)
    total = math.fsum(served)
    used = dict(zip((place.name for place in reached), served, strict=True))
    parts = {place.name: used.get(place.name, 0.0) / total for place in places}
    expected_s = math.fsum(
        flow / total * (place.num / left + place.moving_s)
        for place, flow, left in zip(reached, served, free, strict=True)
    )
    return Offloading(parts, expected_s, no_load_s(reached, parts))


def no_load_s(places: Sequence[Place], parts: Mapping[str, float]) -> float:
    """Seconds of a request where none waits for another: E[T] = Σ pᵢ (tᵢ + Σⱼ≠ᵢ tᵢⱼ).

    >>> no_load_s([Place("device", 5.0), Place("cloud", 100.0, 0.5)], {"device": 1.0})
    0.2
    """
    used = [place for place in places if parts.get(place.name)]
    return math.fsum(parts[place.name] * place.alone_s for place in used)


def expected_s(places: Sequence[Place], parts: Mapping[str, float], asked_per_s: float) -> float:
    """Seconds of a request with its waiting; infinite where a place is asked for too much.

    >>> expected_s([Place("device", 5.0), Place("cloud", 100.0, 0.5)], {"device": 1.0}, 4.0)
    1.0
    """
    used = [place for place in places if parts.get(place.name)]
    free = {p.name: p.served_per_s - asked_per_s * parts[p.name] / p.num for p in used}
    if min(free.values(), default=0.0) <= 0:
        return math.inf
    return math.fsum(parts[p.name] * (1 / free[p.name] + p.moving_s) for p in used)


def linked_places(
    served_per_s: Mapping[str, float], links: Sequence[Link], num_bytes: int
) -> tuple[Place, ...]:
    """Places of which each needs `num_bytes` of every other one for a request: cᵢ = Σⱼ≠ᵢ tᵢⱼ.

    Raises JobError for a link that is missing or carries nothing.

    >>> links = (Link("device", "cloud", 0.25, 1e6),)
    >>> [place.moving_s for place in linked_places({"device": 5, "cloud": 50}, links, 250_000)]
    [0.5, 0.5]
    """
    taken_s = {
        frozenset((link.a, link.b)): link.latency_s + num_bytes / link.bytes_per_s
        for link in links
        if link.bytes_per_s > 0
    }

    def moving_s(name: str) -> float:
        pairs = [frozenset((name, other)) for other in served_per_s if other != name]
        for pair in pairs:
            if pair not in taken_s:
                raise JobError(
                    f"expected a link between {' and '.join(sorted(pair))}, found none that "
                    "carries anything; measure it, or leave one of them out"
                )
        return math.fsum(taken_s[pair] for pair in pairs)

    return tuple(Place(name, per_s, moving_s(name)) for name, per_s in served_per_s.items())


def _excess(places: Sequence[Place], soonest_s: float, asked_per_s: float) -> float:
    """ν beyond what the soonest place costs without load, such that all that is asked is served."""
    left_per_s = math.fsum((*(place.num * place.served_per_s for place in places), -asked_per_s))

    def enough(excess_s: float) -> bool:
        served, free = _flows(places, soonest_s, excess_s)
        # Whichever is the smaller tells more digits.
        if asked_per_s < left_per_s:
            return math.fsum(served) >= asked_per_s
        return math.fsum(free) <= left_per_s

    return _least(enough, soonest_s)


def _least(enough: Callable[[float], bool], guess: float) -> float:
    """The least float above 0 that is enough, where all above it are."""
    low = high = guess
    while not enough(high):
        low, high = high, 2 * high
    while low > 0 and enough(low):
        low, high = low / 2, low
    while low < (middle := low + (high - low) / 2) < high:
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _flows(
    places: Sequence[Place], soonest_s: float, excess_s: float
) -> tuple[list[float], list[float]]:
    """What places serve and what they have left, those alike together, requests a second."""
    served, free = [], []
    for place in places:
        h = max(0.0, place.served_per_s * (excess_s - (place.alone_s - soonest_s)))
        root = math.sqrt(1 + h)
        served.append(place.num * place.served_per_s * h / (root * (1 + root)))
        free.append(place.num * place.served_per_s / root)
    return served, free


def _check(places: Sequence[Place], asked_per_s: float) -> None:
    if not places:
        raise JobError("expected at least one place to answer, found none; add a device")
    names = [place.name for place in places]
    if twice := {name for name in names if names.count(name) > 1}:
        raise JobError(
            f"expected places of different names, found {', '.join(sorted(twice))} twice; "
            "rename one"
        )
    for place in places:
        if not 0 < place.served_per_s < MOST_PER_S:
            raise JobError(
                f"expected {place.name!r} to serve a finite number of requests a second above 0, "
                f"found {place.served_per_s}; measure it again or leave it out"
            )
        if not place.moving_s >= 0:
            raise JobError(
                f"expected {place.name!r} to be reached in 0 s or more, found {place.moving_s} s; "
                "measure its links again"
            )
    if not (math.isfinite(asked_per_s) and asked_per_s >= 0):
        raise JobError(f"expected 0 requests a second or more, found {asked_per_s}; count again")
    most_per_s = math.fsum(p.num * p.served_per_s for p in places if math.isfinite(p.moving_s))
    if asked_per_s >= most_per_s:
        raise JobError(
            f"expected fewer than the {most_per_s:g} requests a second that all places in reach "
            f"serve together, found {asked_per_s:g}; add a place, or refuse some"
        )
