"""A described cluster: machines and links that need not be here, checked whole at the door.

Bottom layer: what a person writes about machines becomes the `World` that decisions are taken on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic import field_validator as check
from pydantic import model_validator as check_whole

from coterie import refusals
from coterie.errors import JobError
from coterie.world import DEFAULT_FAILURES_PER_S, Device, Link, World
from coterie.yamls import read_file

MOST_IN_PAIRS = 24  # machines whose links are listed pair by pair
MEMORY_PART = 0.8  # of a machine's memory, as a run takes it
COPIES = 4  # of the parameters: themselves, their gradients, two moments of an optimizer
BYTES_PER_VALUE = 4
ENOUGH = 1 << 30  # samples at once, where no memory is said
MOST_MACHINES = 10_000

Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Road(_Words):
    """How fast bytes travel, and how long the first of them takes.

    >>> Road(mbit_per_s=100, latency_ms=5).faster(10)
    Road(mbit_per_s=1000.0, latency_ms=0.5)
    """

    mbit_per_s: Positive
    latency_ms: NotNegative = 0.0

    def faster(self, factor: float) -> Road:
        """The same road with so many times the bandwidth, and as much less latency."""
        return Road(
            mbit_per_s=self.mbit_per_s * factor, latency_ms=round(self.latency_ms / factor, 9)
        )


class Between(Road):
    """The road between any machine called `a` and any called `b`, whatever else is said."""

    a: Name
    b: Name


class Links(_Words):
    """Roads, the most particular first: `between` two kinds, `inside` a site, the `default`.

    The default goes over the uplinks of both machines, where they have any.
    """

    default: Road | None = None
    inside: Road | None = None
    between: list[Between] = Field(default_factory=list)


class Machine(_Words):
    """One kind of machine, of which there are `count`.

    A step on b samples takes overhead_ms + per_sample_ms · b, as `coterie explain` prints of a run;
    or `speed` says how many times as fast as the measured step of the job it is.

    >>> Machine(name="pi", count=3, speed=0.1).names
    ('pi-1', 'pi-2', 'pi-3')
    """

    name: Name
    count: Annotated[int, Field(strict=True, ge=1, le=MOST_MACHINES)] = 1
    overhead_ms: NotNegative | None = None
    per_sample_ms: Positive | None = None
    speed: Positive | None = None
    memory_gb: Positive | None = None
    fails_every_h: Positive = 1 / DEFAULT_FAILURES_PER_S / 3600
    site: Name | None = None
    uplink: Road | None = None

    @check_whole(mode="after")
    def _says_how_fast(self) -> Machine:
        timed = self.overhead_ms is not None or self.per_sample_ms is not None
        if timed == (self.speed is not None):
            found = "both" if timed else "neither"
            raise JobError(
                f"expected of {self.name} either overhead_ms and per_sample_ms, or speed, "
                f"found {found}; say it in one of the two ways"
            )
        if timed and self.per_sample_ms is None:
            raise JobError(
                f"expected of {self.name} per_sample_ms beside overhead_ms, found none; add it"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What each is called, in order: by the name alone where there is one."""
        if self.count == 1:
            return (self.name,)
        width = len(str(self.count))
        return tuple(f"{self.name}-{number:0{width}}" for number in range(1, self.count + 1))


Named = tuple[str, Machine]  # one machine, and its kind


class Known(_Words):
    """What is known of the job, so that nothing has to be built or measured to plan it.

    The step is that of a machine whose `speed` is 1.
    """

    parameters: Positive | None = None  # 1.2e6 is a float in YAML
    samples: Annotated[int, Field(strict=True, ge=1)] | None = None
    overhead_ms: NotNegative | None = None
    per_sample_ms: Positive | None = None
    sample_mb: NotNegative = 0.0  # that one more sample of a step holds in memory

    @check("parameters")
    @classmethod
    def _is_whole(cls, parameters: float | None) -> float | None:
        if parameters is None or parameters == int(parameters):
            return parameters
        raise JobError(f"expected a whole number of parameters, found {parameters}; round it")


@dataclass(frozen=True)
class Load:
    """What a step of the job asks of a machine of speed 1."""

    overhead_s: float
    per_sample_s: float
    bytes_per_sample: float = 0.0


class Cluster(_Words):
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
        return self

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

    def world(self, batch: int, num_train: int, num_values: int, load: Load | None = None) -> World:
        """The world of a job with `num_values` parameters on this cluster.

        `load` is its step on a machine of speed 1, where that was measured; otherwise as the file
        says. Raises JobError where a machine's speed or memory cannot be made out.
        """
        load = load or self._load()
        devices = [
            Device(name, *_pace(machine, load), _room(machine, num_values, load), rate_per_s)
            for machine in self.machines
            for rate_per_s in (1 / (machine.fails_every_h * 3600),)
            for name in machine.names
        ]
        return World(
            tuple(sorted(devices, key=lambda device: device.name)),
            self.links_among(tuple(self._kinds)),
            batch,
            num_train,
        )

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
        between = [r for r in self.links.between if count > 0 or kind not in (r.a, r.b)]
        links = self.links.model_copy(update={"between": between})
        return self._with(machines, links) if machines else None

    def faster_roads(self, factor: float) -> Iterator[tuple[str, Cluster]]:
        """Every road that the file names, and this cluster with that one so many times as fast."""
        links = self.links
        for key in ("default", "inside"):
            road = getattr(links, key)
            if road is not None:
                faster = links.model_copy(update={key: road.faster(factor)})
                yield f"links.{key}", self._with(self.machines, faster)
        for said in links.between:
            swift = said.faster(factor).model_dump()
            changed = [said.model_copy(update=swift) if r is said else r for r in links.between]
            faster = links.model_copy(update={"between": changed})
            yield f"the link of {said.a} and {said.b}", self._with(self.machines, faster)
        for machine in self.machines:
            if machine.uplink is not None:
                swifter = machine.model_copy(update={"uplink": machine.uplink.faster(factor)})
                machines = [swifter if m is machine else m for m in self.machines]
                yield f"the uplink of {machine.name}", self._with(machines, links)

    def _with(self, machines: Sequence[Machine], links: Links) -> Cluster:
        changed = self.model_copy(update={"machines": list(machines), "links": links})
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
    if load is None:
        raise JobError(
            f"expected a measured step that the speed of {machine.name} is relative to, found "
            "none; add task.overhead_ms and task.per_sample_ms, or measure it here with --measure"
        )
    assert machine.speed is not None
    return load.overhead_s / machine.speed, load.per_sample_s / machine.speed


def _room(machine: Machine, num_values: int, load: Load | None) -> int:
    """The most samples that fit into a machine's memory beside the model."""
    if machine.memory_gb is None:
        return ENOUGH
    needed_bytes = COPIES * BYTES_PER_VALUE * num_values
    each_bytes = load.bytes_per_sample if load else 0.0
    left_bytes = MEMORY_PART * machine.memory_gb * 1e9 - needed_bytes
    if left_bytes < max(1.0, each_bytes):
        raise JobError(
            f"expected {machine.name} to hold a model of {num_values:,} parameters, which takes "
            f"{(needed_bytes + each_bytes) / 1e9:,.3g} GB with its gradients, optimizer and one "
            f"sample, found {MEMORY_PART * machine.memory_gb:,.3g} GB for it (memory_gb: "
            f"{machine.memory_gb:g}); leave this machine out or take a smaller model"
        )
    return min(ENOUGH, int(left_bytes / each_bytes)) if each_bytes else ENOUGH
