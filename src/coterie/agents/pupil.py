"""One learner of one task: it walks by itself, in its own order of samples, and can be taught.

It is what `coterie.knowledge` asks of a pupil. What comes before the last layer is its trunk, and
lessons call that `trunk.*`, whatever the model's own names are.

Legend of shape suffixes: N parameters, B samples of a batch, S held-out samples, D features,
C classes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from coterie.agents.learner import Learner, Setup
from coterie.agents.snapshot import MODEL_FILE
from coterie.agents.state import copied, pack_state, tensor_parts, unpack_state
from coterie.agents.stream import Stream
from coterie.errors import CheckpointError, JobError, TrainingError
from coterie.knowledge.gate import likelihood
from coterie.knowledge.pupil import Moment, Term
from coterie.tasks.samples import device_of, evaluating, to_device
from coterie.tasks.supervised import Supervised
from coterie.types import Batch, Layout

MOST_HELD_OUT = 256  # samples that lessons are judged by
MOST_EXAMPLES = 2048  # samples that are looked at to teach what they look like
TRUNK, HEAD = "trunk", "head"
STATE_FILE = "state.safetensors"


@dataclass(frozen=True)
class Place:
    """Who a learner is, and what it learns with.

    >>> Place("digits-2", "digits", batch=8).held_out
    0.0
    """

    pupil: str
    task: str
    batch: int
    seed: int = 0
    held_out: float = 0.0  # part of its training samples that is kept to judge lessons by
    classes: tuple[str, ...] = ()  # what each means to all; by default its task's own


class TaskPupil:
    """A model that learns one task, and what others may teach it and hear of it."""

    def __init__(self, setup: Setup, place: Place) -> None:
        task = setup.task
        if not isinstance(task, Supervised):
            raise JobError(f"expected a supervised task, found {type(task).__name__}")
        self._task, self.place_of = task, place
        self._learner = _Attentive(replace(setup, seed=place.seed))
        own = zlib.crc32(place.pupil.encode())
        self._learner.draws.seed(place.seed, place.pupil)
        self._held, self._learned = _parted(task.num_train, place.held_out, own)
        self._stream = Stream(len(self._learned), own)
        self.data_epoch, self.position = 0, 0
        self.num_learned = 0  # samples, each as often as it was
        self.published_bytes: dict[str, int] = {}  # by currency
        self.heard_bytes: dict[str, int] = {}
        self._learner.teach_with(self)

    @property
    def name(self) -> str:
        """Who it is, as lessons call it."""
        return self.place_of.pupil

    @property
    def task(self) -> str:
        """What it learns."""
        return self.place_of.task

    @property
    def num_steps(self) -> int:
        """Optimizer steps so far."""
        return self._learner.num_steps

    @property
    def num_samples(self) -> int:
        """Training samples of its own: the evidence behind what it teaches."""
        return len(self._learned)

    @property
    def num_epochs(self) -> float:
        """Passes over its data, in parts."""
        return self.data_epoch + self.position / len(self._learned)

    @property
    def model(self) -> nn.Module:
        """What it learns by."""
        return self._learner.model

    @cached_property
    def layout(self) -> Layout:
        """Of its trainable parameters; what comes before the last layer is called `trunk.*`."""
        own = self._learner.layout
        return Layout(tuple(self._called(name) for name in own.names), own.shapes)

    def _called(self, name: str) -> str:
        head = self._learner.head
        if name == head or name.startswith(f"{head}."):
            return f"{HEAD}.{name.removeprefix(head).removeprefix('.')}"
        return name if name.startswith(f"{TRUNK}.") else f"{TRUNK}.{name}"

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What each class means to all members, in the order of predictions."""
        if self.place_of.classes:
            return self.place_of.classes
        inputs_B, _ = self._pairs(self._learned[:1])
        with torch.no_grad():
            num_classes = self.predictions(inputs_B).shape[-1]
        return tuple(f"{self.task}/{number}" for number in range(num_classes))

    def vector(self) -> Tensor:
        """A copy of the parameters, (N,), on the CPU."""
        return self._learner.vector()

    def place(self, vector_N: Tensor) -> None:
        """Set the parameters."""
        self._learner.place(vector_N)

    def features(self, inputs_B: Tensor) -> Tensor:
        """What the trunk makes of inputs, (B, D), with a gradient unless torch's are off."""
        with self._quiet(), self._learner.overheard() as heard:
            self.model(inputs_B.to(device_of(self.model)))
        return heard[-1]

    def predictions(self, inputs_B: Tensor) -> Tensor:
        """Logits, (B, C), with a gradient unless torch's are off."""
        with self._quiet():
            logits_BC: Tensor = self.model(inputs_B.to(device_of(self.model)))
        return logits_BC

    def examples(self) -> tuple[Tensor, Tensor]:
        """Its training inputs and the places of their classes."""
        return self._pairs(self._learned[:MOST_EXAMPLES])

    def loss(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """Its mean loss on samples, as it would be scored on them: nothing is learned."""
        with evaluating(self.model):
            return self._task.loss(self.model, Batch([inputs_B, targets_B], len(inputs_B)))

    def held_out(self) -> Tensor:
        """What it knows of each of its own held-out samples, (S,): minus its loss.

        Where answers are classes it is their likelihood, however sure it is of itself.
        """
        if not len(self._held):
            return torch.zeros(0)
        data = to_device(self._task.fetch(self._held[:MOST_HELD_OUT]).data, device_of(self.model))
        with evaluating(self.model):
            predictions, targets = self._task.predict(self.model, data)
            if _are_classes(predictions, targets):
                return likelihood(predictions, targets).float().cpu()
            device = device_of(self.model)
            losses = [
                self._task.judge(predictions[i : i + 1], targets[i : i + 1], device)
                for i in range(len(targets))
            ]
        return -torch.stack(losses).float().cpu()

    def step(self) -> float:
        """One optimizer step on a batch of its own with all terms attended to; the loss."""
        order = self._stream.order(self.data_epoch)
        chosen = order[self.position : self.position + self.place_of.batch]
        loss = self._learner.step([int(self._learned[i]) for i in chosen])
        self.num_learned += len(chosen)
        self.position += len(chosen)
        if self.position >= len(self._learned):
            self.data_epoch, self.position = self.data_epoch + 1, 0
            self._learner.end_epoch(self.data_epoch, loss)
        return loss

    def attend(self, key: str, term: Term | None) -> None:
        """Add a loss to all steps from now on, in place of the one under this key; None: none."""
        self._learner.terms.pop(key, None)
        if term is not None:
            self._learner.terms[key] = term

    def score(self) -> dict[str, float]:
        """Metrics on the task's test set."""
        return self._learner.score()

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> object:
        """All that `step` changes, as a value: parameters, optimizer, draws, terms, its place."""
        return self._state(), dict(self._learner.terms)

    def restore(self, kept: object) -> None:
        """Stand where a snapshot was taken."""
        assert isinstance(kept, tuple)
        state, terms = kept
        self._stand(copied(state))
        self._learner.terms = dict(terms)

    def files(self) -> dict[str, bytes]:
        """The model as a plain safetensors file, and all else that another agent goes on by.

        What it attends to and whom it trusts is not in it: lessons are heard anew there.
        """
        state = self._state()
        weights = state.pop("weights")
        return {
            f"{self.name}/{MODEL_FILE}": b"".join(tensor_parts(weights, {})),
            f"{self.name}/{STATE_FILE}": pack_state(state),
        }

    def go_on(self, files: Mapping[str, bytes]) -> None:
        """Go on from where another agent stood; CheckpointError for another model's state."""
        try:
            weights = safetensors.torch.load(files[f"{self.name}/{MODEL_FILE}"])
            state = unpack_state(files[f"{self.name}/{STATE_FILE}"])
        except (LookupError, SafetensorError) as error:
            raise CheckpointError(
                f"expected the model and the state of {self.name}, found others ({error!r}); "
                "begin it anew"
            ) from error
        self._stand({**state, "weights": weights})

    def _state(self) -> dict[str, Any]:
        return {
            "weights": self._learner.weights(),
            "private": copied(self._learner.private()),
            "data_epoch": self.data_epoch,
            "position": self.position,
            "num_learned": self.num_learned,
            "published_bytes": dict(self.published_bytes),
            "heard_bytes": dict(self.heard_bytes),
        }

    def _stand(self, state: dict[str, Any]) -> None:
        self._learner.restore(state["weights"], state["private"])
        self.data_epoch, self.position = state["data_epoch"], state["position"]
        self.num_learned = state["num_learned"]
        self.published_bytes = dict(state["published_bytes"])
        self.heard_bytes = dict(state["heard_bytes"])

    def _pairs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        data = self._task.fetch(indices).data
        if isinstance(data, tuple | list) and len(data) == 2:
            inputs, targets = data
            if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
                return inputs, targets
        raise TrainingError(
            f"expected samples of (input, target) tensors in {self.task} to teach by them, found "
            f"batches of {type(data).__name__}; share parameters instead"
        )

    def _quiet(self) -> AbstractContextManager[None]:
        """Without gradients a pass is a look, which neither drops out nor counts."""
        return nullcontext() if torch.is_grad_enabled() else evaluating(self.model)


class _Attentive(Learner):
    """A learner whose own loss others' terms are added to."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.terms: dict[str, Term] = {}
        self.head = _head_of(self.model)
        self._pupil: TaskPupil

    def teach_with(self, pupil: TaskPupil) -> None:
        """Whom terms are given."""
        self._pupil = pupil

    @contextmanager
    def overheard(self) -> Iterator[list[Tensor]]:
        """What reaches the last layer meanwhile, as (B, D)."""
        heard: list[Tensor] = []

        def hear(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            heard.append(inputs[0].flatten(1) if inputs[0].dim() > 2 else inputs[0])

        hook = self.model.get_submodule(self.head).register_forward_pre_hook(hear)
        try:
            yield heard
        finally:
            hook.remove()

    def _descend(self, batch: Batch) -> float:
        if not self.terms:
            return super()._descend(batch)
        self.optimizer.zero_grad()
        with self.overheard() as heard:
            loss = self.task.loss(self.model, batch)
        value = self._finite(loss)
        inputs_B, targets_B = to_device(batch.data, device_of(self.model))
        moment = Moment(inputs_B, targets_B, heard[-1])
        for term in self.terms.values():
            loss = loss + term(self._pupil, moment)
        self._finite(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        return value


def _are_classes(predictions: Any, targets: Any) -> bool:
    """Whether targets are numbers of the columns of predictions.

    >>> scores_BC = torch.zeros(2, 3)
    >>> [_are_classes(scores_BC, torch.tensor(t)) for t in ([0, 2], [0, 3], [-100, 0], [0.0, 1.0])]
    [True, False, False, False]
    """
    if not (isinstance(predictions, Tensor) and isinstance(targets, Tensor)):
        return False
    is_told_so = predictions.dim() == 2 and targets.dim() == 1 and targets.dtype == torch.long
    return is_told_so and int(targets.min()) >= 0 and int(targets.max()) < predictions.shape[1]


def _head_of(model: nn.Module) -> str:
    """The module that is called head, or the last one that has weights of its own.

    >>> _head_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Softmax(1)))
    '2'
    """
    if HEAD in dict(model.named_children()):
        return HEAD
    bare: list[str] = [n for n, m in model.named_modules() if list(m.parameters(recurse=False))]
    return bare[-1]


def _parted(num: int, part: float, seed: int) -> tuple[list[int], list[int]]:
    """Which samples are kept to judge by, and which are learned: at least one of them.

    >>> [len(each) for each in _parted(10, 0.2, seed=0)], _parted(3, 0.0, seed=0)
    ([2, 8], ([], [0, 1, 2]))
    """
    if not part:
        return [], list(range(num))
    order: list[int] = np.random.default_rng(seed).permutation(num).tolist()
    num_held = min(num - 1, max(1, round(part * num)))
    return order[:num_held], order[num_held:]
