"""Checkpoints written by a thread of their own: whoever lays them out goes on meanwhile."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.agents import checkpoint
from coterie.coordinator.run import Checkpoint
from coterie.errors import CheckpointError


@dataclass(frozen=True)
class Written:
    """A checkpoint on disk, or why it is not there."""

    point: Checkpoint
    path: Path
    seconds: float
    error: str = ""

    def event(self) -> dict[str, Any]:
        """What the run's log says of it."""
        return {
            "path": str(self.path),
            "step": self.point.step,
            "num_bytes": sum(map(len, self.point.files.values())),
            "seconds": self.seconds,
            "round": self.point.meta["round"],
            "pause_s": self.point.pause_s,
        }


class Writer:
    """Writes one after the other, in order; of those that wait, the newest is enough.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     writer = Writer(Path(run), keep=3)
    ...     writer.add(Checkpoint(20, {"model": b"weights"}, {"round": 5}))
    ...     [(done.path.name, done.error) for done in writer.close()]
    [('step-20', '')]
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._run, self._keep = run, keep
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._pending: deque[Future[Written]] = deque()

    @property
    def busy(self) -> bool:
        """Whether one is not written yet."""
        return any(not future.done() for future in self._pending)

    def add(self, point: Checkpoint) -> None:
        """Have a checkpoint written; one that has not been begun is overtaken by it."""
        for waiting in self._pending:
            waiting.cancel()  # does nothing to the one that is being written
        self._pending.append(self._thread.submit(self._write, point))

    def written(self, wait: bool = False) -> list[Written]:
        """Those that came to an end since this was last asked; with `wait`, all of them."""
        ended: list[Written] = []
        while self._pending and (wait or self._pending[0].done()):
            future = self._pending.popleft()
            if not future.cancelled():
                ended.append(future.result())
        return ended

    def close(self) -> list[Written]:
        """Wait for what is not written yet, and end the thread."""
        ended = self.written(wait=True)
        self._thread.shutdown()
        return ended

    def _write(self, point: Checkpoint) -> Written:
        began_s, path, error = time.perf_counter(), self._run, ""
        try:
            path = checkpoint.save(self._run, point.step, point.files, point.meta, self._keep)
        except CheckpointError as found:
            error = str(found)
        return Written(point, path, time.perf_counter() - began_s, error)
