"""The planners against what is known to be best, and against rules that others go by.

Pure arithmetic: nothing is trained and no link is used. The oracles are those of the tests. Prints
a page for benchmarks/oracles.md:

    python benchmarks/bench_oracles.py [PART_OF_ALL]
"""

from __future__ import annotations

import math
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "coordinator"))

import test_assign as of_tasks
import test_offload as of_requests
import test_shares_optimal as of_shares
import test_split as of_layers

from coterie.coordinator.assign import Claim, assign, device_sets
from coterie.coordinator.decide import decide
from coterie.coordinator.offload import expected_s, offload
from coterie.coordinator.shares import equal_shares, exact_shares, step_s
from coterie.coordinator.split import held_bytes, quickest_split, split
from coterie.errors import JobError
from coterie.types import Layout
from coterie.world import Device, Layer, Link, World

NUM_SHARES, NUM_SPLITS, NUM_ASSIGNMENTS, NUM_CLUSTERS = 1_000, 200, 200, 300
NUM_TIMED = 7


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which this part of all lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def row(what: str, figure: str, values: Sequence[float]) -> str:
    """A figure over all instances: how many, median, 90th percentile, most."""
    listed = [f"{each:.3f}" for each in (median(values), quantile(values, 0.9), max(values))]
    return f"| {what} | {figure} | {len(values)} | {' | '.join(listed)} |"


def by_weight(total: int, weights: Sequence[float]) -> list[int]:
    """Whole parts of a total in proportion to weights, by largest remainder."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [math.floor(each) for each in exact]
    by_rest = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_rest[: total - sum(parts)]:
        parts[i] += 1
    return parts


def cpu_s(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began_s = time.process_time()
    call()
    return time.process_time() - began_s


# -- shares ------------------------------------------------------------------------------------


def shares(num: int) -> Iterator[str]:
    """Exact shares, shares in proportion to speed and equal shares, over the MILP's optimum."""
    ours, proportional, equal, full = [], [], [], 0
    for seed in range(num):
        total, devices = of_shares.instance(seed)
        best_s = of_shares.optimum(total, devices)
        ours.append(step_s(exact_shares(total, devices), devices) / best_s)
        equal.append(step_s(equal_shares(total, devices), devices) / best_s)
        speeds = [device.samples_per_s(max(1, total // len(devices))) for device in devices]
        parts = dict(zip([d.name for d in devices], by_weight(total, speeds), strict=True))
        if all(parts[device.name] <= device.max_batch for device in devices):
            proportional.append(step_s(parts, devices) / best_s)
        else:
            full += 1
    yield row("shares", "exact ÷ MILP", ours)
    yield row("", f"in proportion to speed ÷ MILP ({full} more overfill a memory)", proportional)
    yield row("", "equal, as memory allows ÷ MILP", equal)


# -- split -------------------------------------------------------------------------------------


def layers_by(world: World, m: int, weights: Sequence[float], room: Mapping[str, int]) -> float:
    """The bottleneck of layers given out by weight in the order of names; infinite if too big."""
    num_samples, links = -(-world.batch // m), {frozenset((k.a, k.b)): k for k in world.links}
    work, first, taken, before = sum(each.per_sample_s for each in world.chain), 0, [0.0], None
    counts = by_weight(len(world.chain), weights)
    num_left = sum(count > 0 for count in counts)
    for device, count in zip(world.devices, counts, strict=True):
        inside = world.chain[first : first + count]
        if not inside:
            continue
        kept = min(m, num_left) * num_samples * sum(each.kept_bytes for each in inside)
        if sum(map(held_bytes, inside)) + kept > room.get(device.name, math.inf):
            return math.inf
        seconds = device.step_s(num_samples) * sum(each.per_sample_s for each in inside) / work
        taken.append(seconds)
        if before is not None:
            link = links.get(frozenset((before, device.name)))
            sent = num_samples * world.chain[first - 1].sent_bytes
            taken.append(2 * (link.latency_s + sent / link.bytes_per_s) if link else math.inf)
        before, first, num_left = device.name, first + count, num_left - 1
    return max(taken)


def splits(num: int) -> Iterator[str]:
    """Our bottleneck, and those of rules by memory and by speed, over the exhaustive optimum."""
    ours, quick = [], []
    rules: dict[str, list[float]] = {"memory": [], "speed": []}
    num_refused, num_apart = 0, dict.fromkeys(rules, 0)
    for seed in range(num):
        world, m, room = of_layers.instance(seed)
        best_s, _, best_step_s = of_layers.exhaustive(world, m, room)
        if math.isinf(best_s):
            num_refused += 1
            continue
        ours.append(split(world, m, room).bottleneck_s / best_s)
        quick.append(quickest_split(world, m, room).step_s / best_step_s)
        generator = random.Random(seed)
        memory = [room.get(d.name, generator.randint(10**4, 10**5)) for d in world.devices]
        weights = {"memory": memory, "speed": [1 / d.step_s(world.batch) for d in world.devices]}
        for name in rules:
            found_s = layers_by(world, m, weights[name], room)
            if math.isinf(found_s):
                num_apart[name] += 1
            else:
                rules[name].append(found_s / best_s)
    yield row("split", f"bottleneck ÷ exhaustive ({num_refused} more fit nowhere)", ours)
    yield row("", "quickest split's step ÷ exhaustive", quick)
    for name, found in rules.items():
        why = f"({num_apart[name]} more do not fit or lack a link)"
        yield row("", f"layers in proportion to {name} ÷ exhaustive {why}", found)


def large_chain(num_devices: int, num_layers: int, seed: int) -> World:
    """Unequal devices on links of 1 to 100 Mbit/s, and unequal layers."""
    generator = random.Random(seed)
    devices = tuple(
        Device(f"d{i}", generator.uniform(0, 0.01), generator.uniform(0.001, 0.02), 64)
        for i in range(num_devices)
    )
    links = tuple(
        Link(a.name, b.name, 0.0005, 10 ** generator.uniform(5, 7))
        for a, b in combinations(devices, 2)
    )
    layers = tuple(
        Layer(f"{i}", generator.uniform(0.1, 3), 5_000, 400, generator.randint(10, 400))
        for i in range(num_layers)
    )
    return World(devices, links, 32, 50_000, chain=layers)


# -- assignment --------------------------------------------------------------------------------


def one_by_one(world: World, claims: Sequence[Claim], table: Mapping[Any, float]) -> float:
    """U where the first task takes what suits it best, the next of what is left, and so on."""
    free, total = {device.name for device in world.devices}, 0.0
    for claim in claims:
        sets = [on for on in device_sets(world) if free.issuperset(on)]
        values = {on: claim.priority * table[claim.task, on] * claim.keeps(on, 20.0) for on in sets}
        if values and max(values.values()) > 0:
            best = max(values, key=values.__getitem__)
            total, free = total + values[best], free - set(best)
    return total


def assignments(num: int) -> Iterator[str]:
    """U of brute force over ours, and over first come, first served."""
    ours, served = [], []
    for seed in range(num):
        world, claims, table = of_tasks.instance(seed)
        best = of_tasks.brute_force(world, claims, table, 20.0)
        if best == 0:
            continue
        found = assign(world, claims, lambda task, on: table[task, on], restart_s=20.0)  # noqa: B023
        ours.append(best / found.total)
        served.append(best / max(1e-9, one_by_one(world, claims, table)))
    yield row("assignment", "brute force ÷ U of the program", ours)
    yield row("", "brute force ÷ U of first come, first served", served)
    yield row("", "brute force ÷ U of the program, 8 devices, 36 of 255 sets", of_runs(num // 4))


def of_runs(num: int) -> list[float]:
    """What is lost where not every set is weighed: 8 devices, 4 tasks of diminishing returns."""
    lost = []
    for seed in range(num):
        generator = random.Random(seed)
        speeds = [generator.uniform(1, 8) for _ in range(8)]
        world = World(tuple(Device(f"d{i}", 0, 1 / s, 64) for i, s in enumerate(speeds)), (), 8, 9)
        bends = {f"t{i}": generator.uniform(0.3, 1.0) for i in range(4)}
        claims = [Claim(task, generator.choice([0.5, 1.0, 3.0])) for task in bends]

        def brings(task: str, on: tuple[str, ...], bends=bends, speeds=speeds) -> float:
            return float(sum(speeds[int(name[1:])] for name in on) ** bends[task])

        lost.append(best_of_all_sets(claims, brings) / assign(world, claims, brings).total)
    return lost


def best_of_all_sets(claims: Sequence[Claim], brings: Callable[..., float]) -> float:
    """U by a table over the devices that are given out, task after task."""
    best = [0.0] * 256
    for claim in claims:
        sets = {m: tuple(f"d{i}" for i in range(8) if m >> i & 1) for m in range(1, 256)}
        worth = {m: claim.priority * brings(claim.task, on) for m, on in sets.items()}
        before, best = best, list(best)
        for mask in range(256):
            part = mask
            while part:
                best[mask] = max(best[mask], worth[part] + before[mask ^ part])
                part = (part - 1) & mask
    return best[-1]


# -- offloading --------------------------------------------------------------------------------


def requests(num: int) -> Iterator[str]:
    """E[T] of ours, of the best place alone and in proportion to speed, over the better one."""
    ours, alone, proportional, num_over = [], [], [], 0
    for seed in range(num):
        places, asked_per_s = of_requests.cluster(seed)
        found_s = offload(places, asked_per_s).expected_s
        ours.append(found_s / of_requests.convex_optimum(places, asked_per_s))
        all_per_s = sum(place.served_per_s for place in places)
        parts = {place.name: place.served_per_s / all_per_s for place in places}
        proportional.append(expected_s(places, parts, asked_per_s) / found_s)
        alone_s = min(expected_s(places, {place.name: 1.0}, asked_per_s) for place in places)
        if math.isinf(alone_s):
            num_over += 1
        else:
            alone.append(alone_s / found_s)
    yield row("offloading", "E[T] ÷ SLSQP's", ours)
    yield row("", f"best place alone ÷ ours (every place alone overloaded: {num_over} more)", alone)
    yield row("", "in proportion to speed ÷ ours", proportional)


# -- time --------------------------------------------------------------------------------------


def timed() -> Iterator[str]:
    """CPU milliseconds of single calls."""
    layout = Layout(("w",), ((5_000_000,),))
    plain, chained = large_chain(8, 0, 0), large_chain(8, 12, 0)
    calls: list[tuple[str, Callable[[int], Any]]] = [
        ("decide, 8 devices", lambda seed: decide(plain, layout, 1, "start")),
        (
            "decide, 8 devices, a chain of 12 layers",
            lambda seed: decide(chained, layout, 1, "start"),
        ),
        *(
            (f"{search.__name__}, {n} devices × 48 layers", _search(search, n))
            for search in (split, quickest_split)
            for n in (4, 8, 10)
        ),
        ("assign, 4 tasks × 6 devices", _assign_some(6)),
        ("assign, 4 tasks × 16 devices", _assign_some(16)),
        ("offload, 8 places", lambda seed: offload(*of_requests.cluster(seed))),
    ]
    for what, call in calls:
        call(0)
        ms = [1e3 * cpu_s(partial(call, seed)) for seed in range(NUM_TIMED)]
        yield f"| {what} | {median(ms):.1f} | {max(ms):.1f} |"


def _search(search: Callable[[World], Any], num_devices: int) -> Callable[[int], Any]:
    return lambda seed: search(large_chain(num_devices, 48, seed))


def _assign_some(num_devices: int) -> Callable[[int], Any]:
    world = large_chain(num_devices, 0, 1)
    claims = [Claim(f"t{i}", priority=1.0 + i) for i in range(4)]

    def bring(task: str, on: tuple[str, ...]) -> float:
        return float(
            sum(1 / world.device(n).per_sample_s for n in on) ** (0.4 + 0.1 * int(task[1]))
        )

    return lambda seed: assign(world, claims, bring)


def page(part: float) -> str:
    """All figures as a page."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "scipy"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    sizes = (NUM_SHARES, NUM_SPLITS, NUM_ASSIGNMENTS, NUM_CLUSTERS)
    parts = (shares, splits, assignments, requests)
    rows = [line for of, num in zip(parts, sizes, strict=True) for line in of(int(num * part))]
    return "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, `python benchmarks/bench_oracles.py`. Seeds from 0; "
            f"{os.cpu_count()} virtual cores, {platform.machine()}, load {load} at the start; "
            f"Python {platform.python_version()}, {versions}.",
            "",
            "| planner | ratio | instances | median | 90 % below | most |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"| call | CPU ms, median of {NUM_TIMED} | most |",
            "|---|---|---|",
            *timed(),
        ]
    )


def main() -> None:
    """Run and print; a part of all instances where a number below 1 is given."""
    try:
        print(page(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
    except JobError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
