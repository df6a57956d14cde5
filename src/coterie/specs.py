"""What is learned, as the task section of a job file says it: one shape for each kind of task.

Bottom layer: names of the user's code stay text here (`Ref`), and only the room that needs the
code imports it. Nothing here loads torch. The text under a field is what `coterie init` and
editors say of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    Tag,
)
from pydantic import field_validator as check
from pydantic import model_validator as check_whole
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from coterie.errors import JobError
from coterie.refusals import shown

BUDGETS = ("epochs", "steps", "minutes")  # ways to end a run that no metric decides
TEST_LOSS = "test_loss"  # every score carries it, so that no metric may be called so
NEGATIVE_LOSS = "negative_loss"  # the same with its sign turned: higher is better, as in `until`

Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]

_CALL = re.compile(r"\w+(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")  # a file may begin with its number


def shorter(form: JsonSchemaValue) -> Callable[..., JsonSchemaValue]:
    """For editors: how a mapping may be said shorter, as its `mode="before"` takes it."""

    def written(
        cls: type[BaseModel], core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        whole = handler(core)
        about: JsonSchemaValue = {
            key: whole.pop(key) for key in ("title", "description") if key in whole
        }
        return {**about, "anyOf": [form, whole]}

    return written


class Words(BaseModel):
    """Keys of a file: none but these, and none changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class Ref(Words):
    """Something callable of the user's, by name, with the keyword arguments to call it with.

    In YAML the arguments stand under `with`; a reference without any is just the string.

    >>> Ref.model_validate("torch.optim:SGD") == Ref(call="torch.optim:SGD")
    True
    >>> Ref.model_validate({"call": "torch.optim:SGD", "with": {"lr": 0.1}}).kwargs
    {'lr': 0.1}
    """

    call: str
    """module:function"""
    kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, validation_alias="with", serialization_alias="with"
    )
    """The keyword arguments of the call."""

    __get_pydantic_json_schema__ = classmethod(
        shorter({"type": "string", "pattern": f"^{_CALL.pattern}$"})
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


class _Samples(Words):
    model: Ref
    """() -> torch.nn.Module, or a Module class."""
    train: Ref
    """() -> map-style Dataset to learn from."""
    test: Ref
    """() -> map-style Dataset that is held out, to score on."""
    collate: Ref | None = None
    """A list of samples -> a batch, where torch's own does not do."""


class TaskSpec(_Samples):
    """Learning from samples with answers; `coterie.tasks.from_spec` makes it real.

    >>> TaskSpec(model="m:net", train="m:train", test="m:test").loss.call
    'torch.nn.functional:cross_entropy'
    """

    kind: Literal["supervised"] = "supervised"
    """What kind of task: supervised, autoencoder, contrastive, clusters, lightning, prototypes or
    multi."""
    loss: Ref = Ref(call="torch.nn.functional:cross_entropy")
    """(predictions, targets) -> mean over the batch."""
    metrics: dict[str, Ref] = Field(default_factory=dict)
    """(predictions, targets) -> float, higher is better, each under its name, as in
    {accuracy: "my_task:accuracy"}."""
    predict: Ref | None = None
    """(model, batch) -> (predictions, targets), where a batch is no pair of them."""

    @check("metrics")
    @classmethod
    def _names_are_free(cls, metrics: dict[str, Ref]) -> dict[str, Ref]:
        for name in (*BUDGETS, TEST_LOSS):
            if name in metrics:
                raise JobError(f"expected a metric's own name, found {name!r}, which is taken")
        return metrics

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that its score will carry, and `until` may wait for."""
        return tuple(self.metrics)


class AutoencoderSpec(_Samples):
    """Learning to reconstruct samples, and to tell what is unlike them.

    >>> AutoencoderSpec(model="m:net", train="m:train", test="m:test", anomalies="m:odd").scores
    ('negative_loss', 'auroc')
    """

    kind: Literal["autoencoder"] = "autoencoder"
    """What kind of task: supervised, autoencoder, contrastive, clusters, lightning, prototypes or
    multi."""
    error: Ref | None = None
    """(outputs, inputs) -> one value a sample; the mean square where none is given."""
    anomalies: Ref | None = None
    """() -> Dataset of what errors should tell from test."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that its score will carry, and `until` may wait for."""
        return (NEGATIVE_LOSS, "auroc") if self.anomalies else (NEGATIVE_LOSS,)


class ContrastiveSpec(_Samples):
    """Learning what two views of a sample have in common.

    >>> ContrastiveSpec(model="m:net", train="m:train", test="m:test").scores
    ('alignment', 'uniformity')
    """

    kind: Literal["contrastive"] = "contrastive"
    """What kind of task: supervised, autoencoder, contrastive, clusters, lightning, prototypes or
    multi."""
    views: Ref | None = None
    """A batch -> a changed one; by the samples' shape where none is given."""
    head: Ref | None = None
    """() -> Module between the model and the loss."""
    temperature: Positive = 0.5
    """Of the loss: the lower, the more the nearest others count."""
    group: Annotated[int, Field(strict=True, ge=2)] | None = None
    """Samples that are told apart from one another; those of a share where none is given."""
    labelled: Ref | None = None
    """() -> Dataset with labels, which teaches the probe that is asked about test."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that its score will carry, and `until` may wait for."""
        return ("accuracy",) if self.labelled else ("alignment", "uniformity")


class ClustersSpec(_Samples):
    """Learning which samples belong together; `model` is called with some of them, to begin from.

    >>> ClustersSpec(model="m:net", train="m:train", test="m:test").scores
    ('negative_loss',)
    """

    kind: Literal["clusters"] = "clusters"
    """What kind of task: supervised, autoencoder, contrastive, clusters, lightning, prototypes or
    multi."""
    labelled: Ref | None = None
    """() -> Dataset with labels, held to which clusters are scored."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that its score will carry, and `until` may wait for."""
        return (NEGATIVE_LOSS, "ami") if self.labelled else (NEGATIVE_LOSS,)


class LightningSpec(_Samples):
    """Learning by the steps of a Lightning module; `model` makes it.

    >>> LightningSpec(model="m:Net", train="m:train", test="m:test", metrics=["val_acc"]).scores
    ('val_acc',)
    """

    kind: Literal["lightning"] = "lightning"
    """What kind of task: supervised, autoencoder, contrastive, clusters, lightning, prototypes or
    multi."""
    metrics: list[str] = Field(default_factory=list)
    """What validation_step logs, higher being better."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that its score will carry, and `until` may wait for."""
        return tuple(self.metrics)


class PrototypesSpec(_Samples):
    """Learning features in which samples are near the mean of their class.

    >>> PrototypesSpec(model="m:net", train="m:train", test="m:test").scores
    ('accuracy',)
    """

    kind: Literal["prototypes"] = "prototypes"
    """What kind of task: supervised, autoencoder, contrastive, clusters, lightning, prototypes or
    multi."""
    ways: Annotated[int, Field(strict=True, ge=2)] = 10
    """Classes, at least, that the samples of a batch are told among."""
    shots: Annotated[int, Field(strict=True, ge=1)] = 2
    """Samples that the mean of a class is of, while it is learned."""
    temperature: Positive = 20.0
    """How much distances count."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that its score will carry, and `until` may wait for."""
        return ("accuracy",)


def _head_kind(found: Any) -> str:
    """Which of the kinds that can be heads a task is to be read as; of another, it is refused."""
    kind = found.get("kind") if isinstance(found, Mapping) else getattr(found, "kind", None)
    return "prototypes" if kind == "prototypes" else "supervised"


HeadSpec = Annotated[
    Annotated[TaskSpec, Tag("supervised")] | Annotated[PrototypesSpec, Tag("prototypes")],
    Discriminator(_head_kind),
]


class MultiSpec(Words):
    """Several tasks in one model: a trunk that they share, a head for each.

    >>> spec = MultiSpec.model_validate({"trunk": "m:trunk", "train": "m:table", "test": "m:table",
    ...     "tasks": {"digit": {"model": "m:head", "metrics": {"accuracy": "m:accuracy"}}}})
    >>> spec.tasks["digit"].train.call, spec.scores
    ('m:table', ('accuracy', 'digit/accuracy'))
    """

    kind: Literal["multi"] = "multi"
    """What kind of task it is: multi where there are tasks below."""
    trunk: Ref
    """() -> torch.nn.Module, or a Module class, whose features all heads read."""
    tasks: Annotated[dict[str, HeadSpec], Field(min_length=1)]
    """The tasks, each under its name, with the keys of a supervised one, or of one of kind
    prototypes; its model is its head."""
    train: Ref | None = None
    """What tasks learn from that name no train of their own."""
    test: Ref | None = None
    """What tasks are scored on that name no test of their own."""
    balance: str | dict[str, Positive] | Ref = "equal"
    """How much each loss counts: the name of a weighing or of a conflict law, a weight for each
    task, or a call that makes an object of coterie.tasks.weighing."""

    @check_whole(mode="before")
    @classmethod
    def _hands_down_datasets(cls, found: object) -> object:
        if not isinstance(found, Mapping) or not isinstance(found.get("tasks"), Mapping):
            return found
        shared = {key: found[key] for key in ("train", "test") if found.get(key) is not None}
        tasks = {
            name: {**shared, **task} if isinstance(task, Mapping) else task
            for name, task in found["tasks"].items()
        }
        return {**found, "tasks": tasks}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """For editors: a task need not name the datasets that are handed down to it."""
        whole = handler(core)
        tasks = whole["properties"]["tasks"]
        heads = tasks["additionalProperties"]["oneOf"]
        handed = [{**handler.resolve_ref_schema(head), "required": ["model"]} for head in heads]
        tasks["additionalProperties"] = {"anyOf": handed}
        return whole

    @property
    def scores(self) -> tuple[str, ...]:
        """METRIC, the mean over the tasks that have it, and TASK/METRIC; `until` may wait for."""
        own = {name: task.scores for name, task in self.tasks.items()}
        means = dict.fromkeys(metric for metrics in own.values() for metric in metrics)
        return (*means, *(f"{name}/{metric}" for name in own for metric in own[name]))


class Script(Words):
    """A script with a training loop of its own, by its path in the root, and its arguments."""

    path: str
    """Where it lies in the root."""
    args: list[str] = Field(default_factory=list)
    """What stands behind it on the command line."""
    digest: str
    """Its fingerprint: every agent has to run the same."""

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


AnySpec = (
    TaskSpec
    | AutoencoderSpec
    | ContrastiveSpec
    | ClustersSpec
    | LightningSpec
    | PrototypesSpec
    | MultiSpec
)
KINDS: tuple[str, ...] = tuple(spec.model_fields["kind"].default for spec in get_args(AnySpec))


def kind_of(section: Mapping[str, Any]) -> Any:
    """The kind that a task section says; multi where it has tasks, else supervised.

    >>> kind_of({"model": "m:net"}), kind_of({"tasks": {}})
    ('supervised', 'multi')
    """
    return section.get("kind", "multi" if "tasks" in section else "supervised")


def with_kind(found: object) -> object:
    """A task section that says its kind, whether it was told or not; JobError for others.

    >>> with_kind({"model": "m:net"})["kind"]
    'supervised'
    """
    if not isinstance(found, Mapping):
        if isinstance(found, Words):
            return found
        raise JobError(f"expected a mapping, found {shown(found)}")
    kind = kind_of(found)
    if kind not in KINDS:
        raise JobError(f"expected kind to be one of {', '.join(KINDS)}, found {shown(kind)}")
    return {**found, "kind": kind}
