"""The job file: what to learn, on whom, until when; checked whole before anything starts.

What is learned stands in `specs.py`, a shape for each kind of task. The text under a field is what
`coterie init` and editors say of it. Nothing here loads torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic import field_validator as check
from pydantic import model_validator as check_whole

from coterie.errors import JobError
from coterie.homes import Engine
from coterie.names import SLUG, Positive, Ref, Words, shorter
from coterie.placing import check_agents, check_place
from coterie.refusals import checked, shown
from coterie.scripts import Script
from coterie.sharing import Sharing, check_apart
from coterie.specs import BUDGETS, AnySpec, MultiSpec, SeparateSpec, TaskSpec, with_kind
from coterie.yamls import read_file, read_yaml, write_yaml

__all__ = [
    "Agents",
    "Drill",
    "Engine",
    "Job",
    "Ref",
    "Scheduler",
    "Script",
    "TaskSpec",
    "dump_job",
    "load_job",
    "parse_job",
]

Whole = Annotated[int, Field(strict=True, ge=0)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Scheduler(Ref):
    """A learning-rate scheduler, and how often it steps.

    >>> Scheduler.model_validate("torch.optim.lr_scheduler:ConstantLR").every
    'epoch'
    """

    every: Literal["epoch", "step"] = "epoch"
    """How often it steps: epoch or step."""


class Drill(Words):
    """A rehearsed failure: kill one member at a fraction of the run, and let it come back.

    >>> Drill(kill="b").at
    0.35
    """

    kill: str
    """The agent of this machine that is killed."""
    at: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.35
    """At which part of the run."""
    restart_after_s: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 1.0
    """Seconds until it is started again."""


class Agents(Words):
    """Who learns: agents started here, and agents waited for.

    `local="auto"` is one agent per GPU of this machine, else one. `speeds` are relative and make
    unequal machines of one; `local` defaults to their number. `spares` stand by, with the task
    built, to take over from local agents that die.

    >>> Agents(speeds=[4, 2, 1]).local, Agents.model_validate(3).local
    (3, 3)
    """

    local: Whole | Literal["auto"] = "auto"
    """How many are started on this machine; auto is one per GPU, else one."""
    speeds: list[Positive] | None = None
    """Relative speeds that local agents are slowed down to, such as [4, 2, 1]."""
    remote: Whole = 0
    """How many will come by `coterie join` from elsewhere before the run begins."""
    spares: Whole = 0
    """Processes of this machine that have built the task, and take over from agents that die."""
    ship: Annotated[bool, Field(strict=True)] = False
    """Whether agents that ask for the job's code get it."""
    key_minutes: Positive | None = None
    """For how long others may join by the printed key; who is in stays."""
    join_timeout_s: Positive = 60.0
    """Seconds that agents have to come, until the run is given up."""

    __get_pydantic_json_schema__ = classmethod(
        shorter({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]})
    )

    @check_whole(mode="before")
    @classmethod
    def _from_number(cls, found: object) -> object:
        if isinstance(found, int | str):
            return {"local": found}
        if not isinstance(found, Mapping):
            return found
        speeds = found.get("speeds")
        if isinstance(speeds, Sequence) and found.get("local", "auto") == "auto":
            return {**found, "local": len(speeds)}
        return found

    @check_whole(mode="after")
    def _fits(self) -> Agents:
        if self.speeds is not None and len(self.speeds) != self.local:
            raise JobError(
                f"expected one speed per local agent, found {len(self.speeds)} speeds for "
                f"{self.local} agents; leave out local, or list {self.local} speeds"
            )
        if self.num_known == 0:
            raise JobError("expected at least one agent, found local: 0 with remote: 0; add one")
        return self

    @property
    def num_known(self) -> int | None:
        """How many agents the run wants, or None while `auto` has not been resolved.

        >>> Agents(local=2, remote=1).num_known
        3
        """
        return None if self.local == "auto" else self.local + self.remote

    @property
    def names(self) -> tuple[str, ...] | None:
        """What they are called, where all are known to be of this machine; else None."""
        if self.remote or self.local == "auto":
            return None
        return tuple(f"agent-{number}" for number in range(self.local))


class Job(Words):
    """One run, whole: task, optimizer, agents, strategy, and when it is done.

    A script with a loop of its own stands for the task, the optimizer and the scheduler; its batch
    is 1 until its loader says otherwise, and it ends by itself unless `until` says when.

    `until` ends the run at the first of its keys reached: epochs, steps, minutes, or a metric of
    the task at or above its value. `root` is the folder whose modules references may name. With
    `deterministic`, nothing that was measured decides what is learned by whom.

    >>> task = TaskSpec(model="m:net", train="m:train", test="m:test")
    >>> Job(name="first", task=task, optimizer="torch.optim:SGD", batch=64,
    ...     until={"epochs": 3}).strategy
    'auto'
    """

    name: str
    """The run's folder: runs/NAME, then runs/NAME-2 and so on."""
    task: Annotated[AnySpec, Field(discriminator="kind")] | None = None
    """What is learned; module:function is looked for beside this file first."""
    optimizer: Ref | None = None
    """Called with the parameters, and with what stands under `with`."""
    scheduler: Scheduler | None = None
    """A learning-rate schedule, such as
    {call: "torch.optim.lr_scheduler:CosineAnnealingLR", with: {T_max: 100}, every: epoch}."""
    script: Script | None = None
    """In place of task and optimizer: a script with a loop of its own, as `coterie run` says it."""
    batch: Annotated[int, Field(strict=True, gt=0)]
    """Samples of one step, over all agents."""
    seed: Whole = 0
    """Of the weights and of the order of samples."""
    strategy: str = "auto"
    """How agents agree: auto, a recipe such as diloco(32), or a sentence such as
    chain(Every(8), Reduce(), Outer(1.0))."""
    deterministic: Annotated[bool, Field(strict=True)] = False
    """Whether the same job ends with the same bits; asks for a strategy by name."""
    until: dict[str, Finite]
    """The first one reached ends the run: epochs, steps, minutes, or a metric of the task."""
    knowledge: Sharing | None = None
    """How separate tasks teach one another; without it each learns alone."""
    agents: Agents = Agents()
    """Who learns; a number is as many of this machine."""
    engine: Engine = Engine()
    """Where agents live: on this machine, or on a Ray cluster."""
    listen: str = "127.0.0.1:0"
    """Where agents dial in: host:port, port 0 for a free one. Other machines need an address of
    this one that they reach."""
    checkpoint_every_s: Positive | Literal["auto"] = "auto"
    """Seconds between checkpoints; auto weighs what one costs against what a failure would."""
    keep_checkpoints: Annotated[int, Field(strict=True, ge=1)] = 3
    """How many checkpoints are kept, the newest ones."""
    baselines: list[Literal["solo", "equal"]] = Field(default_factory=list)
    """Arms that the run is measured against while it goes on: solo, equal."""
    drill: Drill | None = None
    """A rehearsed failure, such as {kill: agent-1, at: 0.35, restart_after_s: 1.0}."""
    root: str = "."
    """The folder in which module:function is looked for, relative to this file's."""

    @check_whole(mode="before")
    @classmethod
    def _ends_by_itself(cls, found: object) -> object:
        if isinstance(found, Mapping) and found.get("script") is not None:
            return {"batch": 1, "until": {}, **found}
        return found

    @check("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if SLUG.fullmatch(name):
            return name
        raise JobError(
            f"expected letters, digits, '-' and '_' (64 at most), found {name!r}; rename it"
        )

    @check("task", mode="before")
    @classmethod
    def _says_its_kind(cls, task: object) -> object:
        return None if task is None else with_kind(task)

    @check("until")
    @classmethod
    def _ends(cls, until: dict[str, float]) -> dict[str, float]:
        for name in BUDGETS:
            if (limit := until.get(name, 1.0)) <= 0:
                raise JobError(f"expected {name} greater than 0, found {limit:g}")
        return until

    @check("strategy")
    @classmethod
    def _says_something(cls, strategy: str) -> str:
        if strategy.strip():
            return strategy
        raise JobError("expected 'auto', a recipe or a chain of pieces, found an empty text")

    @check("listen")
    @classmethod
    def _names_an_address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if host and re.fullmatch(r"\d{1,5}", port) and int(port) < 1 << 16:
            return listen
        raise JobError(f"expected host:port with a port of 0..65535, found {listen!r}")

    @check_whole(mode="after")
    def _is_a_task_or_a_script(self) -> Job:
        for key in ("task", "optimizer", "scheduler", "baselines"):
            if self.script is not None and getattr(self, key):
                raise JobError(f"expected no {key} beside a script, found one; leave it out")
        for key in ("task", "optimizer") if self.script is None else ():
            if getattr(self, key) is None:
                raise JobError(f"expected the key {key}, found none; add it")
        return self

    @check_whole(mode="after")
    def _shares_what_is_apart(self) -> Job:
        if isinstance(self.task, SeparateSpec):
            told = {"strategy": self.strategy != "auto", "baselines": bool(self.baselines)}
            told |= {"deterministic": self.deterministic, "agents.spares": self.agents.spares > 0}
            check_apart(self.task, self.knowledge, [key for key in told if told[key]])
        elif self.knowledge is not None:
            raise JobError(
                "expected knowledge beside a task of the kind separate, found it beside another; "
                "leave it out, or say task: {kind: separate, tasks: ...}"
            )
        return self

    @check_whole(mode="after")
    def _hangs_together(self) -> Job:
        possible = (*BUDGETS, *(self.task.scores if self.task else ()))
        unknown = [name for name in self.until if name not in possible]
        if unknown or not (self.until or self.script):
            raise JobError(
                f"expected in until one or more of {', '.join(possible)}, "
                f"found {', '.join(unknown) or 'none'}; name one of these or add a metric"
            )
        if self.engine.kind == "ray" and (self.agents.speeds or self.agents.spares or self.drill):
            raise JobError(
                "expected no agents.speeds, agents.spares or drill on a Ray cluster, found one; "
                "leave them out: they are for agents of this machine"
            )
        if self.script is not None or isinstance(self.task, SeparateSpec):
            return self
        if isinstance(self.task, MultiSpec):
            check_place(self.task.place, self.task.priority, tuple(self.task.tasks))
            check_agents(self.task.place, self.agents.names)
        if self.agents.num_known is not None and self.batch < self.agents.num_known:
            raise JobError(
                f"expected a batch of at least one sample per agent, found {self.batch} for "
                f"{self.agents.num_known} agents; raise batch or use fewer agents"
            )
        return self

    @check_whole(mode="after")
    def _can_be_repeated(self) -> Job:
        if not self.deterministic:
            return self
        if self.strategy == "auto":
            raise JobError(
                "expected a strategy by name beside deterministic: true, found auto, which goes by "
                "what it measures; name one, such as local-sgd(8)"
            )
        if self.baselines:
            raise JobError(
                "expected no baselines beside deterministic: true, found "
                f"{', '.join(self.baselines)}: how long they last is measured; leave them out"
            )
        if self.scheduler is not None and self.scheduler.call.endswith(":ReduceLROnPlateau"):
            raise JobError(
                "expected a schedule of its own beside deterministic: true, found "
                "ReduceLROnPlateau, which goes by losses as they were told; choose another"
            )
        return self


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job of a YAML file, with `a.b=value` overrides laid over it.

    `root` in the file is relative to the file's folder, and is that folder when absent.
    Raises JobError naming the file, the key, what was found there and what was expected.

    >>> import tempfile
    >>> job = Job(name="first", task=TaskSpec(model="m:net", train="m:train", test="m:test"),
    ...           optimizer="torch.optim:SGD", batch=64, until={"epochs": 3}, root="/tmp")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "job.yaml")
    ...     num_chars = path.write_text(dump_job(job))
    ...     load_job(path, ["batch=32", "until.epochs=5"]).until
    {'epochs': 5.0}
    """
    path = Path(path)
    data = read_file(path, "job")
    data = overlaid(data, overrides)
    data["root"] = str((path.parent / str(data.get("root") or ".")).resolve())
    return parse_job(data, " with --set ".join((str(path), *overrides)))


def parse_job(data: Mapping[str, Any], source: str = "job") -> Job:
    """The job of plain values; `source` says in errors where they came from.

    >>> parse_job({"name": "x", "bach": 3})
    Traceback (most recent call last):
    coterie.errors.JobError: job: expected a key of the job, found 'bach'; did you mean 'batch'?
    """
    return checked(Job, data, source, "the job", "mend it or use --set")


def dump_job(job: Job) -> str:
    """The job as YAML that loads back equal.

    >>> job = Job(name="first", task=TaskSpec(model="m:net", train="m:train", test="m:test"),
    ...           optimizer="torch.optim:SGD", batch=64, until={"epochs": 3})
    >>> parse_job(read_yaml(dump_job(job), "job.yaml")) == job
    True
    """
    return write_yaml(job.model_dump(by_alias=True))


def overlaid(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Values with `a.b=value` overrides laid over them. Raises JobError for others.

    >>> overlaid({"agents": {"local": 2}}, ["agents.remote=1"])
    {'agents': {'local': 2, 'remote': 1}}
    """
    for override in overrides:
        data = _overlaid(data, override)
    return data


def _overlaid(data: dict[str, Any], override: str) -> dict[str, Any]:
    dotted, equals, value = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise JobError(f"--set: expected a.b=value, found {override!r}")
    changed = here = dict(data)
    for num, key in enumerate(keys[:-1], start=1):
        inner = here.get(key) if here.get(key) is not None else {}
        if not isinstance(inner, dict):
            raise JobError(
                f"--set {override}: expected a mapping at {'.'.join(keys[:num])}, "
                f"found {shown(inner)}; set that key whole"
            )
        here[key] = here = dict(inner)
    here[keys[-1]] = read_yaml(value, f"--set {override}")
    return changed
