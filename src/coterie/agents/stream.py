"""The order in which an epoch's samples are learned: the same for every member, from the seed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coterie.leases import Lease, Span, count, take
from coterie.tasks.base import IndexedTask
from coterie.tasks.passes import Streamed, Transformed

PROBED = 1000  # samples that are shuffled to see how


@dataclass(frozen=True)
class Stream:
    """Positions of a data epoch as indices into the dataset.

    >>> stream = Stream(num_train=5, seed=0)
    >>> sorted(stream.indices(data_epoch=0, spans=[(0, 5)]))
    [0, 1, 2, 3, 4]
    >>> sorted(stream.indices(data_epoch=0, spans=[(0, 2)], laid=(2, 5)))
    [0, 1]
    """

    num_train: int
    seed: int

    def order(self, data_epoch: int, laid: tuple[int, ...] = ()) -> NDArray[np.int64]:
        """The shuffled indices of one epoch; laid out in parts, each holds its own part of them."""
        return _order(self.num_train, self.seed, data_epoch, laid)

    def indices(
        self, data_epoch: int, spans: Sequence[Span], laid: tuple[int, ...] = ()
    ) -> list[int]:
        """The dataset indices at these positions."""
        order = self.order(data_epoch, laid)
        return [int(i) for start, stop in spans for i in order[start:stop]]

    def batches(self, data_epoch: int, lease: Lease) -> Iterator[list[int]]:
        """A lease cut into the batches of its steps."""
        indices = self.indices(data_epoch, lease.spans, lease.laid)
        for start in range(0, len(indices), lease.batch):
            yield indices[start : start + lease.batch]

    def some(self, rng: np.random.Generator, size: int) -> list[int]:
        """Samples to measure on, as dear to fetch as those of a batch."""
        drawn: list[int] = rng.integers(self.num_train, size=size).tolist()
        return drawn


class Renewed(Stream):
    """The same where samples differ from pass to pass: they are numbered through all passes.

    >>> Renewed(num_train=5, seed=0).indices(data_epoch=2, spans=[(0, 5)])[0] >= 10
    True
    """

    def indices(
        self, data_epoch: int, spans: Sequence[Span], laid: tuple[int, ...] = ()
    ) -> list[int]:
        """The numbers of the samples at these positions."""
        return [data_epoch * self.num_train + i for i in super().indices(data_epoch, spans, laid)]


class InOrder(Stream):
    """The same where samples can only be read one after another: that is their order.

    >>> InOrder(num_train=5, seed=0).indices(data_epoch=1, spans=[(0, 2), (4, 5)])
    [5, 6, 9]
    """

    def indices(
        self, data_epoch: int, spans: Sequence[Span], laid: tuple[int, ...] = ()
    ) -> list[int]:
        """The numbers of the samples at these positions, through all passes; in no parts."""
        first = data_epoch * self.num_train
        return [first + i for start, stop in spans for i in range(start, stop)]

    def some(self, rng: np.random.Generator, size: int) -> list[int]:
        """The first ones, over and over: others would have to be read up to."""
        return [i % self.num_train for i in range(size)]


def stream_of(task: IndexedTask, seed: int) -> Stream:
    """The order in which the samples of a task are learned, by what they are kept in.

    >>> from torch import nn
    >>> from coterie.tasks.supervised import Supervised
    >>> type(stream_of(Supervised("x", nn.Linear(1, 1), [0.5], [0.5]), seed=0)).__name__
    'Stream'
    """
    match getattr(task, "train", None):
        case Streamed():
            return InOrder(task.num_train, seed)
        case Transformed():
            return Renewed(task.num_train, seed)
    return Stream(task.num_train, seed)


@lru_cache(maxsize=4)  # two epochs are open at once where a lease came back
def _order(num_train: int, seed: int, data_epoch: int, laid: tuple[int, ...]) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, data_epoch]).permutation(num_train)
    if not laid:
        return order
    return order[np.argsort(np.searchsorted(laid, order, side="right"), kind="stable")]


def shuffled(seed: int) -> int:
    """What tells whether two machines shuffle alike: numpy promises it within a version alone.

    >>> shuffled(0) == shuffled(0) != shuffled(1)
    True
    """
    return zlib.crc32(_order(PROBED, seed, 0, ()).astype("<i8").tobytes())


def whole_epoch(num_train: int, batch: int, done: int = 0) -> tuple[Lease, ...]:
    """An epoch as the leases of one member alone, a step each, from position `done` on.

    >>> [lease.num_samples for lease in whole_epoch(10, 4)]
    [4, 4, 2]
    """
    left: tuple[Span, ...] = ((done, num_train),) if done < num_train else ()
    leases = []
    while count(left):
        taken, left = take(left, batch)
        leases.append(Lease(taken, batch))
    return tuple(leases)
