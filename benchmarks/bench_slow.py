"""One host of four ten times slower: how much of the sum of solo speeds is reached.

Hosts of a bed (`testbed`) learn the next character of Shakespeare, each arm in runs of its own,
interleaved. Solo speeds are measured before every run: free steps of all agents at once on the
whole batch; a seed's are their mean over its runs. The arm of equal shares is one more such
measurement, then a window of steps whose gradients are averaged. Prints a page for
benchmarks/slow.md; needs root:

    python benchmarks/bench_slow.py --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import shakespeare  # noqa: E402
from bed_runs import Work, about, run_on, say, solo_per_s  # noqa: E402
from sync_page import spread  # noqa: E402

from benchmarks.testbed import Bed, Figure, Host, measure, testbed  # noqa: E402

HOST_CORES, SLOW_CORES, MBIT = 0.45, 0.045, 100.0
ADAM = {"lr": shakespeare.LEARNING_RATE, "fused": True}  # unfused it costs as much as samples
STARTING_CORES = 0.9  # of the slow host until its agent is ready: imports are not measured
NUM_HOSTS, SLOW = 4, "slow"
BATCH = 128  # windows of a step, over all hosts
STEPS = 48  # of a walk
MINUTES = 0.25
WINDOWS_ALONE = 0.05  # minutes that are over once the comparison windows are
STEADY = 0.1  # how far sums of solo speeds may lie apart before the page says so
CLAIM, CLAIMED = 0.9, ("asynchronous", "DyLU")
SENTENCES = {
    "asynchronous": (
        f"chain(DyLU({STEPS}), ErrorFeedback(Int8()), Push(), Discount(0.5), Outer(1.0))"
    ),
    "DyLU": f"chain(DyLU({STEPS}), ErrorFeedback(Int8()), Reduce(), Outer(1.0))",
    "shares": f"chain(Every({STEPS}), ErrorFeedback(Int8()), Reduce(), Outer(1.0))",
}
EQUAL = "equal shares"


def job(bed: Bed, arm: str, seed: int) -> dict[str, Any]:
    """The job file of one run."""
    task = {
        key: f"slow_task:{name}" for key, name in (("model", "network"), ("train", "train_set"))
    }
    task |= {key: f"shakespeare:{name}" for key, name in (("test", "test_set"), ("loss", "loss"))}
    return {
        "name": "slow",
        "task": task,
        "optimizer": {"call": "torch.optim:Adam", "with": ADAM},
        "batch": BATCH,
        "seed": seed,
        "strategy": SENTENCES.get(arm, "all-reduce-fp16"),
        "until": {"minutes": WINDOWS_ALONE if arm == EQUAL else MINUTES},
        "baselines": ["solo", "equal"] if arm == EQUAL else [],
        "agents": {"local": 0, "remote": NUM_HOSTS, "join_timeout_s": 120.0},
        "listen": f"{bed.address}:0",
        "checkpoint_every_s": 1e6,
        "root": str(HERE),
    }


def slowing(bed: Bed) -> Callable[[Mapping[str, Any]], None]:
    """Makes the slow host slow as soon as its agent is ready."""
    bed.change(SLOW, cores=STARTING_CORES)

    def hear(event: Mapping[str, Any]) -> None:
        if event["kind"] == "agent" and (event["member"], event["state"]) == (SLOW, "ready"):
            bed.change(SLOW, cores=SLOW_CORES)

    return hear


def runs(num_seeds: int, arms: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every run's figures, as it ends; the first thing is what the bed measured of itself."""
    hosts = [Host(f"h{rank}", HOST_CORES, MBIT) for rank in range(NUM_HOSTS - 1)]
    with testbed([Host(SLOW, SLOW_CORES, MBIT), *hosts]) as bed:
        yield {"figures": measure(bed)}
        for seed in range(num_seeds):
            here = [arm for arm in arms if seed == 0 or arm != EQUAL]  # once: it is far off
            turned = [*here[seed % len(here) :], *here[: seed % len(here)]]
            for arm in turned:
                say(f"seed {seed}: {arm}")
                try:
                    events = run_on(bed, job(bed, arm, seed), slowing(bed))
                except RuntimeError as error:
                    say(f"failed: {error}")
                    yield {"arm": arm, "seed": seed, "failed": True}
                    continue
                yield {"arm": arm, "seed": seed, **figures(events, arm)}


def figures(events: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
    """What one run came to; of the arm of equal shares its throughput alone."""
    solo = solo_per_s(events)
    if arm == EQUAL:
        equal = [
            e["per_s"] for e in events if e["kind"] == "window" and e["arm"] == EQUAL.split()[0]
        ]
        return {"solo": solo, "per_s": equal[-1]}
    work = Work.of(events)
    fast = [name for name in work.busy if name != SLOW]
    return {
        "solo": solo,
        "per_s": sum(work.per_s.values()),
        "each_per_s": work.per_s,
        "fast_busy": [work.busy[name] for name in fast],
        "slow_busy": work.busy.get(SLOW),
        "waiting": list(work.waiting.values()),
        "batch": list(work.batch.values()),
    }


def compared(done: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs that went well, each against the mean of the solo speeds of its seed.

    >>> run = {"arm": "DyLU", "seed": 0, "solo": {"h0": 8.0, "slow": 2.0}, "per_s": 9.0,
    ...        "each_per_s": {"h0": 8.0, "slow": 1.0}}
    >>> [found] = compared([run])
    >>> found["of_solo"], found["fast_of_solo"], found["slow_of_solo"]
    (0.9, [1.0], 0.5)
    """
    good = [each for each in done if "solo" in each]
    found = []
    for each in good:
        beside = [other["solo"] for other in good if other["seed"] == each["seed"]]
        solo = {name: fmean(other[name] for other in beside) for name in each["solo"]}
        parts = {n: per_s / solo[n] for n, per_s in each.get("each_per_s", {}).items()}
        own = {
            "solo_per_s": sum(each["solo"].values()),
            "of_solo": each["per_s"] / sum(solo.values()),
            "fast_of_solo": [part for name, part in parts.items() if name != SLOW],
            "slow_of_solo": parts.get(SLOW),
        }
        found.append({**each, **own})
    return found


COLUMNS = {
    "of_solo": "÷ sum of solo speeds",
    "per_s": "samples/s",
    "solo_per_s": "sum of solo speeds",
    "fast_of_solo": "a fast host ÷ its solo",
    "slow_of_solo": "the slow host ÷ its solo",
    "fast_busy": "busy, fast",
    "slow_busy": "busy, slow",
    "waiting": "in exchanges",
    "batch": "samples of a step",
}


def page(bed: Sequence[Figure], done: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> str:
    """The results in Markdown."""
    good = compared(done)
    shares = ", ".join(f"{figure.host.name} {figure.cores:.3f}" for figure in bed)
    lines = [
        about(),
        "",
        f"{NUM_HOSTS - 1} hosts with {HOST_CORES:g} of a core and one with {SLOW_CORES:g} "
        f"(measured: {shares}), {MBIT:g} Mbit/s; batch {BATCH}, {MINUTES:g} min a run.",
        "",
        f"| arm | {' | '.join(COLUMNS.values())} |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for arm in arms:
        here = [each for each in good if each["arm"] == arm]
        cells = (spread(flat(each.get(key) for each in here)) for key in COLUMNS)
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", *(f"- {arm}: `{SENTENCES.get(arm, 'all-reduce-fp16')}`" for arm in arms)]
    return "\n".join([*lines, "", "## What was not good", "", *complaints(good, len(done))])


def flat(values: Any) -> list[float | None]:
    """Numbers and lists of numbers as one list.

    >>> flat([1.0, [2.0, 3.0]])
    [1.0, 2.0, 3.0]
    """
    return [part for value in values for part in (value if isinstance(value, list) else [value])]


def complaints(good: Sequence[Mapping[str, Any]], num: int) -> list[str]:
    """What the figures themselves have against the claim."""
    found = [f"- {num - len(good)} of {num} runs failed."] if len(good) < num else []
    for arm in CLAIMED:
        reached = [each["of_solo"] for each in good if each["arm"] == arm]
        if reached and median(reached) < CLAIM:
            found.append(f"- {arm} reached {median(reached):.2f} of the sum, less than {CLAIM:g}.")
    for arm in SENTENCES:
        alone = [each["slow_of_solo"] is None for each in good if each["arm"] == arm]
        if any(alone):
            found.append(
                f"- {arm}: the slow host was left out of {sum(alone)} of {len(alone)} runs."
            )
    sums = [each["solo_per_s"] for each in good]
    if sums and max(sums) > (1 + STEADY) * min(sums):
        found.append(
            f"- Sums of solo speeds went from {min(sums):.0f} to {max(sums):.0f} a second."
        )
    return found or ["Nothing in the figures."]


def main() -> None:
    """Measure and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=",".join((*SENTENCES, EQUAL)))
    said = parser.parse_args()
    arms = said.arms.split(",")
    told = list(runs(said.seeds, arms))
    print(page(told[0]["figures"], told[1:], arms))


if __name__ == "__main__":
    main()
