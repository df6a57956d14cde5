"""The truth of a run: one JSON object a line, appended as things happen and never changed.

Every event holds `seq` (counted from 0), `time_s` (unix seconds) and `kind`, then its own fields.
A line counts once its newline is written; what a crash left behind the last one never happened.
Logs of other versions stay readable: a missing or unknown field is a blank in words, not an error.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.leases import Span

Event = Mapping[str, Any]

POLL_S = 0.05
BLANK = "–"


class EventLog:
    """Appends events to a file; reopened, it cuts off a torn last line and goes on counting.

    Errors: CoterieError when the file cannot be opened or written, as on a full disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with EventLog(Path(folder) / "events.jsonl", clock=lambda: 7.0) as log:
    ...         log.write("epoch", data_epoch=0, loss=math.inf)
    {'seq': 0, 'time_s': 7.0, 'kind': 'epoch', 'data_epoch': 0, 'loss': None}
    """

    def __init__(self, path: Path | str, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = Path(path), clock
        with self._refusals():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            whole = _whole_lines(self._path)
            self._file.truncate(len(whole))
        events = _parse(whole.splitlines()[-1:], self._path)
        self._end_bytes = len(whole)
        self._next_seq: int = events[-1]["seq"] + 1 if events else 0

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append one event and return it as a reader will see it.

        Numbers that JSON does not know (NaN, infinities) become null, tuples become lists.
        Errors: CoterieError when the line cannot be written; the file is left as it was.
        """
        stamp = {"seq": self._next_seq, "time_s": self._clock(), "kind": kind}
        if taken := stamp.keys() & fields.keys():
            raise CoterieError(
                f"expected an event whose fields leave seq and time_s to the log, "
                f"found {', '.join(sorted(taken))}; name the field otherwise"
            )
        event: dict[str, Any] = _plain(stamp | fields)
        self._append(json.dumps(event, allow_nan=False).encode() + b"\n")
        self._next_seq += 1
        return event

    def close(self) -> None:
        """Close the file; what was written stands there already."""
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        with self._refusals():
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
            except OSError:
                # A disk that fills up may take half a line; where even cutting it off fails,
                # the next opening does it.
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end_bytes)
                raise
        self._end_bytes += len(line)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CoterieError(
                f"expected to append events to {self._path}, found: {error.strerror or error}; "
                "make room or allow writing there, then resume the run"
            ) from error


def read(path: Path | str) -> list[dict[str, Any]]:
    """All events of a log, in order; a torn last line is left out.

    Errors: CoterieError when there is no such file, or a line of it is not an event.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "events.jsonl"
    ...     _ = path.write_text('{"seq": 0, "time_s": 7.0, "kind": "epoch"}\\n{"seq": 1, "ti')
    ...     [event["kind"] for event in read(path)]
    ['epoch']
    """
    try:
        whole = _whole_lines(Path(path))
    except OSError as error:
        raise CoterieError(
            f"expected the events of a run at {path}, found: {error.strerror or error}; "
            "name the events.jsonl in the folder of a run"
        ) from error
    return _parse(whole.splitlines(), Path(path))


def follow(
    path: Path | str, until: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any]]:
    """Yield events as they are written, those already there first; the file may still be to come.

    Ends once `until` says so and everything written before has been yielded.

    >>> list(follow("no/such/events.jsonl", until=lambda: True))
    []
    """
    path, offset_bytes = Path(path), 0
    while True:
        is_last = until()
        with contextlib.suppress(FileNotFoundError):  # the run has not begun to write yet
            whole = _whole_lines(path, offset_bytes)
            yield from _parse(whole.splitlines(), path)
            offset_bytes += len(whole)
        if is_last:
            return
        sleep(POLL_S)


@dataclass(frozen=True)
class Audit:
    """Positions of the finished epochs that nobody learned, and that were learned more than once.

    >>> Audit(num_lost=0, num_repeated=0, epochs=(0, 1)).is_exact
    True
    """

    num_lost: int
    num_repeated: int
    epochs: tuple[int, ...]  # the finished data epochs that were counted

    @property
    def is_exact(self) -> bool:
        """Whether every sample of every finished epoch was learned exactly once."""
        return not (self.num_lost or self.num_repeated)


def audit(events: Iterable[Event]) -> Audit:
    """Count what the committed leases of each finished data epoch left out or learned again.

    Errors: CoterieError when an epoch is finished but no run event says `num_train`.

    >>> run = {"kind": "run", "num_train": 10}
    >>> learned = {"kind": "committed", "data_epoch": 0, "leases": {"a": [[0, 6]], "b": [[5, 9]]}}
    >>> audit([run, learned, {"kind": "epoch", "data_epoch": 0}])
    Audit(num_lost=1, num_repeated=1, epochs=(0,))
    """
    num_train = 0
    spans: dict[int, list[Span]] = {}
    finished: dict[int, int] = {}  # data epoch -> samples it was to hold
    for event in events:
        if event["kind"] in ("run", "task"):
            num_train = event.get("num_train") or num_train
        elif event["kind"] == "committed":
            leases = event["leases"].values()
            learned = [(start, stop) for lease in leases for start, stop in lease]
            spans.setdefault(event["data_epoch"], []).extend(learned)
        elif event["kind"] == "epoch":
            finished[event["data_epoch"]] = num_train
    if not all(finished.values()):
        raise CoterieError(
            "expected a run event with num_train before the first finished epoch, found none; "
            "audit the whole log of a run over a data set"
        )
    counts = [_miscounted(spans.get(epoch, []), num) for epoch, num in finished.items()]
    return Audit(sum(lost for lost, _ in counts), sum(more for _, more in counts), tuple(finished))


def _miscounted(spans: Sequence[Span], num_train: int) -> tuple[int, int]:
    """How many of the positions 0..num_train lie in no span, and in more than one."""
    changes = Counter({0: 0, num_train: 0})
    for start, stop in spans:
        changes[start] += 1
        changes[stop] -= 1
    depth = num_lost = num_repeated = 0
    for start, stop in pairwise(sorted(changes)):
        depth += changes[start]
        num = max(0, min(stop, num_train) - start)
        num_lost += num if depth == 0 else 0
        num_repeated += num if depth > 1 else 0
    return num_lost, num_repeated


def _whole_lines(path: Path, offset_bytes: int = 0) -> bytes:
    """What stands in the file from an offset up to its last newline."""
    with path.open("rb") as file:
        file.seek(offset_bytes)
        data = file.read()
    return data[: data.rfind(b"\n") + 1]


def _parse(lines: Sequence[bytes], path: Path) -> list[dict[str, Any]]:
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # not JSON, or not even text
            event = None
        if not isinstance(event, dict) or not {"seq", "time_s", "kind"} <= event.keys():
            raise CoterieError(
                f"expected a JSON object with seq, time_s and kind on every line of {path}, "
                f"found {line[:60]!r}; restore the file, or take that line out"
            )
        events.append(event)
    return events


def _plain(value: Any) -> Any:
    """The value as JSON can hold it, numbers of other libraries included."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_plain(part) for part in value]


def number_of(event: Event, name: str) -> float | None:
    """A finite number of an event, None where there is none."""
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def numbers_of(event: Event, name: str) -> dict[str, float]:
    """The finite numbers under a field that names several, such as shares or metrics."""
    part = part_of(event, name)
    found = {_clean(key): number_of(part, key) for key in part}
    return {key: value for key, value in found.items() if value is not None}


def text_of(event: Event, name: str) -> str:
    """A field as one printable line: what strangers wrote cannot steer a terminal.

    >>> text_of({"text": "out of\\n\\x1b[31mmemory"}, "text")
    'out of  [31mmemory'
    """
    value = event.get(name)
    return "" if value is None else _clean(value)


def part_of(event: Event, name: str) -> Event:
    """The fields under a field, none where it holds none."""
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def texts_of(event: Event, name: str) -> list[str]:
    """The values under a field that lists several, each as one printable line."""
    value = event.get(name)
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else []


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
    resumed = text_of(event, "resumed_from")
    parts = (
        text_of(event, "name"),
        f"{num} agents" if num else "",
        f"batch {amount(batch)}" if batch else "",
        f"until {until}" if until else "",
        f"resumed from {resumed}" if resumed else "",
    )
    return ", ".join(part for part in parts if part)


def _agent_words(event: Event) -> str:
    reason, cores = text_of(event, "reason"), number_of(event, "cores")
    held = f" ({amount(cores)} {'core' if cores == 1 else 'cores'})" if cores else ""
    return text_of(event, "member") + held + (f": {reason}" if reason else "")


def _decision_words(event: Event) -> str:
    shares, cause = numbers_of(part_of(event, "chosen"), "shares"), text_of(event, "cause")
    words = ", ".join(f"{member} {share:g}" for member, share in shares.items() if share)
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


def _clean(value: object) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


_WORDS: Mapping[str, Callable[[Event], str]] = {
    "run": _run_words,
    "agent": _agent_words,
    "measured": lambda e: f"{text_of(e, 'member')} {amount(number_of(e, 'solo_per_s'))} samples/s",
    "decision": _decision_words,
    "outcome": _outcome_words,
    "term": lambda e: f"{text_of(e, 'number')}: {' '.join(texts_of(e, 'members'))}",
    "window": lambda e: f"{text_of(e, 'arm')} {amount(number_of(e, 'per_s'))} samples/s",
    "scores": lambda e: ", ".join(f"{k} {amount(v)}" for k, v in numbers_of(e, "metrics").items()),
    "fault": lambda e: f"{text_of(e, 'action')} {text_of(e, 'member')}".strip(),
    "pause": lambda e: f"{text_of(e, 'member')} {duration(number_of(e, 'seconds'))}".strip(),
    "epoch": lambda e: f"{text_of(e, 'data_epoch')} learned",
    "checkpoint": _checkpoint_words,
    "warning": lambda e: text_of(e, "text"),
    "error": lambda e: text_of(e, "text"),
    "stopped": lambda e: text_of(e, "reason") + (", resumable" if e.get("resumable") else ""),
}
