"""Learning from samples with answers: any module, any map-style dataset, any loss with a mean.

Legend of shape suffixes: B samples of a batch, S samples of the whole test set.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypedDict, Unpack, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from coterie.errors import JobError
from coterie.specs import TEST_LOSS
from coterie.tasks.keras import understood_loss, understood_metric
from coterie.tasks.outputs import by_name, own_loss, predictions_of
from coterie.tasks.passes import numbered
from coterie.tasks.samples import (
    Collate,
    MapStyle,
    batches,
    built,
    device_of,
    drawn,
    evaluating,
    gather,
    to_device,
)
from coterie.types import Batch

Criterion = Callable[[Any, Any], Tensor]
Predict = Callable[[nn.Module, Any], tuple[Any, Any]]


@runtime_checkable
class Meter(Protocol):
    """A metric that is fed batch by batch, as those of torchmetrics are.

    >>> isinstance(len, Meter)
    False
    """

    def reset(self) -> None:
        """Forget what was seen."""

    def update(self, predictions: Any, targets: Any, /) -> None:
        """See one batch, on the CPU."""

    def compute(self) -> Any:
        """One number for all that was seen."""


Metric = Meter | Callable[[Any, Any], float]


class Options(TypedDict, total=False):
    """What a supervised task may be told beyond its parts.

    >>> sorted(Options.__optional_keys__)
    ['collate', 'metrics', 'predict']
    """

    metrics: Mapping[str, Metric]  # higher is better
    collate: Collate | None
    predict: Predict | None


def predict_pairs(model: nn.Module, data: Any) -> tuple[Any, Any]:
    """The predictions for a batch of (inputs, targets), with those targets.

    A batch that is a mapping is given to the model by name, and its targets are its `labels`.

    >>> predict_pairs(nn.Identity(), [torch.ones(1), torch.zeros(1)])
    (tensor([1.]), tensor([0.]))
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        inputs, targets = data
        return model(inputs), targets
    if isinstance(data, Mapping):
        return by_name(model, data)
    size = f" of {len(data)}" if isinstance(data, tuple | list) else ""
    raise JobError(
        f"expected batches of (inputs, targets), found a {type(data).__name__}{size}; "
        "pass predict, a function of (model, batch) that returns (predictions, targets)"
    )


@dataclass(frozen=True, init=False, eq=False)
class Supervised:
    """A task made of a model, samples with answers, and a loss that is a mean over the batch.

    `model` makes a fresh module, or is one that `build` copies; `train` and `test` are map-style
    datasets or streams, or make one. Options: `metrics` by name, each a function of (predictions,
    targets) of the whole test set or a `Meter`; `collate`, a list of samples to a batch; `predict`,
    (model, batch) to (predictions, targets). The field that holds `loss` is `criterion`.

    >>> pairs = torch.utils.data.TensorDataset(torch.eye(2), torch.tensor([0, 1]))
    >>> task = Supervised("eye", lambda: nn.Linear(2, 2), pairs, pairs)
    >>> task.loss(task.build(), task.fetch([1, 0])).shape
    torch.Size([])
    """

    kind: ClassVar[str] = "supervised"
    name: str
    model: nn.Module | Callable[[], nn.Module]
    train: MapStyle
    test: MapStyle
    criterion: Criterion
    metrics: Mapping[str, Metric]
    collate: Collate
    predict: Predict
    given: Mapping[str, Any]  # the arguments as they were given: what another process can rebuild

    # Written out because a field and the method `loss` cannot share the name users know.
    def __init__(
        self,
        name: str,
        model: nn.Module | Callable[[], nn.Module],
        train: MapStyle | Callable[[], MapStyle],
        test: MapStyle | Callable[[], MapStyle],
        loss: Criterion = F.cross_entropy,
        **options: Unpack[Options],
    ) -> None:
        if unknown := options.keys() - Options.__optional_keys__:
            raise JobError(f"expected metrics, collate or predict, found {', '.join(unknown)}")
        values = {
            "name": name,
            "model": model,
            "train": numbered("train", train),
            "test": numbered("test", test),
            "criterion": _mean_of_batch(loss),
            "metrics": dict(options.get("metrics") or {}),
            "collate": options.get("collate") or default_collate,
            "predict": options.get("predict") or predict_pairs,
            "given": {
                "model": model,
                "train": train,
                "test": test,
                "loss": loss,
                "metrics": dict(options.get("metrics") or {}),
                "collate": options.get("collate"),
                "predict": options.get("predict"),
            },
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    @property
    def num_train(self) -> int:
        """How many training samples there are."""
        return len(self.train)

    @property
    def in_stages(self) -> bool:
        """Whether a pipeline would learn the same: not where the loss is made in an own way."""
        own = type(self).loss is not Supervised.loss or self.criterion is own_loss
        return not own and self.predict is predict_pairs

    def build(self) -> nn.Module:
        """A fresh model: made anew, or a deep copy of the module given."""
        return built("model", self.model)

    def under(self, model: nn.Module | Callable[[], nn.Module]) -> Supervised:
        """The same samples and loss with another model; `predict` is left to pairs."""
        return Supervised(
            self.name,
            model,
            self.train,
            self.test,
            self.criterion,
            metrics=self.metrics,
            collate=self.collate,
        )

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, collated in that order."""
        return Batch(gather(self.train, indices, self.collate), len(indices))

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement; the model has no say."""
        return self.fetch(drawn(self.num_train, rng, size))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch, on whatever device the model is."""
        return self._outcome(model, batch.data)[0]

    def judge(self, predictions: Any, targets: Any, device: torch.device) -> Tensor:
        """The mean loss of predictions that are on a device."""
        if isinstance(self.criterion, nn.Module):
            self.criterion.to(device)  # class weights live where the predictions do
        told = predictions if self.criterion is own_loss else predictions_of(predictions)
        return self.criterion(told, targets)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Each metric over the whole test set, and `test_loss`, which alone is better lower.

        The model is left in the modes it came in; metrics see tensors on the CPU.
        """
        meters = {name: _meter(metric) for name, metric in self.metrics.items()}
        for meter in meters.values():
            meter.reset()
        losses, num_test = [], len(self.test)
        with evaluating(model):
            for num, data in batches(self.test, self.collate):
                loss, *outputs = self._outcome(model, data)
                losses.append(loss.item() * num)
                predictions, targets = to_device(outputs, torch.device("cpu"))
                for meter in meters.values():
                    meter.update(predictions, targets)
        scores = {name: _number(name, meter.compute()) for name, meter in meters.items()}
        return scores | {TEST_LOSS: math.fsum(losses) / num_test}

    def _outcome(self, model: nn.Module, data: Any) -> tuple[Tensor, Any, Any]:
        device = device_of(model)
        outputs, targets = self.predict(model, to_device(data, device))
        return self.judge(outputs, targets, device), predictions_of(outputs), targets


@dataclass
class _Whole:
    """A function of the whole test set as a meter: it keeps what it sees until asked."""

    function: Callable[[Any, Any], float]
    seen: list[tuple[Any, Any]] = field(default_factory=list)

    def reset(self) -> None:
        self.seen.clear()

    def update(self, predictions: Any, targets: Any, /) -> None:
        self.seen.append((predictions, targets))

    def compute(self) -> float:
        predictions, targets = zip(*self.seen, strict=True)
        return self.function(_joined(predictions), _joined(targets))


def _joined(parts: Sequence[Any]) -> Any:
    match parts[0]:
        case Tensor():
            return torch.cat(list(parts))
        case Mapping():
            return {key: _joined([part[key] for part in parts]) for key in parts[0]}
        case tuple():
            return tuple(_joined(column) for column in zip(*parts, strict=True))
        case list():
            return [item for part in parts for item in part]
    raise JobError(
        f"expected predictions and targets of tensors, found {type(parts[0]).__name__}; "
        "return tensors from predict, or use a metric with reset, update and compute"
    )


def _meter(metric: Metric) -> Meter:
    known = understood_metric(metric)
    return known if isinstance(known, Meter) else _Whole(known)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise JobError(
            f"expected metric {name} to be one number, found {type(value).__name__}; "
            "return a float or a tensor of one value"
        ) from None


def _mean_of_batch(loss: Criterion) -> Criterion:
    loss = understood_loss(loss)
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    reduction = bound.get("reduction", getattr(loss, "reduction", "mean"))
    if reduction in ("sum", "none"):
        raise JobError(
            f"expected a loss that is a mean over the batch, found reduction={reduction!r}; "
            "members' shares are weighted by their samples, so use reduction='mean'"
        )
    return loss
