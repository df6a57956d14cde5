"""Datasets that come in batches of columns, as those of `ray.data` do, read by row number.

Each agent reads them whole, once: columns of numbers into a file of its machine that is mapped
into memory, so that they may be larger than that; others, such as texts, into lists. From then on
nothing is asked of where they came from. Ray is not imported here: whoever hands over a dataset of
its has loaded it.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from coterie.errors import JobError

RUNTIME = "ray"  # a client of it ends when its cluster does
BATCH_ROWS = 4096

Column = np.ndarray[Any, Any] | list[Any]


@runtime_checkable
class Columnar(Protocol):
    """A dataset that is read in batches of columns, in an order of its own.

    >>> isinstance([1, 2], Columnar)
    False
    """

    def iter_batches(self, *, batch_size: int, batch_format: str) -> Iterable[Mapping[str, Any]]:
        """Some rows at a time."""

    def materialize(self) -> Any:
        """Have them computed."""


class Rows:
    """Samples by row number: of two columns a pair, of one its value, else a mapping by name.

    >>> rows = Rows.of([{"x": np.eye(2), "y": np.array([7, 1])}])
    >>> len(rows), rows[1]
    (2, [tensor([0., 1.], dtype=torch.float64), tensor(1)])
    """

    def __init__(self, columns: Mapping[str, Column], digest: str) -> None:
        self.columns, self.digest = columns, digest

    @classmethod
    def of(cls, batches: Iterable[Mapping[str, Any]]) -> Rows:
        """From batches of columns; raises JobError where batches differ in theirs."""
        writers: dict[str, _Writer] = {}
        digest = hashlib.sha256()
        for number, batch in enumerate(batches):
            if number and batch.keys() != writers.keys():
                raise JobError(
                    f"expected the columns {', '.join(writers)} in every batch, found "
                    f"{', '.join(batch) or 'none'} in one; give all rows the same columns"
                )
            for name, values in batch.items():
                column_B = _stacked(np.asarray(values))
                writers.setdefault(name, _Writer(name)).add(column_B)
                digest.update(_bytes(column_B))
        return cls({name: writer.column() for name, writer in writers.items()}, digest.hexdigest())

    @classmethod
    def read(cls, dataset: Columnar) -> Rows:
        """All rows of a dataset, in the order in which it is written down."""
        options = getattr(getattr(dataset, "context", None), "execution_options", None)
        if options is not None:
            options.preserve_order = True  # else blocks come as they get ready
        return cls.of(dataset.iter_batches(batch_size=BATCH_ROWS, batch_format="numpy"))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, index: int) -> Any:
        return self._sample({name: _value(c, index) for name, c in self.columns.items()})

    def take(self, indices: Sequence[int]) -> Any:
        """The rows at `indices` as one batch, as torch would collate them.

        >>> Rows.of([{"x": np.eye(2), "name": ["a", "b"]}]).take([1])
        [tensor([[0., 1.]], dtype=torch.float64), ['b']]
        """
        return self._sample({name: _values(c, indices) for name, c in self.columns.items()})

    def _sample(self, values: Mapping[str, Any]) -> Any:
        if len(values) == 1:
            return next(iter(values.values()))
        return list(values.values()) if len(values) == 2 else dict(values)


class _Writer:
    """One column as its batches come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._kind: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # the map outlives every block
        self._others: list[Any] = []
        self._num_rows = 0

    def add(self, column_B: np.ndarray[Any, Any]) -> None:
        kind = column_B.dtype, column_B.shape[1:]
        if self._kind is None:
            self._kind = kind
        if kind[0].kind not in "biuf":
            self._others += column_B.tolist()
            kind = self._kind  # of texts, each batch has another width
        elif kind == self._kind:
            self._file.write(np.ascontiguousarray(column_B).data)
        if kind != self._kind:
            raise JobError(
                f"expected column {self._name} to hold {self._kind[0]} of shape {self._kind[1]} "
                f"throughout, found {kind[0]} of shape {kind[1]}; convert it, or fill the gaps"
            )
        self._num_rows += len(column_B)

    def column(self) -> Column:
        if self._kind is None or self._kind[0].kind not in "biuf":
            return self._others
        self._file.flush()
        shape = (self._num_rows, *self._kind[1])
        if 0 in shape:
            return np.empty(shape, self._kind[0])
        return np.memmap(self._file, self._kind[0], mode="r", shape=shape)


def order_of(task: Any) -> int:
    """What tells apart in which order a task's rows come: 0 where they are no columns.

    >>> order_of(None)
    0
    """
    learned = getattr(task, "train", None), getattr(getattr(task, "learned", None), "dataset", None)
    digests = [dataset.digest for dataset in learned if isinstance(dataset, Rows)]
    return zlib.crc32("".join(digests).encode())


@contextmanager
def visiting() -> Iterator[None]:
    """Be a client of Ray while datasets are made and read; who was one before stays one.

    An agent whose node is cut off from its cluster would be ended with it.
    """
    was_here = _is_client()
    try:
        yield
    finally:
        if _is_client() and not was_here:
            sys.modules[RUNTIME].shutdown()


def _is_client() -> bool:
    runtime = sys.modules.get(RUNTIME)
    return runtime is not None and bool(runtime.is_initialized())


def _stacked(column_B: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A column of lists of numbers, all of one length, as what it is: a table of numbers."""
    values = list(column_B) if column_B.dtype == object and column_B.ndim == 1 else []
    shapes = {(v.dtype, v.shape) if isinstance(v, np.ndarray) else None for v in values}
    return np.stack(values) if len(shapes) == 1 and None not in shapes else column_B


def _bytes(column_B: np.ndarray[Any, Any]) -> bytes | memoryview:
    if column_B.dtype.kind in "biuf":
        return np.ascontiguousarray(column_B).data
    return repr(column_B.tolist()).encode()


def _value(column: Column, index: int) -> Any:
    return column[index] if isinstance(column, list) else torch.as_tensor(np.array(column[index]))


def _values(column: Column, indices: Sequence[int]) -> Any:
    if isinstance(column, list):
        return [column[index] for index in indices]
    return torch.from_numpy(np.array(column[np.asarray(indices)]))
