"""Callbacks of Keras, driven by the events of a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from coterie.errors import CoterieError

Show = Callable[[dict[str, Any]], None]


class KerasCallbacks:
    """Keras's callbacks as the `show` of `coterie.train`: what happens to them is what happened.

    They hear `on_train_begin`, `on_epoch_begin`, `on_epoch_end` with the loss and the scores as
    `val_…`, and `on_train_end`. One that stops training ends the run as Ctrl-C does. Models live
    in the agents: a callback that reads or writes one is refused when it does.

    >>> from types import SimpleNamespace
    >>> heard = SimpleNamespace(
    ...     set_params=len, set_model=lambda model: None,
    ...     on_train_begin=lambda logs: None, on_epoch_begin=lambda epoch, logs: None,
    ...     on_epoch_end=lambda epoch, logs: print(epoch, logs), on_train_end=lambda logs: None)
    >>> show = KerasCallbacks([heard])
    >>> show({"kind": "epoch", "data_epoch": 0, "loss": 0.5})
    >>> show({"kind": "scores", "metrics": {"accuracy": 0.9}})
    0 {'loss': 0.5, 'val_accuracy': 0.9}
    """

    def __init__(self, callbacks: Iterable[Any], show: Show = lambda event: None) -> None:
        self._callbacks, self._show = list(callbacks), show
        self._model = _Elsewhere()
        self._has_begun = self._is_stopped = False
        self._ended: tuple[int, dict[str, float]] | None = None  # an epoch: its scores may come
        for callback in self._callbacks:
            callback.set_params({})
            callback.set_model(self._model)

    def __call__(self, event: dict[str, Any]) -> None:
        """Hear one event, and let who is told else hear it."""
        self._show(event)
        if not self._has_begun:
            self._has_begun = True
            self._each("on_train_begin", {})
            self._each("on_epoch_begin", 0, {})
        if self._ended is not None:
            self._end_epoch(event.get("metrics", {}) if event["kind"] == "scores" else {})
        if event["kind"] == "epoch":
            loss = {} if event["loss"] is None else {"loss": event["loss"]}
            self._ended = (event["data_epoch"], loss)
        elif event["kind"] == "summary":
            self._each("on_train_end", {})

    def _end_epoch(self, scores: Mapping[str, float]) -> None:
        assert self._ended is not None
        (epoch, logs), self._ended = self._ended, None
        logs |= {f"val_{name.removeprefix('test_')}": value for name, value in scores.items()}
        self._each("on_epoch_end", epoch, logs)
        if self._model.stop_training and not self._is_stopped:
            self._is_stopped = True  # a second one would end the run at once
            signal.raise_signal(signal.SIGINT)
        self._each("on_epoch_begin", epoch + 1, {})

    def _each(self, hook: str, *told: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(*told)


class _NotHere(CoterieError, AttributeError):
    """A callback asks for what only agents have."""


class _Elsewhere:
    """The model, as far as those know it who only hear of the run."""

    stop_training = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _NotHere(
            f"expected callbacks that go by events, found one that asks for model.{name}; the "
            "model is in the agents, so call that one from a loop of your own"
        )
