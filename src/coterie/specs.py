"""What is learned, as the task section of a job file says it: one shape for each kind of task.

Bottom layer: names of the user's code stay text here (`Ref`), and only the room that needs the
code imports it. Nothing here loads torch. The text under a field is what `coterie init` and
editors say of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic import field_validator as check
from pydantic import model_validator as check_whole
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from coterie.errors import JobError
from coterie.names import SLUG, Positive, Ref, Words
from coterie.refusals import shown

BUDGETS = ("epochs", "steps", "minutes")  # ways to end a run that no metric decides
TEST_LOSS = "test_loss"  # every score carries it, so that no metric may be called so
NEGATIVE_LOSS = "negative_loss"  # the same with its sign turned: higher is better, as in `until`


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
    """Tasks by name, with the keys of a supervised one, or of kind prototypes; models are heads."""
    train: Ref | None = None
    """What tasks learn from that name no train of their own."""
    test: Ref | None = None
    """What tasks are scored on that name no test of their own."""
    balance: str | dict[str, Positive] | Ref = "equal"
    """How much each loss counts: the name of a weighing or of a conflict law, a weight for each
    task, or a call that makes an object of coterie.tasks.weighing."""
    place: Literal["everywhere", "auto"] | dict[str, list[str]] = "everywhere"
    """Who learns which task: everywhere, auto, or the agents of each, as in {digit: [agent-0]}."""
    priority: dict[str, float] = Field(default_factory=dict)
    """How much tasks count where they are placed; 1 where nothing is said."""

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
        return _scores({name: task.scores for name, task in self.tasks.items()})


class OwnTask(TaskSpec):
    """One of several tasks that are learned apart, each by a model of its own.

    >>> OwnTask(model="m:net", train="m:train", test="m:test", priority=2).agents
    1
    """

    priority: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 1.0
    """How much its progress counts beside that of the others; 0 waits."""
    agents: Annotated[int, Field(strict=True, ge=1)] = 1
    """On how many agents it is learned at once, each with a model of its own."""
    optimizer: Ref | None = None
    """Of this task, where the job's does not do."""
    classes: list[str] | None = None
    """What each class means to all tasks, in the order of predictions; by default they are its
    own."""


class SeparateSpec(Words):
    """Several tasks, each with a model of its own, whose learners may teach one another.

    >>> task = OwnTask(model="m:net", train="m:train", test="m:test", agents=2)
    >>> SeparateSpec(tasks={"digits": task}).pupils
    {'digits': 'digits', 'digits-2': 'digits'}
    """

    kind: Literal["separate"] = "separate"
    """What kind of task it is: separate where each of the tasks below has a model of its own."""
    tasks: Annotated[dict[str, OwnTask], Field(min_length=1)]
    """The tasks, each under its name, with the keys of a supervised one."""

    @check("tasks")
    @classmethod
    def _names_are_files(cls, tasks: dict[str, OwnTask]) -> dict[str, OwnTask]:
        for name in tasks:
            if not SLUG.fullmatch(name):
                raise JobError(
                    f"expected letters, digits, '-' and '_' (64 at most), found {name!r}; rename it"
                )
        pupils = [name for task in tasks for name in _pupils(task, tasks[task].agents)]
        if twice := [name for name in pupils if pupils.count(name) > 1]:
            raise JobError(
                f"expected names of their own for all learners, found {twice[0]} twice: the second "
                "agent of a task learns it under the task's name and -2; rename a task"
            )
        return tasks

    @property
    def pupils(self) -> dict[str, str]:
        """Everybody who learns, with the name of the task."""
        return {n: name for name, task in self.tasks.items() for n in _pupils(name, task.agents)}

    @property
    def scores(self) -> tuple[str, ...]:
        """METRIC, the mean over the tasks that have it, and TASK/METRIC; `until` may wait for."""
        return _scores({name: task.scores for name, task in self.tasks.items()})


def _pupils(task: str, num_agents: int) -> list[str]:
    return [task, *(f"{task}-{number}" for number in range(2, num_agents + 1))]


def _scores(own: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    means = dict.fromkeys(metric for metrics in own.values() for metric in metrics)
    return (*means, *(f"{name}/{metric}" for name in own for metric in own[name]))


Sampled = TaskSpec | AutoencoderSpec | ContrastiveSpec | ClustersSpec | PrototypesSpec
AnySpec = Sampled | LightningSpec | MultiSpec | SeparateSpec
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
