"""A small world of scholars: classes that can be told, seen by each from another side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coterie.knowledge import Course, Linear, Scholar

CLASSES = ("red", "green", "blue")
NUM_INPUTS = 6
Make = Callable[..., Scholar]


def samples(seed: int, each: int, turn: int = 0) -> tuple[Tensor, Tensor]:
    """Points around three places; with another turn, another class's are where these were."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.arange(3 * each) % 3
    centres = 2.0 * torch.eye(3, NUM_INPUTS)
    noise = 0.7 * torch.randn(3 * each, NUM_INPUTS, generator=rng)
    return centres[(targets + turn) % 3] + noise, targets


def trunk(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_INPUTS, width), nn.Tanh())


@pytest.fixture
def make() -> Make:
    def made(name: str, steps: int = 0, **changes: Any) -> Scholar:
        seed = sum(map(ord, name))
        width, turn = changes.pop("width", 8), changes.pop("turn", 0)
        each, start = changes.pop("each", 4), changes.pop("seed", 0)
        parts = {
            "task": "colours",
            "trunk": lambda: trunk(width),
            "train": samples(seed, each, turn),
            "held_out": samples(seed + 1, 20, turn),
            "classes": CLASSES,
            "method": Linear(width, 3, batch=8),
            "optimizer": lambda p: torch.optim.Adam(p, lr=0.02),
        }
        scholar = Scholar(name, Course(**{**parts, **changes}), seed=start)
        for _ in range(steps):
            scholar.step()
        return scholar

    return made
