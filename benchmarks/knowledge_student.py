"""A learner of the benchmark of sharing: the pupil that the product's currencies teach.

Legend of shape suffixes: N parameters, B samples of a batch, S held-out samples, D features,
C classes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.knowledge_data import Split
from coterie.knowledge import Moment, Term
from coterie.tasks import Supervised
from coterie.types import Layout

LEARNING_RATE = 1e-3  # of Adam


def joined(trunk: nn.Module, head: nn.Module) -> nn.Sequential:
    """A trunk and a head under the names by which they are shared.

    >>> [name for name, _ in joined(nn.Linear(1, 1), nn.Identity()).named_parameters()]
    ['trunk.weight', 'trunk.bias']
    """
    return nn.Sequential(OrderedDict(trunk=trunk, head=head))


@dataclass
class Student:
    """A supervised task learned by Adam on samples that somebody else picks."""

    name: str
    learned: Supervised
    split: Split
    model: nn.Sequential  # a copy is taken
    classes: tuple[str, ...]
    look: Callable[[nn.Module, Split], float]  # the held-out accuracy of a model
    picks: Sequence[Sequence[int]]  # the samples of each step
    lr: float = LEARNING_RATE
    kept: Split | None = None  # what it holds out of its own, to judge lessons by
    num_steps: int = 0
    terms: dict[str, Term] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.model)
        self.layout = Layout.of(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr)

    @property
    def task(self) -> str:
        """What it learns."""
        return self.learned.name

    def accuracy(self) -> float:
        """On images that nobody learned from."""
        return self.look(self.model, self.split)

    def vector(self) -> Tensor:
        """A copy of the parameters, (N,)."""
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def place(self, vector_N: Tensor) -> None:
        """Set the parameters."""
        with torch.no_grad():
            nn.utils.vector_to_parameters(vector_N.clone(), self.model.parameters())

    def features(self, inputs_B: Tensor) -> Tensor:
        """What the trunk makes of images, (B, D)."""
        return self.model.trunk(inputs_B)

    def predictions(self, inputs_B: Tensor) -> Tensor:
        """Logits, (B, C)."""
        return self.model(inputs_B)

    def examples(self) -> tuple[Tensor, Tensor]:
        """All that it learns from."""
        return self.split.train.images_NHW, self.split.train.labels_N

    @torch.no_grad()
    def loss(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """Its mean loss on samples."""
        return self.learned.criterion(self.model(inputs_B), targets_B)

    @torch.no_grad()
    def held_out(self) -> Tensor:
        """Minus the cross-entropy of each sample that it kept, (S,)."""
        if self.kept is None:
            return torch.zeros(0)
        logits_SC = self.model(self.kept.test.images_NHW)
        return -F.cross_entropy(logits_SC, self.kept.test.labels_N, reduction="none")

    def step(self) -> float:
        """A step on the samples whose turn it is, with all terms attended to."""
        picked = self.picks[self.num_steps % len(self.picks)]
        inputs_B, targets_B = self.learned.fetch(picked).data
        features_BD = self.model.trunk(inputs_B)
        loss = self.learned.criterion(self.model.head(features_BD), targets_B)
        moment = Moment(inputs_B, targets_B, features_BD)
        total = sum((term(self, moment) for term in self.terms.values()), start=loss)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.num_steps += 1
        return float(loss.detach())

    def attend(self, key: str, term: Term | None) -> None:
        """Add a loss to all steps from now on; None takes it away."""
        if term is None:
            self.terms.pop(key, None)
        else:
            self.terms[key] = term

    def snapshot(self) -> Any:
        """All that a step changes."""
        state = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        return (*state, self.num_steps, dict(self.terms))

    def restore(self, kept: Any) -> None:
        """Stand where a snapshot was taken."""
        weights, moments, self.num_steps, terms = kept
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(copy.deepcopy(moments))
        self.terms = dict(terms)
