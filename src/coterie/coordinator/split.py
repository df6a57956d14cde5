"""How a chain of layers is cut among unequal devices on unequal links.

With work w of a layer in parts of the whole, micro-batches of b samples and stages s = 1..P:

stage_s      = Σ w · (a + c·b) over its layers
hand_over_s  = 2 · (latency_s + b · sent_bytes / bytes_per_s): activations there, gradients back
bottleneck_s = max over stages and hand-overs
step_s       = Σ stage_s + Σ hand_over_s + (m − 1) · bottleneck_s
held_bytes   = 4 · num_bytes + b · kept_bytes · min(m, P − s + 1), one forward one backward

A table over (devices used, first of them, first layer) is filled from the last stage to the first:
then as many micro-batches wait in a stage as devices are used. numpy is loaded by those who split.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from coterie.coordinator.shares import check_times
from coterie.errors import JobError
from coterie.world import Layer, World

MOST_DEVICES = 10  # that a split is sought over: the table doubles with each
HELD_PER_BYTE = 4  # of parameters: themselves, their gradient, two values of the optimizer
FINER = 1.05  # a step is at most this factor over the quickest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Which device holds which layers, and what a step is predicted to take."""

    crew: tuple[str, ...]  # the devices, in the order of their stages
    stages: tuple[tuple[str, ...], ...]  # the layers of each
    micro_batches: int
    through_s: float  # of one micro-batch, all stages and hand-overs one after another
    bottleneck_s: float  # of the longest of them

    @property
    def cuts(self) -> tuple[str, ...]:
        """The layers that later stages begin at."""
        return tuple(stage[0] for stage in self.stages[1:])

    @property
    def step_s(self) -> float:
        """Seconds of a step on the whole batch."""
        return self.through_s + (self.micro_batches - 1) * self.bottleneck_s


def split(
    world: World,
    micro_batches: int = 4,
    memory_bytes: Mapping[str, float] | None = None,
    least_stages: int = 1,
) -> Split:
    """The split of the world's chain with the shortest bottleneck, exactly; of these the quickest.

    Not every device need hold a stage, but as many as `least_stages`. `memory_bytes` is each
    device's; one not named has enough. Of more than ten devices the ten fastest are considered.
    Raises JobError where no split fits into memory, or where devices that would have to work
    together are not linked.

    >>> from coterie.world import Device, Link
    >>> laptop, phone = Device("laptop", 0.0, 0.01, 64), Device("phone", 0.0, 0.03, 64)
    >>> layers = tuple(Layer(name, 1.0, 1_000, 100, 100) for name in "0123")
    >>> world = World((laptop, phone), (Link("laptop", "phone", 0.0, 1e6),), 8, 100, chain=layers)
    >>> split(world).stages
    (('0', '1', '2'), ('3',))
    """
    table, bounds_s = _searched(world, micro_batches, memory_bytes or {}, least_stages)
    return table.found(bounds_s[0])


def quickest_split(
    world: World,
    micro_batches: int = 4,
    memory_bytes: Mapping[str, float] | None = None,
    least_stages: int = 1,
) -> Split:
    """The split whose step is soonest done, to within 5 %: fewer stages fill and empty sooner.

    Alpa's scan (Zheng et al. 2022): the least sum under each bottleneck, until no longer
    one could pay.

    >>> from coterie.world import Device, Link
    >>> laptop, phone = Device("laptop", 0.0, 0.01, 64), Device("phone", 0.0, 0.03, 64)
    >>> layers = tuple(Layer(name, 1.0, 1_000, 100, 100) for name in "0123")
    >>> world = World((laptop, phone), (Link("laptop", "phone", 0.0, 1e6),), 8, 100, chain=layers)
    >>> quickest_split(world, micro_batches=1).stages
    (('0', '1', '2', '3'),)
    """
    table, bounds_s = _searched(world, micro_batches, memory_bytes or {}, least_stages)
    least_s, bound_s = table.least_s(bounds_s[-1]), bounds_s[0]
    best = table.found(bound_s)
    while least_s + (micro_batches - 1) * bound_s < best.step_s and bound_s < bounds_s[-1]:
        bound_s = min(FINER * bound_s, bounds_s[-1])
        best = min(best, table.found(bound_s), key=lambda each: each.step_s)
    return best


def _searched(
    world: World, micro_batches: int, memory_bytes: Mapping[str, float], least_stages: int
) -> tuple[_Table, list[float]]:
    """The table, and all bottlenecks that a split can have, the shortest first."""
    _check(world, micro_batches, memory_bytes)
    table = _Table(world, micro_batches, memory_bytes, least_stages)
    bounds_s = table.bounds_s()
    if not bounds_s or not table.within(bounds_s[-1]):
        raise JobError(_why_none(world, micro_batches, memory_bytes))
    return table, bounds_s[bisect_left(bounds_s, True, key=table.within) :]


class _Table:
    """Least seconds of the layers p.. on the devices of a mask, d the first: F[mask][d, p].

    Shapes: D devices, L layers; matrices of a device run over (first layer, first layer after).
    """

    def __init__(
        self,
        world: World,
        micro_batches: int,
        memory_bytes: Mapping[str, float],
        least_stages: int,
    ) -> None:
        devices = sorted(world.devices, key=lambda d: (d.step_s(world.batch), d.name))
        self._devices = devices[:MOST_DEVICES]
        self._layers, self._micro_batches = world.chain, micro_batches
        num_samples = math.ceil(world.batch / micro_batches)
        work = np.array([layer.per_sample_s for layer in world.chain])
        alone_s = np.array([device.step_s(num_samples) for device in self._devices])
        parts = _sums(work / work.sum())
        self._stage_s: Floats = alone_s[:, None, None] * parts
        self._fixed_bytes = _sums(np.array([held_bytes(layer) for layer in world.chain]))
        self._kept_bytes = _sums(np.array([each.kept_bytes for each in world.chain])) * num_samples
        room = [memory_bytes.get(device.name, math.inf) for device in self._devices]
        self._room_bytes = np.array(room)[:, None, None]
        masks = range(1 << len(self._devices))
        self._enough = np.array([mask.bit_count() >= least_stages for mask in masks])
        self._hand_over_s = self._hand_overs(world, num_samples)
        self._filled: Floats = np.empty(0)

    def _hand_overs(self, world: World, num_samples: int) -> Floats:
        """Seconds of each pair's hand-over before each layer; infinite without a link."""
        names = [device.name for device in self._devices]
        taken_s = np.full((len(names), len(names), len(self._layers)), math.inf)
        sent_bytes = num_samples * np.array([layer.sent_bytes for layer in self._layers[:-1]])
        for link in world.links:
            if link.joins(frozenset(names)) and link.bytes_per_s > 0:
                a, b = names.index(link.a), names.index(link.b)
                taken_s[a, b, 1:] = 2 * (link.latency_s + sent_bytes / link.bytes_per_s)
                taken_s[b, a, 1:] = taken_s[a, b, 1:]
        return taken_s

    def bounds_s(self) -> list[float]:
        """All that a bottleneck can be, in order: the time of a stage, or of a hand-over."""
        stages = self._stages(1)
        found = np.concatenate([stages[np.isfinite(stages)], self._finite_hand_overs()])
        return [float(bound_s) for bound_s in np.unique(found)]

    def _finite_hand_overs(self) -> Floats:
        return self._hand_over_s[np.isfinite(self._hand_over_s)]

    def _stages(self, num_stages: int) -> Floats:
        """Each device's seconds for layers p..q, as the first of so many stages, if they fit."""
        num_kept = min(self._micro_batches, num_stages)
        fits = self._fixed_bytes + num_kept * self._kept_bytes <= self._room_bytes
        return np.where(fits, self._stage_s, math.inf)

    def within(self, bound_s: float) -> bool:
        """Whether some split has no stage and no hand-over longer than the bound."""
        return math.isfinite(self.least_s(bound_s))

    def least_s(self, bound_s: float) -> float:
        """The least seconds of all layers within the bound; infinite where there is no split."""
        self._fill(bound_s)
        return float(self._filled[self._enough, :, 0].min(initial=math.inf))

    def _fill(self, bound_s: float) -> None:
        """Level by level, as many devices as are used; each as the first of those of a mask."""
        num_devices, num_layers = len(self._devices), len(self._layers)
        masks = np.arange(1 << num_devices)
        used = (masks[:, None] >> np.arange(num_devices) & 1).astype(bool)
        hand_over_s = _up_to(bound_s, self._hand_over_s)
        self._filled = np.full((len(masks), num_devices, num_layers), math.inf)
        for num_used in range(1, num_devices + 1):
            stages = _up_to(bound_s, self._stages(num_used))
            for device in range(num_devices):
                rest = masks[(used.sum(axis=1) == num_used - 1) & ~used[:, device]]
                if num_used == 1:
                    self._filled[1 << device, device] = stages[device, :, num_layers]
                    continue
                after_s = (self._filled[rest] + hand_over_s[device]).min(axis=1)
                some = np.isfinite(after_s).any(axis=1)
                taken_s = after_s[some, None, :] + stages[device, :, :num_layers]
                self._filled[rest[some] | 1 << device, device] = taken_s.min(axis=2)

    def found(self, bound_s: float) -> Split:
        """The split of least sum within the bound, read back from the table."""
        through_s = self.least_s(bound_s)
        first_s = np.where(self._enough[:, None], self._filled[:, :, 0], math.inf)
        mask, device = map(int, np.unravel_index(np.argmin(first_s), first_s.shape))
        crew, starts, taken = [device], [0], []
        while mask != 1 << device:
            mask, stages = mask ^ (1 << device), self._stages(mask.bit_count())
            held_s = _up_to(bound_s, stages[device, starts[-1], :-1])
            hand_s = _up_to(bound_s, self._hand_over_s[device])
            after_s = held_s + hand_s + self._filled[mask]
            then, start = map(int, np.unravel_index(np.argmin(after_s), after_s.shape))
            taken += [float(held_s[start]), float(hand_s[then, start])]
            device = then
            crew.append(device)
            starts.append(start)
        taken.append(float(self._stage_s[device, starts[-1], -1]))
        names = [layer.name for layer in self._layers]
        return Split(
            crew=tuple(self._devices[each].name for each in crew),
            stages=tuple(tuple(names[a:b]) for a, b in pairwise([*starts, len(names)])),
            micro_batches=self._micro_batches,
            through_s=through_s,
            bottleneck_s=max(taken),
        )


def held_bytes(layer: Layer) -> int:
    """Memory of a layer's parameters, their gradients and the state of their optimizer.

    >>> held_bytes(Layer("0", 1.0, 1_000, 0, 0))
    4000
    """
    return HELD_PER_BYTE * layer.num_bytes


def _sums(values: Floats) -> Floats:
    """Of the values p..q, q left out, for every p < q; infinite elsewhere, where no stage is."""
    until = np.concatenate([[0.0], np.cumsum(values)])
    sums = until[None, :] - until[:-1, None]
    return np.where(np.arange(len(until)) > np.arange(len(values))[:, None], sums, math.inf)


def _up_to(bound_s: float, taken_s: Floats) -> Floats:
    return np.where(taken_s <= bound_s, taken_s, math.inf)


def _check(world: World, micro_batches: int, memory_bytes: Mapping[str, float]) -> None:
    if not world.devices:
        raise JobError("expected at least one device to hold the model, found none; add a device")
    if not world.chain:
        raise JobError(
            "expected the layers of the model, found none; cut an nn.Sequential, or learn with "
            "whole models"
        )
    if micro_batches < 1 or world.batch < 1:
        raise JobError(
            f"expected a batch of 1 sample or more in 1 part or more, found {world.batch} in "
            f"{micro_batches}; write 4 micro-batches"
        )
    for device in world.devices:
        check_times(device)
    for name, num_bytes in memory_bytes.items():
        if not num_bytes >= 0:
            raise JobError(
                f"expected the memory of {name!r} in bytes, found {num_bytes}; measure it again"
            )
    for layer in world.chain:
        _check_layer(layer)
    if not sum(layer.per_sample_s for layer in world.chain) > 0:
        raise JobError("expected layers that take time, found 0 s in all; time them again")


def _check_layer(layer: Layer) -> None:
    figures = (layer.per_sample_s, layer.num_bytes, layer.kept_bytes, layer.sent_bytes)
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        raise JobError(
            f"expected of layer {layer.name!r} finite seconds and bytes of 0 or more, found "
            f"{figures}; measure it again"
        )


def _why_none(world: World, micro_batches: int, memory_bytes: Mapping[str, float]) -> str:
    """A layer that fits nowhere, the model that does not, or a link that is missing."""
    num_samples = math.ceil(world.batch / micro_batches)
    room_bytes = {d.name: memory_bytes.get(d.name, math.inf) for d in world.devices}
    roomiest = max(room_bytes, key=room_bytes.__getitem__)
    needs = [held_bytes(each) + num_samples * each.kept_bytes for each in world.chain]
    largest = max(range(len(needs)), key=needs.__getitem__)
    if needs[largest] > room_bytes[roomiest]:
        return (
            f"expected a device that holds layer {world.chain[largest].name!r} "
            f"({needs[largest] / 1e6:,.1f} MB with its optimizer and a micro-batch), found at most "
            f"{room_bytes[roomiest] / 1e6:,.1f} MB on {roomiest}; {_MEND_MEMORY}"
        )
    if sum(needs) > sum(room_bytes.values()):
        return (
            f"expected devices that hold the model together ({sum(needs) / 1e6:,.1f} MB with its "
            f"optimizer and a micro-batch), found {sum(room_bytes.values()) / 1e6:,.1f} MB; "
            f"{_MEND_MEMORY}"
        )
    if missing := _missing(world):
        return (
            "expected stages that fit into memory on devices linked in a row, found none, and no "
            f"link between {' and '.join(missing)}; measure the links again, or add memory"
        )
    return (
        "expected consecutive layers that fit into each device's memory, found no such split; "
        f"{_MEND_MEMORY}"
    )


_MEND_MEMORY = "lower the batch, raise the number of micro-batches or add a device"


def _missing(world: World) -> Sequence[str]:
    linked = {frozenset((link.a, link.b)) for link in world.links if link.bytes_per_s > 0}
    names = sorted(device.name for device in world.devices)
    pairs = ((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    return next((pair for pair in pairs if frozenset(pair) not in linked), ())
