"""What people look at: the events of a run, and the screens drawn from them."""

from __future__ import annotations

from coterie.watch.events import Audit, EventLog, audit, follow, read
from coterie.watch.progress import LiveScreen, Picture, PlainScreen, Screen, choose_screen

__all__ = [
    "Audit",
    "EventLog",
    "LiveScreen",
    "Picture",
    "PlainScreen",
    "Screen",
    "audit",
    "choose_screen",
    "follow",
    "read",
]
