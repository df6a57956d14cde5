"""The plain torch loop, which says what a task comes to without any of our machinery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

Optimizers = Callable[[Any], torch.optim.Optimizer]


def loop(task: Any, optimizer: Optimizers, num_epochs: int, batch: int = 128) -> nn.Module:
    """A model after some epochs, from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = task.build()
        stepping = optimizer(model.parameters())
        for _ in range(num_epochs):
            for indices in torch.randperm(task.num_train).split(batch):
                stepping.zero_grad()
                task.loss(model, task.fetch(indices.tolist())).backward()
                stepping.step()
        return model


@pytest.fixture(scope="session")
def learned() -> Callable[..., nn.Module]:
    """`learned(task, optimizer, num_epochs, batch=128)`."""
    return loop
