"""A run told line by line: its events in words, and what everybody in it said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.errors import JobError
from coterie.watch import events
from coterie.watch.board import BEGINS, ENDS
from coterie.watch.progress import Picture, plain_lines
from coterie.watch.said import Ear, Said, speakers
from coterie.watch.words import Event, text_of

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Told:
    """What a run left behind: lines of events, and of those who spoke.

    >>> Told(("    0.0 s  warning     a full disk",), (Said("pi", "it rains"),)).lines()[1]
    'pi: it rains'
    """

    happened: tuple[str, ...]
    said: tuple[Said, ...]

    def lines(self) -> list[str]:
        """All of it, events first."""
        return [*self.happened, *map(str, self.said)]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"events": list(self.happened), "said": [asdict(line) for line in self.said]}


def told(run: Path, who: str | None = None) -> Told:
    """All there is by now; with `who`, what concerns that agent alone."""
    _check(run, who)
    teller = _Teller(who)
    happened = [line for event in events.read(run / EVENTS) for line in teller.lines(event)]
    return Told(tuple(happened), tuple(Ear(run, who).heard()))


def follow(
    run: Path, who: str | None = None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """The same lines as they come, until the run has ended."""
    _check(run, who)
    teller, ear = _Teller(who), Ear(run, who)
    heard: list[Said] = []

    def listen(seconds: float) -> None:
        heard.extend(ear.heard())
        sleep(seconds)

    for event in events.follow(run / EVENTS, lambda: teller.is_over, listen):
        yield from map(str, heard)
        heard.clear()
        yield from teller.lines(event)
    yield from map(str, [*heard, *ear.heard()])


class _Teller:
    """Puts events into words, one after the other."""

    def __init__(self, who: str | None) -> None:
        self._who, self._picture = who, Picture()
        self.is_over = False

    def lines(self, event: Event) -> list[str]:
        """The lines of the next event; none where it concerns somebody else."""
        kind = text_of(event, "kind")
        self.is_over = kind == ENDS or (self.is_over and kind not in BEGINS)
        self._picture = self._picture.after(event)
        if self._who not in (None, text_of(event, "member")):
            return []
        return plain_lines(self._picture, event)


def _check(run: Path, who: str | None) -> None:
    """Raises JobError for somebody who is not in the run."""
    members = {text_of(event, "member") for event in events.read(run / EVENTS)} - {""}
    known = sorted(members | set(speakers(run)))
    if who is not None and who not in known:
        raise JobError(
            f"expected the name of an agent of {run.name}, found {who!r}; "
            f"known are {', '.join(known) or 'none yet'}"
        )
