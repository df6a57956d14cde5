"""From what a job file says is learned to the task itself, whichever kind it is."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from torch import nn

from coterie.config import MultiSpec, Ref, TaskSpec
from coterie.errors import JobError
from coterie.tasks.multitask import MultiTask, proven
from coterie.tasks.references import instantiate, resolve
from coterie.tasks.supervised import Supervised, described
from coterie.tasks.supervised import from_spec as one_from_spec
from coterie.tasks.weighing import Balance, Conflict, Weighing


def from_spec(name: str, spec: TaskSpec | MultiSpec, root: str) -> Supervised | MultiTask:
    """The task of a job file, proven on two samples; `root` is the folder of the user's modules.

    What several tasks refer to alike is made once: so they may share a table. Raises JobError for
    whatever would fail later, with the name of the task in which it would.

    >>> part = TaskSpec(model=Ref(call="torch.nn:Linear", kwargs={"in_features": 8,
    ...     "out_features": 10}), train="coterie.tasks.digits:train_set",
    ...     test="coterie.tasks.digits:test_set")
    >>> trunk = Ref(call="coterie.tasks.digits:trunk", kwargs={"width": 2})
    >>> from_spec("one", MultiSpec(trunk=trunk, tasks={"digit": part}), ".").num_train
    1437
    """
    if isinstance(spec, TaskSpec):
        return one_from_spec(name, spec, root)
    made: dict[str, Any] = {}

    def once(ref: Ref) -> Any:
        key = json.dumps([ref.call, ref.kwargs], sort_keys=True)
        return made[key] if key in made else made.setdefault(key, instantiate(ref, root))

    tasks = [described(each, part, root, once) for each, part in spec.tasks.items()]
    return proven(MultiTask(name, _maker(spec.trunk, root), tasks, _balance(spec, root)))


def _maker(ref: Ref, root: str) -> nn.Module | Callable[[], nn.Module]:
    model = resolve(ref, root)
    return model if isinstance(model, nn.Module) else functools.partial(instantiate, ref, root)


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
