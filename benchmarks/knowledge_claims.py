"""What was asked of sharing, beside what was found: one row for each claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any

from benchmarks.knowledge_sums import Curve, gain, sooner, tuned, worst_gain
from benchmarks.sync_page import spread

Told = Mapping[str, Any]
Measured = Sequence[Told]
Values = list[float | None]
NEVER = float("inf")  # time to what was never reached


@dataclass(frozen=True)
class Claim:
    """A number for each seed of a part, and where its median should lie."""

    words: str
    part: str
    value: Callable[[Told], float | None]
    asked: float
    at_least: bool = True

    def line(self, found: Measured) -> str | None:
        """A row of the table; None where nothing was measured."""
        told = [self.value(each) for each in found if each["part"] == self.part]
        known = [NEVER if value is None else value for value in told]
        if not known:
            return None
        holds = sum(self.holds(value) for value in known)
        sign = "≥" if self.at_least else "≤"
        verdict = "yes" if self.holds(median(known)) else "**no**"
        return (
            f"| {self.words} | {sign} {self.asked:g} | {spread(told)} | {verdict} | "
            f"{holds} of {len(known)} |"
        )

    def holds(self, value: float) -> bool:
        """Whether one number is as was asked.

        >>> Claim("gain", "kin", lambda each: None, 1.0).holds(1.5)
        True
        """
        return value >= self.asked if self.at_least else value <= self.asked


def curve(each: Told, arm: str) -> Curve:
    """An arm of an outcome, at the better of the rates that were tried."""
    return tuned({name: Curve.read(told) for name, told in each["curves"].items()}, arm)


def over_all(losses: str, each: Told) -> float:
    """The loss of those who listen to kin, over that of those who average all."""
    return float(each[losses]["kin"] / each[losses]["all"])


def per_s(run: Told) -> float:
    """Steps of all learners in a second of the wall."""
    return float(run["steps"] / run["seconds"])


def gained(arm: str, each: Told) -> float:
    """Points over learners alone."""
    return gain(curve(each, arm), curve(each, "alone"))


def least(arm: str, each: Told) -> float:
    """Points of the task that gained least."""
    return worst_gain(curve(each, arm), curve(each, "alone"))


def soon(arm: str, place: int, each: Told) -> float | None:
    """Time to the best of learners alone over their own, in steps (0) or CPU seconds (1)."""
    found = sooner(curve(each, arm), curve(each, "alone"), 1.0)
    return None if found is None else found[place]


def lost(arm: str, each: Told) -> float:
    """Points below learners alone on the same images."""
    return -gain(curve(each, arm), curve(each, "alone"))


def last(arm: str, each: Told) -> float:
    """The accuracy in the end, in points."""
    return 100 * curve(each, arm).means()[-1]


def dearer(each: Told) -> float:
    """CPU seconds of the dearest law over those of the mean of the same rows."""
    costs = [told["cpu_s"][-1] for name, told in each["curves"].items() if name != "mean"]
    return max(costs) / curve(each, "mean").cpu_s[-1]


CLAIMS = (
    *(
        claim
        for name, soonest in (("trunk", 0.3), ("fusion", 0.5))
        for claim in (
            Claim(
                f"alphabets, {name}: points over tuned learners alone",
                "alphabets",
                partial(gained, name),
                12.0,
            ),
            Claim(
                f"alphabets, {name}: points of the task that gained least",
                "alphabets",
                partial(least, name),
                0.0,
            ),
            Claim(
                f"alphabets, {name}: CPU time to the best of those alone, over theirs",
                "alphabets",
                partial(soon, name, 1),
                soonest,
                False,
            ),
            Claim(
                f"alphabets, {name}: the same in steps",
                "alphabets",
                partial(soon, name, 0),
                soonest,
                False,
            ),
        )
    ),
    Claim("two kinds, groups that are found: points", "mixed", partial(gained, "groups"), 6.0),
    Claim(
        "two kinds, all fused: points, which should be lost",
        "mixed",
        partial(gained, "all"),
        0.0,
        False,
    ),
    *(
        Claim(f"kin, {name}: points", "kin", partial(gained, name), 0.0)
        for name in ("fusion", "prototypes", "labels")
    ),
    *(
        Claim(
            f"nothing in common, {name} with the gate: points lost",
            "unrelated",
            partial(lost, f"{name}, gate"),
            0.5,
            False,
        )
        for name in ("fusion", "prototypes", "labels")
    ),
    *(
        Claim(
            f"two camps: loss of kin over that of all averaged, on {where}",
            "opposed",
            partial(over_all, of),
            0.1,
            False,
        )
        for of, where in (("own_losses", "what they learn from"), ("losses", "images of the test"))
    ),
    Claim(
        "one liar among five, with the gate: points lost in the end",
        "hostile",
        lambda each: last("nobody lies", each) - last("gate", each),
        1.0,
        False,
    ),
    Claim(
        "two processes: seconds of one over those of two",
        "processes",
        lambda each: each["runs"]["1"]["seconds"] / each["runs"]["2"]["seconds"],
        1.6,
    ),
    Claim(
        "two processes: points of accuracy less than one",
        "processes",
        lambda each: 100 * (each["runs"]["1"]["accuracy"] - each["runs"]["2"]["accuracy"]),
        0.5,
        False,
    ),
    Claim(
        "agents of 4 : 2 : 1: steps a second while they share, over those without",
        "speeds",
        lambda each: per_s(each["runs"]["sharing"]) / per_s(each["runs"]["alone"]),
        0.85,
    ),
    Claim("laws: CPU seconds over the mean of the same rows", "laws", dearer, 1.2, False),
)


@dataclass(frozen=True)
class Part:
    """What a currency reached of what another one reached."""

    gain: float
    num_bytes: float


def shares_of_fusion(found: Measured) -> dict[str, list[Part]]:
    """Of the gain and the bytes of fusion in `kin`, what currencies reach in `widths`.

    The gain of fusion is its mean over seeds: that of one seed is little to divide by.
    """
    fused = [each for each in found if each["part"] == "kin"]
    parts: dict[str, list[Part]] = {}
    for each in found:
        if each["part"] == "widths" and fused:
            whole = fmean(gained("fusion", other) for other in fused)
            num_bytes = curve(fused[0], "fusion").num_bytes
            for name in ("prototypes", "labels"):
                told = Part(gained(name, each) / whole, curve(each, name).num_bytes / num_bytes)
                parts.setdefault(name, []).append(told)
    return parts


def claim_lines(found: Measured) -> list[str]:
    """Every claim of which something was measured."""
    lines = [line for claim in CLAIMS if (line := claim.line(found))]
    for name, parts in shares_of_fusion(found).items():
        if name == "prototypes":
            lines.append(compared("gain", [part.gain for part in parts], 0.4, True))
            lines.append(compared("bytes", [part.num_bytes for part in parts], 0.02, False))
    groupings = [each for each in found if each["part"] == "grouping"]
    if groupings:
        exact = fmean(each["ways"]["cross-loss"]["exact"] for each in groupings)
        verdict = "yes" if exact >= 0.9 else "**no**"
        num = round(exact * len(groupings))
        words = "two kinds: groups found by cross-loss are the true ones, part of seeds"
        lines.append(f"| {words} | ≥ 0.9 | {exact:.3g} | {verdict} | {num} of {len(groupings)} |")
    if not lines:
        return []
    return [
        "| claim | asked | found | holds | seeds in which it does |",
        "|---|---|---|---|---|",
        *lines,
    ]


def compared(what: str, values: Sequence[float], asked: float, at_least: bool) -> str:
    """A row of what prototypes among architectures reach of fusion."""
    words = f"five architectures, prototypes: of the {what} of fusion among equals"
    claim = Claim(words, "", float, asked, at_least)
    holds = sum(claim.holds(value) for value in values)
    verdict = "yes" if claim.holds(median(values)) else "**no**"
    sign = "≥" if at_least else "≤"
    return (
        f"| {words} | {sign} {asked:g} | {spread(values)} | {verdict} | {holds} of {len(values)} |"
    )
