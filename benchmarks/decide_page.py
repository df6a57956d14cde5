"""The page of the benchmark of decisions, from the numbers that it kept."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib import metadata
from statistics import fmean, median
from types import ModuleType
from typing import Any

from benchmarks.decide_claims import (
    ABSENT,
    CHANGES_CLAIM,
    CPU_CLAIM,
    MEAN_CLAIM,
    SIMULATED_CLAIM,
    SIMULATED_NEAR,
    TWENTY,
    WORST_CLAIM,
    Told,
    complaints,
    cpu_parts,
    errors,
    named,
    of,
    of_gauntlet,
    rows,
    simulated_error,
    stationary,
    times,
)
from benchmarks.decide_sums import Cell, cell_of, share_changes
from benchmarks.sync_page import spread, under_headings

HOW = (
    "Three hosts of the [test bed](testbed) on one machine, with {cores} of a core each, every "
    "link limited at both ends. All arms learn the same windows in the same order with one Adam, "
    "in a batch of {batch} over all hosts, from the same weights: `small` has 0.11 M parameters "
    "and `large` 1.1 M, at about the same cost a sample ([decide_task.py](decide_task.py)). "
    "Targets are held-out losses of {targets} nats a character. An epoch is {epoch} steps: the "
    "model is scored once an epoch at most, and no walk is longer. Between two scores the loss is "
    "drawn straight over the logarithm of time.",
    "Seconds of ours count from the first decision, less those of scoring. `auto` is given "
    "nothing but the task. A fixed strategy is given up once it has taken {patience:g} times the "
    "soonest time of its cell: it can no longer be the best, and stands as more than that.",
    "The best single device is the fastest host of the skew, by torch's own loop on whole "
    "batches. DDP shares a batch equally: its losses are those of one device on whole batches, so "
    "its steps to the target are taken from there, and some steady steps are timed in each cell. "
    "Where a cell has one time of an arm it was run once: some hundredths between two arms are "
    "noise.",
)


def about(task: ModuleType, patience: float) -> dict[str, Any]:
    """What was measured, on what, when."""
    targets = (f"{size.target:g} ({name})" for name, size in task.SIZES.items())
    return {
        "date": f"{date.today()}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "pyzmq": metadata.version("pyzmq"),
        },
        "num_cores": os.cpu_count(),
        "terms": {
            "batch": task.BATCH,
            "epoch": task.NUM_TRAIN // task.BATCH,
            "targets": ", ".join(targets),
            "patience": patience,
        },
    }


def page(told: Told) -> str:
    """The results in Markdown."""
    facts, found = told["about"], told["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    loads = spread(each["load"] for each in found if "load" in each)
    minutes = max((each["minute"] for each in found if "minute" in each), default=0.0)
    lines = [
        "# Deciding: `auto` against the best fixed strategy, and against what it promised",
        "",
        f"[bench_decide.py](bench_decide.py), {facts['date']}; {facts['machine']}, load {loads}; "
        f"{versions}; {minutes:g} minutes. Spreads are medians (least, most).",
    ]
    sections: Sequence[tuple[str, Callable[[Sequence[Told]], list[str]]]] = (
        ("The gauntlet", gauntlet_lines),
        ("Every strategy in every cell", grid_lines),
        ("DDP at 20 Mbit/s", twenty_lines),
        ("What was promised of a round, and what rounds took", promise_lines),
        ("One host three times slower, in mid-run", slowdown_lines),
        ("Links ten times slower, in mid-run", link_lines),
        ("What the coordinator uses", coordinator_lines),
        ("The same runs in virtual time", simulated_lines),
        ("The bed", bed_lines),
    )
    lines += under_headings(sections, found)
    lines += ["", "## How it was measured", "", *how(found, facts["terms"])]
    lines += ["## What was not good", ""]
    return "\n".join([*lines, *complaints(found, facts.get("num_cores") or 1)])


def how(found: Sequence[Told], terms: Told) -> list[str]:
    """The terms of the comparison."""
    shares = dict.fromkeys(
        ", ".join(f"{figure['host']['cores']:g}" for figure in bed["figures"])
        for bed in of(found, "bed")
    )
    facts = {**terms, "cores": " or ".join(shares) or "some"}
    return [line for words in HOW for line in (words.format(**facts), "")]


def seconds(value: float | None) -> str:
    """Seconds to three digits.

    >>> seconds(12.345), seconds(None)
    ('12.3', '-')
    """
    return ABSENT if value is None else f"{value:.3g}"


def gauntlet_lines(found: Sequence[Told]) -> list[str]:
    """One row a cell, and the mean and the worst of them."""
    told = of_gauntlet(found)
    if not told:
        return []
    lines = [
        "| cell | `auto`, s | best fixed, s | `auto` ÷ best fixed | single device, s "
        "| `auto` ÷ single | DDP, s | DDP ÷ `auto` | `auto` took |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in told:
        columns = (
            named(row["cell"]),
            spread(row["autos"]),
            f"{seconds(row['best'])} {row['best_arm']}",
            times(row["over_best"]),
            seconds(row["single"]),
            times(row["over_single"]),
            seconds(row["ddp"]),
            times(row["ddp_over"]),
            took(found, row["cell"]),
        )
        lines.append(f"| {' | '.join(columns)} |")
    return [*lines, "", *verdict(told)]


def verdict(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean and worst over the cells, beside what is claimed."""
    ratios = [row["over_best"] for row in told if row["over_best"]]
    if not ratios:
        return []
    alone = [row["over_single"] for row in told if row["over_single"]]
    ddp = [row["ddp_over"] for row in told if row["ddp_over"]]
    words = (
        f"Over {len(ratios)} cells `auto` took {fmean(ratios):.2f} times the time of the "
        f"best fixed strategy on the mean (claimed: at most {MEAN_CLAIM:g}), "
        f"{max(ratios):.2f} at worst (claimed: at most {WORST_CLAIM:g})."
    )
    if alone:
        words += f" Against the best single device {fmean(alone):.2f}, {max(alone):.2f} at worst."
    if ddp:
        words += f" DDP took {times(min(ddp))} to {times(max(ddp))} times the time of `auto`."
    return [words]


def took(found: Iterable[Told], cell: Cell) -> str:
    """The strategies that `auto` went through in a cell, in its last run."""
    runs = [e for e in of(found, "run") if e["arm"] == "auto" and cell_of(e) == cell]
    plans = runs[-1].get("plans", ()) if runs else ()
    told = [f"`{plan['strategy']}` on {len(plan['shares'])}" for plan in plans]
    return ", then ".join(w for i, w in enumerate(told) if not i or told[i - 1] != w) or ABSENT


def grid_lines(found: Sequence[Told]) -> list[str]:
    """Seconds of each fixed strategy; those given up as more than what they took."""
    told = of_gauntlet(found)
    if not told:
        return []
    arms = list(dict.fromkeys(arm for row in told for arm in row["all"]))
    lines = [f"| cell | `auto` | {' | '.join(arms)} |", "|---" * (2 + len(arms)) + "|"]
    for row in told:
        here = [e for e in of(found, "run") if cell_of(e) == row["cell"]]
        cells = (one_time([e for e in here if e["arm"] == arm]) for arm in arms)
        lines.append(f"| {named(row['cell'])} | {seconds(row['auto'])} | {' | '.join(cells)} |")
    return lines


def one_time(runs: Sequence[Told]) -> str:
    """The runs of one arm in one cell.

    >>> one_time([{"seconds": None, "limit_s": 9.0}]), one_time([{"seconds": None, "failed": "x"}])
    ('> 9', 'failed')
    """
    if not runs:
        return ABSENT
    if any(run.get("failed") for run in runs):
        return "failed"
    if any(run["seconds"] is None for run in runs):
        return f"> {max(run.get('limit_s') or math.nan for run in runs):.3g}"
    return spread(run["seconds"] for run in runs)


def twenty_lines(found: Sequence[Told]) -> list[str]:
    """`auto` against DDP where links are slow and hosts unequal."""
    told = [row for row in rows(found) if row["cell"][2] == TWENTY]
    if not told:
        return []
    lines = ["| cell | `auto`, s | DDP, s | DDP ÷ `auto` | `auto` took |", "|---|---|---|---|---|"]
    return lines + [
        f"| {named(row['cell'])} | {spread(row['autos'])} | {seconds(row['ddp'])} "
        f"| {times(row['ddp_over'])} | {took(found, row['cell'])} |"
        for row in told
    ]


def promise_lines(found: Sequence[Told]) -> list[str]:
    """Median errors over all runs of fixed strategies, and by strategy."""
    first, last = errors(found, "first"), errors(found, "last")
    if not first and not last:
        return []
    lines = [
        "Each run of a fixed strategy is a cell of bandwidth × skew × strategy, of one model: how "
        "far the predicted time of a round lay from the one achieved, of the first plan (from "
        "probes alone) and of the last plan that three rounds were measured of.",
        "",
        "| strategy | cells | first plan | last plan |",
        "|---|---|---|---|",
    ]
    for arm in dict.fromkeys(arm for arm, _ in [*first, *last]):
        own = ([e for name, e in which if name == arm] for which in (first, last))
        here, later = own
        lines.append(f"| {arm} | {len(later)} | {percents(here)} | {percents(later)} |")
    whole = (percents([error for _, error in which]) for which in (first, last))
    lines.append(f"| all | {len(last)} | {' | '.join(whole)} |")
    own_errors = [abs(error) for each in of(found, "run") for error in each.get("told", ())]
    if own_errors:
        lines += ["", f"By {len(own_errors)} outcomes that runs told of: {percents(own_errors)}."]
    return lines


def percents(values: Sequence[float]) -> str:
    """Median (least, most) in hundredths.

    >>> percents([0.1, 0.2, 0.4]), percents([])
    ('20 % (10, 40)', '-')
    """
    if not values:
        return ABSENT
    middle, least, most = (f"{100 * v:.0f}" for v in (median(values), min(values), max(values)))
    return f"{middle} % ({least}, {most})"


def slowdown_lines(found: Sequence[Told]) -> list[str]:
    """Rounds until the shares were near the best ones, and how steady they are otherwise."""
    lines = []
    if told := of(found, "slowdown"):
        lines += [
            "Rounds begun or under way with shares that were more than 10 % from the best of the "
            "new speeds, for sentences of the same kind.",
            "",
            "| strategy | rounds | seconds | over the best at last | samples/s before | after |",
            "|---|---|---|---|---|---|",
        ]
        for arm in dict.fromkeys(each["arm"] for each in told):
            here = [each for each in told if each["arm"] == arm]
            cells = (
                spread(each[key] for each in here)
                for key in ("rounds", "seconds", "over_at_last", "before_per_s", "after_per_s")
            )
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    changes, num_rounds = share_changes(stationary(found))
    if num_rounds:
        lines += [
            *([""] if lines else []),
            f"In {num_rounds} rounds of fixed strategies on beds that did not change, plans "
            f"changed {changes} times: {100 * changes / num_rounds:.1f} in 100 rounds, corrections "
            f"of the first plan included (claimed: at most {CHANGES_CLAIM:g}).",
        ]
    return lines


def link_lines(found: Sequence[Told]) -> list[str]:
    """When `auto` took another strategy."""
    told = of(found, "links")
    if not told:
        return []
    lines = [
        "| model | before | after | a first decision would take | seconds until then | rounds "
        "| samples/s before | until then | after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in told:
        never = f"none in {each['watched_s']:.0f} s"
        columns = (
            each["size"],
            each["from"],
            each["to"] or never,
            each["wanted"],
            seconds(each["seconds"]),
            str(each["rounds"] if each["rounds"] is not None else ABSENT),
            *(seconds(each[f"{when}_per_s"]) for when in ("before", "slow", "after")),
        )
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def coordinator_lines(found: Sequence[Told]) -> list[str]:
    """CPU of the coordinating process, and the time of a decision."""
    parts = cpu_parts(found)
    lines = []
    if parts:
        lines += [
            f"From the first decision on, the coordinating process used {percents(parts)} of one "
            f"core in {len(parts)} runs (claimed: at most {CPU_CLAIM:.0%} of the machine)."
        ]
    if told := of(found, "replan"):
        lines += ["", "| model | world | a decision, CPU-ms | at most |", "|---|---|---|---|"]
        lines += [
            f"| {e['size']} | {e['world']} | {e['ms']:.3g} | {e['most_ms']:.3g} |" for e in told
        ]
    return lines


def simulated_lines(found: Sequence[Told]) -> list[str]:
    """Time to the target in virtual time and on the bed."""
    told = of(found, "simulated")
    if not told:
        return []
    lines = ["| cell | strategy | bed, s | virtual, s | error |", "|---|---|---|---|---|"]
    for each in told:
        off = simulated_error(each)
        lines.append(
            f"| {named(cell_of(each))} | {each['arm']} | {each['bed_s']:.3g} "
            f"| {seconds(each['seconds'])} | {ABSENT if off is None else f'{off:+.0%}'} |"
        )
    near = [each for each in told if abs(simulated_error(each) or math.inf) <= SIMULATED_NEAR]
    return [
        *lines,
        "",
        f"Played on the world that each run believed at its first decision. Within "
        f"{SIMULATED_NEAR:.0%} in {len(near)} of {len(told)} (claimed: {SIMULATED_CLAIM:.0%}).",
    ]


def bed_lines(found: Sequence[Told]) -> list[str]:
    """Rates and shares that the beds came to, asked for and got."""
    beds = of(found, "bed")
    if not beds:
        return []
    lines = ["| asked Mbit/s | up | down | asked cores | got |", "|---|---|---|---|---|"]
    for mbit, skew in dict.fromkeys((bed["mbit"], bed["skew"]) for bed in beds):
        here = [bed for bed in beds if (bed["mbit"], bed["skew"]) == (mbit, skew)]
        figures = [figure for bed in here for figure in bed["figures"]]
        up, down = (spread(figure[name] for figure in figures) for name in ("up_mbit", "down_mbit"))
        hosts = list(zip(*(bed["figures"] for bed in here), strict=True))
        asked = ", ".join(f"{host[0]['host']['cores']:g}" for host in hosts)
        got = ", ".join(f"{median(figure['cores'] for figure in host):.3g}" for host in hosts)
        lines.append(f"| {mbit or 'none'} | {up} | {down} | {asked} | {got} |")
    return lines
