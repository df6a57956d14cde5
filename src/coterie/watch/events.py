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
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.leases import Span, count, merge
from coterie.watch.words import Event, number_of

POLL_S = 0.05
NUM_PLACES = 5  # that a sentence tells


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
class Finding:
    """What became of the positions of one finished data epoch.

    >>> Finding(0, 10, lost=((9, 10),), repeated=((2, 5),)).sentence
    'Epoch 1: of its 10 samples 1 was never learned (position 9) and 3 more than once (2 to 4).'
    """

    data_epoch: int
    num_train: int
    lost: tuple[Span, ...] = ()  # learned by nobody
    repeated: tuple[Span, ...] = ()  # learned more than once

    @property
    def sentence(self) -> str:
        """In plain words; epochs are counted from 1, positions in the shuffled order from 0."""
        begin = f"Epoch {self.data_epoch + 1}: "
        if not (self.lost or self.repeated):
            return begin + f"each of its {self.num_train:,} samples was learned exactly once."
        parts: list[str] = []
        for spans, what in ((self.lost, "never learned"), (self.repeated, "more than once")):
            if spans:
                num = count(spans)
                verb = "" if parts else "was " if num == 1 else "were "
                word = what if parts or spans is self.lost else f"learned {what}"
                parts.append(f"{num:,} {verb}{word} ({_places(spans, not parts)})")
        return begin + f"of its {self.num_train:,} samples {' and '.join(parts)}."


def _places(spans: Sequence[Span], named: bool) -> str:
    told = [f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in spans[:NUM_PLACES]]
    more = [] if len(spans) <= NUM_PLACES else [f"{len(spans) - NUM_PLACES} more spans"]
    noun = "" if not named else "position " if count(spans) == 1 else "positions "
    return noun + ", ".join(told + more)


@dataclass(frozen=True)
class Audit:
    """Positions of the finished epochs that nobody learned, and that were learned more than once.

    >>> Audit(num_lost=0, num_repeated=0, epochs=(0, 1)).is_exact
    True
    """

    num_lost: int
    num_repeated: int
    epochs: tuple[int, ...]  # the finished data epochs that were counted
    findings: tuple[Finding, ...] = field(default=(), repr=False, compare=False)  # one of each

    @property
    def is_exact(self) -> bool:
        """Whether every sample of every finished epoch was learned exactly once."""
        return not (self.num_lost or self.num_repeated)


def audit(events: Iterable[Event]) -> Audit:
    """Count what the committed leases of each finished data epoch left out or learned again.

    Errors: CoterieError when an epoch is finished but no run event says `num_train`, or when what
    was committed is not told as leases are.

    >>> run = {"kind": "run", "num_train": 10}
    >>> learned = {"kind": "committed", "data_epoch": 0, "leases": {"a": [[0, 6]], "b": [[5, 9]]}}
    >>> audit([run, learned, {"kind": "epoch", "data_epoch": 0}])
    Audit(num_lost=1, num_repeated=1, epochs=(0,))
    """
    try:
        return _audit(events)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CoterieError(
            f"expected committed rounds with a data_epoch and leases as spans, found others "
            f"({error!r}); audit the log as Coterie wrote it"
        ) from error


def _audit(events: Iterable[Event]) -> Audit:
    num_train = 0
    learned: list[tuple[int, int, list[Span]]] = []  # round, data epoch, positions
    finished: dict[int, tuple[int, int]] = {}  # data epoch: its last round, its samples
    for event in events:
        if event["kind"] in ("run", "task"):
            num_train = event.get("num_train") or num_train
        if (kept := number_of(event, "resumed_round")) is not None:  # what came later is undone
            learned = [each for each in learned if each[0] <= kept]
            finished = {epoch: last for epoch, last in finished.items() if last[0] <= kept}
        elif event["kind"] == "committed":
            spans = [(start, stop) for lease in event["leases"].values() for start, stop in lease]
            learned.append((event.get("last_round", 0), event["data_epoch"], spans))
        elif event["kind"] == "epoch":
            last_round = max((each[0] for each in learned), default=0)
            finished[event["data_epoch"]] = (last_round, num_train)
    if not all(num for _, num in finished.values()):
        raise CoterieError(
            "expected an event with num_train before the first finished epoch, found none; "
            "audit the whole log of a run over a data set"
        )
    owned: dict[int, list[Span]] = {}
    for _, epoch, spans in learned:
        owned.setdefault(epoch, []).extend(spans)
    findings = tuple(
        Finding(epoch, num, *_miscounted(owned.get(epoch, []), num))
        for epoch, (_, num) in finished.items()
    )
    num_lost = sum(count(found.lost) for found in findings)
    num_repeated = sum(count(found.repeated) for found in findings)
    return Audit(num_lost, num_repeated, tuple(finished), findings)


def _miscounted(spans: Sequence[Span], num_train: int) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Which of the positions 0..num_train lie in no span, and which in more than one."""
    changes = Counter({0: 0, num_train: 0})
    for start, stop in spans:
        changes[start] += 1
        changes[stop] -= 1
    depth = 0
    lost: list[Span] = []
    repeated: list[Span] = []
    for start, stop in pairwise(sorted(changes)):
        depth += changes[start]
        inside = (start, min(stop, num_train))
        if depth != 1 and inside[0] < inside[1]:
            (lost if depth == 0 else repeated).append(inside)
    return merge(lost), merge(repeated)


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
