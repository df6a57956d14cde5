"""How a batch is cut among unequal devices so that the last of them finishes soonest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coterie.errors import JobError
from coterie.world import Device


def exact_shares(total: int, devices: Sequence[Device]) -> dict[str, int]:
    """Whole shares of `total` samples whose latest finisher is as early as it can be.

    Minimises max(aᵢ + cᵢ·bᵢ over bᵢ > 0) with Σ bᵢ = total and 0 ≤ bᵢ ≤ max_batchᵢ. A device whose
    overhead alone outlasts the others gets 0. Among devices that would finish together the first
    by name is given the sample. Raises JobError when the devices cannot hold `total`.

    >>> laptop, phone = Device("laptop", 0.01, 0.001, 512), Device("phone", 0.02, 0.004, 512)
    >>> exact_shares(100, [laptop, phone])
    {'laptop': 82, 'phone': 18}
    """
    _check(total, devices)
    early, late = 0.0, max(d.step_s(min(total, d.max_batch)) for d in devices)
    alike = Counter(replace(device, name="", failures_per_s=0.0) for device in devices)
    # Halve until no float lies between: by `late`, and no sooner, all together hold `total`.
    while early < (middle := early + (late - early) / 2) < late:
        if sum(num * _finished(device, middle, total) for device, num in alike.items()) < total:
            early = middle
        else:
            late = middle
    shares = {device.name: _finished(device, early, total) for device in devices}
    missing = total - sum(shares.values())
    for device in sorted(devices, key=lambda d: d.name):
        extra = min(missing, _finished(device, late, total) - shares[device.name])
        shares[device.name] += extra
        missing -= extra
    return shares


def paced_batch(total: int, devices: Sequence[Device]) -> int:
    """The batch of every member's steps, where slow members take fewer steps instead.

    The fastest then takes as many steps as it would with its exact share of `total`.

    >>> laptop, phone = Device("laptop", 0.0, 0.001, 512), Device("phone", 0.0, 0.004, 512)
    >>> paced_batch(100, [laptop, phone])
    80
    """
    _check(total, devices)
    batch = max(1, total // len(devices))
    for _ in range(3):
        speeds = [device.samples_per_s(batch) for device in devices]
        batch = max(1, round(total * max(speeds) / sum(speeds)))
    return min(batch, *(max(1, device.max_batch) for device in devices))


def paced_shares(total: int, devices: Sequence[Device]) -> dict[str, int]:
    """Shares of `total` in proportion to speed at one batch for all: DyLU (Liu et al. 2024).

    Rounded so that the latest finisher is as early as it can be: of a slow device's share a single
    sample more would keep all others waiting.

    >>> laptop, phone = Device("laptop", 0.0, 0.001, 512), Device("phone", 0.0, 0.004, 512)
    >>> paced_shares(100, [laptop, phone]), paced_shares(8, [laptop, phone])
    ({'laptop': 80, 'phone': 20}, {'laptop': 7, 'phone': 1})
    """
    batch = paced_batch(total, devices)
    paced = [Device(d.name, 0.0, 1 / d.samples_per_s(batch), total) for d in devices]
    return exact_shares(total, paced)


def equal_shares(total: int, devices: Sequence[Device]) -> dict[str, int]:
    """Shares as equal as memory allows: what tools that know no speeds would give.

    Raises JobError when the devices cannot hold `total`.

    >>> equal_shares(100, [Device("a", 0, 0.001, 512), Device("b", 0, 0.004, 30)])
    {'a': 70, 'b': 30}
    """
    _check(total, devices)
    shares = {device.name: 0 for device in devices}
    left = total
    smallest_first = sorted(devices, key=lambda d: (d.max_batch, d.name))
    for num_waiting, device in zip(range(len(devices), 0, -1), smallest_first, strict=True):
        shares[device.name] = min(device.max_batch, left // num_waiting)
        left -= shares[device.name]
    return shares


def step_s(shares: Mapping[str, int], devices: Sequence[Device]) -> float:
    """Seconds until the latest device has finished one step on its share.

    >>> step_s({"a": 10, "b": 0}, [Device("a", 0.5, 0.25, 64), Device("b", 9.0, 1.0, 64)])
    3.0
    """
    by_name = {device.name: device for device in devices}
    unknown = shares.keys() - by_name.keys()
    if unknown:
        raise JobError(
            f"expected shares of {', '.join(by_name)} alone, found a share of "
            f"{', '.join(sorted(unknown))}; share the batch among the devices that are here"
        )
    return max((by_name[name].step_s(share) for name, share in shares.items()), default=0.0)


def _finished(device: Device, deadline_s: float, total: int) -> int:
    """The most samples of a step that the device finishes by the deadline.

    Asks `step_s` itself: ⌊(T − a)/c⌋ may be a few off where floats round.
    """
    most = max(0, min(total, device.max_batch))
    guess = int(min(most, max(0.0, (deadline_s - device.overhead_s) / device.per_sample_s)))
    while guess < most and device.step_s(guess + 1) <= deadline_s:
        guess += 1
    while guess and device.step_s(guess) > deadline_s:
        guess -= 1
    return guess


def _check(total: int, devices: Sequence[Device]) -> None:
    if not devices:
        raise JobError("expected at least one device to share a batch, found none; add a device")
    if total < 1:
        raise JobError(f"expected a batch of 1 sample or more, found {total}; raise the batch")
    twice = {name for name, num in Counter(d.name for d in devices).items() if num > 1}
    if twice:
        raise JobError(
            f"expected devices of different names, found {', '.join(sorted(twice))} twice; "
            "rename one"
        )
    for device in devices:
        check_times(device)
    room = sum(max(0, device.max_batch) for device in devices)
    if room < total:
        raise JobError(
            f"expected devices that hold a batch of {total} together, found room for {room}; "
            f"lower the batch to {room} or add a device"
        )


def check_times(device: Device) -> None:
    """Raise JobError for a device whose steps take no time, no finite one, or less than none."""
    overhead_s, per_sample_s = device.overhead_s, device.per_sample_s
    fits_floats = math.isfinite(device.step_s(max(1, device.max_batch)))
    if overhead_s < 0 or per_sample_s <= 0 or not fits_floats:
        raise JobError(
            f"expected {device.name!r} to take a finite time of 0 s or more a step and above 0 s "
            f"a sample, found {overhead_s} s and {per_sample_s} s; measure it again"
        )
