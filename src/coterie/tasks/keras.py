"""Keras 3 on its torch backend: its models, losses and metrics, as torch's are.

Nothing here loads Keras: whoever has an object of its own has loaded it.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from coterie.errors import JobError


class KerasNet(nn.Module):
    """A Keras model as a module: names that do not count models, and a mode that torch sets.

    Keras numbers its layers through a process (`dense_7`), and tells training from evaluation by
    an argument. Here layers are numbered within the model. `keras` is the model itself: it holds
    the same values, so `net.keras.save(...)` saves what was learned.
    """

    keras: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        _check_backend()
        if not model.built:
            raise JobError(
                f"expected a Keras model whose weights are made, found {model.name} without; give "
                "it an Input, or call build(input_shape)"
            )
        self.__dict__["keras"] = model  # no submodule: its names are not to be ours too
        takes = inspect.signature(model.call).parameters
        self._is_told = "training" in takes or any(p.kind == p.VAR_KEYWORD for p in takes.values())
        for name, weight in zip(weight_names(model.weights), model.weights, strict=True):
            self.register_parameter(name, weight.value)

    def forward(self, inputs: Any) -> Any:
        """What the model answers, as in training or as in evaluation."""
        return self.keras(inputs, training=self.training) if self._is_told else self.keras(inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasNet:
        twin = copy.deepcopy(self.keras, memo)
        twin.set_weights(self.keras.get_weights())
        return KerasNet(twin).train(self.training)


def weight_names(weights: list[Any]) -> Iterator[str]:
    """A name for each weight that is the same in whatever process the model is built.

    >>> from types import SimpleNamespace
    >>> paths = ["net_3/dense_7/kernel", "net_3/dense_7/bias", "net_3/dense_8/kernel"]
    >>> list(weight_names([SimpleNamespace(path=path) for path in paths]))
    ['dense-kernel', 'dense-bias', 'dense_1-kernel']
    """
    layers: dict[str, str] = {}
    nums: dict[str, int] = {}
    taken: dict[str, int] = {}
    for weight in weights:
        layer, _, own = weight.path.rpartition("/")
        if layer not in layers:
            stem = re.sub(r"_\d+$", "", layer.rpartition("/")[2]) or "net"
            nums[stem] = nums.get(stem, -1) + 1
            layers[layer] = f"{stem}_{nums[stem]}" if nums[stem] else stem
        name = f"{layers[layer]}-{own}".replace(".", "-")
        taken[name] = taken.get(name, -1) + 1
        yield f"{name}~{taken[name]}" if taken[name] else name


def understood_model(made: nn.Module) -> nn.Module:
    """A Keras model as a `KerasNet`, and any other as it is.

    >>> understood_model(nn.Identity())
    Identity()
    """
    keras = sys.modules.get("keras")
    return KerasNet(made) if keras is not None and isinstance(made, keras.Model) else made


def understood_loss(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A loss or metric of Keras as a mean of (predictions, targets), and any other as it is.

    Keras has them the other way round, and its functions give one value for each sample.

    >>> understood_loss(max) is max
    True
    """
    return _Turned(loss) if _is_keras(loss) else loss


def understood_metric(metric: Any) -> Any:
    """A metric of Keras as a meter, and any other as it is.

    >>> understood_metric(max) is max
    True
    """
    if not _is_keras(metric):
        return metric
    made = metric() if isinstance(metric, type) else metric
    return _Fed(made) if hasattr(made, "update_state") else _Averaged(made)


class _Turned:
    """(predictions, targets) → what Keras makes of (targets, predictions), on average."""

    def __init__(self, inner: Any) -> None:
        _check_backend()
        self._inner = inner() if isinstance(inner, type) else inner
        self.reduction = getattr(self._inner, "reduction", "mean")
        if self.reduction == "sum_over_batch_size":
            self.reduction = "mean"

    def __call__(self, predictions: Any, targets: Any) -> Tensor:
        found: Tensor = self._inner(targets, predictions)
        return found.mean()


class _Fed:
    """A metric of Keras, called as torch's metrics are."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def reset(self) -> None:
        self._inner.reset_state()

    def update(self, predictions: Any, targets: Any, /) -> None:
        self._inner.update_state(targets, predictions)

    def compute(self) -> float:
        return float(self._inner.result())


class _Averaged:
    """A function of Keras that gives one value for each sample, averaged over all of them."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._sum, self._num = inner, 0.0, 0

    def reset(self) -> None:
        self._sum, self._num = 0.0, 0

    def update(self, predictions: Any, targets: Any, /) -> None:
        found = self._inner(targets, predictions)
        self._sum, self._num = self._sum + float(found.sum()), self._num + found.numel()

    def compute(self) -> float:
        return self._sum / max(1, self._num)


def _is_keras(thing: object) -> bool:
    """Whether it is Keras's own: a class, an object or a function, with arguments or without."""
    thing = getattr(thing, "func", thing)
    kinds = thing.__mro__ if isinstance(thing, type) else (thing, *type(thing).__mro__)
    return any(str(getattr(kind, "__module__", "")).split(".")[0] == "keras" for kind in kinds)


def _check_backend() -> None:
    found = sys.modules["keras"].backend.backend()
    if found != "torch":
        raise JobError(
            f"expected Keras on its torch backend, found {found}; set KERAS_BACKEND=torch before "
            "keras is imported"
        )
