"""Words of deciding: what is believed about machines and links, and what is decided on it.

Plain arithmetic on frozen values. Nothing here loads torch or ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from coterie.errors import JobError

DEFAULT_FAILURES_PER_S = 1 / 86_400  # one a day: a prior until failures are counted


@dataclass(frozen=True)
class Device:
    """One agent's machine as measured: a step on a batch of b samples takes a + c·b seconds.

    >>> Device("laptop", overhead_s=0.25, per_sample_s=0.125, max_batch=512).step_s(10)
    1.5
    """

    name: str
    overhead_s: float  # a: what a step costs whatever its batch
    per_sample_s: float  # c: what each sample adds
    max_batch: int  # most samples its memory holds at once
    failures_per_s: float = DEFAULT_FAILURES_PER_S
    memory_bytes: int | None = None  # that learning may take, where it is known
    cores: float = 1.0  # that its machine grants it; on a part of one, packing takes longer

    def step_s(self, batch: int) -> float:
        """Seconds of one optimizer step on `batch` samples; no samples, no time."""
        return self.overhead_s + self.per_sample_s * batch if batch else 0.0

    def samples_per_s(self, batch: int) -> float:
        """Speed of this device alone at a batch of `batch` samples."""
        return batch / self.step_s(batch)


@dataclass(frozen=True)
class Link:
    """The road between two members, as probed over the real transport."""

    a: str
    b: str
    latency_s: float
    bytes_per_s: float

    def joins(self, members: frozenset[str]) -> bool:
        """Whether both ends are among `members`."""
        return self.a in members and self.b in members


@dataclass(frozen=True)
class Layer:
    """One of the modules that a model runs one after another, and may be cut before."""

    name: str
    per_sample_s: float  # forward and backward, on whichever device it was measured
    num_bytes: int  # of its parameters
    kept_bytes: float  # that a sample keeps in memory until its backward pass
    sent_bytes: float  # that a sample hands on to the next layer


@dataclass(frozen=True)
class Learned:
    """What a run's own losses say of the progress that sentences of one kind keep."""

    kind: str  # as prices tell sentences apart, whatever the length of their walks
    factor: float  # of what was believed beforehand
    doubt: float  # standard deviation of its logarithm
    num_reports: int  # that it stands on


@dataclass(frozen=True)
class World:
    """All that is believed when a decision is taken; a decision is arithmetic on it."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    batch: int  # samples of one optimizer step, over all members
    num_train: int  # samples in one data epoch
    meeting_s: float = 0.0  # what a meeting was measured to cost beyond the price of its exchange
    chain: tuple[Layer, ...] = ()  # of the model, where it is one and was measured
    learned: tuple[Learned, ...] = ()  # of progress, where sentences could be compared

    def device(self, name: str) -> Device:
        """The device called `name`."""
        for device in self.devices:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self.devices) or "none"
        raise JobError(f"expected a device of this world ({known}), found {name!r}")

    def with_device(self, device: Device) -> World:
        """This world, with what is believed of one device replaced or added."""
        others = tuple(d for d in self.devices if d.name != device.name)
        return replace(self, devices=tuple(sorted((*others, device), key=lambda d: d.name)))

    def with_links(self, links: tuple[Link, ...]) -> World:
        """This world, with the given links replacing what was believed of the same pairs."""
        known = {frozenset((link.a, link.b)): link for link in (*self.links, *links)}
        return replace(self, links=tuple(sorted(known.values(), key=lambda k: (k.a, k.b))))

    def only(self, members: tuple[str, ...]) -> World:
        """This world reduced to `members` and the links among them."""
        kept = frozenset(members)
        if kept.issuperset(device.name for device in self.devices):
            return self  # with a thousand devices this is asked often
        return replace(
            self,
            devices=tuple(d for d in self.devices if d.name in kept),
            links=tuple(link for link in self.links if link.joins(kept)),
        )


@dataclass(frozen=True)
class Option:
    """One way the run could go on, with what it is predicted to bring."""

    strategy: str  # the sentence, as it is written
    shares: Mapping[str, int]  # samples of each step asked of each member
    round_s: float  # predicted seconds of one round, its meeting included
    exchange_s: float  # of which the meeting
    samples_per_round: float  # on average: an epoch's last round is shorter
    efficiency: float  # progress per sample against plain synchronous steps, 0..1
    survival: float  # chance that no member is lost within a round, 0..1
    refused: str = ""  # why it cannot be chosen, when it cannot
    hidden_s: float = 0.0  # of the meeting, while members compute

    @property
    def throughput_per_s(self) -> float:
        """Samples a second."""
        return self.samples_per_round / self.round_s

    @property
    def goodput_per_s(self) -> float:
        """throughput × efficiency × survival; after AdaptDL's goodput (Qiao et al. 2021)."""
        return self.throughput_per_s * self.efficiency * self.survival


@dataclass(frozen=True)
class Decision:
    """A choice: what was believed, what was chosen, what was rejected, and why."""

    number: int
    cause: str
    world: World
    chosen: Option
    rejected: tuple[Option, ...] = ()
    reasons: tuple[str, ...] = field(default=())
