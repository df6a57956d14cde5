"""Two threads of which one runs at a time: the user's own loop, and the worker that it feeds.

The worker asks and waits; the loop answers, and waits for what is asked next. So each sees the
other stand still, as two coroutines would, and neither has to lock what both hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from coterie.errors import CoterieError


class LoopEnded(CoterieError):
    """The user's own loop has ended: it takes no further batch."""


@dataclass(frozen=True)
class Hand:
    """Learn these samples, part after part, then step; answered by the loss."""

    data_epoch: int
    parts: tuple[Sequence[int], ...]


@dataclass(frozen=True)
class Pass:
    """All earlier passes over the data are over; answered by whether this one is begun."""

    data_epoch: int


@dataclass(frozen=True)
class Over:
    """Nothing more is asked; why, where that is a failure."""

    error: Exception | None = None


Order = Hand | Pass | Over


class Turns:
    """Whose turn it is, and what is said where it changes.

    >>> turns = Turns()
    >>> told = []
    >>> turns.begin(lambda: told.append(turns.ask(Pass(0))))
    Pass(data_epoch=0)
    >>> turns.answer(True), told
    (Over(error=None), [True])
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[Order] = SimpleQueue()
        self._answered: SimpleQueue[Any] = SimpleQueue()
        self.finished = False  # whether nobody is left to answer

    def ask(self, order: Order) -> Any:
        """The worker's side: the loop's answer; raises it, where it is an error."""
        self._asked.put(order)
        answer = self._answered.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self, life: Callable[[], object]) -> Order:
        """Begin the worker's life in a thread of its own; what it asks first."""

        def live() -> None:
            error: Exception | None = None
            try:
                life()
            except Exception as raised:  # the loop is to know, for it waits
                error = raised
            self.finished = True
            self._asked.put(Over(error))

        threading.Thread(target=live, daemon=True).start()
        return self.first()

    def first(self) -> Order:
        """The loop's side: what is asked of it first."""
        return self._asked.get()

    def answer(self, answer: Any) -> Order:
        """The loop's side: what is asked next."""
        self._answered.put(answer)
        return self._asked.get()
