"""A described cluster: machines and links that need not be here, checked whole at the door.

Bottom layer: what a person writes about machines becomes the `World` that decisions are taken on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic import model_validator as check_whole

from coterie import refusals
from coterie.errors import JobError
from coterie.inventory import (
    MOST_MACHINES,
    Claimant,
    Known,
    Links,
    Load,
    Machine,
    Name,
    Positive,
    Requests,
    Road,
    Words,
)
from coterie.world import Device, Link, World
from coterie.yamls import read_file

MOST_IN_PAIRS = 24  # machines whose links are listed pair by pair
MEMORY_PART = 0.8  # of a machine's memory, as a run takes it
COPIES = 4  # of the parameters: themselves, their gradients, two moments of an optimizer
BYTES_PER_VALUE = 4
ENOUGH = 1 << 30  # samples at once, where no memory is said

Named = tuple[str, Machine]  # one machine, and its kind


class Cluster(Words):
    """Machines, and the roads among them.

    >>> cluster = Cluster(
    ...     machines=[Machine(name="pc", count=2, overhead_ms=10, per_sample_ms=1)],
    ...     links=Links(default=Road(mbit_per_s=80, latency_ms=2)),
    ... )
    >>> world = cluster.world(batch=64, num_train=1_000, num_values=10)
    >>> [device.name for device in world.devices], world.links[0].bytes_per_s
    (['pc-1', 'pc-2'], 10000000.0)
    """

    machines: Annotated[list[Machine], Field(min_length=1)]
    links: Links = Links()
    task: Known = Known()
    tasks: dict[Name, Claimant] = Field(default_factory=dict)  # by the jobs' names
    requests: Requests | None = None
    restart_s: Positive = 60.0  # until a machine that failed is back

    @check_whole(mode="after")
    def _hangs_together(self) -> Cluster:
        self._check_names()
        for a, b in self._pairs_of_kinds():
            self.road(a, b)  # refuses a pair without one
        for machine in self.machines:
            if machine.site is not None and self.links.inside is None:
                raise JobError(
                    f"expected links.inside beside the site {machine.site} of {machine.name}, "
                    "found none; say how fast links within a site are"
                )
        if self.tasks and self.task != Known():
            raise JobError(
                "expected either task, of one job, or tasks, of several by their names, found "
                "both; move what is under task to the tasks that it is true of"
            )
        if self.requests is not None:
            self._check_requests(self.requests)
        return self

    def _check_requests(self, requests: Requests) -> None:
        kinds = [machine.name for machine in self.machines]
        listed = requests.seconds if isinstance(requests.seconds, dict) else ()
        for key, name in (("asked_by", requests.asked_by), *(("seconds", name) for name in listed)):
            if name not in kinds:
                raise JobError(
                    f"expected requests.{key} to name machines that are described "
                    f"({', '.join(kinds)}), found {name!r}; name one of these"
                )

    def _check_names(self) -> None:
        kinds = [machine.name for machine in self.machines]
        names = [name for machine in self.machines for name in machine.names]
        for found in (kinds, names):
            if len(found) > len(set(found)):
                twice = next(name for name in found if found.count(name) > 1)
                raise JobError(
                    f"expected machines of different names, found {twice} twice; rename one, "
                    "or say how many there are with count"
                )
        if len(names) > MOST_MACHINES:
            raise JobError(
                f"expected {MOST_MACHINES:,} machines at most, found {len(names):,}; leave some out"
            )
        for end in (end for road in self.links.between for end in (road.a, road.b)):
            if end not in kinds:
                raise JobError(
                    f"expected links.between to join machines that are described "
                    f"({', '.join(kinds)}), found {end!r}; name one of these"
                )

    def _pairs_of_kinds(self) -> Iterator[tuple[Machine, Machine]]:
        """Kinds whose machines meet, among them those that meet their like."""
        yield from combinations(self.machines, 2)
        yield from ((machine, machine) for machine in self.machines if machine.count > 1)

    @property
    def num_machines(self) -> int:
        """How many there are."""
        return sum(machine.count for machine in self.machines)

    # -- roads ------------------------------------------------------------------------------------

    def road(self, a: Machine, b: Machine) -> Road:
        """The road between a machine of one kind and one of another; JobError where none is."""
        for said in self.links.between:
            if {said.a, said.b} == {a.name, b.name}:
                return said
        if a.site is not None and a.site == b.site and self.links.inside is not None:
            return self.links.inside
        legs = [leg for leg in (self.links.default, a.uplink, b.uplink) if leg is not None]
        if self.links.default is None and (a.uplink is None or b.uplink is None):
            raise JobError(
                f"expected a link between {a.name} and {b.name}, found none; add links.default, "
                "links.between these two, or an uplink of each"
            )
        return Road(
            mbit_per_s=min(leg.mbit_per_s for leg in legs),
            latency_ms=sum(leg.latency_ms for leg in legs),
        )

    # -- as decisions see it ----------------------------------------------------------------------

    def world(
        self,
        batch: int,
        num_train: int,
        num_values: int,
        load: Load | None = None,
        among: Sequence[str] | None = None,
    ) -> World:
        """The world of a job with `num_values` parameters on this cluster, or `among` some of it.

        `load` is its step on a machine of speed 1, where that was measured; otherwise as the file
        says. Raises JobError where a machine's speed cannot be made out, and NoRoom where its
        memory does not hold the model.
        """
        load = load or self._load()
        names = tuple(self._kinds) if among is None else tuple(among)
        alike = {
            kind.name: Device("", *_pace(kind, load), _room(kind, num_values, load), rate_per_s)
            for kind in {self._kinds[name].name: self._kinds[name] for name in names}.values()
            for rate_per_s in (1 / (kind.fails_every_h * 3600),)
        }
        devices = [replace(alike[self._kinds[name].name], name=name) for name in sorted(names)]
        return World(tuple(devices), self.links_among(names), batch, num_train)

    def about(self, job: str) -> Cluster:
        """This cluster as one job finds it; JobError where `tasks` do not name that one.

        >>> pc = Machine(name="pc", speed=1)
        >>> Cluster(machines=[pc], tasks={"cats": Claimant(samples=9)}).about("cats").task.samples
        9
        """
        if not self.tasks:
            return self
        if job not in self.tasks:
            raise JobError(
                f"expected the job {job} under tasks of the cluster, found "
                f"{', '.join(self.tasks)}; add it there, with what is known of it"
            )
        known = self.tasks[job].model_dump(exclude={"priority"})
        return self.model_copy(update={"task": Known(**known), "tasks": {}})

    def num_of_kinds(self, names: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """How many of each kind some machines are: those of one kind are alike.

        >>> Cluster(machines=[Machine(name="pc", speed=1)]).num_of_kinds(["pc"])
        (('pc', 1),)
        """
        return tuple(sorted(Counter(self._kinds[name].name for name in names).items()))

    def _load(self) -> Load | None:
        known = self.task
        if known.per_sample_ms is None:
            return None
        overhead_ms, per_sample_ms = known.overhead_ms or 0.0, known.per_sample_ms
        return Load(overhead_ms / 1e3, per_sample_ms / 1e3, known.sample_mb * 1e6)

    def links_among(self, names: Sequence[str]) -> tuple[Link, ...]:
        """Every pair's link; of many machines, those that stand for all others."""
        every = [(name, self._kinds[name]) for name in names]
        in_pairs = len(every) <= MOST_IN_PAIRS
        links = {}
        for (name, kind), (other, its_kind) in combinations(every, 2) if in_pairs else _few(every):
            road = self._roads[kind.name, its_kind.name]
            a, b = sorted((name, other))
            links[a, b] = Link(a, b, road.latency_ms / 1e3, road.mbit_per_s * 1e6 / 8)
        return tuple(links[ends] for ends in sorted(links))

    @cached_property
    def _kinds(self) -> dict[str, Machine]:
        """The kind of each machine, by its name."""
        return {name: machine for machine in self.machines for name in machine.names}

    @cached_property
    def _roads(self) -> dict[tuple[str, str], Road]:
        """The road between two kinds, by their names."""
        pairs = list(self._pairs_of_kinds())
        both_ways = [*pairs, *((b, a) for a, b in pairs)]
        return {(a.name, b.name): self.road(a, b) for a, b in both_ways}

    # -- what if ----------------------------------------------------------------------------------

    def counting(self, kind: str, count: int) -> Cluster | None:
        """This cluster with so many machines of a kind; None where nobody would be left.

        Raises JobError where what is described says too little of so many.
        """
        machines = [
            machine.model_copy(update={"count": count}) if machine.name == kind else machine
            for machine in self.machines
            if machine.name != kind or count > 0
        ]
        if not machines:
            return None
        if count > 0:
            return self._with(machines=machines)
        between = [road for road in self.links.between if kind not in (road.a, road.b)]
        links = self.links.model_copy(update={"between": between})
        return self._with(machines=machines, links=links, requests=_without(self.requests, kind))

    def faster_roads(self, factor: float) -> Iterator[tuple[str, Cluster]]:
        """Every road that the file names, and this cluster with that one so many times as fast."""
        links = self.links
        for key in ("default", "inside"):
            road = getattr(links, key)
            if road is not None:
                faster = links.model_copy(update={key: road.faster(factor)})
                yield f"links.{key}", self._with(links=faster)
        for said in links.between:
            swift = said.faster(factor).model_dump()
            changed = [said.model_copy(update=swift) if r is said else r for r in links.between]
            faster = links.model_copy(update={"between": changed})
            yield f"the link of {said.a} and {said.b}", self._with(links=faster)
        for machine in self.machines:
            if machine.uplink is not None:
                swifter = machine.model_copy(update={"uplink": machine.uplink.faster(factor)})
                machines = [swifter if m is machine else m for m in self.machines]
                yield f"the uplink of {machine.name}", self._with(machines=machines)

    def _with(self, **changes: object) -> Cluster:
        changed = self.model_copy(update=changes)
        return checked(changed.model_dump(), "the cluster")  # anew: nothing cached stays


def load_cluster(path: str | Path) -> Cluster:
    """The cluster of a YAML file; JobError names the file, the key, what was found and expected."""
    path = Path(path)
    return checked(read_file(path, "cluster"), str(path))


def checked(data: Mapping[str, Any], source: str) -> Cluster:
    """The cluster of plain values; `source` says in errors where they came from.

    >>> checked({"machines": [], "link": {}}, "x")
    Traceback (most recent call last):
    coterie.errors.JobError: x: expected a key of the cluster, found 'link'; did you mean 'links'?
    """
    return refusals.checked(Cluster, data, source, "the cluster", "mend it")


class NoRoom(JobError):
    """A model that the memory of a machine does not hold."""


def _without(requests: Requests | None, kind: str) -> Requests | None:
    """A stream of requests where machines of a kind are gone; nothing where they asked it."""
    if requests is None or requests.asked_by == kind or not isinstance(requests.seconds, dict):
        return None if requests is None or requests.asked_by == kind else requests
    seconds = {name: seconds for name, seconds in requests.seconds.items() if name != kind}
    return requests.model_copy(update={"seconds": seconds}) if seconds else None


def _few(every: Sequence[Named]) -> Iterator[tuple[Named, Named]]:
    """Each machine with the first of every kind, and with the next of its own.

    Machines of one kind are alike, and meetings are priced by their slowest roads.
    """
    firsts = list({kind.name: (name, kind) for name, kind in reversed(every)}.values())
    yield from ((first, here) for here in every for first in firsts if first != here)
    yield from ((here, other) for here, other in pairwise(every) if here[1] is other[1])


def _pace(machine: Machine, load: Load | None) -> tuple[float, float]:
    """Seconds of a machine's step, and of each sample in it."""
    if machine.per_sample_ms is not None:
        return (machine.overhead_ms or 0.0) / 1e3, machine.per_sample_ms / 1e3
    if machine.speed is None:
        raise JobError(
            f"expected of {machine.name} either overhead_ms and per_sample_ms, or speed, found "
            "neither; say how fast it learns, or leave it out"
        )
    if load is None:
        raise JobError(
            f"expected a measured step that the speed of {machine.name} is relative to, found "
            "none; add overhead_ms and per_sample_ms to what is known of the job, under task or "
            "tasks, or measure it here with --measure"
        )
    return load.overhead_s / machine.speed, load.per_sample_s / machine.speed


def _room(machine: Machine, num_values: int, load: Load | None) -> int:
    """The most samples that fit into a machine's memory beside the model."""
    if machine.memory_gb is None:
        return ENOUGH
    needed_bytes = COPIES * BYTES_PER_VALUE * num_values
    each_bytes = load.bytes_per_sample if load else 0.0
    left_bytes = MEMORY_PART * machine.memory_gb * 1e9 - needed_bytes
    if left_bytes < max(1.0, each_bytes):
        raise NoRoom(
            f"expected {machine.name} to hold a model of {num_values:,} parameters, which takes "
            f"{(needed_bytes + each_bytes) / 1e9:,.3g} GB with its gradients, optimizer and one "
            f"sample, found {MEMORY_PART * machine.memory_gb:,.3g} GB for it (memory_gb: "
            f"{machine.memory_gb:g}); leave this machine out or take a smaller model"
        )
    return min(ENOUGH, int(left_bytes / each_bytes)) if each_bytes else ENOUGH
