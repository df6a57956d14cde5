"""What is claimed of decisions, which outcomes speak of it, and what they have against it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.decide_sums import Cell, cell_of, compared, judged, share_changes

MEAN_CLAIM, WORST_CLAIM = 1.15, 1.3
DDP_CLAIM, TWENTY = 3.0, 20.0
ERROR_CLAIM, CELLS_CLAIM = 0.15, 24
ROUNDS_CLAIM, CHANGES_CLAIM = 5, 2.0
CPU_CLAIM, REPLAN_CLAIM_MS = 0.01, 100.0
SIMULATED_CLAIM, SIMULATED_NEAR = 0.8, 0.15
NOISE = 1.03  # of a time to the target, from run to run: less is no defeat
ABSENT = "-"

Told = Mapping[str, Any]


def of(found: Iterable[Told], part: str) -> list[Told]:
    """The outcomes of a part."""
    return [each for each in found if each.get("part") == part]


def rows(found: Sequence[Told]) -> list[dict[str, Any]]:
    """Each cell in which `auto` ran, compared."""
    runs = of(found, "run")
    cells = dict.fromkeys(cell_of(each) for each in runs if each["arm"] == "auto")
    return [compared(runs, cell) for cell in cells]


def of_gauntlet(found: Sequence[Told]) -> list[dict[str, Any]]:
    """The cells in which fixed strategies ran beside `auto`."""
    return [row for row in rows(found) if row["all"]]


def errors(found: Sequence[Told], which: str) -> list[tuple[str, float]]:
    """The strategy and the error of each run of a fixed strategy that has one."""
    fixed = [e for e in of(found, "run") if e["arm"] not in ("auto", "single", "ddp")]
    told = [(each["arm"], judged(each)[which]) for each in fixed]
    return [(arm, error) for arm, error in told if error is not None]


def stationary(found: Sequence[Told]) -> list[Told]:
    """Runs on beds that did not change, of strategies that were asked for."""
    return [e for e in of(found, "run") if e["arm"] not in ("auto", "single", "ddp")]


def cpu_parts(found: Sequence[Told]) -> list[float]:
    """Of each run, the part of one core that the coordinating process used."""
    runs = [e for e in of(found, "run") if e.get("coordinator_s") and e.get("ran_s", 0.0) > 3.0]
    return [each["coordinator_s"] / each["ran_s"] for each in runs]


def simulated_error(each: Told) -> float | None:
    """How far virtual time lay from the bed's, relative to that."""
    return each["seconds"] / each["bed_s"] - 1 if each["seconds"] else None


def named(cell: Cell) -> str:
    """A cell in words.

    >>> named(("small", "4:2:1", 10.0)), named(("large", "8x", None))
    ('small, 4:2:1, 10 Mbit/s', 'large, 8x, unshaped')
    """
    size, skew, mbit = cell
    return f"{size}, {skew}, {f'{mbit:g} Mbit/s' if mbit else 'unshaped'}"


def times(value: float | None) -> str:
    """A ratio to two places.

    >>> times(1.0478), times(31.41), times(None)
    ('1.05', '31.4', '-')
    """
    return ABSENT if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


# -- what was not good ---------------------------------------------------------------------------


def complaints(found: Sequence[Told], num_cores: int) -> list[str]:
    """What the figures themselves have against the claims, and what was not measured."""
    told = [
        *_against_gauntlet(found),
        *_against_twenty(found),
        *_against_promises(found),
        *_against_adapting(found),
        *_against_coordinator(found, num_cores),
        *_against_simulated(found),
        *_failed(found),
    ]
    return [f"* {words}" for words in told] or ["Nothing in the figures."]


def _against_gauntlet(found: Sequence[Told]) -> Iterable[str]:
    told = of_gauntlet(found)
    ratios = [row["over_best"] for row in told if row["over_best"]]
    if len(told) < 12:
        yield f"{len(told)} of 12 cells were measured."
    if ratios and fmean(ratios) > MEAN_CLAIM:
        yield f"The mean over the best fixed, {fmean(ratios):.2f}, is above {MEAN_CLAIM:g}."
    before_s = [e["before_s"] for e in of(found, "run") if e.get("before_s")]
    if before_s:
        yield (
            "Seconds leave out what is measured before the first decision: "
            f"{median(before_s):.1f} s, {max(before_s):.1f} at most."
        )
    for row in told:
        where = named(row["cell"])
        if row["num_late"]:
            late = row["num_late"]
            yield f"{where}: `auto` was given up {late} times, and counts as if it had met then."
        if row["over_best"] and row["over_best"] > WORST_CLAIM:
            yield f"{where}: {row['over_best']:.2f} times {row['best_arm']}, above {WORST_CLAIM:g}."
        if row["over_single"] and row["over_single"] > NOISE:
            yield f"{where}: {row['over_single']:.2f} times the time of the best single device."
        if row["ddp_over"] and row["ddp_over"] * NOISE < 1:
            yield f"{where}: DDP took {row['ddp_over']:.2f} of the time of `auto`."
        if row["auto"] is None:
            yield f"{where}: `auto` failed."
        if row["best_arm"].startswith("none within"):
            yield f"{where}: no fixed strategy came within its limit; the ratio is an upper bound."


def _against_twenty(found: Sequence[Told]) -> Iterable[str]:
    told = [row for row in rows(found) if row["cell"][2] == TWENTY]
    if not told:
        yield "DDP at 20 Mbit/s was not measured."
    for row in told:
        if row["ddp_over"] is None or row["ddp_over"] < DDP_CLAIM:
            yield (
                f"{named(row['cell'])}: DDP ÷ `auto` is {times(row['ddp_over'])}, "
                f"under {DDP_CLAIM:g}."
            )


def _against_promises(found: Sequence[Told]) -> Iterable[str]:
    last = errors(found, "last")
    if len(last) < CELLS_CLAIM:
        yield f"Promises were compared in {len(last)} cells, fewer than {CELLS_CLAIM}."
    for which in ("first", "last"):
        values = [error for _, error in errors(found, which)]
        if values and median(values) > ERROR_CLAIM:
            yield (
                f"The median error of the {which} plans, {median(values):.0%}, is above "
                f"{ERROR_CLAIM:.0%}."
            )
    far = [arm for arm in dict.fromkeys(a for a, _ in last) if _median_of(last, arm) > ERROR_CLAIM]
    for arm in far:
        yield f"{arm}: the median error of the last plans is {_median_of(last, arm):.0%}."


def _median_of(told: Sequence[tuple[str, float]], arm: str) -> float:
    return median(error for name, error in told if name == arm)


def _against_adapting(found: Sequence[Told]) -> Iterable[str]:
    told = of(found, "slowdown")
    if not told:
        yield "A slowdown was not measured."
    for each in told:
        if each["rounds"] is None:
            yield f"Slowdown, {each['arm']}: shares were never near the best of the new speeds."
        elif each["rounds"] > ROUNDS_CLAIM:
            yield (
                f"Slowdown, {each['arm']}: {each['rounds']} rounds ({each['seconds']:.1f} s) until "
                f"shares were near, more than {ROUNDS_CLAIM}."
            )
    changes, num_rounds = share_changes(stationary(found))
    if num_rounds and 100 * changes / num_rounds > CHANGES_CLAIM:
        yield (
            f"{100 * changes / num_rounds:.1f} share changes in 100 stationary rounds, above "
            f"{CHANGES_CLAIM:g}."
        )
    for each in of(found, "links"):
        if each["to"] is None and each["wanted"] != each["from"]:
            yield (
                f"Links, {each['size']}: {each['from']} was kept for {each['watched_s']:.0f} s "
                "on links ten times slower."
            )


def _against_coordinator(found: Sequence[Told], num_cores: int) -> Iterable[str]:
    parts = cpu_parts(found)
    if parts and median(parts) / num_cores > CPU_CLAIM:
        yield f"The coordinator used {median(parts) / num_cores:.1%} of the machine."
    elif parts and median(parts) > CPU_CLAIM:
        yield (
            f"The coordinator used {median(parts):.1%} of one core: under {CPU_CLAIM:.0%} of the "
            "machine, above of a core."
        )
    for each in of(found, "replan"):
        if each["ms"] > REPLAN_CLAIM_MS:
            yield f"A decision, {each['size']}, {each['world']}: {each['ms']:.0f} ms."


def _against_simulated(found: Sequence[Told]) -> Iterable[str]:
    told = of(found, "simulated")
    if not told:
        yield "No run was played in virtual time."
        return
    near = [e for e in told if abs(simulated_error(e) or math.inf) <= SIMULATED_NEAR]
    if len(near) < SIMULATED_CLAIM * len(told):
        yield (
            f"Virtual time was within {SIMULATED_NEAR:.0%} of the bed's in {len(near)} of "
            f"{len(told)} cells."
        )


def _failed(found: Sequence[Told]) -> Iterable[str]:
    for each in found:
        if each.get("failed"):
            words = " ".join(each["failed"].split())[-160:]
            what = each.get("what") or f"{named(cell_of(each))}: {each['arm']}"
            yield f"{what} failed: {words}"
