"""Learning features in which the mean of a class is near its samples: few samples of many classes.

Legend of shape suffixes: B samples that are asked about, E examples that the means are of,
S samples of a whole set, D features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from coterie.combine import class_means, nearness
from coterie.errors import JobError
from coterie.specs import TEST_LOSS
from coterie.tasks.samples import (
    Collate,
    MapStyle,
    Model,
    Samples,
    batches,
    built,
    dataset,
    device_of,
    drawn,
    evaluating,
    gather,
    labelled_pair,
    to_device,
)
from coterie.types import Batch


@dataclass(frozen=True, eq=False)
class Prototypes:
    """A task made of a model of features and samples of classes, told by the nearest class mean.

    Snell et al. 2017, Prototypical Networks for Few-shot Learning. Each sample is asked about
    once in a data epoch. With those of a batch come `shots` others of each of their classes, drawn
    anew, and of others so that there are `ways` classes: whose means are the nearest is the
    answer. Held-out samples are told by the means of all training samples of all classes. The
    head has no parameters; distances count `temperature` times their mean square.

    >>> pairs = torch.utils.data.TensorDataset(torch.eye(4), torch.tensor([3, 3, 7, 7]))
    >>> task = Prototypes("two", lambda: nn.Linear(4, 2), pairs, pairs, shots=1)
    >>> task.loss(task.build(), task.fetch([0, 2])).shape, sorted(task.score(task.build()))
    (torch.Size([]), ['accuracy', 'test_loss'])
    """

    kind: ClassVar[str] = "prototypes"
    name: str
    model: Model
    train: Samples
    test: Samples
    ways: int = 10
    shots: int = 2
    temperature: float = 20.0
    collate: Collate | None = None
    learned: MapStyle = field(init=False, repr=False)
    held_out: MapStyle = field(init=False, repr=False)
    labels: tuple[int, ...] = field(init=False, repr=False)  # of the classes, in their order
    places_S: Tensor = field(init=False, repr=False)  # of each training sample's class

    def __post_init__(self) -> None:
        if self.ways < 2 or self.shots < 1 or not 0 < self.temperature < math.inf:
            raise JobError(
                f"{self.name}: expected two ways or more, one shot or more and a temperature "
                f"above zero, found {self.ways}, {self.shots} and {self.temperature}"
            )
        learned, held_out = dataset("train", self.train), dataset("test", self.test)
        labels_S = self._labels(learned)
        labels, places_S, counts_C = torch.unique(labels_S, return_inverse=True, return_counts=True)
        if len(labels) < 2 or int(counts_C.min()) < 2:
            raise JobError(
                f"{self.name}: expected two classes or more of two training samples or more, found "
                f"{len(labels)} classes and {int(counts_C.min())} samples of one; a sample is told "
                "by the mean of others"
            )
        known = set(labels.tolist())
        if unknown := sorted(set(self._labels(held_out).tolist()) - known):
            raise JobError(
                f"{self.name}: expected held-out samples of classes to learn from, found "
                f"{unknown[0]}; give training samples of it, or leave it out"
            )
        made = {
            "learned": learned,
            "held_out": held_out,
            "labels": tuple(labels.tolist()),
            "places_S": places_S,
        }
        for attribute, value in made.items():
            object.__setattr__(self, attribute, value)

    @property
    def given(self) -> Mapping[str, Any]:
        """What a job file says of this task."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "name"}

    @property
    def num_train(self) -> int:
        """How many training samples there are."""
        return len(self.learned)

    def build(self) -> nn.Module:
        """A fresh model: made anew, or a deep copy of the module given."""
        return built("model", self.model)

    def under(self, model: Model) -> Prototypes:
        """The same samples with another model."""
        return replace(self, model=model)

    def fetch(self, indices: Sequence[int]) -> Batch:
        """Samples to ask about, then examples of their classes, and where each one's class is."""
        asked_B = self.places_S[torch.as_tensor(list(indices), dtype=torch.long)]
        chosen_E = self._examples(indices, asked_B)
        inputs = self._inputs([*indices, *chosen_E.tolist()])
        return Batch((inputs, (asked_B, self.places_S[chosen_E])), len(indices))

    def sample(self, model: nn.Module, rng: torch.Generator, size: int) -> Batch:
        """`size` training samples drawn with replacement; the model has no say."""
        return self.fetch(drawn(self.num_train, rng, size))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over what is asked about of minus the log chance of its own class."""
        device = device_of(model)
        inputs, places = to_device(batch.data, device)
        return self.judge(model(inputs), places, device)

    def judge(self, predictions: Any, targets: Any, device: torch.device) -> Tensor:
        """The same of features that were computed already."""
        asked_B, shown_E = targets
        features_BD = predictions.flatten(1)
        here = sorted({*asked_B.tolist(), *shown_E.tolist()})
        place_C = torch.zeros(len(self.labels), dtype=torch.long, device=device)
        place_C[torch.tensor(here, device=device)] = torch.arange(len(here), device=device)
        means_CD, _ = class_means(features_BD[len(asked_B) :], place_C[shown_E], len(here))
        told_BC = nearness(features_BD[: len(asked_B)], means_CD, self.temperature)
        return F.cross_entropy(told_BC, place_C[asked_B])

    def score(self, model: nn.Module) -> dict[str, float]:
        """`accuracy` over all classes, by the means of all training samples, and `test_loss`."""
        with evaluating(model):
            means_CD = self._means(model)
            right, losses = 0, []
            for told_BC, truth_B in self._told(model, means_CD):
                right += int((told_BC.argmax(1) == truth_B).sum())
                losses.append(float(F.cross_entropy(told_BC, truth_B, reduction="sum")))
        num = len(self.held_out)
        return {"accuracy": right / num, TEST_LOSS: math.fsum(losses) / num}

    def _means(self, model: nn.Module) -> Tensor:
        device = device_of(model)
        parts = [
            model(self._pair(data)[0].to(device)).flatten(1)
            for _, data in batches(self.learned, self.collate or default_collate)
        ]
        return class_means(torch.cat(parts), self.places_S.to(device), len(self.labels))[0]

    def _told(self, model: nn.Module, means_CD: Tensor) -> list[tuple[Tensor, Tensor]]:
        told, labels = [], torch.tensor(self.labels)
        for _, data in batches(self.held_out, self.collate or default_collate):
            inputs, labels_B = self._pair(data)
            features_BD = model(inputs.to(means_CD.device)).flatten(1)
            truth_B = torch.searchsorted(labels, labels_B).to(means_CD.device)
            told.append((nearness(features_BD, means_CD, self.temperature), truth_B))
        return told

    def _examples(self, indices: Sequence[int], asked_B: Tensor) -> Tensor:
        """Training samples to take means of: none that is asked about, where there are others."""
        order_S = torch.randperm(self.num_train)
        asked = torch.zeros(self.num_train, dtype=torch.bool)
        asked[torch.as_tensor(list(indices), dtype=torch.long)] = True
        order_S = torch.cat([order_S[~asked[order_S]], order_S[asked[order_S]]])
        others_C = torch.randperm(len(self.labels)).tolist()
        wanted = dict.fromkeys([*sorted(set(asked_B.tolist())), *others_C])
        num = max(self.ways, len(set(asked_B.tolist())))
        places_S = self.places_S[order_S]
        return torch.cat([order_S[places_S == c][: self.shots] for c in list(wanted)[:num]])

    def _inputs(self, indices: Sequence[int]) -> Tensor:
        return self._pair(gather(self.learned, indices, self.collate or default_collate))[0]

    def _labels(self, samples: MapStyle) -> Tensor:
        found = batches(samples, self.collate or default_collate)
        return torch.cat([self._pair(data)[1] for _, data in found])

    def _pair(self, data: Any) -> tuple[Tensor, Tensor]:
        return labelled_pair(data)
