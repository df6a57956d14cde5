"""An event log that outlives a full disk: what cannot be written yet is held, in order."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError
from coterie.watch.events import EventLog

MOST_HELD = 100_000  # events: hours of a run, some hundred megabytes
WARNING = "warning: "  # how a line of stderr begins that is no reason to end


class PatientLog(EventLog):
    """An event log whose writing fails late: events keep their order and their time meanwhile.

    The first failure is said on stderr. Errors: CoterieError where more than `MOST_HELD` wait.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with PatientLog(Path(folder) / "events.jsonl", clock=lambda: 7.0) as log:
    ...         log.write("epoch", data_epoch=0), log.held()
    ({'seq': 0, 'time_s': 7.0, 'kind': 'epoch', 'data_epoch': 0}, [])
    """

    def __init__(self, path: Path | str, clock: Callable[[], float] = time.time) -> None:
        self._lines: deque[bytes] = deque()
        self._said = False
        super().__init__(path, clock)

    def held(self) -> list[dict[str, Any]]:
        """Events that could not be written yet."""
        return [json.loads(line) for line in self._lines]

    def flush(self) -> str:
        """Write what is held, as far as there is room; why it is not all, if it is not."""
        try:
            while self._lines:
                super()._append(self._lines[0])
                self._lines.popleft()
        except CoterieError as error:
            found = getattr(error.__cause__, "strerror", None) or error
            return f"events cannot be appended to {self._path}: {found}"
        self._said = False
        return ""

    def close(self) -> None:
        """Close the file; what is still held is lost."""
        if not self._file.closed:
            self.flush()
        super().close()

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        why = self.flush()
        if len(self._lines) > MOST_HELD:
            raise CoterieError(
                f"{why}, and {MOST_HELD:,} of them wait, the most that are held; make room there, "
                "then resume the run"
            )
        if why and not self._said:
            self._said = True
            text = f"{WARNING}{why}; they are held in memory: make room there"
            print(text, file=sys.stderr, flush=True)
