"""Runs of ours whose bed changes under them, and how long deciding anew takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from decide_runs import Hosts, decided, job
from decide_sums import per_s, plans, recovered, switched, world_of
from faults_runs import Running

from coterie.coordinator.decide import decide
from coterie.types import Layout
from coterie.world import Device, Link, World

STEADY_S, STEADY_ROUNDS = 8.0, 8  # before anything changes
AFTER_S = 24.0  # watched after a host became slower
FACTOR = 3.0  # that it is slower by
MBIT, SLOW_MBIT = 100.0, 10.0
MORE_S = 5.0  # after a strategy was changed
SETTLED_S = 6.0  # at the end, in which the new speed is taken
REPEATS = 7  # of a decision that is timed

Told = Mapping[str, Any]


def endless(size: str, strategy: str, seed: int, num_hosts: int) -> dict[str, Any]:
    """The job of a run that is ended by us."""
    return {**job("changes", size, strategy, seed, num_hosts), "until": {"minutes": 10.0}}


def steady(run: Running, first: Told) -> None:
    """Wait until a run has been under way for a while; RuntimeError where it is over before."""
    run.await_round(STEADY_ROUNDS, 60.0)
    time.sleep(max(0.0, first["time_s"] + STEADY_S - time.time()))
    if run.command.poll() is not None:
        raise RuntimeError(f"the run ended:\n{run.words()}")


def slowdown(hosts: Hosts, folder: Path, how: tuple[str, str, int]) -> dict[str, Any]:
    """One host, the second, becomes slower: how soon its share is right again."""
    size, strategy, seed = how
    host = list(hosts.cores)[1]
    given = endless(size, strategy, seed, len(hosts.cores))
    with decided(hosts, given, folder) as (run, first):
        steady(run, first)
        changed_s = time.time()
        hosts.bed.change(host, cores=hosts.cores[host] / FACTOR)
        time.sleep(AFTER_S)
        events, end_s = list(run.events), time.time()
    found = recovered(events, changed_s, host, FACTOR)
    return {
        "part": "slowdown",
        "size": size,
        "arm": strategy,
        "seed": seed,
        **found,
        "before_per_s": per_s(events, changed_s - STEADY_S / 2, changed_s),
        "after_per_s": per_s(events, end_s - SETTLED_S, end_s),
        "plans": plans(events),
    }


def slow_links(hosts: Hosts, folder: Path, size: str, watched_s: float) -> dict[str, Any]:
    """All links become slow in mid-run of `auto`: when it takes another strategy."""
    with decided(hosts, endless(size, "auto", 0, len(hosts.cores)), folder) as (run, first):
        steady(run, first)
        changed_s = time.time()
        for host in hosts.cores:
            hosts.bed.change(host, mbit=SLOW_MBIT)
        until_s = changed_s + watched_s
        while time.time() < until_s and switched(list(run.events), changed_s)["to"] is None:
            time.sleep(0.1)
        time.sleep(MORE_S)
        events, end_s = list(run.events), time.time()
    found = switched(events, changed_s)
    return {
        "part": "links",
        "size": size,
        **found,
        "wanted": fresh(events, changed_s),
        "watched_s": end_s - changed_s,
        "before_per_s": per_s(events, changed_s - STEADY_S / 2, changed_s),
        "slow_per_s": per_s(events, changed_s, changed_s + (found["seconds"] or watched_s)),
        "after_per_s": per_s(events, end_s - MORE_S, end_s),
        "plans": plans(events),
    }


def fresh(events: Sequence[Told], changed_s: float) -> str:
    """What a first decision would take on what was believed before, with links as slow as then."""
    told = [e for e in events if e["kind"] == "decision" and e["time_s"] <= changed_s][-1]
    layout = next(event for event in events if event["kind"] == "layout")
    world = world_of(told["world"])
    links = tuple(
        replace(link, bytes_per_s=link.bytes_per_s * SLOW_MBIT / MBIT) for link in world.links
    )
    known = layout_of([layout["names"], layout["shapes"]])
    chosen = decide(replace(world, links=links, meeting_s=0.0), known, 1, "asked").chosen
    return f"{chosen.strategy} on {', '.join(sorted(chosen.shares))}"


# -- deciding ------------------------------------------------------------------------------------


def replans(runs: Sequence[Told]) -> Iterator[dict[str, Any]]:
    """CPU-milliseconds of a decision: on the newest world of each model, and on eight devices."""
    newest = {run["size"]: run for run in runs}
    for size, run in newest.items():
        layout = layout_of(run["shapes"])
        world = world_of(run["world"])
        for name, each in (("this bed", world), ("eight devices", eight(world))):
            seconds = [_timed(each, layout) for _ in range(REPEATS)]
            yield {
                "part": "replan",
                "size": size,
                "world": name,
                "ms": 1e3 * median(seconds),
                "most_ms": 1e3 * max(seconds),
            }


def _timed(world: World, layout: Layout) -> float:
    began_s = time.process_time()  # whatever else the machine does
    decide(world, layout, 1, "timed")
    return time.process_time() - began_s


def layout_of(shapes: Sequence[Any]) -> Layout:
    """The layout that an event told of, as names and shapes.

    >>> layout_of([["w"], [[2, 3]]]).size
    6
    """
    names, sizes = shapes
    return Layout(tuple(names), tuple(tuple(size) for size in sizes))


def eight(world: World) -> World:
    """Eight devices like those of a world, all linked as its first two are, each a bit slower."""
    like, link = world.devices, world.links[0]
    devices = tuple(
        Device(
            f"d{number}",
            like[number % len(like)].overhead_s * (1 + number / 8),
            like[number % len(like)].per_sample_s * (1 + number / 8),
            like[number % len(like)].max_batch,
        )
        for number in range(8)
    )
    links = tuple(
        Link(f"d{a}", f"d{b}", link.latency_s, link.bytes_per_s) for b in range(8) for a in range(b)
    )
    return World(devices, links, world.batch, world.num_train, world.meeting_s)
