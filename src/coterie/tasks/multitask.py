"""Several tasks in one model: a trunk that they share, and a head that is each one's own.

Legend of shape suffixes: N values of the trunk, M tasks, B samples of a batch, K of them that have
an answer of a task.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from coterie.errors import JobError, NotFinite
from coterie.placing import Place, check_place
from coterie.specs import TEST_LOSS
from coterie.tasks.base import HeadTask, NamedTask
from coterie.tasks.network import Network
from coterie.tasks.samples import Model, built, device_of, drawn, to_device
from coterie.tasks.sources import (
    Source,
    check_names,
    check_owners,
    in_columns,
    sources,
)
from coterie.tasks.tables import Table
from coterie.tasks.weighing import LEAST, Balance, Conflict, Moment, balance_of
from coterie.types import Batch


class Group(NamedTuple):
    """Inputs of one batch, and of each task: which of them have an answer (None: all), and it."""

    inputs: Any
    answers: Mapping[str, tuple[Tensor | None, Any]]
    size: int  # samples that are learned; there may be more inputs


class Part(NamedTuple):
    """A task's part in a batch: its mean loss there, and what the loss counts for fairness."""

    loss: Tensor
    portion: float


@dataclass(frozen=True, init=False, eq=False)
class MultiTask:
    """Tasks that share a trunk, learned together: Σ λᵢLᵢ, or gradients reconciled by a law.

    `trunk` makes a fresh module, or is one that `build` copies; the model of each task is its
    head, from the trunk's features to predictions. Tasks have datasets of their own, or take their
    columns of one `Table`, whose answers may be missing. Every sample is learned once in a data
    epoch, whatever the number of its answers. `balance` is a name such as "uncertainty" or
    "pcgrad", a weight for each task, or a `Weighing` or `Conflict`.

    `place` says whose tasks they are: everybody's, {task: [agents]}, or as the coordinator finds
    best ("auto"), which places tasks of higher `priority` first.

    Samples of a task count N/Nᵢ, so that Lᵢ is the mean over its own and Σ λᵢLᵢ is what is
    descended, though tasks have unequally many samples and agents unequal shares of them.

    >>> from torch.utils.data import TensorDataset
    >>> from coterie.tasks.supervised import Supervised
    >>> many, few = TensorDataset(torch.eye(2), torch.tensor([0, 1])), [(torch.ones(2), 1)]
    >>> tasks = [Supervised(name, nn.Linear(3, 2), data, data) for name, data in
    ...          (("a", many), ("b", few))]
    >>> task = MultiTask("both", nn.Linear(2, 3), tasks)
    >>> task.num_train, task.loss(task.build(), task.fetch([0, 2])).shape
    (3, torch.Size([]))
    """

    kind: ClassVar[str] = "multi"
    name: str
    trunk: Model
    tasks: Mapping[str, HeadTask]
    balance: Balance
    sources: tuple[Source, ...]
    place: Place
    given: Mapping[str, Any]  # the arguments as they were given: what another process can rebuild

    def __init__(
        self,
        name: str,
        trunk: Model,
        tasks: Sequence[HeadTask],
        balance: str | Mapping[str, float] | Balance = "equal",
        place: Place = "everywhere",
        priority: Mapping[str, float] | None = None,
    ) -> None:
        check_names(name, [task.name for task in tasks])
        check_place(place, priority or {}, [task.name for task in tasks])
        tables: dict[Any, Table] = {}
        own = {task.name: in_columns(task, tables) for task in tasks}
        values = {
            "name": name,
            "trunk": trunk,
            "tasks": own,
            "balance": balance_of(balance),
            "sources": tuple(sources(own)),
            "place": place,
            "given": {
                "trunk": trunk,
                "tasks": {task.name: task for task in tasks},
                "train": None,  # each task has its own by now
                "test": None,
                "balance": dict(balance) if isinstance(balance, Mapping) else balance,
                "place": place if isinstance(place, str) else dict(place),
                "priority": dict(priority or {}),
            },
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        check_owners(self.place, self.sources, self.balance)
        if not isinstance(self.balance, Conflict):
            self.balance.memory(tuple(own))  # a weight of no task is refused here

    @property
    def num_train(self) -> int:
        """How many training samples there are, those of a table once."""
        return sum(source.size for source in self.sources)

    @property
    def is_placed(self) -> bool:
        """Whether tasks have owners."""
        return self.place != "everywhere"

    @property
    def numbered(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """The tasks whose samples are numbered together, and how many samples they have."""
        return tuple((source.tasks, source.size) for source in self.sources)

    def source_of(self, parameter: str) -> int | None:
        """The source whose samples alone teach a parameter or move a buffer; None for shared ones.

        >>> from coterie.tasks.supervised import Supervised
        >>> task = Supervised("a", nn.Linear(3, 2), [(torch.ones(2), 1)], [(torch.ones(2), 1)])
        >>> both = MultiTask("both", nn.Linear(2, 3), [task])
        >>> both.source_of("heads.a.weight"), both.source_of("trunk.weight")
        (0, None)
        """
        kind, _, rest = parameter.partition(".")
        name = rest.partition(".")[0]
        found = (at for at, source in enumerate(self.sources) if name in source.tasks)
        return next(found, None) if kind == "heads" else None

    def build(self) -> nn.Module:
        """A fresh model: the trunk, then the heads in the order of tasks."""
        trunk = built(f"trunk of {self.name}", self.trunk)
        heads = {name: task.build() for name, task in self.tasks.items()}
        if isinstance(self.balance, Conflict):
            return Network(trunk, heads, {})
        return Network(trunk, heads, self.balance.memory(tuple(self.tasks)))

    def alone(self, name: str) -> NamedTask:
        """One of the tasks by itself: the same trunk under the same head, and its own samples."""
        task = self.tasks[name]

        def model() -> nn.Module:
            return nn.Sequential(built(f"trunk of {self.name}", self.trunk), task.build())

        return task.under(model)

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, in groups of one source each."""
        ends = list(accumulate(source.size for source in self.sources))
        wanted: dict[int, list[int]] = {}
        for index in indices:
            at = bisect_right(ends, index)
            wanted.setdefault(at, []).append(index - ends[at] + self.sources[at].size)
        return Batch(
            [self._group(self.sources[at], wanted[at]) for at in sorted(wanted)], len(indices)
        )

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement; the model has no say."""
        return self.fetch(drawn(self.num_train, rng, size))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Σ λᵢLᵢ over the batch, whose gradient is that of the sum, or what the law makes of it.

        In training mode the balance takes note of what it sees. NotFinite names the task.
        """
        assert isinstance(model, Network)
        groups = to_device(batch.data, device_of(model))
        if isinstance(self.balance, Conflict):
            return self._reconciled(model, self.balance, self.parts(model, groups, batch.size))
        return self._weighed(model, groups, batch.size)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Each task's metrics and test loss as TASK/METRIC, and means over tasks as METRIC."""
        assert isinstance(model, Network)
        scores: dict[str, float] = {}
        shared: dict[str, list[float]] = {}
        for name, task in self.tasks.items():
            for metric, value in task.score(model.alone(name)).items():
                scores[f"{name}/{metric}"] = value
                shared.setdefault(metric, []).append(value)
        means = {metric: math.fsum(found) / len(found) for metric, found in shared.items()}
        return {TEST_LOSS: means.pop(TEST_LOSS), **means, **scores}

    def parts(self, model: Network, groups: Sequence[Group], size: int) -> dict[str, Part]:
        """The loss of each task that has samples here; each group passes the trunk by itself."""
        return self._judged(model, groups, [model.trunk(group.inputs) for group in groups], size)

    def _judged(
        self, model: Network, groups: Sequence[Group], features: Sequence[Any], size: int
    ) -> dict[str, Part]:
        parts = {}
        for group, encoded in zip(groups, features, strict=True):
            for name, (which, targets) in group.answers.items():
                task, num = self.tasks[name], group.size if which is None else len(which)
                if not num:
                    continue
                told = encoded if which is None else _rows(encoded, which)
                loss = task.judge(model.heads[name](told), targets, device_of(model))
                parts[name] = Part(loss, self.num_train / task.num_train * num / size)
        _check_finite(parts)
        return parts

    def _weighed(self, model: Network, groups: Sequence[Group], size: int) -> Tensor:
        assert not isinstance(self.balance, Conflict)
        parts = self._judged(model, groups, _together(model.trunk, groups), size)
        memory = model.balance.read()
        weights, after = self.balance.weigh(memory, self._moment(model, groups, parts))
        if _learns(model):
            model.balance.write(after)
        terms = [
            weight * parts[name].portion * parts[name].loss
            for name, weight in zip(self.tasks, weights, strict=True)
            if name in parts
        ]
        total = sum(terms, start=_idle(model, parts))
        toll = self.balance.toll(memory)
        return total + toll if isinstance(toll, Tensor) else total

    def _moment(self, model: Network, groups: Sequence[Group], parts: Mapping[str, Part]) -> Moment:
        def over(values: Mapping[str, Tensor]) -> Tensor:
            unknown = torch.tensor(torch.nan, device=device_of(model))
            return torch.stack([values.get(name, unknown).float() for name in self.tasks])

        def slope_M() -> Tensor:
            last = [p for p in model.trunk.parameters() if p.requires_grad and p.dim() > 1][-1]
            return over(
                {
                    name: torch.autograd.grad(
                        part.loss, last, retain_graph=True, materialize_grads=True
                    )[0].norm()
                    for name, part in parts.items()
                }
            )

        def change_M() -> Tensor:
            last = model.balance.last
            if _learns(model):  # only for who asks: a batch is much to keep
                model.balance.last = (groups, loss_M)
            if last is None:
                return over({})
            with torch.no_grad():
                now = self.parts(model, last[0], 1)
            now_M = over({name: part.loss for name, part in now.items()})
            change: Tensor = now_M.clamp(min=LEAST).log() - last[1].clamp(min=LEAST).log()
            return change

        loss_M = over({name: part.loss.detach() for name, part in parts.items()})
        return Moment(tuple(self.tasks), loss_M, slope_M, change_M)

    def _reconciled(self, model: Network, law: Conflict, parts: Mapping[str, Part]) -> Tensor:
        losses = {name: part.portion * part.loss for name, part in parts.items()}
        idle = _idle(model, parts)
        if not losses or not torch.is_grad_enabled():
            return sum(losses.values(), start=idle)
        trunk = [p for p in model.trunk.parameters() if p.requires_grad]
        rows: list[Tensor] = []
        told: list[tuple[nn.Parameter, Tensor]] = []
        for name, loss in losses.items():
            head = [p for p in model.heads[name].parameters() if p.requires_grad]
            slopes = torch.autograd.grad(
                loss, [*trunk, *head], retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([slope.reshape(-1) for slope in slopes[: len(trunk)]]))
            told.extend(zip(head, slopes[len(trunk) :], strict=True))
        blocks = law.combine(rows).split_with_sizes([p.numel() for p in trunk])
        told.extend((p, block.view_as(p)) for p, block in zip(trunk, blocks, strict=True))
        parameters, slopes = zip(*told, strict=True)
        total = torch.stack([loss.detach() for loss in losses.values()]).sum()
        agreed: Tensor = _Agreed.apply(total, slopes, *parameters)  # type: ignore[no-untyped-call]
        return agreed + idle

    def _group(self, source: Source, indices: Sequence[int]) -> Group:
        if source.table is not None:
            told = {name: source.table.answered(name, indices) for name in source.tasks}
            return Group(source.table.gather(indices), told, len(indices))
        (name,) = source.tasks
        data = self.tasks[name].fetch(indices).data
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise JobError(
                f"expected {name} to have samples of (inputs, targets), found "
                f"{type(data).__name__}; a trunk reads the inputs alone, so let collate make pairs"
            )
        return Group(data[0], {name: (None, data[1])}, len(indices))


class _Agreed(torch.autograd.Function):
    """A number whose gradient has been decided already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: tuple[Tensor, ...], *_: Tensor) -> Tensor:
        ctx.slopes = slopes
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *told: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(told[0] * slope for slope in ctx.slopes))


def _together(trunk: nn.Module, groups: Sequence[Group]) -> Sequence[Any]:
    """The features of each group, from one pass of the trunk where inputs are of one shape."""
    inputs = [group.inputs for group in groups]
    kinds = {(x.dtype, x.shape[1:]) if isinstance(x, Tensor) else None for x in inputs}
    if len(groups) < 2 or None in kinds or len(kinds) > 1:
        return [trunk(x) for x in inputs]
    encoded = trunk(torch.cat(inputs))
    ends = list(accumulate(len(x) for x in inputs))
    return [_rows(encoded, slice(end - len(x), end)) for x, end in zip(inputs, ends, strict=True)]


def _rows(encoded: Any, which: Tensor | slice) -> Any:
    """Some samples of features, which may be several tensors together."""
    if isinstance(encoded, Tensor):
        return encoded[which]
    return type(encoded)(_rows(part, which) for part in encoded)


def _check_finite(parts: Mapping[str, Part]) -> None:
    if not parts:
        return
    losses = torch.stack([part.loss.detach() for part in parts.values()])
    if not bool(losses.isfinite().all()):
        broken = [
            n for n, found in zip(parts, losses.isfinite().tolist(), strict=True) if not found
        ]
        raise NotFinite(
            f"expected finite losses, found others of {', '.join(broken)}; "
            "lower the learning rate, or look for broken samples there"
        )


def _learns(model: nn.Module) -> bool:
    """Whether a step may follow, so that what is seen should be remembered."""
    return model.training and torch.is_grad_enabled()


def _idle(model: Network, parts: Mapping[str, Part]) -> Tensor:
    """Zero, with a gradient of zero for what this batch says nothing about.

    A parameter without a gradient would stand still on one road and go on by its momentum on
    another, where gradients of all parameters are summed.
    """
    heads = [head for name, head in model.heads.items() if name not in parts]
    silent = [*heads, *([] if parts else [model.trunk])]
    idle = [p for module in silent for p in module.parameters() if p.requires_grad]
    zero = torch.zeros((), device=device_of(model))
    return sum(((0.0 * p).sum().float() for p in idle), start=zero)
