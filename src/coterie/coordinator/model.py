"""What an option is predicted to bring: pure functions that read like their formulas.

step_s            = max over members (aᵢ + cᵢ·bᵢ)
exchange_s        = price of the exchange + packing and opening + meeting_s as it was measured
rounds            = ⌈num_train / (every · Σ bᵢ)⌉ in an epoch, the last one shorter
samples_per_round = num_train / rounds
round_s           = samples_per_round / Σ bᵢ · step_s + exchange_s − what steps overlap it
survival          = exp(−Σ failures_per_sᵢ · round_s)
goodput           = samples_per_round / round_s · efficiency · survival
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from coterie.coordinator.parallel import is_whole, passing_s, pipeline_shares
from coterie.coordinator.shares import (
    equal_shares,
    exact_shares,
    paced_batch,
    paced_shares,
    step_s,
)
from coterie.errors import JobError
from coterie.sync.teams import Pipeline
from coterie.types import Layout
from coterie.world import Device, Option, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

CODEC_S_PER_VALUE = 5e-9  # a prior: packing or opening a value on one core, until it is measured
BYTES_PER_VALUE = 4  # vectors that travel or are averaged are float32


def fit_device(name: str, timings: Sequence[tuple[int, float]], max_batch: int) -> Device:
    """The device whose steps took the (batch, seconds) of `timings`: t = a + c·b, a ≥ 0, c > 0.

    Least squares through the midmean of each batch size: one slow step in three changes nothing,
    yet under a quota, where steps take whole periods, the mean is what counts. Where times do not
    grow with the batch, or one size alone was timed, all of the largest batch's time is put into
    c: the optimistic bound, until more is known.

    >>> laptop = fit_device("laptop", [(8, 0.75), (8, 9.0), (8, 0.75), (32, 2.25)], max_batch=64)
    >>> laptop.overhead_s, laptop.per_sample_s
    (0.25, 0.0625)
    """
    _check_timings(name, timings, max_batch)
    sizes = sorted({batch for batch, _ in timings})
    times_s = [_midmean([time_s for batch, time_s in timings if batch == size]) for size in sizes]
    overhead_s, per_sample_s = _line(sizes, times_s)
    return Device(name, overhead_s, per_sample_s, max_batch)


def predict(world: World, layout: Layout, strategy: Strategy, shares: Mapping[str, int]) -> Option:
    """What a sentence brings when each step is shared so; the module's head has the formulas.

    Devices without a share are no members: they neither meet nor tear a round by failing.

    >>> from coterie.sync import recipes
    >>> world = World((Device("a", 0.25, 0.25, 64, failures_per_s=0.0),), (), 11, 1_100)
    >>> option = predict(world, Layout(("w",), ((10,),)), recipes.all_reduce(), {"a": 11})
    >>> option.round_s, option.exchange_s, option.survival
    (3.0, 0.0, 1.0)
    """
    members = {name: share for name, share in shares.items() if share > 0}
    cohort = world.only(tuple(members))
    batch = sum(members.values())
    num_rounds = math.ceil(world.num_train / (strategy.every * batch))
    samples_per_round = world.num_train / num_rounds
    exchange_s = _exchange_s(cohort, layout, strategy)
    one_step_s = _step_s(members, cohort, strategy)
    meanwhile_s = strategy.overlap * one_step_s
    round_s = samples_per_round / batch * one_step_s + max(0.0, exchange_s - meanwhile_s)
    failures_per_s = sum(device.failures_per_s for device in cohort.devices)
    return Option(
        strategy=repr(strategy),
        shares=members,
        round_s=round_s,
        exchange_s=exchange_s,
        samples_per_round=samples_per_round,
        efficiency=1.0 if is_whole(strategy.team, tuple(members)) else strategy.keeps(),
        survival=math.exp(-failures_per_s * round_s),
    )


def shares_for(strategy: Strategy, world: World) -> dict[str, int]:
    """What each device learns of a batch: sizes by speed, or, if paced, numbers of steps.

    >>> from coterie.sync import recipes
    >>> devices = (Device("a", 0.0, 0.25, 64), Device("b", 0.0, 1.0, 64))
    >>> shares_for(recipes.dylu(4), World(devices, (), 10, 100))
    {'a': 8, 'b': 2}
    """
    if isinstance(strategy.team, Pipeline) and strategy.team.crew:
        return pipeline_shares(world.batch, tuple(device.name for device in world.devices))
    paced = strategy.walk is not None and strategy.walk.paced
    return (paced_shares if paced else exact_shares)(world.batch, world.devices)


def _step_s(shares: Mapping[str, int], cohort: World, strategy: Strategy) -> float:
    """Seconds of a step on the whole batch; of a paced walk, of as many samples on average."""
    if isinstance(strategy.team, Pipeline) and cohort.chain and len(shares) >= strategy.least:
        taken_s = passing_s(strategy.team, shares, cohort)
        if taken_s is not None:
            return taken_s
    if strategy.walk is None or not strategy.walk.paced:
        return step_s(shares, cohort.devices)
    batch = paced_batch(sum(shares.values()), cohort.devices)
    return max(shares[d.name] / batch * d.step_s(batch) for d in cohort.devices)


def _exchange_s(cohort: World, layout: Layout, strategy: Strategy) -> float:
    num_members = len(cohort.devices)
    price_s = strategy.price(layout, num_members, cohort.links)
    learned_s = cohort.meeting_s if num_members > 1 else 0.0
    return price_s + codec_s(strategy, layout, num_members) + learned_s


def codec_s(strategy: Strategy, layout: Layout, num_members: int) -> float:
    """Seconds to pack one payload and to open everybody's; 0 where nothing is packed.

    >>> from coterie.sync import recipes
    >>> codec_s(recipes.all_reduce_int8(), Layout(("w",), ((1_000_000,),)), num_members=3)
    0.02
    """
    num_passes = 1 + num_members if strategy.pack is not None else 0
    return CODEC_S_PER_VALUE * strategy.narrowed(layout).size * num_passes


def equal_option(world: World, layout: Layout, strategy: Strategy) -> Option:
    """What the same sentence would bring if every device were given an equal share.

    >>> from coterie.sync import recipes
    >>> from coterie.world import Link
    >>> fast, slow = Device("fast", 0.0, 0.25, 64), Device("slow", 0.0, 1.0, 64)
    >>> world = World((fast, slow), (Link("fast", "slow", 0.0, 1e12),), 8, 1_000)
    >>> round(equal_option(world, Layout(("w",), ((10,),)), recipes.all_reduce()).round_s, 6)
    4.0
    """
    return predict(world, layout, strategy, equal_shares(world.batch, world.devices))


def ideal_per_s(world: World) -> float:
    """Samples a second if every device worked alone on the whole batch and meeting were free.

    Σ b / (aᵢ + cᵢ·b), b the job's batch or the most that the device holds.

    >>> ideal_per_s(World((Device("a", 0.0, 0.25, 64), Device("b", 1.0, 0.25, 4)), (), 8, 100))
    6.0
    """
    return sum(solo_per_s(device, world.batch) for device in world.devices)


def solo_per_s(device: Device, batch: int) -> float:
    """Samples a second of one device alone on `batch` samples, or on the most that it holds.

    >>> solo_per_s(Device("a", 1.0, 0.25, max_batch=4), batch=100)
    2.0
    """
    return device.samples_per_s(max(1, min(batch, device.max_batch)))


def extra_bytes(strategy: Strategy, layout: Layout, num_members: int) -> int:
    """Memory of one member beyond plain training: an upper bound in bytes.

    The flat vector that meets; while walking the anchor and the outer memory too; when packed the
    residual and every member's payload. A device alone that never walks needs none of them.

    >>> from coterie.sync import recipes
    >>> layout = Layout(("w",), ((1_000,),))
    >>> extra_bytes(recipes.diloco(32), layout, 2), extra_bytes(recipes.all_reduce(), layout, 1)
    (12000, 0)
    """
    packed = strategy.pack is not None
    if num_members == 1 and not strategy.walks and not packed:
        return 0
    num_vectors = 1 + 2 * strategy.walks + packed
    payloads_bytes = num_members * strategy.num_bytes(layout) if packed else 0
    return BYTES_PER_VALUE * layout.size * num_vectors + payloads_bytes


def _line(sizes: Sequence[int], times_s: Sequence[float]) -> tuple[float, float]:
    """(a, c) of the least-squares line t = a + c·b with a ≥ 0 and c > 0."""
    mean_b, mean_s = sum(sizes) / len(sizes), sum(times_s) / len(times_s)
    spread = sum((b - mean_b) ** 2 for b in sizes)
    rise = sum((b - mean_b) * (t - mean_s) for b, t in zip(sizes, times_s, strict=True))
    if rise <= 0:
        return 0.0, times_s[-1] / sizes[-1]
    slope = rise / spread
    if mean_s >= slope * mean_b:
        return mean_s - slope * mean_b, slope
    through_zero = sum(b * t for b, t in zip(sizes, times_s, strict=True))
    return 0.0, through_zero / sum(b * b for b in sizes)


def _midmean(values: Sequence[float]) -> float:
    """The mean of the middle half (Tukey 1977)."""
    cut = min(-(-(len(values) - 1) // 4), (len(values) - 1) // 2)
    return fmean(sorted(values)[cut : len(values) - cut])


def _check_timings(name: str, timings: Sequence[tuple[int, float]], max_batch: int) -> None:
    if max_batch < 1:
        raise JobError(
            f"expected {name!r} to hold 1 sample or more, found {max_batch}; "
            "lower the size of the model or leave this device out"
        )
    if not timings:
        raise JobError(f"expected timed steps of {name!r}, found none; time two batch sizes")
    for batch, time_s in timings:
        if batch < 1 or not (math.isfinite(time_s) and time_s > 0):
            raise JobError(
                f"expected {name!r} to take a finite time above 0 s on 1 sample or more, "
                f"found {time_s} s on {batch}; time its steps again"
            )
