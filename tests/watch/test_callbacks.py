"""Callbacks as Keras has them hear of epochs with the scores that belong to them."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from coterie.errors import CoterieError
from coterie.watch.callbacks import KerasCallbacks


class Heard:
    """A callback that notes what it is told, and may ask something of the model."""

    def __init__(self, ask: Any = lambda model: None) -> None:
        self.told: list[Any] = []
        self.ask = ask

    def set_params(self, params: dict[str, Any]) -> None: ...

    def set_model(self, model: Any) -> None:
        self.model = model

    def on_train_begin(self, logs: Any) -> None:
        self.told.append("begin")

    def on_train_end(self, logs: Any) -> None:
        self.told.append("end")

    def on_epoch_begin(self, epoch: int, logs: Any) -> None:
        self.told.append(epoch)

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        self.told.append((epoch, logs))
        self.ask(self.model)


EVENTS: list[dict[str, Any]] = [
    {"kind": "run"},
    {"kind": "epoch", "data_epoch": 0, "loss": 2.0},
    {"kind": "scores", "metrics": {"accuracy": 0.5, "test_loss": 1.5}},
    {"kind": "epoch", "data_epoch": 1, "loss": 1.0},
    {"kind": "summary"},
]


def test_an_epoch_ends_with_the_scores_that_follow_it() -> None:
    heard, shown = Heard(), list[Any]()
    show = KerasCallbacks([heard], shown.append)
    for event in EVENTS:
        show(event)
    first = (0, {"loss": 2.0, "val_accuracy": 0.5, "val_loss": 1.5})
    assert heard.told == ["begin", 0, first, 1, (1, {"loss": 1.0}), 2, "end"]
    assert shown == EVENTS


def test_one_that_stops_training_interrupts_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    show = KerasCallbacks([Heard(lambda model: setattr(model, "stop_training", True))])
    for event in EVENTS:  # of which another epoch ends before the run does
        show(event)
    assert raised == [signal.SIGINT]


def test_one_that_asks_for_the_model_is_refused() -> None:
    show = KerasCallbacks([Heard(lambda model: model.get_weights())])
    for event in EVENTS[:2]:
        show(event)
    with pytest.raises(CoterieError, match=r"asks for model.get_weights; the model is in the"):
        show(EVENTS[2])
