"""Different label spaces: eight alphabets of Omniglot, five drawings of each character.

Heads are the means of classes (Snell et al. 2017, Prototypical Networks): at each step and in each
alphabet ten characters are drawn, with two drawings that make the means and two that are judged.
At the end all characters of an alphabet are told apart, by the means of all that it learned from.
Legend of shape suffixes: B images, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import knowledge_data as data
from benchmarks.knowledge_race import Look, Picks
from coterie.tasks import MultiTask, Supervised

NUM_SHOTS = 5
NUM_CHARACTERS, NUM_EACH = 10, 4  # of a step: characters, and drawings of each
NUM_STEPS = 400
WIDTH = 128  # features
STEEPNESS = 20.0  # of logits: how much a distance says


def trunk(width: int = WIDTH) -> nn.Module:
    """A small convolutional network: 92,672 parameters, no ReLU after its features."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, width)),
    )


def logits(features_BD: Tensor, means_CD: Tensor) -> Tensor:
    """How near images are to the means of classes, B×C."""
    return -STEEPNESS * (features_BD[:, None] - means_CD).square().mean(dim=2)


def means(features_BD: Tensor, labels_B: Tensor) -> Tensor:
    """The mean of each class, in the order of labels, C×D."""
    whose_CB = F.one_hot(labels_B.unique(return_inverse=True)[1]).T.to(features_BD.dtype)
    return whose_CB @ features_BD / whose_CB.sum(dim=1, keepdim=True)


def episode_loss(features_BD: Tensor, labels_B: Tensor) -> Tensor:
    """The first half of a batch makes the means, the second is judged by them."""
    half = len(labels_B) // 2
    found_BC = logits(features_BD[half:], means(features_BD[:half], labels_B[:half]))
    return F.cross_entropy(found_BC, labels_B[half:].unique(return_inverse=True)[1])


def episodes(splits: Sequence[data.Split], seed: int) -> Iterator[Picks]:
    """For each step and alphabet: two drawings of each of ten characters, and two others."""
    random = np.random.RandomState(seed + 7)
    sizes = [int(split.train.labels_N.max()) + 1 for split in splits]

    def one(num_characters: int) -> list[int]:
        chosen = random.permutation(num_characters)[:NUM_CHARACTERS]
        drawings = np.stack([random.permutation(NUM_SHOTS)[:NUM_EACH] for _ in chosen])
        return (chosen[:, None] * NUM_SHOTS + drawings).T.ravel().tolist()

    while True:
        yield [one(size) for size in sizes]


def nearest(splits: Sequence[data.Split]) -> Look:
    """Accuracy over all characters of an alphabet, each image by the nearest mean."""

    @torch.no_grad()
    def look(model: nn.Module, number: int) -> float:
        train, test = splits[number].train, splits[number].test
        means_CD = means(model(train.images_NHW), train.labels_N)
        guess_B = logits(model(test.images_NHW), means_CD).argmax(dim=1)
        return float((guess_B == test.labels_N).double().mean())

    return look


def together(splits: dict[str, data.Split], balance: str = "equal") -> MultiTask:
    """The alphabets as tasks of one trunk, each counting the same."""
    tasks = [
        Supervised(name, nn.Identity(), split.train.dataset(), split.test.dataset(), episode_loss)
        for name, split in splits.items()
    ]
    num_train = sum(len(split.train) for split in splits.values())
    if balance != "equal":
        return MultiTask("alphabets", trunk, tasks, balance)
    each = {name: len(split.train) / num_train for name, split in splits.items()}
    return MultiTask("alphabets", trunk, tasks, each)


class Trunk:
    """One model of all tasks, learned by MultiTask."""

    num_bytes = 0  # nothing travels

    def __init__(self, task: MultiTask, model: nn.Module, look: Look, lr: float) -> None:
        self.task, self.model, self.look = task, model, look
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        sizes = [len(each.train) for each in task.tasks.values()]
        self.starts = np.cumsum([0, *sizes[:-1]]).tolist()

    def step(self, picks: Picks) -> None:
        """All tasks' samples in one batch."""
        picked = [s + i for s, each in zip(self.starts, picks, strict=True) for i in each]
        self.optimizer.zero_grad()
        self.task.loss(self.model, self.task.fetch(picked)).backward()
        self.optimizer.step()

    def accuracies(self) -> list[float]:
        """Of each task, by its own head."""
        return [self.look(self.model.alone(n), i) for i, n in enumerate(self.task.tasks)]
