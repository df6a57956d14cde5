"""A run seen from its events alone: its picture, and how its agents have worked of late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coterie.errors import StrategyError
from coterie.sync.reading import parse
from coterie.types import Layout
from coterie.watch.events import follow, read
from coterie.watch.progress import GONE, NUM_DEVICES, Picture, frame
from coterie.watch.words import (
    BLANK,
    Event,
    amount,
    duration,
    number_of,
    part_of,
    text_of,
    texts_of,
)

KEPT = 0.9  # of what an agent did before, when it tells what it has done since
NUM_MARKS = 20  # of the progress, over which rounds are counted: some ten seconds
BEGINS, ENDS = frozenset({"run", "coordinator"}), "stopped"


@dataclass(frozen=True)
class Work:
    """What an agent did of late, the newest counting most.

    >>> Work().after({"num_samples": 90, "compute_s": 0.3, "exchange_s": 0.1}).waiting
    0.25
    """

    num_samples: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0
    paused_s: float = 0.0  # in all, for others that came or went
    num_lost: int = 0  # times that it was taken for dead

    def after(self, event: Event) -> Work:
        """Once it has told of more."""
        done = {
            name: KEPT * getattr(self, name) + (number_of(event, name) or 0.0)
            for name in ("num_samples", "compute_s", "exchange_s")
        }
        return replace(self, **done)

    @property
    def per_s(self) -> float | None:
        """Samples a second, meetings included; None where nothing was told."""
        spent_s = self.compute_s + self.exchange_s
        return self.num_samples / spent_s if spent_s else None

    @property
    def waiting(self) -> float | None:
        """The part of the time in which it met others, or waited for them."""
        spent_s = self.compute_s + self.exchange_s
        return self.exchange_s / spent_s if spent_s else None


@dataclass(frozen=True)
class Board:
    """All that is told of a run under way, folded from the events so far.

    >>> told = [{"kind": "progress", "time_s": s, "round": 5 * s} for s in range(3)]
    >>> board = Board()
    >>> for event in told:
    ...     board = board.after(event)
    >>> board.rounds_per_s
    5.0
    """

    picture: Picture = field(default_factory=Picture)
    works: Mapping[str, Work] = field(default_factory=dict)
    marks: tuple[tuple[float, float], ...] = ()  # seconds, rounds

    def after(self, event: Event) -> Board:
        """The board once `event` has happened; a run event begins a new one."""
        kind = text_of(event, "kind")
        before = Board() if kind == "run" else self
        return Board(
            before.picture.after(event),
            {**before.works, **_worked(before.works, event)},
            (*before.marks, *_mark(event))[-NUM_MARKS:],
        )

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, and nobody has taken it up since."""
        latest = self.picture.latest
        begun = [number_of(latest[kind], "seq") or 0 for kind in BEGINS if kind in latest]
        return ENDS in latest and (number_of(latest[ENDS], "seq") or 0) >= max(begun, default=0)

    @property
    def rounds_per_s(self) -> float | None:
        """Rounds a second of late."""
        if len(self.marks) < 2:
            return None
        (first_s, first), *_, (last_s, last) = self.marks
        return (last - first) / (last_s - first_s) if last_s > first_s else None

    @property
    def message_bytes(self) -> int | None:
        """What an agent sends of its own in a meeting, where the strategy and the model say it."""
        layout = self.picture.last("layout")
        names, shapes = texts_of(layout, "names"), layout.get("shapes") or ()
        strategy = text_of(part_of(self.picture.last("decision"), "chosen"), "strategy")
        try:
            return parse(strategy).num_bytes(Layout(tuple(names), tuple(map(tuple, shapes))))
        except (StrategyError, ValueError, TypeError):
            return None  # not decided yet, or of another version

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        picture, progress = self.picture, self.picture.last("progress")
        agents = {
            name: {
                "state": member.word,
                "share": member.share,
                "alone_per_s": member.solo_per_s,
                "per_s": self.works.get(name, Work()).per_s,
                "waiting": self.works.get(name, Work()).waiting,
                "paused_s": self.works.get(name, Work()).paused_s,
                "lost": self.works.get(name, Work()).num_lost,
            }
            for name, member in picture.members.items()
        }
        return {
            "name": text_of(picture.last("run"), "name"),
            "over": self.is_over,
            "strategy": text_of(part_of(picture.last("decision"), "chosen"), "strategy"),
            "rounds": number_of(progress, "round"),
            "rounds_per_s": self.rounds_per_s,
            "per_s": number_of(progress, "per_s"),
            "loss": number_of(progress, "loss"),
            "fraction": number_of(progress, "fraction"),
            "metrics": dict(picture.metrics),
            "message_bytes": self.message_bytes,
            "agents": agents,
            "events": [f"{told.label}: {told.text}" for told in picture.happenings],
        }


def _worked(works: Mapping[str, Work], event: Event) -> Mapping[str, Work]:
    """What an event says of an agent's work."""
    name = text_of(event, "member")
    before = works.get(name, Work())
    match text_of(event, "kind"), text_of(event, "state"):
        case "work", _:
            return {name: before.after(event)}
        case "pause", _:
            paused_s = before.paused_s + (number_of(event, "seconds") or 0.0)
            return {name: replace(before, paused_s=paused_s)}
        case "agent", "lost" | "suspected":
            return {name: replace(before, num_lost=before.num_lost + 1)}
    return {}


def _mark(event: Event) -> Iterator[tuple[float, float]]:
    time_s, rounds = number_of(event, "time_s"), number_of(event, "round")
    if event.get("kind") == "progress" and time_s is not None and rounds is not None:
        yield time_s, rounds


def drawn(board: Board, width: int) -> RenderableType:
    """The run's own screen, and below it how its agents work, `width` columns wide."""
    if not board.works:
        return frame(board.picture, width)
    return Group(frame(board.picture, width), Text(), meetings(board), Text(), at_work(board))


def meetings(board: Board) -> Text:
    """How often agents meet, and what travels then."""
    words = [
        f"{amount(number_of(board.picture.last('progress'), 'round'))} rounds",
        f"{amount(board.rounds_per_s)} rounds/s",
    ]
    if sent_bytes := board.message_bytes:
        words.append(f"{sent_bytes / 1e6:,.3g} MB from each in a meeting")
    return Text("   ".join(words))


def at_work(board: Board) -> Table:
    """How fast each agent learns, how much of its time it waits, what it has lost."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim"
    )
    table.add_column("at work", no_wrap=True, max_width=20)
    for heading in ("samples/s", "meeting", "paused", "lost"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=9)
    present = [name for name, m in board.picture.members.items() if m.state not in GONE]
    for name in present[:NUM_DEVICES]:
        work = board.works.get(name, Work())
        table.add_row(
            Text(name),
            amount(work.per_s),
            BLANK if work.waiting is None else f"{work.waiting * 100:.0f} %",
            duration(work.paused_s or None),
            amount(work.num_lost) if work.num_lost else BLANK,
        )
    return table


def seen(path: Path) -> Board:
    """The board of all that stands in a log."""
    board = Board()
    for event in read(path):
        board = board.after(event)
    return board


class LiveBoard:
    """Draws a run as it goes on, four times a second; it reads, and touches nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._board = path, Board()

    def watch(self, console: Console) -> None:
        """Until the run is over or Ctrl-C; the last board stays on the terminal."""
        with Live(console=console, get_renderable=lambda: drawn(self._board, console.width)):
            for event in follow(self._path, until=lambda: self._board.is_over):
                self._board = self._board.after(event)
