"""What the synchronisation benchmark makes of its measurements: crossings, ratios, the page."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from itertools import pairwise
from statistics import median
from types import ModuleType
from typing import Any, NamedTuple

SLACK = 1e-3  # of the target loss: a run of ours that stops stands strictly below it
NUM_EQUAL = 150  # steps after which losses at equal samples are compared


class Point(NamedTuple):
    """A held-out loss: after how many steps of the global batch, after how many seconds."""

    steps: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Outcome:
    """What one setting came to with one seed at one rate; None where the target was not reached."""

    setting: str
    seed: int
    mbit: float | None  # None: loopback
    seconds: float | None  # to the target
    steps: float | None  # to the target, of the global batch
    points: tuple[Point, ...]
    how: str
    num_bytes: float | None = None  # to the target, over all links
    step_s: float | None = None  # of a steady step
    host_cores: float = 0.0  # used by one host, on the mean
    before_s: float = 0.0  # of measuring before the first decision, outside `seconds`
    before_bytes: float = 0.0


@dataclass(frozen=True)
class OurRun:
    """A run of ours as its events tell it; its clock rests while a model is scored."""

    began_s: float  # time of day of the first decision
    before_s: float  # from the moment all agents were ready to then
    points: tuple[Point, ...]
    pauses: tuple[tuple[float, float], ...]  # seconds of the clock, length

    def clock(self, seconds: float) -> float:
        """Seconds of the wall since the beginning, at a moment of the resting clock."""
        return seconds + sum(length for at_s, length in self.pauses if at_s < seconds)


def crossing(line: Sequence[tuple[float, float]], target: float) -> float | None:
    """Where a falling line of (x, loss) first meets the target; straight between its points.

    >>> crossing([(0, 4.0), (10, 3.0), (20, 2.0)], 2.5)
    15.0
    >>> crossing([(0, 4.0), (10, 3.0)], 2.5) is None
    True
    """
    for (x, loss), (next_x, next_loss) in pairwise(line):
        if next_loss <= target:
            part = (loss - target) / (loss - next_loss) if loss > target else 0.0
            return x + (next_x - x) * part
    return None


def at(line: Sequence[tuple[float, float]], x: float) -> float:
    """The value of a line of (x, y) at x; beyond its ends, that of the end.

    >>> at([(0, 0.0), (10, 5.0)], 4), at([(0, 0.0), (10, 5.0)], 11)
    (2.0, 5.0)
    """
    if x <= line[0][0]:
        return line[0][1]
    for (left, y), (right, next_y) in pairwise(line):
        if left < x <= right:
            return y + (next_y - y) * (x - left) / (right - left)
    return line[-1][1]


def likelihood(target: float) -> float:
    """The metric at which a run of ours stops: exp(−loss), a little beyond the target.

    >>> likelihood(2.2) > math.exp(-2.2)
    True
    """
    return math.exp(-target * (1 - SLACK))


def ours(events: Sequence[Mapping[str, Any]], first_loss: float, batch: int) -> OurRun:
    """A run of ours from its events.

    >>> def event(kind, time_s, **fields): return {"kind": kind, "time_s": time_s, **fields}
    >>> run = ours([
    ...     event("agent", 1.0, state="ready"), event("decision", 3.0),
    ...     event("committed", 6.0, last_round=1, leases={"a": [[0, 40]], "b": [[40, 80]]}),
    ...     event("scores", 8.0, round=1, seconds=1.0, metrics={"test_loss": 2.0}),
    ... ], first_loss=4.0, batch=16)
    >>> run.points[1], run.before_s
    (Point(steps=5.0, seconds=4.0, loss=2.0), 2.0)
    """
    began_s = next(e["time_s"] for e in events if e["kind"] == "decision")
    ready = [e["time_s"] for e in events if e["kind"] == "agent" and e.get("state") == "ready"]
    committed = [
        (
            e["last_round"],
            sum(stop - start for lease in e["leases"].values() for start, stop in lease),
        )
        for e in events
        if e["kind"] == "committed"
    ]
    points, pauses, paused_s = [Point(0, 0.0, first_loss)], [], 0.0
    for event in events:
        if event["kind"] != "scores":
            continue
        paused_s += event["seconds"]
        seconds = event["time_s"] - began_s - paused_s
        samples = sum(num for last, num in committed if last <= event["round"])
        points.append(Point(samples / batch, seconds, event["metrics"]["test_loss"]))
        pauses.append((seconds, event["seconds"]))
    before_s = began_s - max((s for s in ready if s <= began_s), default=began_s)
    return OurRun(began_s, before_s, tuple(points), tuple(pauses))


def extrapolated(first: float, per_step: float, num_steps: float) -> float:
    """The sum over a run: what the first steps took, then the same for each of the others.

    >>> extrapolated(7.0, 5.0, 100)
    507.0
    """
    return first + per_step * num_steps


# -- the page ------------------------------------------------------------------------------------


def about(target: float, task: ModuleType) -> dict[str, Any]:
    """What was measured, on what, when."""
    num_parameters = sum(p.numel() for p in task.network().parameters())
    return {
        "date": f"{date.today()}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "target": target,
        "task": {
            "parameters": num_parameters,
            "batch": task.BATCH,
            "window": task.WINDOW,
            "adam_lr": task.LEARNING_RATE,
            "train_windows": task.NUM_TRAIN,
            "test_windows": task.NUM_TEST,
        },
    }


def page(told: Mapping[str, Any]) -> str:
    """The results in Markdown."""
    facts, measured = told["about"], told["measured"]
    found = [each for each in measured if each["kind"] == "outcome"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['date']}; {facts['machine']}; {versions}. Target: held-out loss "
        f"{facts['target']:g} nats a character. Task: {facts['task']}.",
    ]
    for mbit in dict.fromkeys(each["mbit"] for each in found):
        here = [each for each in found if each["mbit"] == mbit]
        lines += ["", f"## {mbit:g} Mbit/s", "", *table(here)]
    lines += ["", "## The bed", "", *bed_lines(measured), "", "## What was not good", ""]
    return "\n".join([*lines, *(complaints(found) or ["Nothing to tell."])])


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row per setting at one rate: against DDP fp32 of the same seed, median (least, most)."""
    base = {each["seed"]: each for each in found if each["setting"] == "fp32"}
    lines = [
        "| arm | setting | seconds | × DDP | MB | × fewer | steps | "
        f"loss at {NUM_EQUAL} steps | cores of a host | how |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, setting in dict.fromkeys((each["arm"], each["setting"]) for each in found):
        runs = [each for each in found if each["setting"] == setting]
        columns = (
            spread(run["seconds"] for run in runs),
            spread(ratios(runs, base, "seconds")),
            spread(run["num_bytes"] and run["num_bytes"] / 1e6 for run in runs),
            spread(ratios(runs, base, "num_bytes")),
            spread(run["steps"] for run in runs),
            spread(equal_loss(run["points"]) for run in runs),
            spread(run["host_cores"] for run in runs),
        )
        lines.append(f"| {arm} | `{setting}` | {' | '.join(columns)} | {runs[0]['how'][:60]} |")
    return lines


def ratios(
    runs: Iterable[Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]], what: str
) -> list[float | None]:
    """How many times less each run took than the base of its seed; None where either failed.

    >>> ratios([{"seed": 0, "seconds": 2.0}], {0: {"seconds": 40.0}}, "seconds")
    [20.0]
    """
    pairs = [(base.get(run["seed"], {}).get(what), run[what]) for run in runs]
    return [theirs / own if theirs and own else None for theirs, own in pairs]


def equal_loss(points: Sequence[Sequence[float]]) -> float | None:
    """The loss after `NUM_EQUAL` steps' samples; None for a run that was not scored around there.

    The first weights do not count: a straight line from them lies far above any curve.
    """
    line = [(steps, loss) for steps, _, loss in points[1:]]
    known = bool(line) and line[0][0] <= NUM_EQUAL <= line[-1][0]
    return at(line, NUM_EQUAL) if known else None


def under_headings(
    sections: Iterable[tuple[str, Callable[[Any], Sequence[str]]]], found: Any
) -> list[str]:
    """The lines of each section that finds something to say, with its heading above."""
    lines: list[str] = []
    for heading, words in sections:
        if told := words(found):
            lines += ["", f"## {heading}", "", *told]
    return lines


def spread(values: Iterable[float | None]) -> str:
    """Median (least, most) of those that are known.

    >>> spread([1.0, None, 3.0, 2.0])
    '2 (1, 3)'
    >>> spread([None])
    '-'
    """
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle, least, most = (f"{value:.3g}" for value in (median(known), min(known), max(known)))
    return middle if least == most else f"{middle} ({least}, {most})"


def bed_lines(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rates and shares that the beds came to, asked for and got."""
    lines = ["| asked Mbit/s | up | down | asked cores | got |", "|---|---|---|---|---|"]
    beds = [each for each in measured if each["kind"] == "bed"]
    for mbit in dict.fromkeys(bed["mbit"] for bed in beds):
        figures = [figure for bed in beds if bed["mbit"] == mbit for figure in bed["figures"]]
        up, down, cores = (
            spread(figure[name] for figure in figures) for name in ("up_mbit", "down_mbit", "cores")
        )
        asked = spread(figure["host"]["cores"] for figure in figures)
        lines.append(f"| {mbit:g} | {up} | {down} | {asked} | {cores} |")
    return lines


def complaints(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs that failed or missed the target, and the load that stood beside."""
    lines = [
        f"* `{each['setting']}`, seed {each['seed']}, {each['mbit']:g} Mbit/s: "
        + (each["how"] if each["how"].startswith("failed") else "did not reach the target")
        for each in found
        if each["seconds"] is None
    ]
    before = [each["before_s"] for each in found if each["before_s"]]
    if before:
        lines.append(
            f"* Seconds to the target leave out what ours measures first: {spread(before)} s and "
            f"{spread(each['before_bytes'] / 1e6 for each in found if each['before_s'])} MB."
        )
    return lines
