"""Where a described stream of requests is answered, and what else there could be.

A request is carried to a machine, answered, and its answer carried back: 2·latency + bytes / speed
of the road, and the seconds of an answer. Machines and roads answer and carry one after another;
whichever of the two is the narrower is where requests wait (`offload`), the other takes its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coterie.cluster import Cluster
from coterie.coordinator.offload import Offloading, Place, expected_s, offload
from coterie.errors import JobError
from coterie.inventory import Machine, Requests

NOTABLE = 0.01  # of the time of a request: what changes less is said to change nothing


@dataclass(frozen=True)
class Spot:
    """One kind of machine that can answer, as requests find it."""

    kind: str
    num: int  # machines
    answer_s: float
    moving_s: float  # to it and back
    place: Place  # where requests wait for one another: at its machines, or for the roads to them

    @property
    def most_per_s(self) -> float:
        """Requests a second that it can answer."""
        return self.place.num * self.place.served_per_s

    @property
    def waits_for_roads(self) -> bool:
        """Whether machines are quicker to answer than roads to carry."""
        return self.place.name != self.kind


@dataclass(frozen=True)
class Way:
    """Another way to answer the same requests, and the seconds of one; None where it cannot be."""

    what: str
    expected_s: float | None
    refused: str = ""


@dataclass(frozen=True)
class Placement:
    """Which part of the requests goes where, what that comes to, what else there could be."""

    requests: Requests
    num_asking: int
    spots: tuple[Spot, ...]
    parts: Mapping[str, float]  # by kind
    expected_s: float  # of a request, with the waiting for others
    no_load_s: float  # without
    rejected: tuple[Way, ...]
    machines: tuple[Way, ...]  # one more and one less of each kind

    @property
    def asked_per_s(self) -> float:
        """Requests a second, of all who ask."""
        return self.num_asking * self.requests.per_s

    def busy(self, spot: Spot) -> float:
        """The part of its time that a kind of machine, or the roads to it, are at work."""
        return self.asked_per_s * self.parts[spot.kind] / spot.most_per_s

    def as_dict(self) -> dict[str, Any]:
        """As JSON tells it."""
        return {
            "asked_per_s": self.asked_per_s,
            "expected_s": self.expected_s,
            "no_load_s": self.no_load_s,
            "places": {
                spot.kind: {
                    "machines": spot.num,
                    "part": self.parts[spot.kind],
                    "busy": self.busy(spot),
                    "answer_s": spot.answer_s,
                    "moving_s": spot.moving_s,
                    "most_per_s": spot.most_per_s,
                    "waits_for": "roads" if spot.waits_for_roads else "machines",
                }
                for spot in self.spots
            },
            "rejected": [asdict(way) for way in self.rejected],
            "machines": [asdict(way) for way in self.machines],
        }


def place(cluster: Cluster) -> Placement:
    """Decide which part of the requests each kind of machine answers, so that one takes least.

    Raises JobError where the cluster says nothing of requests, where more are asked than all can
    answer, and where it is not known how long a machine takes.

    >>> from coterie.inventory import Links, Road
    >>> kinds = [Machine(name="camera", count=2), Machine(name="cloud")]
    >>> asked = Requests(asked_by="camera", per_s=2, seconds={"camera": 0.4, "cloud": 0.01})
    >>> roads = Links(default=Road(mbit_per_s=10, latency_ms=100))
    >>> told = place(Cluster(machines=kinds, links=roads, requests=asked))
    >>> told.parts, round(told.expected_s, 3)
    ({'camera': 0.0, 'cloud': 1.0}, 0.21)
    """
    requests = cluster.requests
    if requests is None:
        raise JobError(
            "expected requests that the cluster is to answer, found none; say under requests who "
            "asks (asked_by), how often (per_s) and how long an answer takes (seconds)"
        )
    num_asking, spots, best = _best(cluster, requests)
    return Placement(
        requests=requests,
        num_asking=num_asking,
        spots=spots,
        parts={spot.kind: best.parts[spot.place.name] for spot in spots},
        expected_s=best.expected_s,
        no_load_s=best.no_load_s,
        rejected=tuple(_rejected(spots, num_asking * requests.per_s)),
        machines=tuple(_imagined(cluster)),
    )


def _best(cluster: Cluster, requests: Requests) -> tuple[int, tuple[Spot, ...], Offloading]:
    """How many ask, who can answer, and which part of the requests goes where."""
    source = next(kind for kind in cluster.machines if kind.name == requests.asked_by)
    spots, asked_per_s = tuple(_spots(cluster, source, requests)), source.count * requests.per_s
    _check(spots, asked_per_s)
    return source.count, spots, offload([spot.place for spot in spots], asked_per_s)


def _spots(cluster: Cluster, source: Machine, requests: Requests) -> Iterator[Spot]:
    num_bytes = requests.in_bytes + requests.out_bytes
    for kind in cluster.machines:
        seconds = _answer_s(requests, kind)
        if seconds is None:
            continue
        at_it = Place(kind.name, 1 / seconds, num=kind.count)
        if kind is source:  # each answers what it asks: to ask its like brings nothing
            yield Spot(kind.name, kind.count, seconds, 0.0, at_it)
            continue
        road, num_roads = cluster.road(source, kind), min(source.count, kind.count)
        carried_s, latency_s = 8 * num_bytes / (road.mbit_per_s * 1e6), 2 * road.latency_ms / 1e3
        if carried_s * kind.count > seconds * num_roads:
            where = Place(f"roads to {kind.name}", 1 / carried_s, latency_s + seconds, num_roads)
        else:
            where = Place(kind.name, 1 / seconds, latency_s + carried_s, kind.count)
        yield Spot(kind.name, kind.count, seconds, latency_s + carried_s, where)


def _answer_s(requests: Requests, kind: Machine) -> float | None:
    """Seconds of an answer on such a machine; None where it gives none."""
    if isinstance(requests.seconds, dict):
        return requests.seconds.get(kind.name)
    if kind.speed is None:
        raise JobError(
            f"expected the speed of {kind.name}, by which requests.seconds is divided, found none; "
            "say its speed, or under requests.seconds how long each kind of machine takes"
        )
    return requests.seconds / kind.speed


def _check(spots: Sequence[Spot], asked_per_s: float) -> None:
    most_per_s = sum(spot.most_per_s for spot in spots)
    if asked_per_s >= most_per_s:
        can = ", ".join(f"{spot.kind} {_per_s(spot.most_per_s)}" for spot in spots)
        raise JobError(
            f"expected fewer requests than all machines answer, which is {_per_s(most_per_s)} "
            f"a second ({can}), found {_per_s(asked_per_s)}; add machines, or ask less often"
        )


def _rejected(spots: Sequence[Spot], asked_per_s: float) -> Iterator[Way]:
    """All to one kind; and to all kinds in proportion to what they can answer."""
    if len(spots) == 1:
        return
    for spot in spots:
        if asked_per_s < spot.most_per_s:
            yield Way(f"all on {spot.kind}", offload([spot.place], asked_per_s).expected_s)
        else:
            most = f"it answers {_per_s(spot.most_per_s)} requests a second at most"
            yield Way(f"all on {spot.kind}", None, most)
    places, most_per_s = [spot.place for spot in spots], sum(spot.most_per_s for spot in spots)
    parts = {spot.place.name: spot.most_per_s / most_per_s for spot in spots}
    what = "each kind in proportion to what it can answer"
    yield Way(what, expected_s(places, parts, asked_per_s))


def _imagined(cluster: Cluster) -> Iterator[Way]:
    """What one more and one less of each kind would bring, whoever asks among them."""
    for kind in cluster.machines:
        for more, what in ((1, f"one more {kind.name}"), (-1, f"one {kind.name} less")):
            try:
                other = cluster.counting(kind.name, kind.count + more)
                if other is None or other.requests is None:
                    raise JobError("nobody would be left to ask or to answer")
                yield Way(what, _best(other, other.requests)[-1].expected_s)
            except JobError as error:
                yield Way(what, None, str(error))


def sentences(told: Placement) -> Iterator[str]:
    """Where requests are answered, in plain words, one sentence each."""
    requests = told.requests
    many = f" ({told.num_asking:,} of them)" if told.num_asking > 1 else ""
    yield (
        f"Asked: {_per_s(told.asked_per_s)} requests a second by {requests.asked_by}{many}, with "
        f"{requests.in_bytes:,.0f} bytes to who answers and {requests.out_bytes:,.0f} back."
    )
    yield from (_spot_words(spot) for spot in told.spots)
    used = [spot for spot in told.spots if told.parts[spot.kind] > 0]
    parts = ", ".join(f"{spot.kind} {_percent(told.parts[spot.kind])}" for spot in used)
    yield (
        f"Chosen: {parts}: predicted {_span(told.expected_s)} a request, "
        f"{_span(told.no_load_s)} if none waited for another."
    )
    soonest = min(told.spots, key=lambda spot: spot.place.alone_s)
    yield (
        f"Because: {soonest.kind} is the soonest to answer a request that waits for no other, "
        f"within {_span(soonest.place.alone_s)}."
    )
    for spot in used:
        whose = f"the roads to {spot.kind} are" if spot.waits_for_roads else f"{spot.kind} is"
        yield f"Because: {whose} busy {_percent(told.busy(spot))} of the time."
    yield from (f"Rejected: {_way_words(way, told)}." for way in told.rejected)
    for way in told.machines:
        yield f"{way.what[:1].upper()}{way.what[1:]}: {_way_words(way, told, named=False)}."


def _spot_words(spot: Spot) -> str:
    on_the_way = f" after {_span(spot.moving_s)} on the way" if spot.moving_s else ""
    limit = ", as many as come over its roads" if spot.waits_for_roads else ""
    return (
        f"Believed of {spot.kind}: answers within {_span(spot.answer_s)}{on_the_way}, "
        f"{_per_s(spot.most_per_s)} requests a second at most{limit}."
    )


def _way_words(way: Way, told: Placement, named: bool = True) -> str:
    lead = f"{way.what}: " if named else ""
    if way.expected_s is None:
        return f"{lead}impossible: {way.refused.rstrip('.')}"
    change = way.expected_s / told.expected_s - 1
    if abs(change) < NOTABLE:
        return f"{lead}{'as soon' if named else 'no change'}"
    longer = "later" if change > 0 else "sooner"
    return f"{lead}{_span(way.expected_s)} a request, {100 * abs(change):.0f} % {longer}"


def _percent(part: float) -> str:
    """A part of all, of which hardly anything is not nothing.

    >>> _percent(0.25), _percent(0.0004)
    ('25 %', '0.04 %')
    """
    return f"{100 * part:.{0 if part >= 0.1 else 2 if part < 0.01 else 1}f} %"


def _span(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def _per_s(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
