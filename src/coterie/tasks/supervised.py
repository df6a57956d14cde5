"""Learning from samples with answers: any module, any map-style dataset, any loss with a mean.

Legend of shape suffixes: B samples of a batch, S samples of the whole test set.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from coterie.config import TEST_LOSS, Ref, TaskSpec
from coterie.errors import JobError
from coterie.tasks.base import fresh
from coterie.tasks.references import instantiate, quoted, resolve
from coterie.types import Batch

SCORE_BATCH = 512  # test samples looked at together

Criterion = Callable[[Any, Any], Tensor]
Predict = Callable[[nn.Module, Any], tuple[Any, Any]]
Collate = Callable[[list[Any]], Any]


@runtime_checkable
class MapStyle(Protocol):
    """A dataset whose samples are numbered: lists, `torch.utils.data.Dataset`, arrays.

    >>> isinstance([(0.5, 1)], MapStyle)
    True
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


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

    >>> predict_pairs(nn.Identity(), [torch.ones(1), torch.zeros(1)])
    (tensor([1.]), tensor([0.]))
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        inputs, targets = data
        return model(inputs), targets
    size = f" of {len(data)}" if isinstance(data, tuple | list | Mapping) else ""
    raise JobError(
        f"expected batches of (inputs, targets), found a {type(data).__name__}{size}; "
        "pass predict, a function of (model, batch) that returns (predictions, targets)"
    )


@dataclass(frozen=True, init=False, eq=False)
class Supervised:
    """A task made of a model, samples with answers, and a loss that is a mean over the batch.

    `model` makes a fresh module, or is one that `build` copies; `train` and `test` are map-style
    datasets, or make one. Options: `metrics` by name, each a function of (predictions, targets)
    of the whole test set or a `Meter`; `collate`, a list of samples to a batch; `predict`, (model,
    batch) to (predictions, targets). The field that holds `loss` is `criterion`.

    >>> pairs = TensorDataset(torch.eye(2), torch.tensor([0, 1]))
    >>> task = Supervised("eye", lambda: nn.Linear(2, 2), pairs, pairs)
    >>> task.loss(task.build(), task.fetch([1, 0])).shape
    torch.Size([])
    """

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
            "train": _dataset("train", train),
            "test": _dataset("test", test),
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

    def build(self) -> nn.Module:
        """A fresh model: made anew, or a deep copy of the module given."""
        return fresh(f"the model of {self.name}", self.model)

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, collated in that order."""
        return Batch(self._gather(self.train, indices), len(indices))

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement; the model has no say."""
        drawn_B: list[int] = torch.randint(self.num_train, (size,), generator=rng).tolist()
        return self.fetch(drawn_B)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch, on whatever device the model is."""
        return self._outcome(model, batch.data)[0]

    def judge(self, predictions: Any, targets: Any) -> Tensor:
        """The mean loss of predictions, on whatever device they are."""
        if isinstance(self.criterion, nn.Module) and isinstance(predictions, Tensor):
            self.criterion.to(predictions.device)  # class weights live where the predictions do
        return self.criterion(predictions, targets)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Each metric over the whole test set, and `test_loss`, which alone is better lower.

        The model is left in the modes it came in; metrics see tensors on the CPU.
        """
        meters = {name: _meter(metric) for name, metric in self.metrics.items()}
        for meter in meters.values():
            meter.reset()
        losses, num_test = [], len(self.test)
        with evaluating(model), torch.no_grad():
            for start in range(0, num_test, SCORE_BATCH):
                indices = range(start, min(start + SCORE_BATCH, num_test))
                loss, *outputs = self._outcome(model, self._gather(self.test, indices))
                losses.append(loss.item() * len(indices))
                predictions, targets = to_device(outputs, torch.device("cpu"))
                for meter in meters.values():
                    meter.update(predictions, targets)
        scores = {name: _number(name, meter.compute()) for name, meter in meters.items()}
        return scores | {TEST_LOSS: math.fsum(losses) / num_test}

    def _outcome(self, model: nn.Module, data: Any) -> tuple[Tensor, Any, Any]:
        predictions, targets = self.predict(model, to_device(data, device_of(model)))
        return self.judge(predictions, targets), predictions, targets

    def _gather(self, dataset: MapStyle, indices: Sequence[int]) -> Any:
        # A subclass may augment in __getitem__, one sample at a time: only the plain type is fast.
        if type(dataset) is TensorDataset and self.collate is default_collate:
            return list(dataset[torch.as_tensor(indices)])
        many = getattr(dataset, "__getitems__", None)
        return self.collate(many(list(indices)) if many else [dataset[i] for i in indices])


def from_spec(name: str, spec: TaskSpec, root: str) -> Supervised:
    """The task of a job file, proven on two samples; `root` is the folder of the user's modules.

    Raises JobError for whatever would fail later: a reference, a dataset, the shapes of the loss.

    >>> spec = TaskSpec(
    ...     model=Ref(call="coterie.tasks.digits:model", kwargs={"width": 2}),
    ...     train=Ref(call="coterie.tasks.digits:train_set"),
    ...     test=Ref(call="coterie.tasks.digits:test_set"),
    ... )
    >>> from_spec("digits", spec, ".").num_train
    1437
    """
    return checked(described(name, spec, root, lambda ref: instantiate(ref, root)))


def described(name: str, spec: TaskSpec, root: str, data: Callable[[Ref], Any]) -> Supervised:
    """The task of a job file, not yet proven, on what `data` makes of the datasets' references."""
    model = resolve(spec.model, root)
    return Supervised(
        name,
        model if isinstance(model, nn.Module) else functools.partial(instantiate, spec.model, root),
        data(spec.train),
        data(spec.test),
        _ready(spec.loss, root),
        metrics={key: _ready(ref, root) for key, ref in spec.metrics.items()},
        collate=_ready(spec.collate, root) if spec.collate else None,
        predict=_ready(spec.predict, root) if spec.predict else None,
    )


def checked(task: Supervised) -> Supervised:
    """The same task, once a throwaway model has computed its loss on two samples.

    >>> pairs = TensorDataset(torch.eye(2), torch.tensor([0, 1]))
    >>> checked(Supervised("eye", nn.Linear(3, 2), pairs, pairs))
    Traceback (most recent call last):
    coterie.errors.JobError: eye: the loss could not be computed on the first 2 samples: ...
    """
    with torch.random.fork_rng(devices=[]):  # a seeded run must not notice the rehearsal
        model = task.build()
        try:
            loss: object = task.loss(model, task.fetch([0, min(1, task.num_train - 1)]))
        except JobError:
            raise
        except Exception as error:
            raise JobError(
                f"{task.name}: the loss could not be computed on the first 2 samples: "
                f"{quoted(error)}; mend the model, the data or the loss"
            ) from error
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise JobError(
            f"{task.name}: expected a model that can learn, found no parameter that "
            f"requires_grad in {type(model).__name__}; give it weights, or unfreeze some"
        )
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise JobError(
            f"{task.name}: expected the loss to be a scalar tensor with a gradient, found {found}"
            f"{' without one' if isinstance(loss, Tensor) and not loss.requires_grad else ''}; "
            "return the mean over the batch"
        )
    return task


@runtime_checkable
class _Movable(Protocol):
    def to(self, device: torch.device, /) -> Any: ...


def to_device(data: Any, device: torch.device) -> Any:
    """The same nest of mappings, tuples and lists with everything that can move on `device`.

    >>> to_device({"x": [torch.ones(1), "label"]}, torch.device("meta"))
    {'x': [tensor(..., device='meta', size=(1,)), 'label']}
    """
    match data:
        case _Movable():  # tensors, and batches of graphs or packed sequences that know how
            return data.to(device)
        case Mapping():
            return {key: to_device(value, device) for key, value in data.items()}
        case tuple() if hasattr(data, "_fields"):
            return type(data)(*(to_device(value, device) for value in data))
        case tuple() | list():
            return type(data)(to_device(value, device) for value in data)
        case _:
            return data


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
    return metric if isinstance(metric, Meter) else _Whole(metric)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise JobError(
            f"expected metric {name} to be one number, found {type(value).__name__}; "
            "return a float or a tensor of one value"
        ) from None


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the modes it came in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training  # one by one: a user may have frozen a part in eval


def device_of(model: nn.Module) -> torch.device:
    """Where a model's tensors are; the CPU if it has none."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def _dataset(role: str, given: MapStyle | Callable[[], MapStyle]) -> MapStyle:
    is_made = not isinstance(given, type) and isinstance(given, MapStyle | IterableDataset)
    dataset: object = given() if callable(given) and not is_made else given
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, MapStyle):
        raise JobError(
            f"expected {role} to be a dataset with __len__ and __getitem__, "
            f"found {type(dataset).__name__}; each sample needs a number to be learned once"
        )
    if len(dataset) == 0:
        raise JobError(f"expected {role} to hold samples, found an empty dataset; check its path")
    return dataset


def _mean_of_batch(loss: Criterion) -> Criterion:
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    reduction = bound.get("reduction", getattr(loss, "reduction", "mean"))
    if reduction in ("sum", "none"):
        raise JobError(
            f"expected a loss that is a mean over the batch, found reduction={reduction!r}; "
            "members' shares are weighted by their samples, so use reduction='mean'"
        )
    return loss


def _ready(ref: Ref, root: str) -> Any:
    target = resolve(ref, root)
    if isinstance(target, type):
        return instantiate(ref, root)
    return functools.partial(target, **ref.kwargs) if ref.kwargs else target
