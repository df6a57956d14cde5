"""A Lightning module as a task: its steps are called here, without Lightning's Trainer.

Nothing here loads Lightning: whoever has a module of its kind has loaded it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import default_collate

from coterie.errors import JobError
from coterie.specs import TEST_LOSS
from coterie.tasks.passes import numbered
from coterie.tasks.samples import (
    Collate,
    MapStyle,
    Model,
    batches,
    built,
    device_of,
    drawn,
    evaluating,
    gather,
    to_device,
)
from coterie.types import Batch

CALLED = ("on_validation_epoch_start", "on_validation_epoch_end")
STEERING = (  # beside what begins with on_: they steer a Trainer, and there is none
    "backward",
    "configure_callbacks",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "transfer_batch_to_device",
)
VALIDATION_LOSS = "val_loss"


@dataclass(frozen=True, eq=False)
class Lightning:
    """What `training_step` descends and `validation_step` scores, on samples given beside them.

    `metrics` names what `validation_step` logs, higher being better. The optimizer and schedule
    of `configure_optimizers` are `configured` and `scheduled`, given to `coterie.train` as any
    other; so may others be. A module that changes how a Trainer trains is refused.

    >>> class Net(nn.Linear):
    ...     def training_step(self, batch):
    ...         return (self(batch) ** 2).mean()
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> task = Lightning("zero", lambda: Net(1, 1), torch.ones(4, 1), torch.ones(2, 1))
    >>> task.loss(task.build(), task.fetch([0, 1])).shape
    torch.Size([])
    """

    kind: ClassVar[str] = "lightning"
    name: str
    model: Model
    train: Any
    test: Any
    metrics: Sequence[str] = ()
    collate: Collate | None = None
    given: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        names = ("model", "train", "test", "metrics", "collate")
        given = {name: getattr(self, name) for name in names}
        made: dict[str, MapStyle | dict[str, Any]] = {
            "given": given | {"metrics": list(self.metrics)},
            "train": numbered("train", self.train),
            "test": numbered("test", self.test),
        }
        for attribute, value in made.items():
            object.__setattr__(self, attribute, value)

    @property
    def num_train(self) -> int:
        """How many training samples there are."""
        return len(self.train)

    def build(self) -> nn.Module:
        """A fresh module. Raises JobError for one that needs a Trainer."""
        model = built("model", self.model)
        _check(model)
        for parameter in model.parameters():
            parameter._lightning = weakref.ref(model)  # type: ignore[attr-defined]
        return model

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, collated in that order."""
        return Batch(gather(self.train, indices, self.collate or default_collate), len(indices))

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement; the model has no say."""
        return self.fetch(drawn(self.num_train, rng, size))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What `training_step` returns; what it logs goes nowhere."""
        with _logging(model, lambda name, value: None):
            loss: Tensor = self._step(model, "training_step", batch.data, 0)
            return loss

    def score(self, model: nn.Module) -> dict[str, float]:
        """The metrics, and `test_loss`: what `validation_step` returns, or logs as `val_loss`."""
        sums: dict[str, float] = {}
        meters: dict[str, Any] = {}
        num = 0

        def note(name: str, value: Any) -> None:
            if callable(getattr(value, "compute", None)):
                meters[name] = value
            else:
                sums[name] = sums.get(name, 0.0) + float(value) * num

        step = "validation_step" if _has(model, "validation_step") else "training_step"
        with evaluating(model), _logging(model, note):
            getattr(model, CALLED[0], int)()
            for number, (size, data) in enumerate(
                batches(self.test, self.collate or default_collate)
            ):
                num = size
                loss = self._step(model, step, data, number, needed=False)
                if loss is not None:
                    note(TEST_LOSS, loss)
            num = len(self.test)  # what is logged now is of all of it
            _call(model, CALLED[1])
        scores = {name: total / len(self.test) for name, total in sums.items()}
        for name, meter in meters.items():
            scores[name] = float(meter.compute())
            meter.reset()
        return self._told(scores)

    def _told(self, scores: Mapping[str, float]) -> dict[str, float]:
        missing = [name for name in self.metrics if name not in scores]
        if missing:
            raise JobError(
                f"{self.name}: expected validation_step to log {', '.join(missing)}, found "
                f"{', '.join(scores) or 'nothing logged'}; log it, or name another in metrics"
            )
        told = {name: scores[name] for name in self.metrics}
        for loss in (TEST_LOSS, VALIDATION_LOSS):
            if loss in scores:
                return told | {TEST_LOSS: scores[loss]}
        raise JobError(
            f"{self.name}: expected validation_step to return its loss or to log it as "
            f"{VALIDATION_LOSS}, found neither; do one of both"
        )

    def _step(
        self, model: nn.Module, step: str, data: Any, number: int, needed: bool = True
    ) -> Any:
        takes = inspect.signature(getattr(model, step)).parameters
        told = (to_device(data, device_of(model)), number)[: max(1, len(takes))]
        found = getattr(model, step)(*told)
        loss = found.get("loss") if isinstance(found, Mapping) else found
        if needed and not isinstance(loss, Tensor):
            raise JobError(
                f"{self.name}: expected {step} to return a loss, found {type(loss).__name__}; "
                "return it, or a dict with it under 'loss'"
            )
        return loss


def configured(parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer that the Lightning module of these parameters configures.

    Raises JobError for several, and at its first step for a schedule that nobody asked for.
    """
    owner = getattr(parameters[0], "_lightning", lambda: None)()
    if owner is None:
        raise JobError(
            "expected the parameters of a Lightning task, found others; use coterie.Lightning, or "
            "name another optimizer"
        )
    optimizers, schedule = _parts(owner.configure_optimizers())
    if len(optimizers) != 1:
        raise JobError(
            f"expected configure_optimizers to return one optimizer, found {len(optimizers)}; "
            "learn with one, or in a loop of your own"
        )
    optimizer: Optimizer = optimizers[0]
    if schedule is not None:
        unasked = optimizer.register_step_pre_hook(_refuse_unasked)
        optimizer._lightning = (schedule, unasked)  # type: ignore[attr-defined]
    return optimizer


def scheduled(optimizer: Optimizer, every: Literal["epoch", "step"] = "epoch") -> LRScheduler:
    """The schedule that was configured with an optimizer; `every` as the job has it."""
    schedule, unasked = getattr(optimizer, "_lightning", (None, None))
    if schedule is None or unasked is None:
        raise JobError(
            "expected an optimizer that was configured with a schedule, found one without; leave "
            "the scheduler out, or name another"
        )
    found = schedule.get("interval", "epoch")
    if found != every or schedule.get("frequency", 1) != 1:
        raise JobError(
            f"expected a schedule of every {every}, found {schedule.get('frequency', 1)} × "
            f"{found}; use functools.partial(scheduled, every={found!r}) and scheduler_every="
            f"{found!r}, with a frequency of 1"
        )
    unasked.remove()
    scheduler: LRScheduler = schedule["scheduler"]
    return scheduler


def _refuse_unasked(*_: object) -> None:
    raise JobError(
        "expected the schedule that configure_optimizers returns to be used, found none; pass "
        "scheduler=coterie.tasks.lightning.scheduled, or return the optimizer alone"
    )


def _parts(told: Any) -> tuple[list[Any], dict[str, Any] | None]:
    """Optimizers and a schedule, of all that configure_optimizers may return."""
    if isinstance(told, Mapping):
        optimizers, schedules = [told["optimizer"]], told.get("lr_scheduler")
    elif isinstance(told, tuple | list) and told and isinstance(told[0], list | tuple):
        optimizers, schedules = list(told[0]), told[1]
    else:
        optimizers, schedules = list(told) if isinstance(told, tuple | list) else [told], None
    schedules = list(schedules) if isinstance(schedules, tuple | list) else [schedules]
    found = [each for each in schedules if each is not None]
    if len(found) > 1:
        raise JobError(f"expected one schedule, found {len(found)}; leave the others out")
    if not found:
        return optimizers, None
    return optimizers, found[0] if isinstance(found[0], dict) else {"scheduler": found[0]}


@contextmanager
def _logging(model: nn.Module, note: Callable[[str, Any], None]) -> Iterator[None]:
    """Hear what a module logs, which without a Trainer goes nowhere."""

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        note(name, value)

    def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for name, value in values.items():
            note(name, value)

    model.__dict__.update(log=log, log_dict=log_dict)
    try:
        yield
    finally:
        del model.__dict__["log"], model.__dict__["log_dict"]


def _base(model: nn.Module) -> type:
    """Lightning's own class, from which a module inherits what it does not say."""
    bases = [kind for kind in type(model).__mro__ if kind.__name__ == "LightningModule"]
    return bases[0] if bases else nn.Module


def _has(model: nn.Module, name: str) -> bool:
    found = getattr(type(model), name, None)
    return found is not None and found is not getattr(_base(model), name, None)


def _call(model: nn.Module, hook: str) -> None:
    if _has(model, hook):
        getattr(model, hook)()


def _check(model: nn.Module) -> None:
    for name in ("training_step", "configure_optimizers"):
        if not _has(model, name):
            raise JobError(
                f"expected a Lightning module with {name}, found {type(model).__name__} without; "
                "give it one, or use coterie.Supervised"
            )
    names = [name for name in dir(type(model)) if name.startswith("on_") or name in STEERING]
    found = [name for name in names if name not in CALLED and _has(model, name)]
    if not getattr(model, "automatic_optimization", True):
        found.append("automatic_optimization = False")
    if found:
        raise JobError(
            f"expected a Lightning module that learns by training_step alone, found "
            f"{', '.join(found)} in {type(model).__name__}; leave that out, or train in a loop "
            "of your own with coterie.join()"
        )
