"""Whether another process lives, and how this one ends after it.

The end of a parent is known to the kernel of Linux alone; elsewhere a thread looks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

_PR_SET_PDEATHSIG = 1
_AT_ONCE = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has but the one
_WATCH_S = 0.5  # between two looks at a process


@dataclass
class Watch:
    """Ends this process once another is gone and nobody has been heard for a while."""

    pid: int
    patience_s: float = 5.0
    heard_s: Callable[[], float] = time.monotonic  # when somebody was; until it is known, now

    def start(self) -> None:
        """Watch in a thread of its own."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while is_alive(self.pid) or time.monotonic() < self.heard_s() + self.patience_s:
            time.sleep(_WATCH_S)
        os._exit(1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not.

    >>> is_alive(os.getpid())
    True
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def die_with_parent(number: int = _AT_ONCE) -> None:
    """Get a signal when the process that started this one dies; but on Linux a thread looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    else:
        threading.Thread(target=_await_end, args=(os.getppid(), number), daemon=True).start()


def _await_end(pid: int, number: int) -> None:
    while is_alive(pid):
        time.sleep(_WATCH_S)
    signal.raise_signal(number)
