"""Rows of columns: the same samples by number as torch would collate them, whoever read them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from coterie.errors import JobError
from coterie.tasks import columns
from coterie.tasks.columns import Rows, order_of, visiting
from coterie.tasks.samples import dataset, gather
from coterie.tasks.supervised import Supervised

NUM, PART = 10, 3


def batches(order: np.ndarray[Any, Any] | None = None) -> Iterator[Mapping[str, Any]]:
    order = np.arange(NUM) if order is None else order
    x = np.random.default_rng(0).standard_normal((NUM, 4)).astype(np.float32)[order]
    for start in range(0, NUM, PART):
        part = slice(start, start + PART)
        lists = np.empty(len(x[part]), dtype=object)
        lists[:] = list(x[part])
        yield {"inputs": lists, "target": (x.argmax(1) % 2)[part], "row": order[part]}


class Table:
    """A dataset that comes in batches of columns, as ray.data's do."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.context = SimpleNamespace(execution_options=SimpleNamespace(preserve_order=False))

    def iter_batches(self, *, batch_size: int, batch_format: str) -> Iterator[Mapping[str, Any]]:
        assert self.context.execution_options.preserve_order
        assert batch_format == "numpy"
        for batch in batches():
            yield {name: batch[name] for name in self.names or batch}

    def materialize(self) -> Any:
        return self

    def __iter__(self) -> Any:  # theirs has one as well, for this alone
        raise TypeError("Dataset objects aren't iterable")


def test_each_row_is_found_by_its_number() -> None:
    rows = Rows.of(batches())
    assert len(rows) == NUM
    assert [int(rows[number]["row"]) for number in range(NUM)] == list(range(NUM))


@pytest.mark.parametrize("names", [("inputs",), ("inputs", "target"), ()])
def test_a_batch_is_what_torch_makes_of_the_samples(names: tuple[str, ...]) -> None:
    rows = dataset("train", lambda: Table(*names))
    indices = [7, 0, 7, 3]
    expected = default_collate([rows[index] for index in indices])
    found = gather(rows, indices)
    assert type(found) is type(expected)
    pairs = zip(found.values(), expected.values(), strict=True) if names == () else (
        [(found, expected)] if len(names) == 1 else zip(found, expected, strict=True)
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in pairs)


def test_texts_stay_texts() -> None:
    rows = Rows.of([{"text": np.array(["a", "bb"])}, {"text": np.array(["ccc"])}])
    assert [rows[number] for number in range(3)] == ["a", "bb", "ccc"]
    assert gather(rows, [2, 0]) == ["ccc", "a"]


def test_columns_that_change_on_the_way_are_refused() -> None:
    whole, gap = {"x": np.array([1, 2])}, {"x": np.array([np.nan])}
    with pytest.raises(JobError, match=r"hold int64 .* throughout, found float64 .*fill the gaps"):
        Rows.of([whole, gap])
    with pytest.raises(JobError, match="expected the columns x in every batch, found y"):
        Rows.of([whole, {"y": np.array([1])}])
    with pytest.raises(JobError, match="found an empty dataset"):
        dataset("train", lambda: Rows.of([]))


def test_rows_in_another_order_are_told_apart() -> None:
    same, other = (Rows.of(batches(o)) for o in (None, np.arange(NUM)[::-1]))
    assert Rows.of(batches()).digest == same.digest != other.digest


def test_a_task_of_columns_tells_in_which_order_they_come() -> None:
    model = torch.nn.Linear(4, 2)
    task = Supervised("table", model, lambda: Table("inputs", "target"), [(torch.ones(4), 0)])
    assert order_of(task) != 0
    assert task.loss(task.build(), task.fetch([1, 5])).isfinite()
    assert order_of(Supervised("plain", model, [(torch.ones(4), 0)], [(torch.ones(4), 0)])) == 0


@pytest.mark.parametrize(("was_here", "leaves"), [(False, True), (True, False)])
def test_a_client_of_ray_leaves_unless_it_was_one_before(
    monkeypatch: pytest.MonkeyPatch, was_here: bool, leaves: bool
) -> None:
    state = SimpleNamespace(on=was_here)
    fake = SimpleNamespace(
        is_initialized=lambda: state.on, shutdown=lambda: setattr(state, "on", False)
    )
    monkeypatch.setitem(sys.modules, columns.RUNTIME, fake)
    with visiting():
        state.on = True
    assert state.on is not leaves
