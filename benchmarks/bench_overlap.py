"""How busy agents are at 20 Mbit/s, with meetings that overlap steps and without.

Four hosts of a bed (`testbed`) learn the next character of Shakespeare (`shakespeare`) by Streaming
DiLoCo, and by the same sentence whose meetings are waited for. Runs alternate, the first arm with
the seed. Prints a page for benchmarks/overlap.md; needs root:

    python benchmarks/bench_overlap.py --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import shakespeare  # noqa: E402
from bed_runs import Work, about, run_on, say, solo_per_s  # noqa: E402
from sync_page import spread  # noqa: E402

from benchmarks.testbed import Bed, Figure, Host, measure, testbed  # noqa: E402

NUM_HOSTS, HOST_CORES, MBIT = 4, 0.42, 20.0
BATCH = 64  # windows of a step, over all hosts
ADAM = {"lr": shakespeare.LEARNING_RATE, "fused": True}
STEPS, FRAGMENTS, OVERLAP = 40, 4, 8  # a fragment meets every 10 steps and has 8 to do it
MINUTES = 0.35
CLAIM = 0.95


def sentence(overlap: int) -> str:
    """Streaming DiLoCo, waiting for its meetings where there is no overlap.

    >>> sentence(8)
    'streaming-diloco(40, fragments=4, overlap=8)'
    """
    return f"streaming-diloco({STEPS}, fragments={FRAGMENTS}, overlap={overlap})"


ARMS = (sentence(OVERLAP), sentence(0))


def job(bed: Bed, strategy: str, seed: int) -> dict[str, Any]:
    """The job file of one run."""
    names = {"model": "network", "test": "test_set", "loss": "loss"}
    task = {key: f"shakespeare:{name}" for key, name in names.items()}
    return {
        "name": "overlap",
        "task": {**task, "train": "slow_task:train_set"},
        "optimizer": {"call": "torch.optim:Adam", "with": ADAM},
        "batch": BATCH,
        "seed": seed,
        "strategy": strategy,
        "until": {"minutes": MINUTES},
        "agents": {"local": 0, "remote": NUM_HOSTS, "join_timeout_s": 120.0},
        "listen": f"{bed.address}:0",
        "checkpoint_every_s": 1e6,
        "root": str(HERE),
    }


def runs(num_seeds: int) -> Iterator[dict[str, Any]]:
    """Every run's figures, as it ends; the first thing is what the bed measured of itself."""
    hosts = [Host(f"h{rank}", HOST_CORES, MBIT) for rank in range(NUM_HOSTS)]
    with testbed(hosts) as bed:
        yield {"figures": measure(bed)}
        for seed in range(num_seeds):
            for arm in ARMS if seed % 2 == 0 else ARMS[::-1]:
                say(f"seed {seed}: {arm}")
                try:
                    events = run_on(bed, job(bed, arm, seed))
                except RuntimeError as error:
                    say(f"failed: {error}")
                    yield {"arm": arm, "seed": seed, "failed": True}
                    continue
                yield {"arm": arm, "seed": seed, **figures(events)}


def figures(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What one run came to."""
    work = Work.of(events)
    per_s = sum(work.per_s.values())
    losses = [e["metrics"]["test_loss"] for e in events if e["kind"] == "scores"]
    return {
        "busy": list(work.busy.values()),
        "waiting": list(work.waiting.values()),
        "per_s": per_s,
        "of_solo": per_s / sum(solo_per_s(events).values()),
        "loss": losses[-1] if losses else None,
    }


def page(bed: Sequence[Figure], done: Sequence[Mapping[str, Any]]) -> str:
    """The results in Markdown."""
    measured = "; ".join(
        f"{figure.host.name} {figure.up_mbit:.1f} up, {figure.down_mbit:.1f} down, "
        f"{figure.cores:.2f} cores"
        for figure in bed
    )
    lines = [
        about(),
        "",
        f"{NUM_HOSTS} hosts at {MBIT:g} Mbit/s and {HOST_CORES:g} of a core each (measured: "
        f"{measured}); batch {BATCH}, {MINUTES:g} min a run.",
        "",
        "| sentence | busy, every agent of every run | busy, least of a run | in exchanges | "
        "samples/s | ÷ sum of solo speeds | test loss at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    good = [each for each in done if each.get("busy")]
    for arm in ARMS:
        here = [each for each in good if each["arm"] == arm]
        columns = (
            spread(part for each in here for part in each["busy"]),
            spread(min(each["busy"]) for each in here),
            spread(part for each in here for part in each["waiting"]),
            *(spread(each[key] for each in here) for key in ("per_s", "of_solo", "loss")),
        )
        lines.append(f"| `{arm}` | {' | '.join(columns)} |")
    return "\n".join([*lines, "", "## What was not good", "", *complaints(good, len(done))])


def complaints(good: Sequence[Mapping[str, Any]], num: int) -> list[str]:
    """What the figures themselves have against the claim."""
    found = [f"- {num - len(good)} of {num} runs failed."] if len(good) < num else []
    least = [min(each["busy"]) for each in good if each["arm"] == ARMS[0]]
    below = sum(part < CLAIM for part in least)
    if below:
        found.append(f"- In {below} of {len(least)} runs an agent was busy less than {CLAIM:.0%}.")
    speeds = [median([e["per_s"] for e in good if e["arm"] == arm] or [0.0]) for arm in ARMS]
    if speeds[0] < speeds[1]:
        found.append("- Samples per second were no higher with overlap.")
    return found or ["Nothing in the figures."]


def main() -> None:
    """Measure and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    told = list(runs(parser.parse_args().seeds))
    print(page(told[0]["figures"], told[1:]))


if __name__ == "__main__":
    main()
