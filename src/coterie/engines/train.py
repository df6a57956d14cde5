"""`coterie.train`: a run from Python, on objects for one process and on names for many."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from rich.console import Console
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from coterie.agents.learner import Setup, best_device
from coterie.config import Job, parse_job
from coterie.engines.launch import Result, Show, alone, apart, is_alone, launch
from coterie.errors import JobError
from coterie.specs import SeparateSpec
from coterie.tasks.base import NamedTask
from coterie.tasks.kinds import checked
from coterie.tasks.supervised import Supervised
from coterie.tasks.weighing import Conflict, Weighing
from coterie.watch.progress import choose_screen

MakeOptimizer = Callable[..., Optimizer]
MakeScheduler = Callable[..., LRScheduler]


class Options(TypedDict, total=False):
    """What `train` takes beside the task, the optimizer, the batch and the end."""

    scheduler: MakeScheduler
    scheduler_every: Literal["epoch", "step"]
    agents: int | Mapping[str, Any]
    strategy: str
    seed: int
    runs: str | Path
    resume: str | Path
    listen: str
    checkpoint_every_s: float | Literal["auto"]
    deterministic: bool
    knowledge: Mapping[str, Any]  # of several tasks: how they teach one another
    priority: Mapping[str, float]  # of several tasks: how much each counts, by its name
    engine: Mapping[str, Any]
    show: Show  # called with every event; a screen by default


def train(
    task: NamedTask | Sequence[NamedTask],
    optimizer: MakeOptimizer,
    batch: int,
    until: Mapping[str, float],
    **options: Unpack[Options],
) -> Result:
    """Train a task until a metric, or a number of steps, epochs or minutes, is reached.

    With one agent, the default, it is the plain torch loop in this process, on any objects. With
    more, agents are processes that build the task anew: model, datasets, loss, metrics, optimizer
    and scheduler must then be functions or classes at the top of a module (or `functools.partial`
    of one with plain keyword values). `optimizer` is called with the parameters. Several tasks are
    learned apart, each by a model of its own, and teach one another as `knowledge` says. Raises
    CoterieError for bad input.

    >>> import tempfile, torch
    >>> from coterie.tasks import Supervised
    >>> pairs = torch.utils.data.TensorDataset(torch.eye(2), torch.tensor([0, 1]))
    >>> task = Supervised("eye", lambda: nn.Linear(2, 2), pairs, pairs)
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     sgd = functools.partial(torch.optim.SGD, lr=0.1)
    ...     result = train(task, sgd, 2, {"steps": 3}, runs=runs, show=lambda event: None)
    >>> result.exit_code, result.summary["steps"]
    (0, 3)
    """
    tasks = _tasks(task)
    runs = Path(options.get("runs", "runs"))
    resume = Path(options["resume"]) if "resume" in options else None
    job = _job(tasks, optimizer, batch, until, options)
    many = _is_many(job)
    show = options.get("show")
    if show is not None:
        return _start(job, tasks, optimizer, options, (runs, resume, show), many)
    screen = choose_screen(Console())
    try:
        return _start(job, tasks, optimizer, options, (runs, resume, screen.show), many)
    finally:
        screen.close()


def _start(
    job: Job,
    tasks: Sequence[NamedTask],
    optimizer: MakeOptimizer,
    options: Options,
    where: tuple[Path, Path | None, Show],
    many: bool,
) -> Result:
    if many:
        return launch(job, *where)
    setups = {
        task.name: Setup(
            task=checked(task),
            optimizer=optimizer,
            scheduler=options.get("scheduler"),
            scheduler_every=options.get("scheduler_every", "epoch"),
            device=best_device(),
            seed=job.seed,
        )
        for task in tasks
    }
    if isinstance(job.task, SeparateSpec):
        return apart(job, setups, *where)
    return alone(job, setups[tasks[0].name], *where)


def _is_many(job: Job) -> bool:
    """Whether agents are processes of their own; a remote one is, even if it is the only one."""
    return not is_alone(job)


def _tasks(task: NamedTask | Sequence[NamedTask]) -> list[NamedTask]:
    """One task, or several with names of their own that are learned apart."""
    tasks = list(task) if isinstance(task, Sequence) else [task]
    if not tasks:
        raise JobError("expected a task, found none; give one, or several")
    names = [each.name for each in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise JobError(f"expected tasks with names of their own, found {twice[0]} twice; rename it")
    if odd := [each for each in tasks if len(tasks) > 1 and not isinstance(each, Supervised)]:
        raise JobError(
            f"expected supervised tasks to learn apart, found {type(odd[0]).__name__} among "
            "several; give it alone, or a MultiTask of them"
        )
    return tasks


def _job(
    tasks: Sequence[NamedTask],
    optimizer: MakeOptimizer,
    batch: int,
    until: Mapping[str, float],
    options: Options,
) -> Job:
    """The job as a file would say it; objects that only this process has are named as they are."""
    spec = _spec(tasks[0]) if len(tasks) == 1 else _apart(tasks, options.get("priority", {}))
    agents = options.get("agents", 1)
    data: dict[str, Any] = {
        "name": tasks[0].name if len(tasks) == 1 else "apart",
        "task": spec,
        "optimizer": _reference(optimizer),
        "batch": batch,
        "until": {key: float(limit) for key, limit in until.items()},
        "agents": dict(agents) if isinstance(agents, Mapping) else agents,
        "root": str(Path(sys.argv[0]).resolve().parent if sys.argv[0] else Path.cwd()),
    }
    if "scheduler" in options:
        every = options.get("scheduler_every", "epoch")
        data["scheduler"] = {**_reference(options["scheduler"]), "every": every}
    data |= {"knowledge": options["knowledge"]} if "knowledge" in options else {}
    for key in ("strategy", "seed", "listen", "checkpoint_every_s", "deterministic", "engine"):
        if key in options:
            data[key] = options[key]
    job = parse_job(data, "coterie.train")
    if _is_many(job):
        for where, call in _calls({**spec, "optimizer": data["optimizer"]}):
            if call.startswith(_HERE):
                raise JobError(
                    f"expected {where} to be a function or class at the top of a module, found "
                    "one that only this process has; agents run in processes of their own and "
                    "build the task there, so move it to the top of a module"
                )
    return job


_HERE = "this.process:"


def _spec(task: NamedTask) -> dict[str, Any]:
    """The task section of a job file that says the same task."""
    given = {key: _said(value) for key, value in task.given.items() if value is not None}
    return {"kind": task.kind, **given}


def _apart(tasks: Sequence[NamedTask], priority: Mapping[str, float]) -> dict[str, Any]:
    """The task section of a job file that says several tasks, each with a model of its own."""
    if unknown := sorted(priority.keys() - {task.name for task in tasks}):
        raise JobError(f"expected priorities of tasks that are given, found one of {unknown[0]}")
    told = {task.name: {**_spec(task), "priority": priority.get(task.name, 1.0)} for task in tasks}
    return {"kind": "separate", "tasks": told}


def _said(value: Any) -> Any:
    """How a job file says what a task was given: by name, unless it is plain or a task itself."""
    match value:
        case dict() if all(isinstance(key, str) for key in value):  # no data set
            return {name: _said(each) for name, each in value.items()}
        case int() | float() | str():
            return value
        case list() | tuple() if all(isinstance(each, str) for each in value):
            return list(value)
        case NamedTask():
            return _spec(value)
        case Weighing() | Conflict():  # a frozen value is the call that makes it anew
            return _reference(functools.partial(type(value), **asdict(value)))
    return _reference(value)


def _calls(said: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    """Every reference in a part of a job, with the key it stands under."""
    if isinstance(said.get("call"), str):
        yield where, said["call"]
        return
    for key, part in said.items():
        if isinstance(part, Mapping):
            yield from _calls(part, key)


def _reference(target: Any) -> dict[str, Any]:
    """How a job file names an object; one that it cannot name is `this.process:…`."""
    kwargs: dict[str, Any] = {}
    if isinstance(target, functools.partial) and not target.args:
        target, kwargs = target.func, dict(target.keywords)
    name, module = getattr(target, "__qualname__", None), getattr(target, "__module__", None)
    if isinstance(target, nn.Module) or name is None or module is None or "<" in name:
        return {"call": f"{_HERE}{type(target).__name__}"}
    if module == "__main__":
        module = inspect.getmodulename(sys.argv[0]) or module
    return {"call": f"{module}:{name}", "with": kwargs}
