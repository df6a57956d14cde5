"""The page of the benchmark of sharing, from the numbers that it kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.knowledge_claims import claim_lines, shares_of_fusion
from benchmarks.knowledge_sums import Curve, gain, sooner, tuned, worst_gain
from benchmarks.sync_page import spread, under_headings

Told = Mapping[str, Any]
Measured = Sequence[Told]


def page(told: Told) -> str:
    """The results in Markdown."""
    facts, found = told["about"], told["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['date']}; {facts['machine']}, load {spread(each['load'] for each in found)}; "
        f"Python {facts['python']}, {versions}. Figures are medians over seeds (least, most); "
        "accuracies are the best mean over tasks along a curve, for every arm alike, and gains are "
        "points of it over learners alone at the better of two rates; *fast* is Adam at 3e-3, else "
        "1e-3. Time is CPU seconds of all agents together, without looks at test images.",
    ]
    sections: Sequence[tuple[str, Callable[[Measured], Sequence[str]]]] = (
        ("What was asked, and what was found", claim_lines),
        ("Different label spaces: eight alphabets", alphabet_lines),
        ("The same with softmax heads", softmax_lines),
        ("Kin with few labels, by each currency", kin_lines),
        ("Kin of different architectures", width_lines),
        ("Two kinds under one output layer", mixed_lines),
        ("Who is kin, found after 30 steps", grouping_lines),
        ("Nothing in common: what a gate keeps out", unrelated_lines),
        ("Two camps that want the opposite", opposed_lines),
        ("One who lies among five", hostile_lines),
        ("Gradients reconciled by a law", law_lines),
        ("One process and two", process_lines),
        ("Unequal agents that share", speed_lines),
    )
    return "\n".join([*lines, *under_headings(sections, found)])


# -- what was found ------------------------------------------------------------------------------


def of(found: Measured, part: str) -> list[Told]:
    """The outcomes of a part, one for each seed."""
    return [each for each in found if each["part"] == part]


def curves(each: Told) -> dict[str, Curve]:
    """The arms of one outcome."""
    return {name: Curve.read(told) for name, told in each["curves"].items()}


def against(
    found: Measured, arm: str, sum_of: Callable[[Curve, Curve], Any], base: str = ""
) -> list[Any]:
    """A sum of an arm and of learners alone (or of a named arm), for each seed."""
    pairs = [(arms[arm], arms[base] if base else tuned(arms)) for arms in map(curves, found)]
    return [sum_of(ours, alone) for ours, alone in pairs]


def part_of(values: Iterable[tuple[float, float] | None], place: int) -> list[float | None]:
    """Ratios of steps (0) or of CPU seconds (1)."""
    return [None if value is None else value[place] for value in values]


def arm_table(found: Measured, arms: Sequence[str], base: str = "") -> list[str]:
    """One row for each arm: how good, how much better, how soon, for how many bytes."""
    if not found:
        return []
    lines = [
        "| arm | accuracy | gain, points | task that gained least | time to the best of those "
        "alone: CPU, steps | to 99 % of it: CPU, steps | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        there = [each for each in found if arm in each["curves"]]
        if not there:
            continue
        best = spread(100 * curves(each)[arm].best() for each in there)
        cells = [arm, best]
        if arm.startswith("alone") or arm == base:
            cells += ["", "", "", "", ""]
        else:
            whole, nearly = (
                against(there, arm, lambda a, b, part=part: sooner(a, b, part), base)
                for part in (1.0, 0.99)
            )
            cells += [
                spread(against(there, arm, gain, base)),
                spread(against(there, arm, worst_gain, base)),
                ", ".join(spread(part_of(whole, place)) for place in (1, 0)),
                ", ".join(spread(part_of(nearly, place)) for place in (1, 0)),
                spread(curves(each)[arm].num_bytes / 1e6 for each in there),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"Seeds: {len(found)}."]


def alphabet_lines(found: Measured) -> list[str]:
    """Alone at two rates, the trunk, and fusion."""
    here = of(found, "alphabets")
    lines = arm_table(here, ("alone", "alone, fast", "trunk", "trunk, fast", "fusion, fast"))
    if not here:
        return []
    names = ("Balinese", "Aramaic", "Greek", "Katakana", "Korean", "Latin", "Sanskrit", "Tagalog")
    lines += ["", f"| gain, points | {' | '.join(names)} |", "|---" * 9 + "|"]
    for arm in ("trunk", "fusion"):
        each = zip(
            *(
                [
                    100 * (a - b)
                    for a, b in zip(tuned(arms, arm).peak(), tuned(arms).peak(), strict=True)
                ]
                for arms in map(curves, here)
            ),
            strict=True,
        )
        lines.append(f"| {arm} | {' | '.join(f'{median(gains):+.1f}' for gains in each)} |")
    return lines


def softmax_lines(found: Measured) -> list[str]:
    """Alone and on one trunk."""
    return arm_table(of(found, "softmax"), ("alone", "trunk"))


def kin_lines(found: Measured) -> list[str]:
    """Three currencies."""
    return arm_table(
        of(found, "kin"), ("alone", "alone, fast", "fusion, fast", "prototypes", "labels")
    )


def width_lines(found: Measured) -> list[str]:
    """Two currencies that need no common architecture, beside the fusion of those who have one."""
    lines = arm_table(of(found, "widths"), ("alone", "prototypes", "labels"))
    parts = shares_of_fusion(found)
    if parts:
        lines += [
            "",
            "Of the gain and of the bytes of fusion among agents of one architecture, on the same "
            "images:",
            "",
            "| currency | of the gain | of the bytes |",
            "|---|---|---|",
            *(
                f"| {name} | {spread(part.gain for part in told)} "
                f"| {spread(part.num_bytes for part in told)} |"
                for name, told in parts.items()
            ),
        ]
    return lines


def mixed_lines(found: Measured) -> list[str]:
    """All fused, and groups fused."""
    return arm_table(of(found, "mixed"), ("alone", "alone, fast", "all, fast", "groups, fast"))


def grouping_lines(found: Measured) -> list[str]:
    """How often each way to measure kinship found the groups."""
    here = of(found, "grouping")
    if not here:
        return []
    lines = ["| measured by | groups exactly right | pairs rightly placed |", "|---|---|---|"]
    for way in here[0]["ways"]:
        told = [each["ways"][way] for each in here]
        exact = f"{sum(each['exact'] for each in told)} of {len(told)}"
        lines.append(f"| {way} | {exact} | {spread(each['pairs'] for each in told)} |")
    return lines


def unrelated_lines(found: Measured) -> list[str]:
    """Each currency without a gate and with one."""
    names = ("fusion", "prototypes", "labels")
    arms = [name + gate for name in names for gate in ("", ", gate")]
    return arm_table(of(found, "unrelated"), ("alone", "alone, all images", *arms), "alone")


def opposed_lines(found: Measured) -> list[str]:
    """Losses in the end."""
    here = of(found, "opposed")
    if not here:
        return []
    lines = [
        "| arm | loss in the end, on what they learn from | on images of the test | accuracy |",
        "|---|---|---|---|",
    ]
    for arm in ("alone", "all", "kin"):
        own, tested = (spread(each[of][arm] for each in here) for of in ("own_losses", "losses"))
        correct = spread(100 * last(each, arm) for each in here)
        lines.append(f"| {arm} | {own} | {tested} | {correct} |")
    return [*lines, "", f"Seeds: {len(here)}."]


def last(each: Told, arm: str) -> float:
    """The accuracy in the end, not at its best."""
    return curves(each)[arm].means()[-1]


def hostile_lines(found: Measured) -> list[str]:
    """Accuracy in the end, and what a liar costs."""
    here = of(found, "hostile")
    if not here:
        return []
    lines = ["| arm | accuracy in the end | less than where nobody lies |", "|---|---|---|"]
    for arm in here[0]["curves"]:
        cost = spread(100 * (last(each, "nobody lies") - last(each, arm)) for each in here)
        lines.append(f"| {arm} | {spread(100 * last(each, arm) for each in here)} | {cost} |")
    return [*lines, "", f"Seeds: {len(here)}."]


def law_lines(found: Measured) -> list[str]:
    """Accuracy and cost of each law beside the mean of the same rows."""
    here = of(found, "laws")
    if not here:
        return []
    lines = [
        "| law | accuracy | gain over the mean, points | CPU over the mean |",
        "|---|---|---|---|",
    ]
    for arm in here[0]["curves"]:
        costs = spread(curves(e)[arm].cpu_s[-1] / curves(e)["mean"].cpu_s[-1] for e in here)
        gains = spread(against(here, arm, gain, "mean"))
        best = spread(100 * curves(each)[arm].best() for each in here)
        lines.append(f"| {arm} | {best} | {gains} | {costs} |")
    return [*lines, "", f"Seeds: {len(here)}."]


def process_lines(found: Measured) -> list[str]:
    """Seconds of the wall and accuracy of both."""
    here = of(found, "processes")
    if not here:
        return []
    lines = ["| processes | seconds of the wall | accuracy in the end |", "|---|---|---|"]
    for number in ("1", "2"):
        runs = [each["runs"][number] for each in here]
        right = spread(100 * run["accuracy"] for run in runs)
        lines.append(f"| {number} | {spread(run['seconds'] for run in runs)} | {right} |")
    return [*lines, "", f"Seeds: {len(here)}."]


def speed_lines(found: Measured) -> list[str]:
    """Steps a second of agents of 4 : 2 : 1, sharing and not."""
    here = of(found, "speeds")
    if not here:
        return []
    lines = ["| agents of 4 : 2 : 1 | steps of all learners a second |", "|---|---|"]
    for arm in sorted(here[0]["runs"]):
        told = spread(each["runs"][arm]["steps"] / each["runs"][arm]["seconds"] for each in here)
        lines.append(f"| {arm} | {told} |")
    return [*lines, "", f"Seeds: {len(here)}."]
