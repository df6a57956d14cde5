"""A small learner in this process: a trunk, a way to tell classes, and an optimizer of its own.

Legend of shape suffixes: N parameters, B samples of a batch, S held-out samples, D features,
C classes.
"""

from __future__ import annotations

import contextlib
import copy
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.combine import class_means, nearness
from coterie.errors import JobError, NotFinite, TrainingError
from coterie.knowledge.gate import likelihood
from coterie.knowledge.pupil import Moment, Term
from coterie.types import Layout


class Method(Protocol):
    """How classes are told from features, and how that is learned."""

    def head(self) -> nn.Module:
        """What lies between features and predictions, with the parameters it has."""

    def draw(self, targets_B: Tensor) -> Tensor:
        """Which training samples the next batch is made of, drawn by torch's own generator."""

    def loss(self, head: nn.Module, features_BD: Tensor, targets_B: Tensor) -> Tensor:
        """The mean loss on a batch that was drawn so."""

    def predictions(
        self, head: nn.Module, features_BD: Tensor, means: Callable[[], Tensor]
    ) -> Tensor:
        """Logits over all classes; `means` computes those of all training samples, (C, D)."""


@dataclass(frozen=True)
class Linear:
    """A linear head and cross-entropy, on batches drawn with replacement.

    >>> Linear(4, 3, batch=2).head()
    Linear(in_features=4, out_features=3, bias=True)
    """

    num_features: int
    num_classes: int
    batch: int = 32

    def head(self) -> nn.Module:
        """A fresh linear layer."""
        return nn.Linear(self.num_features, self.num_classes)

    def draw(self, targets_B: Tensor) -> Tensor:
        """Any samples."""
        return torch.randint(len(targets_B), (self.batch,))

    def loss(self, head: nn.Module, features_BD: Tensor, targets_B: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(head(features_BD), targets_B)

    def predictions(
        self, head: nn.Module, features_BD: Tensor, means: Callable[[], Tensor]
    ) -> Tensor:
        """The head's."""
        told: Tensor = head(features_BD)
        return told


@dataclass(frozen=True)
class Episodes:
    """Nearest class mean, learned on a few classes at a time; the head has no parameters.

    Snell et al. 2017, Prototypical Networks for Few-shot Learning. An episode draws `ways`
    classes, `shots` samples of each to take means of and `queries` to be told by them.

    >>> Episodes(ways=2, shots=1, queries=1).draw(torch.tensor([0, 0, 1, 1])).shape
    torch.Size([4])
    """

    ways: int = 10
    shots: int = 2
    queries: int = 2
    temperature: float = 20.0

    def head(self) -> nn.Module:
        """Nothing: features are compared as they are."""
        return nn.Identity()

    def draw(self, targets_B: Tensor) -> Tensor:
        """Samples of some classes, class by class: as many as an episode needs of each."""
        num = self.shots + self.queries
        order_B = torch.randperm(len(targets_B))
        places = [order_B[targets_B[order_B] == c] for c in sorted(set(targets_B.tolist()))]
        rich = [place for place in places if len(place) >= num]
        if len(rich) < 2:
            raise TrainingError(
                f"expected at least two classes of {num} samples for an episode, found "
                f"{len(rich)}; give more samples, or fewer shots and queries"
            )
        chosen = torch.randperm(len(rich))[: self.ways].tolist()
        return torch.cat([rich[c][:num] for c in chosen])

    def loss(self, head: nn.Module, features_BD: Tensor, targets_B: Tensor) -> Tensor:
        """Cross-entropy of each query on the means of the episode's classes."""
        num = self.shots + self.queries
        episode = features_BD.view(-1, num, features_BD.shape[1])
        means_CD = episode[:, : self.shots].mean(1)
        asked_BD = episode[:, self.shots :].reshape(-1, features_BD.shape[1])
        truth_B = torch.arange(len(episode), device=asked_BD.device).repeat_interleave(self.queries)
        return F.cross_entropy(nearness(asked_BD, means_CD, self.temperature), truth_B)

    def predictions(
        self, head: nn.Module, features_BD: Tensor, means: Callable[[], Tensor]
    ) -> Tensor:
        """How near each class's mean is."""
        return nearness(features_BD, means(), self.temperature)


@dataclass(frozen=True, eq=False)
class Course:
    """What a scholar learns: samples of named classes, a trunk, and a method.

    `train` and `held_out` are inputs with the places of their classes in `classes`.

    >>> data = (torch.eye(4), torch.arange(4) % 2)
    >>> Course("parity", lambda: nn.Linear(4, 3), data, data, ("even", "odd"), Linear(3, 2)).task
    'parity'
    """

    task: str
    trunk: Callable[[], nn.Module]
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    method: Method
    optimizer: Callable[[list[nn.Parameter]], Optimizer] = lambda p: torch.optim.Adam(p, lr=1e-3)

    def __post_init__(self) -> None:
        for role, (inputs_B, targets_B) in (("train", self.train), ("held_out", self.held_out)):
            if len(inputs_B) != len(targets_B):
                raise JobError(
                    f"{self.task}: expected an answer to each of {len(inputs_B)} inputs to "
                    f"{role}, found {len(targets_B)}; give as many"
                )
            if len(targets_B) and not 0 <= int(targets_B.min()) <= int(targets_B.max()) < len(
                self.classes
            ):
                raise JobError(
                    f"{self.task}: expected answers from 0 to {len(self.classes) - 1} in {role}, "
                    "found others; name every class"
                )


def draws_seed(name: str, seed: int) -> int:
    """What a scholar's own random numbers begin with.

    >>> draws_seed("ann", 0) != draws_seed("bob", 0), draws_seed("ann", 0) != draws_seed("ann", 1)
    (True, True)
    """
    return zlib.crc32(f"{name}/{seed}".encode())


class Scholar:
    """A `Pupil` that learns a course; scholars of one seed and trunk start from the same weights.

    What they draw depends on their names too: of batches that are alike a mean tells no more.

    >>> data = (torch.eye(4), torch.arange(4) % 2)
    >>> course = Course("parity", lambda: nn.Linear(4, 3), data, data, ("even", "odd"),
    ...                 Linear(3, 2, batch=4))
    >>> scholar = Scholar("ann", course)
    >>> before = scholar.held_out().mean()
    >>> losses = [scholar.step() for _ in range(20)]
    >>> bool(scholar.held_out().mean() > before), scholar.layout.names[0]
    (True, 'trunk.weight')
    """

    def __init__(self, name: str, course: Course, seed: int = 0) -> None:
        self.name, self.course = name, course
        self.num_steps = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = nn.ModuleDict({"trunk": course.trunk()})
            self.model["head"] = course.method.head()
            torch.manual_seed(draws_seed(name, seed))
            self._draws = torch.get_rng_state()
        self.layout = Layout.of(self.model)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = course.optimizer(self._parameters)
        self._terms: dict[str, Term] = {}
        self._means: Tensor | None = None

    @property
    def task(self) -> str:
        """What it learns."""
        return self.course.task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes."""
        return self.course.classes

    @property
    def num_samples(self) -> int:
        """Training samples of its own."""
        return len(self.course.train[1])

    def vector(self) -> Tensor:
        """A copy of the parameters."""
        with torch.no_grad():
            return torch.cat([p.detach().reshape(-1) for p in self._parameters])

    def place(self, vector_N: Tensor) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for parameter, (_, where) in zip(self._parameters, self.layout.slices(), strict=True):
                parameter.copy_(vector_N[where].view(parameter.shape))
        self._means = None

    def features(self, inputs_B: Tensor) -> Tensor:
        """What the trunk makes of inputs, one row each."""
        features: Tensor = self.model["trunk"](inputs_B)
        return features.flatten(1)

    def predictions(self, inputs_B: Tensor) -> Tensor:
        """Logits of inputs."""
        return self._told(self.features(inputs_B))

    def examples(self) -> tuple[Tensor, Tensor]:
        """All it learns from."""
        return self.course.train

    def loss(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """Cross-entropy of its predictions."""
        return F.cross_entropy(self.predictions(inputs_B), targets_B)

    def gradient(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """Of the loss on some samples, (N,); zero for parameters that it does not depend on."""
        slopes = torch.autograd.grad(
            self.loss(inputs_B, targets_B), self._parameters, materialize_grads=True
        )
        return torch.cat([slope.reshape(-1) for slope in slopes])

    def held_out(self) -> Tensor:
        """The log likelihood of each held-out answer, however sure it is of itself."""
        inputs_S, targets_S = self.course.held_out
        if not len(targets_S):
            return torch.zeros(0)
        with self._evaluating():
            return likelihood(self.predictions(inputs_S), targets_S)

    def accuracy(self, inputs_S: Tensor, targets_S: Tensor) -> float:
        """The part of some samples that it tells rightly."""
        with self._evaluating():
            told_S = self.predictions(inputs_S).argmax(1)
        return float((told_S == targets_S).double().mean())

    def step(self) -> float:
        """One optimizer step; NotFinite where the loss is not, TrainingError without samples."""
        with self._drawing():
            loss = self._loss()
            if not math.isfinite(value := float(loss.detach())):
                raise NotFinite(
                    f"{self.name}: expected a finite loss, found {value} at step "
                    f"{self.num_steps + 1}; lower the learning rate, or look for broken samples"
                )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.num_steps += 1
        self._means = None
        return value

    def attend(self, key: str, term: Term | None) -> None:
        """Add a loss to all steps from now on, or no longer."""
        self._terms.pop(key, None)
        if term is not None:
            self._terms[key] = term

    def snapshot(self) -> dict[str, Any]:
        """Parameters, buffers, optimizer, draws and terms."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "num_steps": self.num_steps,
            "draws": self._draws.clone(),
            "terms": dict(self._terms),
        }

    def restore(self, kept: object) -> None:
        """Stand where a snapshot was taken; the snapshot stays as it is."""
        assert isinstance(kept, dict)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(copy.deepcopy(kept["optimizer"]))
        self.num_steps, self._draws = kept["num_steps"], kept["draws"].clone()
        self._terms = dict(kept["terms"])
        self._means = None

    def _loss(self) -> Tensor:
        inputs_B, targets_B = self.course.train
        if not len(targets_B) and not self._terms:
            raise TrainingError(
                f"{self.name}: expected samples or lessons to learn from, found neither; "
                "wait for a lesson in labels, or give samples"
            )
        drawn_B = self.course.method.draw(targets_B) if len(targets_B) else targets_B
        moment = Moment(inputs_B[drawn_B], targets_B[drawn_B], torch.zeros(0))
        if len(targets_B):
            features_BD = self.features(moment.inputs_B)
            moment = Moment(moment.inputs_B, moment.targets_B, features_BD)
            own = self.course.method.loss(self.model["head"], features_BD, moment.targets_B)
        else:
            own = torch.zeros(())
        return sum((term(self, moment) for term in self._terms.values()), start=own)

    def _told(self, features_BD: Tensor) -> Tensor:
        return self.course.method.predictions(self.model["head"], features_BD, self._class_means)

    def _class_means(self) -> Tensor:
        if self._means is None:  # dear, and the same until the next step
            inputs_B, targets_B = self.course.train
            with self._evaluating():
                features_BD = self.features(inputs_B)
            self._means, count_C = class_means(features_BD, targets_B, len(self.classes))
            if not bool(count_C.all()):
                raise TrainingError(
                    f"{self.name}: expected a sample of each class to take the mean of, found "
                    f"none of {self.classes[int(count_C.argmin())]}; give one, or leave it out"
                )
        return self._means

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        outer = torch.get_rng_state()
        torch.set_rng_state(self._draws)
        try:
            yield
        finally:
            self._draws = torch.get_rng_state()
            torch.set_rng_state(outer)

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes.items():
                module.training = training
