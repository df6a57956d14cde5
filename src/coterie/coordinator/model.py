"""What an option is predicted to bring: pure functions that read like their formulas.

step_s            = max over members (aᵢ + cᵢ·bᵢ)
exchange_s        = price of the exchange + packing and opening + meeting_s as it was measured
rounds            = ⌈num_train / (every · Σ bᵢ)⌉ in an epoch, the last one shorter
samples_per_round = num_train / rounds
round_s           = samples_per_round / Σ bᵢ · step_s + exchange_s − hidden_s
survival          = exp(−Σ failures_per_sᵢ · round_s)
goodput           = samples_per_round / round_s · efficiency · survival

Efficiency is the progress that a sample can be counted on to bring: see `progress`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from coterie.coordinator.parallel import pipeline_shares
from coterie.coordinator.prices import (
    BYTES_PER_VALUE,
    Cohort,
    Sentence,
    codec_s,
    cohort_of,
    hidden_s,
    mean_s,
    roads_s,
    sentence_of,
    step_s,
)
from coterie.coordinator.progress import counted_on
from coterie.coordinator.shares import equal_shares, exact_shares, paced_shares
from coterie.errors import JobError
from coterie.sync.teams import Pipeline
from coterie.types import Layout
from coterie.world import Device, Option, World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy


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
    sentence = sentence_of(strategy, layout)
    return weigh(sentence, cohort_of(world, shares, sentence.paced))


def weigh(sentence: Sentence, cohort: Cohort) -> Option:
    """What a sentence brings to members whose shares are known; the module's head says how."""
    num_rounds = math.ceil(cohort.world.num_train / (sentence.every * cohort.batch))
    samples_per_round = cohort.world.num_train / num_rounds
    one_step_s, road_s = step_s(sentence, cohort), roads_s(sentence, cohort)
    learned_s = cohort.world.meeting_s if cohort.num_members > 1 else 0.0
    exchange_s = mean_s(road_s) + codec_s(sentence, cohort.num_members, cohort.cores) + learned_s
    unseen_s = hidden_s(sentence, road_s, one_step_s)
    round_s = samples_per_round / cohort.batch * one_step_s + exchange_s - unseen_s
    return Option(
        strategy=sentence.written,
        shares=cohort.shares,
        round_s=round_s,
        exchange_s=exchange_s,
        samples_per_round=samples_per_round,
        efficiency=counted_on(sentence, cohort),
        survival=math.exp(-cohort.failures_per_s * round_s),
        hidden_s=unseen_s,
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
