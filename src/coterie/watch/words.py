"""Words for events: fields read with forgiveness, numbers made readable, a line for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]

BLANK = "–"
MOST_LISTED = 12  # words of a list


def printable(value: object) -> str:
    """A value as text that cannot steer a terminal.

    >>> printable("a\\tb")
    'a b'
    """
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def number_of(event: Event, name: str) -> float | None:
    """A finite number of an event, None where there is none."""
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def numbers_of(event: Event, name: str) -> dict[str, float]:
    """The finite numbers under a field that names several, such as shares or metrics."""
    part = part_of(event, name)
    found = {printable(key): number_of(part, key) for key in part}
    return {key: value for key, value in found.items() if value is not None}


def text_of(event: Event, name: str) -> str:
    """A field as one printable line: what strangers wrote cannot steer a terminal.

    >>> text_of({"text": "out of\\n\\x1b[31mmemory"}, "text")
    'out of  [31mmemory'
    """
    value = event.get(name)
    return "" if value is None else printable(value)


def part_of(event: Event, name: str) -> Event:
    """The fields under a field, none where it holds none."""
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def texts_of(event: Event, name: str) -> list[str]:
    """The values under a field that lists several, each as one printable line."""
    value = event.get(name)
    return [printable(each) for each in value] if isinstance(value, list | tuple) else []


def some(words: Sequence[str], between: str) -> str:
    """Words of a list, the first of them where they are many.

    >>> some(["a", "b"], " "), some([f"pi-{number}" for number in range(40)], ", ")
    ('a b', 'pi-0, pi-1, pi-2 and 37 others')
    """
    if len(words) <= MOST_LISTED:
        return between.join(words)
    return f"{between.join(words[:3])} and {len(words) - 3:,} others"


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would choose.

    >>> duration(0.0214), duration(0.118), duration(12.34), duration(187), duration(7500)
    ('21.4 ms', '118 ms', '12.3 s', '3 min 07 s', '2 h 05 min')
    """
    if seconds is None:
        return BLANK
    if seconds < 0.9995:
        return f"{seconds * 1e3:.{0 if seconds >= 0.09995 else 1}f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def amount(value: float | None) -> str:
    """A count, a rate or a score: four digits, and whole once it is large.

    >>> amount(4210.3), amount(0.97131), amount(None)
    ('4,210', '0.9713', '–')
    """
    if value is None:
        return BLANK
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


@dataclass(frozen=True)
class Happening:
    """An event as a line worth reading: when, what kind of thing, and the words for it."""

    time_s: float
    label: str
    text: str


def happening(event: Event) -> Happening | None:
    """The line of an event, None when it is not worth one or of an unknown kind.

    >>> happening({"kind": "fault", "time_s": 9.0, "member": "pi", "action": "kill"})
    Happening(time_s=9.0, label='fault', text='kill pi')
    """
    kind = text_of(event, "kind")
    text = _WORDS[kind](event) if kind in _WORDS else ""
    label = text_of(event, "state") or kind if kind == "agent" else kind
    return Happening(number_of(event, "time_s") or 0.0, label, text) if text else None


def _run_words(event: Event) -> str:
    agents, batch = event.get("agents"), number_of(event, "batch")
    num = len(agents) if isinstance(agents, list | tuple) else agents
    until = " or ".join(f"{name} {goal:g}" for name, goal in numbers_of(event, "until").items())
    resumed, cores = text_of(event, "resumed_from"), number_of(event, "cores")
    memory = (number_of(event, "memory_bytes") or 0) / 1e9
    parts = (
        text_of(event, "name"),
        f"{num} agents" if num else "",
        f"batch {amount(batch)}" if batch else "",
        f"until {until}" if until else "",
        f"resumed from {resumed}" if resumed else "",
        f"on {amount(cores)} cores and {memory:.3g} GB" if cores else "",
    )
    return ", ".join(part for part in parts if part)


def _agent_words(event: Event) -> str:
    reason, cores = text_of(event, "reason"), number_of(event, "cores")
    held = f" ({amount(cores)} {'core' if cores == 1 else 'cores'})" if cores else ""
    return text_of(event, "member") + held + (f": {reason}" if reason else "")


def _link_words(event: Event) -> str:
    latency_s, rate = number_of(event, "latency_s"), (number_of(event, "bytes_per_s") or 0) / 1e6
    pair = f"{text_of(event, 'a')} to {text_of(event, 'b')}"
    return f"{pair}: {duration(latency_s)}, {amount(rate)} MB/s"


def _decision_words(event: Event) -> str:
    shares, cause = numbers_of(part_of(event, "chosen"), "shares"), text_of(event, "cause")
    words = some([f"{member} {share:g}" for member, share in shares.items() if share], ", ")
    return (words or "no shares") + (f" ({cause})" if cause else "")


def _outcome_words(event: Event) -> str:
    predicted_s, achieved_s = (number_of(event, f"{w}_round_s") for w in ("predicted", "achieved"))
    words = f"{duration(predicted_s)} a round predicted, {duration(achieved_s)} achieved"
    if predicted_s and achieved_s:
        words += f" ({(achieved_s / predicted_s - 1) * 100:+.0f} %)"
    return words


def _checkpoint_words(event: Event) -> str:
    size_mb, took_s = (number_of(event, "num_bytes") or 0) / 1e6, number_of(event, "seconds")
    return f"step {amount(number_of(event, 'step'))}, {size_mb:,.3g} MB in {duration(took_s)}"


_WORDS: Mapping[str, Callable[[Event], str]] = {
    "run": _run_words,
    "agent": _agent_words,
    "measured": lambda e: f"{text_of(e, 'member')} {amount(number_of(e, 'solo_per_s'))} samples/s",
    "link": _link_words,
    "decision": _decision_words,
    "outcome": _outcome_words,
    "term": lambda e: f"{text_of(e, 'number')}: {some(texts_of(e, 'members'), ' ')}",
    "window": lambda e: f"{text_of(e, 'arm')} {amount(number_of(e, 'per_s'))} samples/s",
    "fault": lambda e: f"{text_of(e, 'action')} {text_of(e, 'member')}".strip(),
    "pause": lambda e: f"{text_of(e, 'member')} {duration(number_of(e, 'seconds'))}".strip(),
    "checkpoint": _checkpoint_words,
    "offence": lambda e: f"{text_of(e, 'member')}: {text_of(e, 'reason')}",
    "warning": lambda e: text_of(e, "text"),
    "trust": lambda e: f"{text_of(e, 'member')}: {text_of(e, 'reason')}",
    "trial": lambda e: text_of(e, "text"),
    "placed": lambda e: text_of(e, "text"),
    "said": lambda e: text_of(e, "text"),
    "noise": lambda e: text_of(e, "text"),
    "kept": lambda e: text_of(e, "text"),
    "handover": lambda e: f"{text_of(e, 'text')} ({text_of(e, 'reason')})",
    "quorum": lambda e: text_of(e, "text"),
    "homes": lambda e: f"{text_of(e, 'text')} ({text_of(e, 'cause')})",
    "rehomed": lambda e: (
        f"{text_of(e, 'pupil')} to {text_of(e, 'to')}, from step "
        f"{amount(number_of(e, 'from_steps'))}"
    ),
    "groups": lambda e: some([" ".join(map(str, g)) for g in e.get("groups") or ()], "; "),
    "board_failed": lambda e: f"{text_of(e, 'pupil')} goes on alone: {text_of(e, 'reason')}",
    "doubt": lambda e: text_of(e, "text"),
    "grant": lambda e: text_of(e, "text"),
    "error": lambda e: text_of(e, "text"),
    "stopped": lambda e: text_of(e, "reason") + (", resumable" if e.get("resumable") else ""),
}
