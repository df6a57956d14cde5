"""The end of a run, in a few rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coterie.watch.words import (
    Event,
    amount,
    duration,
    number_of,
    numbers_of,
    some,
    text_of,
    texts_of,
)


def summary_rows(summary: Event) -> list[tuple[str, str]]:
    """The end of a run as (heading, words), without what it does not tell.

    >>> summary_rows({"seconds": 12, "metrics": {"accuracy": 0.971}, "kills_survived": 1})
    [('result', 'accuracy 0.971, after 12.0 s'), ('failures', '1 killed and survived')]
    """
    scores = {"accuracy": number_of(summary, "accuracy"), **numbers_of(summary, "metrics")}
    told = {n: _ENDINGS[n](v) for n in _ENDINGS if (v := number_of(summary, n)) is not None}
    failures = ("kills_survived", "rejoined", "samples_lost", "samples_repeated", "pause_s")
    lessons = ("handed_over", "lessons_taken", "lessons_refused")
    sent_bytes = numbers_of(summary, "published_bytes")
    rows = {
        "result": [f"{k} {amount(v)}" for k, v in scores.items() if v is not None]
        + [told.get("seconds", "")],
        "lessons": [told.get(name, "") for name in lessons]
        + [f"{amount(num / 1e6)} MB in {currency}" for currency, num in sent_bytes.items()],
        "speed": [told.get("ideal_fraction", ""), told.get("vs_equal", "")],
        "failures": [told.get(name, "") for name in failures],
        "shares": [some([f"{m} {n:g}" for m, n in numbers_of(summary, "shares").items()], ", ")],
        "strategy": [text_of(summary, "strategy")],
        "because": [" ".join(texts_of(summary, "reasons"))],
        "checkpoint": [text_of(summary, "checkpoint")],
        "folder": [text_of(summary, "folder")],
    }
    words = {heading: ", ".join(filter(None, parts)) for heading, parts in rows.items()}
    return [(heading, line) for heading, line in words.items() if line]


_ENDINGS: Mapping[str, Callable[[float], str]] = {
    "seconds": lambda n: f"after {duration(n)}",
    "ideal_fraction": lambda n: f"{n * 100:.0f} % of all devices' speeds added up",
    "vs_equal": lambda n: f"{n:.2f}× equal shares",
    "kills_survived": lambda n: f"{amount(n)} killed and survived",
    "handed_over": lambda n: f"{amount(n)} learners went on on another agent" if n else "",
    "lessons_taken": lambda n: f"{amount(n)} taken",
    "lessons_refused": lambda n: f"{amount(n)} refused",
    "rejoined": lambda n: f"{amount(n)} rejoined",
    "samples_lost": lambda n: f"{amount(n)} samples lost",
    "samples_repeated": lambda n: f"{amount(n)} repeated",
    "pause_s": lambda n: f"{duration(n)} paused",
}
