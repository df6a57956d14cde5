"""Layers are measured as the stages they would be, and only where they are a chain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents import layers
from coterie.agents.layers import MOST_LAYERS, layer_names, measure_layers
from coterie.agents.learner import Learner, Setup
from coterie.tasks import Autoencoder, Clusters, Contrastive
from coterie.tasks.clusters import KMeans
from coterie.tasks.supervised import Supervised
from tests.agents.conftest import timed

ROWS = torch.randn(40, 8)
PAIRS = TensorDataset(ROWS, torch.zeros(40, dtype=torch.long))


def body() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        nn.Linear(16, 4),
    )


class Branches(nn.Module):
    """Not to be followed: what runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, value: Tensor) -> Tensor:
        out: Tensor = self.b(value) if value.sum() > 0 else self.b(self.a(value))
        return out


def learner(build: Callable[[], nn.Module], optimizer: Any = torch.optim.SGD) -> Learner:
    task = Supervised("t", build, PAIRS, PAIRS)
    return Learner(Setup(task, lambda parameters: optimizer(parameters, lr=0.1)))


@pytest.fixture(autouse=True)
def _small_models_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LEAST_BYTES", 0)


def measured(mine: Learner, seconds: Callable[[int], float] = lambda at: 1.0) -> Any:
    """On a made-up clock, by the number of what has been computed."""
    num = count()
    return timed(measure_layers(mine, [0, 1, 2, 3]), lambda _: seconds(next(num)))


def test_each_layer_is_told_with_its_bytes() -> None:
    first, second = measured(learner(body))
    assert (first[0], second[0]) == ("0.0", "1")
    assert (first[2], second[2]) == (4 * (8 * 16 + 16), 4 * (16 * 4 + 4))
    assert (first[4], second[4]) == (4 * 16, 4 / 4)  # of a sample; the last hands on a loss
    assert first[3] >= 4 * (8 + 16)  # its inputs and what ReLU left


def test_the_way_there_and_back_is_timed_for_each_layer() -> None:
    # After a rehearsal, of two layers: forward 0, forward 1, backward 1, backward 0; and again.
    first, second = measured(learner(body), lambda at: (1.0, 2.0, 4.0, 8.0)[(at - 1) % 4])
    assert (first[1], second[1]) == (9 / 4, 6 / 4)


def test_the_gradients_are_those_of_the_whole_model() -> None:
    plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 4))
    mine = learner(lambda: plain)
    measured(mine)
    found = [p.grad.clone() / (1 + layers.NUM_PASSES) for p in plain.parameters()]  # type: ignore[union-attr]
    mine.gradient([0, 1, 2, 3])
    for grad, parameter in zip(found, plain.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


def test_many_layers_are_taken_several_at_a_time() -> None:
    names = layer_names(nn.Sequential(*(nn.Linear(2, 2) for _ in range(100))))
    assert len(names) == MOST_LAYERS
    assert names[0] == "0"


def test_what_is_no_chain_is_told_as_none() -> None:
    assert measured(learner(Branches)) == ()
    assert measured(learner(lambda: nn.Linear(8, 4))) == ()


def test_an_optimizer_that_evaluates_the_loss_itself_learns_in_no_pipeline() -> None:
    assert measured(learner(body, torch.optim.LBFGS)) == ()


@pytest.mark.parametrize(
    "task",
    [
        Supervised("t", body, PAIRS, PAIRS, predict=lambda model, data: (model(data[0]), data[1])),
        Supervised("t", body, PAIRS, PAIRS, loss=lambda predictions, targets: 1 / 0),
        Supervised("t", lambda: nn.Sequential(body(), nn.BatchNorm1d(4)), PAIRS, PAIRS),
    ],
    ids=["its own prediction", "a loss that fails", "a norm over the batch"],
)
def test_what_a_pipeline_would_learn_otherwise_is_learned_whole(task: Supervised) -> None:
    assert measured(Learner(Setup(task, lambda ps: torch.optim.SGD(ps, lr=0.1)))) == ()


def test_a_small_model_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LEAST_BYTES", 1 << 20)
    assert measured(learner(body)) == ()


def test_an_autoencoder_s_layers_are_those_of_a_pipeline() -> None:
    task = Autoencoder("t", lambda: nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 8)), ROWS, ROWS)
    mine = Learner(Setup(task, lambda parameters: torch.optim.SGD(parameters, lr=0.1)))
    assert [figures[0] for figures in measured(mine)] == ["0", "1"]
    found = [p.grad.clone() / (1 + layers.NUM_PASSES) for p in mine.model.parameters()]  # type: ignore[union-attr]
    mine.gradient([0, 1, 2, 3])
    for grad, parameter in zip(found, mine.model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


@pytest.mark.parametrize(
    "task",
    [
        Contrastive("t", body, ROWS, ROWS),
        Clusters("t", functools.partial(KMeans, num=2), ROWS, ROWS),
    ],
    ids=["contrastive", "clusters"],
)
def test_what_couples_samples_or_has_no_layers_is_learned_whole(task: Any) -> None:
    assert measured(Learner(Setup(task, lambda ps: torch.optim.SGD(ps, lr=0.1)))) == ()
