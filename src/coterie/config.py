"""The job file: what to learn, on whom, until when; checked whole before anything starts.

Bottom layer: names of the user's code stay text here (`Ref`), and only the room that needs the
code imports it. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic import field_validator as check
from pydantic import model_validator as check_whole

from coterie.errors import JobError
from coterie.refusals import checked, shown
from coterie.yamls import read_file, read_yaml, write_yaml

BUDGETS = ("epochs", "steps", "minutes")  # ways to end a run that no metric decides
TEST_LOSS = "test_loss"  # every score carries it, so that no metric may be called so

Whole = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]

_CALL = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Ref(_Words):
    """Something callable of the user's, by name, with the keyword arguments to call it with.

    In YAML the arguments stand under `with`; a reference without any is just the string.

    >>> Ref.model_validate("torch.optim:SGD") == Ref(call="torch.optim:SGD")
    True
    >>> Ref.model_validate({"call": "torch.optim:SGD", "with": {"lr": 0.1}}).kwargs
    {'lr': 0.1}
    """

    call: str
    kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, validation_alias="with", serialization_alias="with"
    )

    @check_whole(mode="before")
    @classmethod
    def _from_string(cls, found: object) -> object:
        if isinstance(found, str):
            return {"call": found}
        if isinstance(found, Mapping | Ref):
            return found
        raise JobError(f"expected 'module:function' or {{call, with}}, found {shown(found)}")

    @check("call")
    @classmethod
    def _names_a_callable(cls, call: str) -> str:
        if _CALL.fullmatch(call):
            return call
        module, _, name = call.rpartition(".")
        meant = f"{module}:{name}"
        hint = f"; was {meant!r} meant?" if _CALL.fullmatch(meant) else "; mend its spelling"
        raise JobError(f"expected 'module:function', found {call!r}{hint}")


class Scheduler(Ref):
    """A learning-rate scheduler, and how often it steps.

    >>> Scheduler.model_validate("torch.optim.lr_scheduler:ConstantLR").every
    'epoch'
    """

    every: Literal["epoch", "step"] = "epoch"


class TaskSpec(_Words):
    """What is learned, all by reference; `coterie.tasks.from_spec` makes it real.

    >>> TaskSpec(model="m:net", train="m:train", test="m:test").loss.call
    'torch.nn.functional:cross_entropy'
    """

    model: Ref
    train: Ref
    test: Ref
    loss: Ref = Ref(call="torch.nn.functional:cross_entropy")
    metrics: dict[str, Ref] = Field(default_factory=dict)
    collate: Ref | None = None
    predict: Ref | None = None

    @check("metrics")
    @classmethod
    def _names_are_free(cls, metrics: dict[str, Ref]) -> dict[str, Ref]:
        for name in (*BUDGETS, TEST_LOSS):
            if name in metrics:
                raise JobError(f"expected a metric's own name, found {name!r}, which is taken")
        return metrics


class Script(_Words):
    """A script with a training loop of its own, by its path in the root, and its arguments.

    `digest` is its fingerprint: every agent has to run the same.
    """

    path: str
    args: list[str] = Field(default_factory=list)
    digest: str

    @classmethod
    def of(cls, path: Path, args: Sequence[str]) -> Script:
        """A script as it stands now. Raises JobError where there is none.

        >>> len(Script.of(Path(__file__), ["--lr", "0.1"]).digest)
        16
        """
        return cls(path=path.name, args=list(args), digest=_digest(path))

    def found_in(self, root: str) -> Path:
        """The script in a root that may be another machine's. Raises JobError for another one."""
        path = Path(root, self.path)
        if _digest(path) != self.digest:
            raise JobError(
                f"expected the {self.path} that the run was started with, found another in "
                f"{path.parent}; copy it from there, for all agents have to run the same"
            )
        return path


def _digest(path: Path) -> str:
    if not path.is_file():
        raise JobError(f"expected a script at {path}, found none; check its path, or set --root")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


class Drill(_Words):
    """A rehearsed failure: kill one member at a fraction of the run, and let it come back.

    >>> Drill(kill="b").at
    0.35
    """

    kill: str
    at: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.35
    restart_after_s: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 1.0


class Agents(_Words):
    """Who learns: agents started here, and agents waited for.

    `local="auto"` is one agent per GPU of this machine, else one. `speeds` are relative and make
    unequal machines of one; `local` defaults to their number. `spares` stand by, with the task
    built, to take over from local agents that die.

    >>> Agents(speeds=[4, 2, 1]).local, Agents.model_validate(3).local
    (3, 3)
    """

    local: Whole | Literal["auto"] = "auto"
    speeds: list[Positive] | None = None
    remote: Whole = 0
    spares: Whole = 0  # processes here that have built the task, and wait to take over
    join_timeout_s: Positive = 60.0

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


class Job(_Words):
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
    task: TaskSpec | None = None
    optimizer: Ref | None = None
    scheduler: Scheduler | None = None
    script: Script | None = None
    batch: Annotated[int, Field(strict=True, gt=0)]  # samples of one step, over all agents
    seed: Whole = 0
    strategy: str = "auto"
    deterministic: Annotated[bool, Field(strict=True)] = False
    until: dict[str, Positive]
    agents: Agents = Agents()
    listen: str = "127.0.0.1:0"
    checkpoint_every_s: Positive | Literal["auto"] = "auto"
    keep_checkpoints: Annotated[int, Field(strict=True, ge=1)] = 3
    baselines: list[Literal["solo", "equal"]] = Field(default_factory=list)
    drill: Drill | None = None
    root: str = "."

    @check_whole(mode="before")
    @classmethod
    def _ends_by_itself(cls, found: object) -> object:
        if isinstance(found, Mapping) and found.get("script") is not None:
            return {"batch": 1, "until": {}, **found}
        return found

    @check("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if _SLUG.fullmatch(name):
            return name
        raise JobError(
            f"expected letters, digits, '-' and '_' (64 at most), found {name!r}; rename it"
        )

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
    def _hangs_together(self) -> Job:
        possible = (*BUDGETS, *(self.task.metrics if self.task else ()))
        unknown = [name for name in self.until if name not in possible]
        if unknown or not (self.until or self.script):
            raise JobError(
                f"expected in until one or more of {', '.join(possible)}, "
                f"found {', '.join(unknown) or 'none'}; name one of these or add a metric"
            )
        if self.script is not None:
            return self
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
