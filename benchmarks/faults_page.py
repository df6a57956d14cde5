"""The page of the fault benchmark, from the numbers that it kept."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib import metadata
from statistics import median
from typing import Any

from benchmarks.sync_page import spread, under_headings

PAUSE_CLAIM_S = 0.5
WARM_CLAIM_S = 2.0
GOODPUT_CLAIM = 0.95
WORDS = {
    "kills": "ours",
    "torchft_manager": "torchft, `Manager.allreduce`",
    "torchft_ddp": "torchft, its DDP wrapper",
    "torchrun_ddp": "torchrun, DDP",
}
PEERS = tuple(WORDS)[1:]

Told = Mapping[str, Any]


def about(peers_python: str) -> dict[str, Any]:
    """What was measured, on what, when."""
    ask = "import importlib.metadata as m; print(m.version('torchft'), m.version('torch'))"
    asked = subprocess.run([peers_python, "-c", ask], capture_output=True, text=True, check=False)
    theirs = asked.stdout.split() if asked.returncode == 0 else ["none", "none"]
    return {
        "date": f"{date.today()}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "pyzmq": metadata.version("pyzmq"),
            "torchft": theirs[0],
            "torch of the peers": theirs[1],
        },
    }


def page(told: Told) -> str:
    """The results in Markdown."""
    facts, found = told["about"], told["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    loads = spread(each["load"] for each in found)
    lines = [
        f"{facts['date']}; {facts['machine']}, load {loads}; {versions}; "
        f"{facts.get('minutes', 0):g} minutes. Figures are medians (least, most).",
    ]
    sections: Sequence[tuple[str, Callable[[Sequence[Told]], list[str]]]] = (
        ("Kill -9 of an agent", kill_lines),
        ("The same budget of steps, with kills and without", budget_lines),
        ("A replacement, with a warm spare and without", spare_lines),
        ("Kill -9 of the coordinating process", coordinator_lines),
        ("Silence: a cut link, a stopped agent", silence_lines),
        ("Goodput", goodput_lines),
        ("Heartbeats on full links", heartbeat_lines),
    )
    lines += under_headings(sections, found)
    return "\n".join([*lines, "", "## What was not good", "", *complaints(found)])


def of(found: Iterable[Told], part: str, **fields: Any) -> list[Told]:
    """The outcomes of a part, of those with these fields."""
    return [
        each
        for each in found
        if each.get("part") == part and all(each.get(key) == v for key, v in fields.items())
    ]


def flat(found: Iterable[Told], key: str) -> list[float]:
    """All numbers that outcomes list under a key."""
    return [value for each in found for value in each.get(key) or ()]


def counted(found: Sequence[Told]) -> str:
    """How many were survived.

    >>> counted([{"survived": True}, {"survived": False}])
    '1 of 2'
    """
    return f"{sum(bool(each.get('survived')) for each in found)} of {len(found)}"


def tails(values: Sequence[float]) -> str:
    """Median, ninth of ten, and most.

    >>> tails([float(value) for value in range(1, 12)])
    '6, 10, 11'
    """
    if not values:
        return "-"
    ordered = sorted(values)
    ninth = ordered[min(len(ordered) - 1, math.ceil(0.9 * len(ordered)) - 1)]
    return ", ".join(f"{value:.3g}" for value in (median(ordered), ninth, ordered[-1]))


def kill_lines(found: Sequence[Told]) -> list[str]:
    """One row per arm."""
    arms = {"kills": of(found, "kills")}
    arms |= {peer: [e for e in of(found, "peers", arm=peer) if "survived" in e] for peer in PEERS}
    if not any(arms.values()):
        return []
    lines = [
        "| arm | survived | pause of survivors, s: median, 9 of 10, most | pause as the dead one's "
        "place is filled, s | back at work after, s | survivors' steps dropped / repeated, "
        "a kill | shares of steps that nobody learned, a kill |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, kills in arms.items():
        good = [each for each in kills if each["survived"]]
        if not kills:
            continue
        vain = [0.0] * len(good) if arm == "kills" else [e["dropped"] / 2 for e in good]
        again = [0.0] * len(good) if arm == "kills" else [e["repeated"] / 2 for e in good]
        unseen = [0.0] * len(good) if arm == "kills" else [e["never_learned"] for e in good]
        columns = (
            counted(kills),
            tails(flat(good, "pauses_s")),
            spread(flat(good, "rejoin_gaps_s")),
            spread(each["back_s"] for each in good),
            f"{spread(vain)} / {spread(again)}",
            spread(unseen),
        )
        lines.append(f"| {WORDS[arm]} | {' | '.join(columns)} |")
    ours = arms["kills"]
    return [*lines, "", *moments(arms), *(ours_lines(found, ours) if ours else [])]


def moments(arms: Mapping[str, Sequence[Told]]) -> list[str]:
    """At what the victims were, and what came of it."""
    lines = ["What the victim was at, and survived of how many:"]
    for arm, kills in arms.items():
        states = Counter(each["victim_was"] for each in kills)
        told = [
            f"{state} {counted([e for e in kills if e['victim_was'] == state])}"
            for state in sorted(states)
        ]
        meeting = [e for e in kills if "waiting" in [e["victim_was"], *e["others_were"]]]
        if told:
            lines.append(
                f"- {WORDS[arm]}: {', '.join(told)}; somebody in a meeting: {counted(meeting)}."
            )
    return [*lines, ""]


def ours_lines(found: Sequence[Told], kills: Sequence[Told]) -> list[str]:
    """What only ours can tell: of samples, and two ways to know a pause."""
    runs = of(found, "run", arm="kills")
    done = [run for run in runs if run["code"] == 0]
    lost = sum(run["lost"] + run["recount"]["lost"] for run in done)
    again = sum(run["repeated"] + run["recount"]["repeated"] for run in done)
    epochs = sum(run["recount"]["epochs"] for run in done)
    return [
        f"Of {len(runs)} runs with kills {len(done)} ended well. Samples lost {lost}, repeated "
        f"{again}, by the log's audit and by a count of our own, over {epochs} whole data epochs. "
        f"Members that differed: {sum(run['disagreements'] for run in done)} times. A death was "
        f"noticed after {spread(each['noticed_s'] for each in kills)} s. Survivors told their "
        f"pause themselves; {sum(each['untold'] for each in kills)} of "
        f"{2 * len(kills)} told none. By the times of their words, which lie a quarter of a second "
        f"apart, it was {tails(flat(kills, 'gaps_s'))} s. Spares were warm at "
        f"{sum(bool(each['warm_spare']) for each in kills)} of {len(kills)} kills.",
    ]


def budget_lines(found: Sequence[Told]) -> list[str]:
    """Held-out loss and time of runs with and without kills."""
    runs = [run for run in of(found, "run") if run["code"] == 0]
    if not runs:
        return []
    lines = [
        "| runs | number | held-out loss at the end | likelihood | seconds a step |",
        "|---|---|---|---|---|",
    ]
    for arm, words in (("kills", "with kills"), ("free", "without")):
        here = [run for run in runs if run["arm"] == arm]
        keys = ("test_loss", "likelihood", "step_s")
        columns = " | ".join(spread(run[key] for run in here) for key in keys)
        lines.append(f"| {words} | {len(here)} | {columns} |")
    return lines


def spare_lines(found: Sequence[Told]) -> list[str]:
    """How long until a replacement's first commit."""
    lines = [
        "| spares | back at work | back as a member after, s | first commit after, s |",
        "|---|---|---|---|",
    ]
    for spares in (1, 0):
        here = of(found, "spare", spares=spares)
        here = [each for each in here if not spares or each.get("warm_spare")]
        back = [each for each in here if each.get("back_s") is not None]
        if here:
            name = "one, warm" if spares else "none"
            rejoined, first = (spread(e[key] for e in back) for key in ("rejoined_s", "back_s"))
            lines.append(f"| {name} | {len(back)} of {len(here)} | {rejoined} | {first} |")
    return lines if len(lines) > 2 else []


def coordinator_lines(found: Sequence[Told]) -> list[str]:
    """What became of runs whose coordinator was killed."""
    kills, runs = of(found, "coordinator"), of(found, "coordinator run")
    if not kills:
        return []
    good = [each for each in kills if each["survived"]]
    lost = sum(run["lost"] + run["recount"]["lost"] for run in runs)
    again = sum(run["repeated"] + run["recount"]["repeated"] for run in runs)
    return [
        f"Survived {counted(kills)}; with the same agents "
        f"{sum(each['same_agents'] for each in good)}. Another coordinator spoke after "
        f"{spread(each['returned_s'] for each in good)} s, and all had committed again after "
        f"{spread(each['back_s'] for each in good)} s. Pause as members tell it: "
        f"{tails(flat(good, 'pauses_s'))} s (median, 9 of 10, most); silence in the log, in whose "
        f"first part they go on unheard: {tails(flat(good, 'gaps_s'))} s. Samples lost {lost}, "
        f"repeated {again}.",
    ]


def silence_lines(found: Sequence[Told]) -> list[str]:
    """From the end of a silence until its host is back at work."""
    lines = [
        "| fault | back by itself | suspected after, s | pause of the others, s | member again "
        "after its end, s | first commit after its end, s | the same process |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("cut", "stop"):
        here = of(found, "silence", kind=kind)
        if not here:
            continue
        columns = (
            counted(here),
            spread(each["suspected_s"] for each in here),
            spread(flat(here, "pauses_s")),
            spread(each["rejoined_s"] for each in here),
            spread(each["back_s"] for each in here),
            f"{sum(each['same_process'] for each in here)} of {len(here)}",
        )
        lines.append(f"| {kind}, {here[0]['seconds']:g} s | {' | '.join(columns)} |")
    for run in of(found, "silence run"):
        lines += ["", f"Samples lost {run['lost']}, repeated {run['repeated']}."]
    return lines if len(lines) > 2 else []


def goodput_lines(found: Sequence[Told]) -> list[str]:
    """Samples a second under faults over those without."""
    lines: list[str] = []
    for run in of(found, "goodput"):
        if "failed" in run:
            continue
        kinds = Counter(fault["kind"] for fault in run["faults"])
        told = ", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items()))
        before, after = run["free_each_per_s"]
        lines += [
            f"{told} in {run['seconds'] / 60:.1f} minutes. Without faults {run['free_per_s']:.0f} "
            f"samples/s ({before:.0f} before, {after:.0f} after); under faults "
            f"{run['gross']:.1%} of that. Members were away for "
            f"{1 - run['capacity']:.1%} of all member-seconds ({spread(run['away_s'])} s a time): "
            f"net of that, goodput is {run['net']:.1%}. Samples lost {run['lost']}, repeated "
            f"{run['repeated']}. The run {'went on' if run['alive'] else 'had ended'}.",
        ]
    return lines


def heartbeat_lines(found: Sequence[Told]) -> list[str]:
    """Whether full links made anybody seem dead."""
    return [
        f"{run['seconds']:.0f} s, {len(run['members'])} members, {run['rounds']} rounds of "
        f"{run['round_s']:.1f} s, {run['mbit']:.1f} Mbit/s sent by a host, links full in "
        f"{run['full_seconds']} seconds: {run['states']['suspected']} suspicions, "
        f"{run['states']['lost']} losses."
        for run in of(found, "heartbeats")
        if "failed" not in run
    ]


# -- what was not good ---------------------------------------------------------------------------


def complaints(found: Sequence[Told]) -> list[str]:
    """What the figures themselves have against the claims."""
    lines = [
        *(f"- {each['part']}: {each['failed']}." for each in found if "failed" in each),
        *kill_complaints(found),
        *other_complaints(found),
    ]
    return lines or ["Nothing in the figures."]


def kill_complaints(found: Sequence[Told]) -> list[str]:
    """Of kills, spares and the coordinator."""
    kills, lines = of(found, "kills"), []
    for part in ("kills", "coordinator", "silence"):
        if dead := [each for each in of(found, part) if not each["survived"]]:
            lines.append(f"- {part}: {len(dead)} of ours were not survived.")
    long = [pause for pause in flat(kills, "pauses_s") if pause > PAUSE_CLAIM_S]
    if long:
        lines.append(
            f"- {len(long)} of {len(flat(kills, 'pauses_s'))} pauses were longer than "
            f"{PAUSE_CLAIM_S:g} s."
        )
    runs = [*of(found, "run", arm="kills"), *of(found, "silence run"), *of(found, "goodput")]
    if differed := sum(run.get("disagreements", 0) for run in runs):
        lines.append(f"- Members of ours differed {differed} times, and met anew.")
    asked = sum(run.get("asked", 0) for run in of(found, "run"))
    if asked > len(kills):
        lines.append(f"- {asked - len(kills)} of {asked} kills did not fall within their runs.")
    over = [each for each in kills if each["survived"] and each["back_s"] is None]
    if over:
        lines.append(f"- {len(over)} replacements were not back before their run was over.")
    slow = [e for e in of(found, "spare", spares=1) if (e.get("back_s") or 99.0) > WARM_CLAIM_S]
    if slow:
        lines.append(f"- {len(slow)} replacements took longer than {WARM_CLAIM_S:g} s.")
    return lines


def other_complaints(found: Sequence[Told]) -> list[str]:
    """Of what is left."""
    lines = [
        f"- Goodput is below {GOODPUT_CLAIM:.0%}."
        for run in of(found, "goodput")
        if run.get("net", 1.0) < GOODPUT_CLAIM
    ]
    lines += [
        f"- Goodput, net, is {run['net']:.0%}: what is without faults is not known well enough, or "
        "members that are left have more of the machine."
        for run in of(found, "goodput")
        if run.get("net", 1.0) > 1.0
    ]
    for run in of(found, "heartbeats"):
        states = run.get("states", {})
        if states.get("suspected") or states.get("lost"):
            lines.append("- Somebody was taken for dead on a full link.")
        if len(run.get("members", ())) < 2:
            lines.append(
                "- Of the full links, the plan had one host learn alone: nothing is shown."
            )
    dead = [each for each in of(found, "peers") if each.get("survived") is False]
    for words in sorted({f"{WORDS[each['arm']]}: {each['why']}" for each in dead}):
        lines.append(f"- A peer that did not survive: {words}.")
    return lines
