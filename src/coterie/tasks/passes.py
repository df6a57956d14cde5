"""Samples that differ from pass to pass, or that can only be read one after another.

Both are numbered through all passes over the data: sample i of pass p is asked for as p·n + i, of
n in a pass. So whoever fetches it knows the pass, and nobody has to be told when one begins.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from coterie.errors import JobError
from coterie.tasks.columns import Columnar
from coterie.tasks.samples import MapStyle, dataset

Transform = Callable[[Any], Any]


class Transformed:
    """A dataset whose samples go through a transform, drawn for each sample of each pass alone.

    So a sample is changed alike on whatever agent, however many there are, and otherwise in the
    next pass. `transform` takes the first part of a sample that is a tuple or a list, and all of
    any other. It may draw from torch, numpy or `random`.

    >>> noisy = Transformed([(torch.zeros(1), 7)], lambda image: image + torch.rand(1))
    >>> first, again, next_pass = noisy[0], noisy[0], noisy[1]
    >>> bool(first[0] == again[0]), bool(first[0] == next_pass[0]), first[1]
    (True, False, 7)
    """

    def __init__(self, dataset: MapStyle, transform: Transform, seed: int = 0) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self._data_epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        more, at = divmod(index, len(self.dataset))
        sample = self.dataset[at]
        with drawn_for(self.seed, self._data_epoch + more, at):
            if isinstance(sample, tuple | list):
                return type(sample)([self.transform(sample[0]), *sample[1:]])
            return self.transform(sample)

    def set_epoch(self, data_epoch: int) -> None:
        """Count passes from this one on, for a loader that numbers the samples of each from 0."""
        self._data_epoch = data_epoch


@contextmanager
def drawn_for(*numbers: int) -> Iterator[None]:
    """Draw what these numbers say, and leave all generators of the CPU as they were.

    >>> with drawn_for(0, 1):
    ...     drawn = torch.rand(1)
    >>> with drawn_for(0, 1):
    ...     bool(torch.rand(1) == drawn)
    True
    """
    words = np.random.SeedSequence(numbers).generate_state(2)
    before = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[0]))
    try:
        yield
    finally:
        torch.default_generator.set_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


class Streamed:
    """A stream as numbered samples: all agents read the same one, and each keeps what it is asked.

    What others are asked is read and dropped, and to go back is to read from the beginning. Where
    a pass of the stream says no length, it is read through once to be counted; with `num_samples`
    a pass is that long, and what the stream has beyond is left. A stream with `set_epoch`, as
    Hugging Face's have, is told the pass.

    >>> stream = Streamed(range(5))
    >>> len(stream), stream.__getitems__([1, 3]), stream[0], stream[5 + 4]
    (5, [1, 3], 0, 4)
    """

    def __init__(self, stream: Iterable[Any], num_samples: int | None = None) -> None:
        if iter(stream) is stream:
            raise JobError(
                f"expected a stream that can be read anew, found {type(stream).__name__}, which "
                "ends for good; give what makes it, as an IterableDataset whose __iter__ does"
            )
        if num_samples is not None and num_samples < 1:
            raise JobError(f"expected num_samples of 1 or more in a pass, found {num_samples}")
        self.stream = stream
        self._num_samples = num_samples
        self._data_epoch = 0
        self._reading: Iterator[Any] | None = None
        self._in_pass = self._at = 0  # which pass is read, and how many of its samples were

    def __len__(self) -> int:
        if self._num_samples is None:
            self._num_samples = self._counted()
        return self._num_samples

    def __getitem__(self, index: int) -> Any:
        data_epoch, at = divmod(index, len(self))
        data_epoch += self._data_epoch
        if self._reading is None or data_epoch != self._in_pass or at < self._at:
            self._open(data_epoch)
        assert self._reading is not None
        for sample in self._reading:
            self._at += 1
            if self._at > at:
                return sample
        self._reading = None
        raise JobError(
            f"expected {len(self)} samples in each pass of the stream, found that one ended after "
            f"{self._at}; say in num_samples how many every pass has at least"
        )

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        found = {index: self[index] for index in sorted(set(indices))}
        return [found[index] for index in indices]

    def set_epoch(self, data_epoch: int) -> None:
        """Count passes from this one on, for a loader that numbers the samples of each from 0."""
        self._data_epoch = data_epoch

    def _open(self, data_epoch: int) -> None:
        told = getattr(self.stream, "set_epoch", None)
        if told is not None:
            told(data_epoch)
        self._reading, self._in_pass, self._at = iter(self.stream), data_epoch, 0

    def _counted(self) -> int:
        try:
            num_samples = len(self.stream)  # type: ignore[arg-type]
        except TypeError:
            num_samples = sum(1 for _ in self.stream)
        if num_samples < 1:
            raise JobError("expected a stream of samples, found an empty one; check its path")
        return num_samples


def numbered(role: str, given: Any) -> MapStyle:
    """The data set or stream given, or made by what was given; a stream with its samples numbered.

    >>> numbered("train", lambda: {1, 2}).__getitems__([1, 0])
    [2, 1]
    """
    is_made = isinstance(given, type) or not (isinstance(given, MapStyle) or is_stream(given))
    found = given() if callable(given) and is_made else given
    if isinstance(found, Streamed):
        return found  # to be counted once its number is needed
    return Streamed(found) if is_stream(found) else dataset(role, found)


def is_stream(given: object) -> bool:
    """Whether samples are not numbered but come one after another.

    >>> is_stream([1, 2]), is_stream({1, 2})
    (False, True)
    """
    numbered = isinstance(given, MapStyle) and not isinstance(given, IterableDataset)
    return isinstance(given, Iterable) and not (numbered or isinstance(given, Columnar))
