"""Different label spaces: eight alphabets of Omniglot, five drawings of each character.

Heads are the means of classes: at each step and in each alphabet ten characters are drawn, with
two drawings that make the means and two that are judged by them. In the end all characters of an
alphabet are told apart, by the means of all that it learned from.
Legend of shape suffixes: B images, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import knowledge_data as data
from benchmarks.knowledge_race import (
    LEARNING_RATE,
    WIDTH,
    Agents,
    course,
    plain_trunk,
    race,
    rectified_trunk,
)
from benchmarks.knowledge_sharing import sharing
from coterie.combine import class_means
from coterie.knowledge import Fusion
from coterie.knowledge.scholar import Course, Episodes, Linear, Scholar, draws_seed
from coterie.tasks import Conflict, MultiTask, Supervised

NUM_SHOTS = 5
NUM_STEPS = 400
LAWS = ("mean", "pcgrad", "upgrad", "mgda")
FAST = 3e-3  # the other rate of Adam that is tried

Splits = Mapping[str, data.Split]


def splits_of(seed: int) -> dict[str, data.Split]:
    """The eight alphabets, with the drawings that this seed chooses."""
    return {name: data.alphabet(name, NUM_SHOTS, seed) for name in data.drawings()}


def by_means(splits: Splits, lr: float = LEARNING_RATE) -> dict[str, Course]:
    """Alphabets told by the means of classes."""
    return {n: course(n, split, plain_trunk, Episodes(), lr) for n, split in splits.items()}


def by_weights(splits: Splits, lr: float = LEARNING_RATE) -> dict[str, Course]:
    """Alphabets told by a linear layer, on as many images a step."""
    return {
        name: course(
            name,
            split,
            rectified_trunk,
            Linear(WIDTH, int(split.train.labels_N.max()) + 1, batch=40),
            lr,
        )
        for name, split in splits.items()
    }


def agents(courses: Mapping[str, Course], splits: Splits, seed: int) -> Agents:
    """An agent for each alphabet; they begin at the same weights."""
    scholars = [Scholar(name, each, seed) for name, each in courses.items()]
    return Agents(scholars, list(splits.values()))


class Trunk:
    """One model of all tasks, learned by MultiTask on the samples that agents draw too."""

    num_bytes = 0  # nothing travels

    def __init__(
        self, courses: Mapping[str, Course], splits: Splits, seed: int, law: str = ""
    ) -> None:
        self.courses, self.splits = courses, splits
        first = next(iter(courses.values()))
        tasks = [
            Supervised(
                name,
                each.method.head,
                splits[name].train.dataset(),
                splits[name].test.dataset(),
                partial(each.method.loss, nn.Identity()),
            )
            for name, each in courses.items()
        ]
        sizes = [len(splits[name].train) for name in courses]
        same = {name: size / sum(sizes) for name, size in zip(courses, sizes, strict=True)}
        self.task = MultiTask(
            "alphabets", first.trunk, tasks, Conflict(law) if law else same
        )  # without a law every alphabet counts the same
        self.offsets = np.cumsum([0, *sizes[:-1]]).tolist()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = self.task.build()
            self.draws = []
            for name in courses:
                torch.manual_seed(draws_seed(name, seed))
                self.draws.append(torch.get_rng_state())
        self.optimizer = first.optimizer(list(self.model.parameters()))

    def step(self) -> None:
        """All tasks' samples in one batch."""
        picked = [
            at + int(index)
            for at, drawn_B in zip(self.offsets, self._drawn(), strict=True)
            for index in drawn_B
        ]
        self.optimizer.zero_grad()
        self.task.loss(self.model, self.task.fetch(picked)).backward()
        self.optimizer.step()

    def _drawn(self) -> list[Tensor]:
        drawn = []
        with torch.random.fork_rng(devices=[]):
            for number, each in enumerate(self.courses.values()):
                torch.set_rng_state(self.draws[number])
                drawn.append(each.method.draw(each.train[1]))
                self.draws[number] = torch.get_rng_state()
        return drawn

    @torch.no_grad()
    def accuracies(self) -> list[float]:
        """Of each task, by its own head."""
        told = []
        for name, each in self.courses.items():
            (seen, labels), test = each.train, self.splits[name].test

            def means(seen: Tensor = seen, labels: Tensor = labels, each: Course = each) -> Tensor:
                return class_means(self.model.trunk(seen), labels, len(each.classes))[0]

            features_BD = self.model.trunk(test.images_NHW)
            logits_BC = each.method.predictions(self.model.heads[name], features_BD, means)
            told.append(float((logits_BC.argmax(1) == test.labels_N).double().mean()))
        return told


def alphabets(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """Heads of class means: alone and on one trunk at two rates, and agents that fuse theirs.

    Of fusion only the rate that was better with seed 0 is run.
    """
    splits = splits_of(seed)
    slow, fast = by_means(splits), by_means(splits, FAST)
    arms = {
        "alone": agents(slow, splits, seed),
        "alone, fast": agents(fast, splits, seed),
        "trunk": Trunk(slow, splits, seed),
        "trunk, fast": Trunk(fast, splits, seed),
        "fusion, fast": sharing(agents(fast, splits, seed), lambda: [Fusion()]),
    }
    return race(arms, num_steps)


def softmax(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """Heads with weights, a row for each character: alone, and on one trunk."""
    splits = splits_of(seed)
    courses = by_weights(splits)
    arms = {"alone": agents(courses, splits, seed), "trunk": Trunk(courses, splits, seed)}
    return race(arms, num_steps)


def laws(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """One trunk, whose rows of gradients are averaged or reconciled by a law."""
    splits = splits_of(seed)
    courses = by_means(splits)
    return race({law: Trunk(courses, splits, seed, law) for law in LAWS}, num_steps)
