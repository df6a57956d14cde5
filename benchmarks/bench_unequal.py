"""The main job on 4 : 2 : 1 agents: against the sum of free speeds, and against equal shares.

All arms are windows of one run, interleaved: free steps of every agent at once, rounds with equal
shares, rounds as planned. One agent is killed on the way. Prints a table for benchmarks/unequal.md:

    python benchmarks/bench_unequal.py [NUM_RUNS]
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from coterie import demo
from coterie.engines.launch import launch
from coterie.watch.events import read

FIGURES = ("accuracy", "ideal_fraction", "vs_equal", "pause_s", "samples_lost", "samples_repeated")


def once(seed: int, runs: Path) -> dict[str, Any]:
    """One run of the demo's job; its summary, and the error of each prediction."""
    job = demo.job(f"unequal-{seed}").model_copy(update={"seed": seed})
    result = launch(job, runs, None, lambda event: None)
    events = read(result.folder / "events.jsonl")
    errors = [abs(event["error"]) for event in events if event["kind"] == "outcome"]
    return {**result.summary, "errors": errors}


def row(name: str, values: Sequence[float]) -> str:
    """A figure over all runs: median, least, most."""
    return f"| {name} | {median(values):.3g} | {min(values):.3g} | {max(values):.3g} |"


def page(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The results as a table, with what they were measured on."""
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "numpy", "pyzmq"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"{len(summaries)} runs; {os.cpu_count()} cores, {platform.machine()}, load {load} at the "
        f"end; Python {platform.python_version()}, {versions}.",
        "",
        "| figure | median | least | most |",
        "|---|---|---|---|",
        *(row(name, [float(s[name]) for s in summaries]) for name in FIGURES),
        row("prediction error", [error for s in summaries for error in s["errors"]]),
        "",
        "Strategies chosen last with everybody: "
        + ", ".join(sorted({f"`{s['strategy']}`" for s in summaries})),
    ]
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as runs:
        print(page([once(seed, Path(runs)) for seed in range(num_runs)]))


if __name__ == "__main__":
    main()
