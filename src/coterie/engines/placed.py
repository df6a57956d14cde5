"""Agents on a cluster's nodes, as the coordinating process sees them: through one that places them.

That one is a client of the cluster. It may end with it, and is then started again; agents that
live are taken over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.config import Job
from coterie.engines.processes import Death, LocalAgents
from coterie.engines.reach import guarded

PLACER = "ray"  # its own name among those who speak
AGAIN_S = 5.0  # until one that ended is started again
END_S = 6.0

Told = tuple[str, Mapping[str, Any]]


def agents_of(job: Job, run: Path, endpoint: str, beside: int) -> LocalAgents | PlacedAgents:
    """The agents of a job, where its engine has them live."""
    if job.engine.kind == "ray":
        return PlacedAgents(run, endpoint)
    return LocalAgents(job, run, endpoint, beside)


@dataclass
class PlacedAgents:
    """Has agents placed, killed and replaced on a cluster, and hears of their deaths."""

    run: Path
    endpoint: str
    placer: subprocess.Popen[bytes] | None = None
    again_at_s: float = 0.0
    cluster: str = ""  # the address of the one that was reached
    heard: bytes = b""
    told: list[Told] = field(default_factory=list)  # events to put on record
    doubts: dict[str, tuple[str, float]] = field(default_factory=dict)  # out of sight: why, when
    complaint: str = ""  # why the cluster could not be used, where it never could

    def start(self) -> None:
        """Have agents placed."""
        command = [sys.executable, "-m", "coterie.engines.ray", "place"]
        pipe = subprocess.PIPE
        with (self.run / f"{PLACER}.log").open("ab") as log:
            self.placer = subprocess.Popen(
                [*command, str(self.run), self.endpoint],
                env=guarded(os.environ), stdin=pipe, stdout=pipe, stderr=log,
            )  # fmt: skip
        assert self.placer.stdout is not None
        os.set_blocking(self.placer.stdout.fileno(), False)
        self.heard = b""

    def adopt(self, pids: Mapping[str, int]) -> None:
        """The same: whoever lives is found where it lives."""
        self.start()

    def settle(self, name: str) -> None:
        """Nothing is throttled here."""

    def keep_spares(self) -> None:
        """There are none."""

    def kill(self, name: str) -> None:
        """Kill -9 of an agent that was given up, where its node can be reached."""
        self._wish(kill=name)

    def reap(self, now_s: float, restart_after_s: float) -> Iterator[Death]:
        """Agents that have ended since the last call; the placer starts them again itself."""
        for line in self._lines():
            yield from self._hear(json.loads(line), now_s)
        if self.placer is not None and (code := self.placer.poll()) is not None:
            self.placer, self.again_at_s = None, now_s + AGAIN_S
            text = f"what places agents on the cluster ended with code {code}: {self._last_words()}"
            self.complaint = "" if self.cluster else text
            self.told.append(("warning", {"text": f"{text}; agents go on meanwhile"}))
        elif self.placer is None and now_s >= self.again_at_s:
            self.start()

    def close(self) -> None:
        """The run is over: no agent of it stays that can be reached."""
        if self.placer is None:
            return
        self._wish(end=True)
        try:
            self.placer.wait(END_S)
        except subprocess.TimeoutExpired:
            self.placer.kill()
            self.placer.wait()

    def _hear(self, said: Mapping[str, Any], now_s: float) -> Iterator[Death]:
        match said:
            case {"word": "ended", "member": name, "reason": reason, "num_starts": num}:
                self.doubts.pop(name, None)
                yield Death(name, reason, num, "the log on its node")
            case {"word": "doubted", "member": name, "reason": reason}:
                self.doubts[name] = reason, now_s
                self.told.append(("placed", {"text": f"{name} is out of sight: {reason}"}))
            case {"word": "placed", "member": name, "node": node}:
                self.doubts.pop(name, None)
                self.told.append(("placed", {"text": f"{name} on node {node}"}))
            case {"word": "connected", "cluster": cluster}:
                self.cluster = cluster
                self.told.append(("placed", {"text": f"agents on the cluster at {cluster}"}))
            case {"word": "asked", "num": num}:
                self.told.append(("placed", {"text": f"asked the cluster for {num} nodes more"}))
            case {"word": "warning", "text": text}:
                self.told.append(("warning", {"text": text}))

    def _lines(self) -> list[bytes]:
        if self.placer is None or self.placer.stdout is None:
            return []
        self.heard += self.placer.stdout.read() or b""
        *lines, self.heard = self.heard.split(b"\n")
        return lines

    def _wish(self, **wish: Any) -> None:
        if self.placer is not None and self.placer.stdin is not None:
            with suppress(OSError):  # it is gone itself
                self.placer.stdin.write(json.dumps(wish).encode() + b"\n")
                self.placer.stdin.flush()

    def _last_words(self) -> str:
        lines = (self.run / f"{PLACER}.log").read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")
