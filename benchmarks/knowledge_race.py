"""Arms that learn side by side: the same samples at the same step, and a clock for each arm.

All arms of a race begin at the same weights, draw alike, and take turns every few steps, so that
whatever else the machine does befalls them alike. Clocks count CPU seconds of learning and
sharing; looking at images that nobody learned from is on nobody's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from benchmarks.knowledge_data import Images, Split
from benchmarks.knowledge_sums import Curve
from coterie.knowledge.scholar import Course, Method, Scholar

LOOK_EVERY = 10  # steps
LEARNING_RATE = 1e-3  # of Adam
WIDTH = 128  # features

Share = Callable[[int], int]  # after so many steps; the bytes that were sent and received


class Arm(Protocol):
    """A way to learn several tasks."""

    num_bytes: int

    def step(self) -> None:
        """Learn the next samples of every task."""

    def accuracies(self) -> list[float]:
        """How each task does on images that nobody learned from."""


def plain_trunk(width: int = WIDTH, channels: int = 32) -> nn.Sequential:
    """A small convolutional network, 92,672 parameters as it is, without a ReLU at its end."""
    wide = 2 * channels
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(channels, wide, 3, 2, 1)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9 * wide, width)),
    )


def rectified_trunk(width: int = WIDTH, channels: int = 32) -> nn.Sequential:
    """The same with a ReLU at its end, for heads with weights."""
    return plain_trunk(width, channels).append(nn.ReLU())


def course(
    task: str,
    split: Split,
    trunk: Callable[[], nn.Module],
    method: Method,
    lr: float = LEARNING_RATE,
) -> Course:
    """What one agent learns."""
    train = split.train
    kept = split.kept or Images(train.images_NHW[:0], train.labels_N[:0])
    return Course(
        task,
        trunk,
        train.parts(),
        kept.parts(),
        tuple(str(label) for label in range(int(train.labels_N.max()) + 1)),
        method,
        partial(torch.optim.Adam, lr=lr),
    )


def alone(num_steps: int) -> int:
    """Nobody shares."""
    return 0


@dataclass
class Agents:
    """Scholars of a task each, with what they are tested on, and a way to share after a step."""

    scholars: Sequence[Scholar]
    splits: Sequence[Split]
    share: Share = alone
    num_bytes: int = 0
    num_steps: int = 0

    def step(self) -> None:
        """A step of each on its own samples; then they share, if they do.

        Who was rehearsing a lesson at the last meeting has made this step already.
        """
        self.num_steps += 1
        for scholar in self.scholars:
            if scholar.num_steps < self.num_steps:
                scholar.step()
        self.num_bytes += self.share(self.num_steps)

    def accuracies(self) -> list[float]:
        """Of each at its own task."""
        both = zip(self.scholars, self.splits, strict=True)
        return [scholar.accuracy(*split.test.parts()) for scholar, split in both]


def race(arms: Mapping[str, Arm], num_steps: int) -> dict[str, dict[str, Any]]:
    """The curve of each arm over so many steps, a look every ten, as results keep them."""
    names = list(arms)
    spent_s = dict.fromkeys(names, 0.0)
    told: dict[str, list[tuple[int, float, tuple[float, ...]]]] = {name: [] for name in names}
    for number, start in enumerate(range(0, num_steps, LOOK_EVERY)):
        turn, stop = number % len(names), min(start + LOOK_EVERY, num_steps)
        for name in [*names[turn:], *names[:turn]]:
            began_s = time.process_time()
            for _ in range(start, stop):
                arms[name].step()
            spent_s[name] += time.process_time() - began_s
            seen = tuple(round(each, 5) for each in arms[name].accuracies())
            told[name].append((stop, round(spent_s[name], 4), seen))
    curves = {
        name: Curve(*zip(*looks, strict=True), num_bytes=arms[name].num_bytes)
        for name, looks in told.items()
    }
    return {"curves": {name: curve.write() for name, curve in curves.items()}}
