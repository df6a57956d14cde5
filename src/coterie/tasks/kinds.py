"""From the task section of a job file to a task, one builder for each kind; and its rehearsal."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from coterie.errors import JobError
from coterie.names import Ref
from coterie.specs import (
    AnySpec,
    AutoencoderSpec,
    ClustersSpec,
    ContrastiveSpec,
    LightningSpec,
    MultiSpec,
    PrototypesSpec,
    SeparateSpec,
    TaskSpec,
)
from coterie.tasks.autoencoder import Autoencoder, squared_error
from coterie.tasks.base import NamedTask
from coterie.tasks.clusters import Clusters
from coterie.tasks.columns import visiting
from coterie.tasks.contrastive import Contrastive
from coterie.tasks.lightning import Lightning
from coterie.tasks.multitask import MultiTask
from coterie.tasks.prototypes import Prototypes
from coterie.tasks.references import instantiate, quoted, resolve
from coterie.tasks.supervised import Supervised
from coterie.tasks.views import by_shape
from coterie.tasks.weighing import Balance, Conflict, Weighing

T = TypeVar("T", bound=NamedTask)


def from_spec(name: str, spec: AnySpec, root: str) -> NamedTask:
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
    with visiting():
        return checked(_built(name, spec, root))


def _built(name: str, spec: AnySpec, root: str) -> NamedTask:
    match spec:
        case TaskSpec():
            return _supervised(name, spec, root, functools.partial(instantiate, root=root))
        case AutoencoderSpec():
            return _autoencoder(name, spec, root)
        case ContrastiveSpec():
            return _contrastive(name, spec, root)
        case ClustersSpec():
            return _clusters(name, spec, root)
        case LightningSpec():
            return _lightning(name, spec, root)
        case PrototypesSpec():
            return _prototypes(name, spec, root, functools.partial(instantiate, root=root))
        case MultiSpec():
            return _multi(name, spec, root)
        case SeparateSpec():
            raise JobError(f"{name}: expected one task, found several that are learned apart")


def _supervised(name: str, spec: TaskSpec, root: str, data: Callable[[Ref], Any]) -> Supervised:
    return Supervised(
        name,
        _model(spec.model, root),
        data(spec.train),
        data(spec.test),
        _ready(spec.loss, root),
        metrics={key: _ready(ref, root) for key, ref in spec.metrics.items()},
        collate=_ready(spec.collate, root) if spec.collate else None,
        predict=_ready(spec.predict, root) if spec.predict else None,
    )


def _autoencoder(name: str, spec: AutoencoderSpec, root: str) -> Autoencoder:
    return Autoencoder(
        name,
        _model(spec.model, root),
        instantiate(spec.train, root),
        instantiate(spec.test, root),
        anomalies=instantiate(spec.anomalies, root) if spec.anomalies else None,
        error=_ready(spec.error, root) if spec.error else squared_error,
        collate=_ready(spec.collate, root) if spec.collate else None,
    )


def _contrastive(name: str, spec: ContrastiveSpec, root: str) -> Contrastive:
    return Contrastive(
        name,
        _model(spec.model, root),
        instantiate(spec.train, root),
        instantiate(spec.test, root),
        views=_ready(spec.views, root) if spec.views else by_shape,
        head=_model(spec.head, root) if spec.head else None,
        temperature=spec.temperature,
        group=spec.group,
        labelled=instantiate(spec.labelled, root) if spec.labelled else None,
        collate=_ready(spec.collate, root) if spec.collate else None,
    )


def _clusters(name: str, spec: ClustersSpec, root: str) -> Clusters:
    return Clusters(
        name,
        functools.partial(instantiate, spec.model, root),
        instantiate(spec.train, root),
        instantiate(spec.test, root),
        labelled=instantiate(spec.labelled, root) if spec.labelled else None,
        collate=_ready(spec.collate, root) if spec.collate else None,
    )


def _lightning(name: str, spec: LightningSpec, root: str) -> Lightning:
    return Lightning(
        name,
        _model(spec.model, root),
        instantiate(spec.train, root),
        instantiate(spec.test, root),
        metrics=spec.metrics,
        collate=_ready(spec.collate, root) if spec.collate else None,
    )


def _prototypes(
    name: str, spec: PrototypesSpec, root: str, data: Callable[[Ref], Any]
) -> Prototypes:
    return Prototypes(
        name,
        _model(spec.model, root),
        data(spec.train),
        data(spec.test),
        ways=spec.ways,
        shots=spec.shots,
        temperature=spec.temperature,
        collate=_ready(spec.collate, root) if spec.collate else None,
    )


def _multi(name: str, spec: MultiSpec, root: str) -> MultiTask:
    made: dict[str, Any] = {}

    def once(ref: Ref) -> Any:  # so that tasks which name one table share it
        key = json.dumps([ref.call, ref.kwargs], sort_keys=True)
        return made[key] if key in made else made.setdefault(key, instantiate(ref, root))

    tasks = [
        _supervised(each, part, root, once)
        if isinstance(part, TaskSpec)
        else _prototypes(each, part, root, once)
        for each, part in spec.tasks.items()
    ]
    trunk, balance = _model(spec.trunk, root), _balance(spec, root)
    return MultiTask(name, trunk, tasks, balance, spec.place, spec.priority)


def _balance(spec: MultiSpec, root: str) -> str | dict[str, float] | Balance:
    if not isinstance(spec.balance, Ref):
        return spec.balance
    balance: object = instantiate(spec.balance, root)
    if isinstance(balance, Weighing | Conflict):
        return balance
    raise JobError(
        f"expected balance to be a Weighing or a Conflict, found {type(balance).__name__}; "
        "name a class of coterie.tasks.weighing, or one of your own that is a Weighing"
    )


def _model(ref: Ref, root: str) -> Any:
    model = resolve(ref, root)
    return model if isinstance(model, nn.Module) else functools.partial(instantiate, ref, root)


def checked(task: T) -> T:
    """The same task, once a throwaway model has computed its loss on two samples.

    Of several tasks each is tried by itself, for a refusal is to name the one that cannot.

    >>> pairs = torch.utils.data.TensorDataset(torch.eye(2), torch.tensor([0, 1]))
    >>> checked(Supervised("eye", nn.Linear(3, 2), pairs, pairs))
    Traceback (most recent call last):
    coterie.errors.JobError: eye: the loss could not be computed on the first 2 samples: ...
    """
    if isinstance(task, MultiTask):
        for name in task.tasks:
            checked(task.alone(name))
        return task
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


def _ready(ref: Ref, root: str) -> Any:
    target = resolve(ref, root)
    if isinstance(target, type):
        return instantiate(ref, root)
    return functools.partial(target, **ref.kwargs) if ref.kwargs else target
