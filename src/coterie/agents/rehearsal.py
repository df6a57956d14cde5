"""What stands in for a script's own loop where a copy of its model is timed.

The loop itself cannot be run on a copy. The loader's batches are put through the model instead,
and something is made of its outputs that has a gradient; the loop's own times count soon after.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.agents.learner import Own, Setup, best_device
from coterie.agents.prepared import Things, fetched
from coterie.tasks.samples import MapStyle, to_device
from coterie.types import Batch


class Rehearsal:
    """A task of a script's model and loader, with a made-up loss and nothing to score."""

    def __init__(self, name: str, things: Things) -> None:
        self.name, self._things = name, things

    @property
    def train(self) -> MapStyle:
        """What is learned."""
        return self._things.samples

    @property
    def num_train(self) -> int:
        """How many training samples there are."""
        return len(self.train)

    def build(self) -> nn.Module:
        """A copy of the model as it stands."""
        return copy.deepcopy(self._things.whole)

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, collated in that order."""
        return Batch(fetched(self._things.loader, indices, self.train), len(indices))

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement."""
        drawn_B: list[int] = torch.randint(self.num_train, (size,), generator=rng).tolist()
        return self.fetch(drawn_B)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Something to descend that takes about as long as the script's own loss may."""
        learned = [p for p in model.parameters() if p.requires_grad]
        try:
            outputs = list(tensors(outputs_of(model, to_device(batch.data, learned[0].device))))
            made = [out.float().mean() for out in outputs if out.requires_grad]
            return torch.stack(made).sum()
        except Exception:  # a model that is called in a way of its own: about as much arithmetic
            parts = [p.square().sum() for p in learned for _ in range(batch.size)]
            return torch.stack(parts).sum()

    def score(self, model: nn.Module) -> dict[str, float]:
        """None: the script scores by itself."""
        return {}


def outputs_of(model: nn.Module, data: Any) -> Any:
    """What a model says to a batch: to its inputs, of a pair, or to all of it by name.

    >>> outputs_of(nn.Identity(), [torch.ones(1), torch.zeros(1)])
    tensor([1.])
    """
    if isinstance(data, Mapping):
        return model(**data)
    return model(data[0] if isinstance(data, tuple | list) else data)


def tensors(nest: Any) -> Iterator[Tensor]:
    """All tensors in a nest of mappings and sequences.

    >>> list(tensors({"a": [torch.ones(1), "b"]}))
    [tensor([1.])]
    """
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping):
        for value in nest.values():
            yield from tensors(value)
    elif isinstance(nest, tuple | list):
        for value in nest:
            yield from tensors(value)


def setup_of(name: str, things: Things, own: Own, seed: int) -> Setup:
    """What a learner needs to know of a script's loop, and of the copies that are timed."""

    def like(parameters: list[nn.Parameter]) -> Optimizer:
        kind: Any = type(things.optimizer)
        try:
            return kind(parameters, **things.optimizer.defaults)  # type: ignore[no-any-return]
        except TypeError:  # it is made in a way of its own
            return torch.optim.SGD(parameters)

    return Setup(
        task=Rehearsal(name, things),
        optimizer=like,
        scheduler_every="step",
        device=best_device(),
        seed=seed,
        own=own,
    )
