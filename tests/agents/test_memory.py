"""What a step takes in memory is found without taking it, and about what it truly takes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.learner import Learner, Setup
from coterie.agents.measure import CROWDED, UNSEEN, probe_steps
from coterie.agents.memory import step_bytes
from coterie.tasks.supervised import Supervised
from coterie.transport.messages import Probe, Probed
from tests.agents.conftest import timed

IMAGES = TensorDataset(torch.randn(40, 3, 16, 16), torch.zeros(40, dtype=torch.long))


class Halts(nn.Module):
    """A model that looks at values to find out what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3 * 16 * 16, 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.body(images.flatten(1))
        return out if out.sum().item() > 0 else -out


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 2))


def convolutions() -> nn.Module:
    body = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.Dropout(), nn.Flatten(), nn.Linear(512, 2))


def learner(model: type[nn.Module] | object) -> Learner:
    task = Supervised("t", model, IMAGES, IMAGES)  # type: ignore[arg-type]
    return Learner(Setup(task, lambda parameters: torch.optim.Adam(parameters)))


def probe(mine: Learner, room_bytes: float = math.inf) -> Probed:
    probed = timed(probe_steps(mine, Probe(sizes=(4, 32), seconds=0.0), room_bytes), len)
    assert isinstance(probed, Probed)
    return probed


@pytest.mark.parametrize("model", [perceptron, convolutions])
def test_a_sample_takes_what_it_keeps_and_no_more_than_thrice_that(model: object) -> None:
    mine = learner(model)
    _, per_sample = step_bytes(mine, (4_000, 16_000))
    kept = probe(mine)
    assert kept.bytes_per_sample <= per_sample <= 3 * kept.bytes_per_sample


def test_batches_that_no_machine_holds_are_weighed_and_leave_the_learner_as_it_was() -> None:
    mine = learner(convolutions)
    weights, dice = mine.weights(), torch.get_rng_state()
    _, per_sample = step_bytes(mine, (10**6, 10**9))
    assert 1e12 < 1e9 * per_sample < 1e15
    assert all(torch.equal(weights[name], value) for name, value in mine.weights().items())
    assert torch.equal(torch.get_rng_state(), dice)
    assert all(p.grad is None for p in mine.model.parameters())


def test_a_batch_that_does_not_fit_is_not_tried() -> None:
    mine = learner(convolutions)
    _, per_sample = step_bytes(mine, (4_000, 16_000))
    probed = probe(mine, room_bytes=20 * UNSEEN * per_sample)
    small, most = sorted({size for size, _ in probed.timings})
    assert small == 4 < most <= 0.8 * 20
    assert probed.bytes_per_sample == pytest.approx(UNSEEN * per_sample, rel=0.3)
    assert probed.warning == ""


def test_a_model_that_asks_for_values_is_measured_as_it_steps_and_says_so() -> None:
    mine = learner(Halts)
    usual = probe(mine)
    crowded = probe(mine, room_bytes=usual.fixed_bytes / CROWDED)
    assert {size for size, _ in crowded.timings} == {4, 32}
    assert crowded.bytes_per_sample == usual.bytes_per_sample > 0
    assert "expected a model that can step on shapes alone" in crowded.warning
    assert usual.warning == ""
