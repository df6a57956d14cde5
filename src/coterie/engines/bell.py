"""What wakes the coordinating process: a child that ends, or a signal that asks it to."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What asks to save the state and end: a terminated process of Windows is asked nothing.
ASKED: int = getattr(signal, "SIGBREAK", signal.SIGTERM)


@contextmanager
def wakeups(stop: Callable[[int], None]) -> Iterator[socket.socket]:
    """A socket that wakes a poll when a child ends; `ASKED` and SIGINT call `stop`."""
    bell, ringer = socket.socketpair()
    bell.setblocking(False)
    ringer.setblocking(False)
    previous = signal.set_wakeup_fd(ringer.fileno())
    if hasattr(signal, "SIGCHLD"):  # elsewhere the end of a child is seen with the next tick
        signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (ASKED, signal.SIGINT):
        signal.signal(number, lambda number, _: stop(number))
    try:
        yield bell
    finally:
        signal.set_wakeup_fd(previous)
        bell.close()
        ringer.close()


def empty(bell: socket.socket) -> None:
    """Let the bell be silent until it is rung again."""
    try:
        while bell.recv(4096):
            continue
    except BlockingIOError:
        return
