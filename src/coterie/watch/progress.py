"""A run on a screen: one pure picture of what its events say, drawn live or told line by line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Protocol

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coterie.watch.ending import summary_rows
from coterie.watch.pupils import pupils_table
from coterie.watch.words import (
    BLANK,
    Event,
    Happening,
    amount,
    duration,
    happening,
    number_of,
    numbers_of,
    part_of,
    text_of,
    texts_of,
)

NUM_HAPPENINGS = 6
NUM_DEVICES = 12  # rows of the table; the others are counted
WIDE = 100  # columns from which there is room for more than the essentials
PRESENT, GONE = frozenset({"ready", "healed", "rejoined"}), frozenset({"lost", "refused"})
STYLES = {"lost": "red", "refused": "red", "error": "red", "warning": "yellow", "fault": "yellow"}
STYLES |= {"learning": "green", "healed": "green", "rejoined": "green", "offence": "yellow"}
STYLES |= {"board_failed": "yellow", "handover": "green", "rehomed": "green"}
NOTABLE = {"decision", "returned", "pause", "checkpoint", "said", "stopped", "homes", "groups"}
NOTABLE |= STYLES.keys()


@dataclass(frozen=True)
class Member:
    """A device as the screen shows it.

    >>> Member("pi", state="ready", share=32).word, Member("pi", state="lost").word
    ('learning', 'lost')
    """

    name: str
    state: str = BLANK
    overhead_s: float | None = None
    per_sample_s: float | None = None
    max_batch: float = math.inf
    solo_per_s: float | None = None  # samples a second, alone
    share: int | None = None  # samples of each step; None while nothing is decided for it

    @property
    def word(self) -> str:
        """What it does, in a word or two."""
        if self.share and self.state not in GONE:
            return "learning"
        return "left out" if self.share == 0 and self.state in PRESENT else self.state

    def step_s(self, batch: float) -> float | None:
        """Seconds of a step on `batch` samples, None where it was not measured."""
        if self.overhead_s is None or self.per_sample_s is None or not batch:
            return None
        return self.overhead_s + self.per_sample_s * batch


@dataclass(frozen=True)
class Picture:
    """All that a screen knows, folded from the events so far.

    >>> Picture().after({"kind": "agent", "member": "pi", "state": "ready"}).members["pi"].state
    'ready'
    """

    started_s: float | None = None
    latest: Mapping[str, Event] = field(default_factory=dict)  # the last event of each kind
    members: Mapping[str, Member] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    happenings: tuple[Happening, ...] = ()

    def after(self, event: Event) -> Picture:
        """The picture once `event` has happened; a run event begins a new one."""
        kind, told = text_of(event, "kind"), happening(event)
        before = Picture() if kind == "run" else self
        notable = (told,) if told and told.label in NOTABLE else ()
        return Picture(
            started_s=number_of(event, "time_s") if before.started_s is None else before.started_s,
            latest={**before.latest, kind: event},
            members=_members_after(before.members, event),
            metrics={**before.metrics, **numbers_of(event, "metrics")},
            happenings=(*before.happenings, *notable)[-NUM_HAPPENINGS:],
        )

    def last(self, kind: str) -> Event:
        """The last event of a kind, an empty one where there was none."""
        return self.latest.get(kind, {})

    def clock(self, time_s: float) -> str:
        """A moment as seconds from the first event."""
        return f"{time_s - (self.started_s or 0.0):,.1f} s"


def _members_after(members: Mapping[str, Member], event: Event) -> Mapping[str, Member]:
    kind, name = event.get("kind"), text_of(event, "member")
    if kind in ("agent", "measured") and name:
        return {**members, name: _told(members.get(name, Member(name)), event)}
    if kind != "decision":
        return members
    world, shares = part_of(event, "world"), numbers_of(part_of(event, "chosen"), "shares")
    batch = number_of(world, "batch") or 0
    everyone = {**members, **{n: Member(n, "ready") for n in shares if n not in members}}
    for device in world.get("devices") or ():
        name = text_of(device, "name")
        everyone[name] = _believed(_told(everyone.get(name, Member(name)), device), batch)
    return {name: replace(m, share=int(shares.get(name, 0))) for name, m in everyone.items()}


def _told(member: Member, fields: Event) -> Member:
    """The member with what the fields say of it, as it was where they are silent."""
    names = ("overhead_s", "per_sample_s", "max_batch", "solo_per_s")
    told = {name: n for name in names if (n := number_of(fields, name)) is not None}
    state = text_of(fields, "state") or member.state
    share = None if state in GONE else member.share or None  # the next decision says what follows
    return replace(member, state=state, share=share, **told)  # type: ignore[arg-type]


def _believed(member: Member, batch: float) -> Member:
    """The member at the speed a decision believes in: alone, with as much of the batch as fits."""
    alone = min(batch, member.max_batch)
    step_s = member.step_s(alone)
    return replace(member, solo_per_s=alone / step_s) if step_s else member


def goals(picture: Picture) -> list[tuple[str, float]]:
    """Each goal of the run in words, and the part of it that is reached.

    >>> run = {"kind": "run", "until": {"steps": 200}}
    >>> goals(Picture().after(run).after({"kind": "progress", "steps": 50}))
    [('steps 50 of 200', 0.25)]
    """
    run, progress = picture.last("run"), picture.last("progress")
    samples, num_train = number_of(progress, "samples"), number_of(run, "num_train")
    begun = number_of(progress, "data_epoch") or 0.0
    reached = {
        "epochs": samples / num_train if samples and num_train else begun,
        "steps": number_of(progress, "steps") or 0.0,
        "minutes": (number_of(progress, "elapsed_s") or 0.0) / 60,
        **picture.metrics,
    }
    return [
        (f"{name} {amount(now)} of {amount(target)}", min(1.0, max(0.0, (now or 0.0) / target)))
        for name, target in numbers_of(run, "until").items()
        if target > 0
        for now in [reached.get(name)]
    ]


def learning(picture: Picture) -> list[str]:
    """What was learned so far: the loss, and the metrics that no bar is drawn of."""
    told = numbers_of(picture.last("run"), "until")
    others = [f"{k} {amount(v)}" for k, v in picture.metrics.items() if told.get(k, 0.0) <= 0]
    return [f"loss {amount(number_of(picture.last('progress'), 'loss'))}", *others]


def speed(picture: Picture) -> list[str]:
    """How fast it goes, against all devices without any waiting and against equal shares.

    >>> progress = {"kind": "progress", "per_s": 900, "ideal_per_s": 1000, "equal_per_s": 500}
    >>> speed(Picture().after({**progress, "eta_s": 12}))
    ['900 samples/s', '90 % of ideal', '1.80× equal shares', '12.0 s left']
    """
    progress = picture.last("progress")
    names = ("per_s", "ideal_per_s", "equal_per_s", "eta_s")
    per_s, ideal_per_s, equal_per_s, eta_s = (number_of(progress, name) for name in names)
    words = [f"{amount(per_s)} samples/s"]
    if per_s and ideal_per_s:
        words.append(f"{per_s / ideal_per_s * 100:.0f} % of ideal")
    if per_s and equal_per_s:
        words.append(f"{per_s / equal_per_s:.2f}× equal shares")
    is_over = "stopped" in picture.latest
    return words if is_over or eta_s is None else [*words, f"{duration(eta_s)} left"]


def why(decision: Event) -> list[str]:
    """What the chosen option is predicted to bring, then the reasons that tell more than that."""
    chosen, names = part_of(decision, "chosen"), ("throughput_per_s", "round_s", "exchange_s")
    per_s, round_s, exchange_s = (number_of(chosen, name) for name in names)
    words = f"{amount(per_s)} samples/s predicted, {duration(round_s)} a round"
    words += f" of which {duration(exchange_s)} exchange"
    strategy = text_of(chosen, "strategy")  # a reason that names it says again what words say
    return [words, *(each for each in texts_of(decision, "reasons") if strategy not in each)]


def plain_lines(picture: Picture, event: Event) -> list[str]:
    """The lines that tell an event, once the picture holds it: seconds, kind, words.

    >>> event = {"kind": "warning", "time_s": 3.5, "text": "the disk is nearly full"}
    >>> plain_lines(Picture().after({"kind": "run", "time_s": 1.0}), event)
    ['    2.5 s  warning     the disk is nearly full']
    """
    kind, told = text_of(event, "kind"), happening(event)
    said = [(told.label, told.text)] if told else []
    if kind == "decision":
        said += [("strategy", text_of(part_of(event, "chosen"), "strategy"))]
        said += [("because", reason) for reason in why(event)]
    elif kind == "progress":
        words = [*(goal for goal, _ in goals(picture)), *learning(picture), *speed(picture)]
        said = [(kind, ", ".join(words))]
    elif kind == "summary":
        said = summary_rows(event)
    clock = picture.clock(number_of(event, "time_s") or 0.0)
    return [f"{clock:>9}  {label:<10}  {text}" for label, text in said]


def frame(picture: Picture, width: int) -> RenderableType:
    """The whole screen, `width` columns wide."""
    about, name = happening(picture.last("run")), text_of(picture.last("run"), "name")
    title = Text(about.text if about else "waiting for a run", style="dim")
    title.stylize("bold not dim", 0, len(name))
    parts: list[RenderableType] = [Text(), title, Text()]
    if picture.members:
        parts += [devices_table(picture, width), Text()]
    if rows := picture.last("progress").get("pupils"):
        parts += [pupils_table(rows), Text()]
    parts += [facts(picture, width), Text(), news(picture)]
    if summary := picture.last("summary"):
        rows = Table.grid(padding=(0, 2))
        for heading, words in summary_rows(summary):
            rows.add_row(Text(heading, style="dim"), Text(words))
        parts += [Text(), Panel(rows, box=box.ROUNDED, border_style="dim", title="summary")]
    return Group(*parts)


def devices_table(picture: Picture, width: int) -> Table:
    """Who is there, how fast each is alone, and what is asked of it."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim"
    )
    table.add_column("device", no_wrap=True, max_width=width // 4)
    table.add_column("state", no_wrap=True, min_width=9)
    for heading in ("samples/s alone", "share", "of step", "step time"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=7)
    room = width - WIDE + 20 if width >= WIDE else 0
    table.add_column("", no_wrap=True, min_width=room)
    whole = sum(member.share or 0 for member in picture.members.values())
    for member in list(picture.members.values())[:NUM_DEVICES]:
        part = (member.share or 0) / whole if whole else 0.0
        table.add_row(
            Text(member.name),
            Text(member.word, style=STYLES.get(member.word, "")),
            amount(member.solo_per_s),
            amount(member.share or None),
            f"{part * 100:.0f} %" if part else BLANK,
            duration(member.step_s(member.share or 0)),
            Text("━" * round(part * room), style="cyan"),
        )
    if (num_hidden := len(picture.members) - NUM_DEVICES) > 0:
        table.add_row(Text(f"and {num_hidden} more", style="dim"))
    return table


def facts(picture: Picture, width: int) -> Table:
    """The strategy with its reason in numbers, and how far the run is."""
    decision = picture.last("decision")
    chosen = part_of(decision, "chosen")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, width=8)
    table.add_column(width=width - 10)
    table.add_row("strategy", Text(text_of(chosen, "strategy") or "not decided yet", style="bold"))
    for reason in why(decision)[: 3 if width >= WIDE else 2] if decision else []:
        table.add_row("", Text(reason))
    table.add_row()
    heading = "progress"
    for words, part in goals(picture):
        bar = Table.grid(padding=(0, 2))
        drawn = ProgressBar(1.0, part, width // 3, complete_style="cyan", finished_style="green")
        bar.add_row(drawn, f"{part * 100:3.0f} %", Text(words))
        table.add_row(heading, bar)
        heading = ""
    if picture.last("progress"):
        table.add_row(heading, Text("   ".join(learning(picture))))
        table.add_row("speed", Text("   ".join(speed(picture))))
    return table


def news(picture: Picture) -> Table:
    """The last few happenings, the newest at the bottom."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True, min_width=8)
    table.add_column(no_wrap=True)
    table.add_column()
    for told in picture.happenings:
        label = Text(told.label, style=STYLES.get(told.label, ""))
        table.add_row(picture.clock(told.time_s), label, Text(told.text))
    return table


class Screen(Protocol):
    """Shows a run, event by event."""

    def show(self, event: Event) -> None:
        """Take in one event."""

    def close(self) -> None:
        """Leave the last picture standing and give the terminal back."""


class LiveScreen:
    """Draws the picture on a terminal, four times a second."""

    def __init__(self, console: Console) -> None:
        self._picture = Picture()
        self._live = Live(
            console=console, get_renderable=lambda: frame(self._picture, console.width)
        )
        self._live.start()

    def show(self, event: Event) -> None:
        """Take in one event; the next refresh draws it."""
        self._picture = self._picture.after(event)

    def close(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()


class PlainScreen:
    """Tells a run line by line, its progress at most every `every_s` seconds of the events.

    >>> import sys
    >>> PlainScreen(sys.stdout).show({"kind": "error", "time_s": 1.0, "text": "out of memory"})
        0.0 s  error       out of memory
    """

    def __init__(self, file: IO[str], every_s: float = 2.0) -> None:
        self._file, self._every_s = file, every_s
        self._picture, self._next_s = Picture(), -math.inf

    def show(self, event: Event) -> None:
        """Print what the event says, if it is worth a line."""
        self._picture = self._picture.after(event)
        time_s, is_progress = number_of(event, "time_s") or 0.0, event.get("kind") == "progress"
        if is_progress and time_s < self._next_s:
            return
        if is_progress:
            self._next_s = time_s + self._every_s
        for line in plain_lines(self._picture, event):
            print(line, file=self._file, flush=True)

    def close(self) -> None:
        """Nothing to give back: every line was flushed."""


def choose_screen(console: Console) -> Screen:
    """Live on a terminal that can be redrawn, plain anywhere else.

    >>> import io
    >>> isinstance(choose_screen(Console(file=io.StringIO())), PlainScreen)
    True
    """
    return LiveScreen(console) if console.is_interactive else PlainScreen(console.file)
