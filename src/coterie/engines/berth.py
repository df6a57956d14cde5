"""An agent's place on a node: started there, found again if it lives, watched and ended.

What watches may be ended at any time, with the cluster's own processes; the agent lives on. It is
the child of a shell, not of the one that watches: Ray kills the children of its workers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import coterie
from coterie.engines.processes import QUICK_NAMES, UNSEEN, Adopted
from coterie.errors import JoinError
from coterie.transport.secure import JoinKey

# It tells the agent's process first, and its exit code last.
SHELL = '"$@" >&2 & echo $!; wait $!; echo $?'
OWN = re.compile(r"RAY_(AUTH_|USE_TLS|TLS_|TMPDIR)")  # what another client of the cluster needs
LAST_WORDS = 4096  # bytes of a log in which they stand


@dataclass(frozen=True)
class Order:
    """Which agent is to live on a node, and how it reaches its run."""

    run: str  # tells runs apart, and their agents on one machine
    name: str
    endpoint: str
    key: str = field(repr=False)
    root: str = "."
    num_threads: int = 1
    code: tuple[str, ...] = ()  # the words that have it take the code that is shipped
    cluster: str = ""  # where data sets of the cluster are found

    def words(self, key: Path) -> list[str]:
        """The command that starts it."""
        words = [sys.executable, "-m", "coterie.cli", "join", self.endpoint, "--name", self.name]
        words += ["--key", str(key), "--root", self.root, "--threads", str(self.num_threads)]
        return [*words, *self.code]


def environment(given: Mapping[str, str], cluster: str) -> dict[str, str]:
    """What an agent finds set: nothing of the worker it was started by but how to find a cluster.

    >>> environment({"RAY_JOB_ID": "1", "RAY_AUTH_MODE": "token", "HOME": "/"}, "h:6379")["HOME"]
    '/'
    """
    kept = {k: v for k, v in given.items() if not k.startswith("RAY_") or OWN.match(k)}
    sources = str(Path(coterie.__file__).parents[1])
    path = os.pathsep.join(filter(None, (sources, kept.get("PYTHONPATH", ""))))
    found = {"RAY_ADDRESS": cluster} if cluster else {}
    kept.pop("OMP_NUM_THREADS", None)  # Ray's own; an agent is told its threads
    return {**kept, **QUICK_NAMES, **found, "PYTHONPATH": path}


class Berth:
    """One agent's place on this machine.

    >>> order = Order("run", "pi", "192.0.2.7:7000", "coterie:...")
    >>> Berth(order).pid()
    0
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._folder = Path(tempfile.gettempdir(), f"coterie-{os.getuid()}", order.run, order.name)
        self._pid = 0

    def pid(self) -> int:
        """The agent's process; 0 before there is one."""
        return self._pid

    def watch(self) -> tuple[int, str]:
        """Start the agent, or take over the one that lives; how it ended, once it has."""
        self._own()
        code = UNSEEN if self._living() else self._started()
        if found := self._living():  # others started it, or its shell was ended before it
            self._pid = found
            Adopted(found).wait()
        self._leave()
        return code, self._last_words()

    def kill(self, pid: int) -> None:
        """Kill -9 of the agent, if it is still this one."""
        if pid == self._living():
            Adopted(pid).kill()

    def end(self) -> None:
        """The run is over: no agent of it stays."""
        if pid := self._living():
            Adopted(pid).kill()
        self._leave()

    def _own(self) -> None:
        """Have a folder that nobody else can read or has made."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self._folder.parents[1], self._folder.parent, self._folder):
            folder.chmod(0o700) if folder.stat().st_uid == os.getuid() else self._refuse(folder)

    def _refuse(self, folder: Path) -> None:
        raise JoinError(
            f"expected {folder} to belong to the user that Ray runs as, found another; remove it, "
            "or set TMPDIR"
        )

    def _started(self) -> int:
        key, log = self._folder / "join.key", self._folder / "agent.log"
        JoinKey.parse(self._order.key).write(key)
        with log.open("ab") as words:
            shell = subprocess.Popen(
                ["sh", "-c", SHELL, "agent", *self._order.words(key)],
                cwd=self._folder,
                env=environment(os.environ, self._order.cluster),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                start_new_session=True,
            )
        assert shell.stdout is not None
        pid = int(shell.stdout.readline() or 0)
        with suppress(psutil.NoSuchProcess):
            began_s = psutil.Process(pid).create_time()
            (self._folder / "agent.pid").write_text(f"{pid} {began_s}")
        self._pid = pid
        told = shell.stdout.readline()
        shell.wait()
        code = int(told) if told else UNSEEN
        return 128 - code if 128 < code < 192 else code  # as a shell tells of signals

    def _living(self) -> int:
        """The agent that lives here, whoever started it; 0 if there is none."""
        try:
            pid, began_s = (self._folder / "agent.pid").read_text().split()
            process = psutil.Process(int(pid))
            is_same = process.create_time() == float(began_s)
            return process.pid if is_same and Adopted(process.pid).poll() is None else 0
        except (OSError, ValueError, psutil.Error):
            return 0

    def _leave(self) -> None:
        for name in ("agent.pid", "join.key"):
            (self._folder / name).unlink(missing_ok=True)

    def _last_words(self) -> str:
        try:
            with (self._folder / "agent.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
