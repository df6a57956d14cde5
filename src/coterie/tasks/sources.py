"""Whose samples several tasks learn from: datasets of their own, or tables that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from coterie.errors import JobError
from coterie.placing import Place, parts_tasks
from coterie.tasks.base import HeadTask
from coterie.tasks.passes import Streamed, Transformed
from coterie.tasks.supervised import Supervised, predict_pairs
from coterie.tasks.tables import Column, Table
from coterie.tasks.weighing import Balance, Conflict


class Source(NamedTuple):
    """Samples that are numbered together: those of one task, or those of a table for several."""

    size: int
    tasks: tuple[str, ...]
    table: Table | None


def check_names(whole: str, names: Sequence[str]) -> None:
    """Refuse names of tasks that cannot be those of parameters and scores."""
    if not names:
        raise JobError(f"{whole}: expected at least one task, found none; list those to learn")
    for i, name in enumerate(names):
        if hasattr(nn.ModuleDict, name):
            raise JobError(f"{whole}: expected another name than {name!r}, which torch keeps")
        if not name or set(name) & set("./") or name in names[:i]:
            raise JobError(
                f"{whole}: expected tasks with names of their own, without '.' and '/', found "
                f"{name!r}{' twice' if name in names[:i] else ''}; rename it"
            )


def check_owners(place: Place, sources: Sequence[Source], balance: Balance) -> None:
    """Refuse owners that a table's tasks do not have in common, and balances that they undo."""
    if not isinstance(place, str):
        for source in sources:
            if len({frozenset(place[name]) for name in source.tasks}) > 1:
                raise JobError(
                    f"expected {' and '.join(source.tasks)}, which share the samples of a table, "
                    "on the same agents, found them on others; place them together"
                )
    may_part = len(sources) > 1 and parts_tasks(place)
    if may_part and (isinstance(balance, Conflict) or balance.needs_all):
        raise JobError(
            "expected a balance that weighs each task by itself where tasks have owners, found "
            f"{balance}: who learns some of the tasks does not see the others; choose equal, "
            "uncertainty or weights, or let place be everywhere"
        )


def in_columns(task: HeadTask, tables: dict[Any, Table]) -> HeadTask:
    """The task on its own column wherever it was given a table, one table for all that share it."""
    if isinstance(train := getattr(task, "train", None), Streamed | Transformed):
        raise JobError(
            f"{task.name}: expected of one of many tasks a dataset whose samples are numbered and "
            f"stay the same, found {type(train).__name__}; learn it by itself"
        )
    if not isinstance(task, Supervised):
        return task
    if task.predict is not predict_pairs:
        raise JobError(
            f"expected {task.name} to have samples of (inputs, targets), found predict; "
            "a trunk reads the inputs alone, so let collate make pairs"
        )
    columns: dict[str, Any] = {"train": task.train, "test": task.test}
    for role, dataset in columns.items():
        if isinstance(dataset, Table):
            table = tables.setdefault(task.given[role], dataset)
            columns[role] = table.column(task.name)
    return Supervised(
        task.name,
        task.model,
        **columns,
        loss=task.criterion,
        metrics=task.metrics,
        collate=task.collate,
    )


def sources(tasks: Mapping[str, HeadTask]) -> Iterator[Source]:
    """The tasks' own datasets and the tables they share, in the order in which they are named."""
    told: list[Table] = []
    for name, task in tasks.items():
        if not isinstance(task.train, Column):
            yield Source(task.num_train, (name,), None)
        elif not any(task.train.table is table for table in told):
            table = task.train.table
            told.append(table)
            sharing = [
                other
                for other, its in tasks.items()
                if isinstance(its.train, Column) and its.train.table is table
            ]
            yield Source(len(table), tuple(sharing), table)
