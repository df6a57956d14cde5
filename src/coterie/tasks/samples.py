"""Samples of any task: data sets, batches out of them, and the model that sees those."""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from coterie.errors import JobError
from coterie.tasks.columns import Columnar, Rows
from coterie.tasks.keras import understood_model
from coterie.types import Batch

SCORE_BATCH = 512  # held-out samples looked at together

Collate = Callable[[list[Any]], Any]


@runtime_checkable
class MapStyle(Protocol):
    """A dataset whose samples are numbered: lists, `torch.utils.data.Dataset`, arrays.

    >>> isinstance([(0.5, 1)], MapStyle)
    True
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Samples = MapStyle | Callable[[], MapStyle]
Model = nn.Module | Callable[[], nn.Module]


def dataset(role: str, given: Samples) -> MapStyle:
    """The data set given, or made by what was given; JobError for one without numbered samples.

    >>> dataset("train", lambda: [1, 2])
    [1, 2]
    """
    is_made = not isinstance(given, type) and isinstance(
        given, MapStyle | IterableDataset | Columnar
    )
    found: object = given() if callable(given) and not is_made else given
    found = Rows.read(found) if isinstance(found, Columnar) else found
    if isinstance(found, IterableDataset) or not isinstance(found, MapStyle):
        raise JobError(
            f"expected {role} to be a dataset with __len__ and __getitem__, "
            f"found {type(found).__name__}; each sample needs a number to be learned once"
        )
    if len(found) == 0:
        raise JobError(f"expected {role} to hold samples, found an empty dataset; check its path")
    return found


def gather(dataset: MapStyle, indices: Sequence[int], collate: Collate = default_collate) -> Any:
    """The samples at `indices` as one batch, in that order.

    >>> gather([1.0, 2.0, 3.0], [2, 0])
    tensor([3., 1.], dtype=torch.float64)
    """
    # A subclass may augment in __getitem__, one sample at a time: only plain types are fast.
    if collate is default_collate and type(dataset) is TensorDataset:
        return list(dataset[torch.as_tensor(indices)])
    if collate is default_collate and type(dataset) is Tensor:
        return dataset[torch.as_tensor(indices)]
    if collate is default_collate and isinstance(dataset, Rows):
        return dataset.take(indices)
    many = getattr(dataset, "__getitems__", None)
    return collate(many(list(indices)) if many else [dataset[i] for i in indices])


def batches(dataset: MapStyle, collate: Collate = default_collate) -> Iterator[tuple[int, Any]]:
    """All samples in order, some hundreds at a time, each time with how many there are.

    >>> list(batches([1, 2]))
    [(2, tensor([1, 2]))]
    """
    for start in range(0, len(dataset), SCORE_BATCH):
        indices = range(start, min(start + SCORE_BATCH, len(dataset)))
        yield len(indices), gather(dataset, indices, collate)


def drawn(num_train: int, rng: torch.Generator, size: int) -> list[int]:
    """Numbers of `size` of so many samples, drawn with replacement.

    >>> drawn(1, torch.Generator(), 3)
    [0, 0, 0]
    """
    numbers_B: list[int] = torch.randint(num_train, (size,), generator=rng).tolist()
    return numbers_B


@dataclass(frozen=True, eq=False)
class Source:
    """Samples that are learned without answers: tensors, or tuples that begin with one.

    >>> source = Source.of("train", [(torch.ones(3), "a name")] * 5)
    >>> len(source), source.inputs([4, 1]).shape
    (5, torch.Size([2, 3]))
    """

    dataset: MapStyle
    collate: Collate

    @classmethod
    def of(cls, role: str, given: Samples, collate: Collate | None = None) -> Source:
        """From what a task was given; raises JobError for what holds no numbered samples."""
        return cls(dataset(role, given), collate or default_collate)

    @classmethod
    def given(cls, role: str, given: Samples | None, collate: Collate | None) -> Source | None:
        """The same of what a task may do without."""
        return None if given is None else cls.of(role, given, collate)

    def __len__(self) -> int:
        return len(self.dataset)

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """The samples at `indices`, (B, ...)."""
        return inputs_of(gather(self.dataset, indices, self.collate))

    def each(self) -> Iterator[Tensor]:
        """All samples in order, some hundreds at a time."""
        return (inputs_of(data) for _, data in batches(self.dataset, self.collate))

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same with their labels; JobError where they have none."""
        return (labelled_pair(data) for _, data in batches(self.dataset, self.collate))


class Sourced(abc.ABC):
    """What all tasks have in common whose samples are learned without answers.

    A frozen dataclass: what it is given are its fields but `name`, and what it makes of them is
    laid down once it is built.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    learned: Source

    @abc.abstractmethod
    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`."""

    @property
    def given(self) -> Mapping[str, Any]:
        """What a job file says of this task."""
        told = [f.name for f in dataclasses.fields(self) if f.init and f.name != "name"]
        return {name: getattr(self, name) for name in told}

    @property
    def num_train(self) -> int:
        """How many training samples there are."""
        return len(self.learned)

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement; the model has no say."""
        return self.fetch(drawn(self.num_train, rng, size))

    def _lay(self, **made: Source | None) -> None:
        for attribute, value in made.items():
            object.__setattr__(self, attribute, value)


def inputs_of(data: Any) -> Tensor:
    """What is learned of a batch: itself, or the first of what stands side by side in a sample.

    >>> inputs_of([torch.ones(2), torch.tensor([0, 1])])
    tensor([1., 1.])
    """
    found = data[0] if isinstance(data, tuple | list) and data else data
    if isinstance(found, Tensor) and found.is_floating_point():
        return found
    kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
    raise JobError(
        f"expected samples to be tensors of floating point, or to begin with one, found {kind}; "
        "convert them in the data set, or in collate"
    )


def labelled_pair(data: Any) -> tuple[Tensor, Tensor]:
    """The inputs of a batch and their labels; JobError where samples have none.

    >>> labelled_pair([torch.ones(2), torch.tensor([0, 1])])
    (tensor([1., 1.]), tensor([0, 1]))
    """
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor):
        return inputs_of(data), data[1].long().cpu()
    raise JobError(
        f"expected labelled samples of (input, label), found a batch of {type(data).__name__}; "
        "give pairs, or no labels at all"
    )


def built(role: str, model: Model) -> nn.Module:
    """A fresh module: made anew, or a deep copy of the module given.

    >>> built("model", lambda: nn.Linear(1, 1))
    Linear(in_features=1, out_features=1, bias=True)
    """
    if isinstance(model, nn.Module):
        return understood_model(copy.deepcopy(model))
    made: object = model()
    if isinstance(made, nn.Module):
        return understood_model(made)
    raise JobError(
        f"expected the {role} to be a torch.nn.Module, found {type(made).__name__}; "
        "return one from its factory"
    )


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients or dropout; each part is left in the mode it came in.

    >>> model = nn.Dropout()
    >>> with evaluating(model):
    ...     model(torch.ones(2))
    tensor([1., 1.])
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training  # one by one: a user may have frozen a part in eval


def device_of(model: nn.Module) -> torch.device:
    """Where a model is.

    >>> device_of(nn.Identity())
    device(type='cpu')
    """
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


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
