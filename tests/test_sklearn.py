"""Estimators behave as scikit-learn's own: cloned, searched, in pipelines, repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from coterie.errors import JobError
from coterie.sklearn import Classifier, Regressor

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 2))
SIDES = np.where(POINTS.sum(axis=1) > 0, "right", "left")


def test_classes_keep_their_names_and_probabilities_their_order() -> None:
    model = Classifier(epochs=15, random_state=0).fit(POINTS, SIDES)
    assert model.classes_.tolist() == ["left", "right"]
    assert model.score(POINTS, SIDES) > 0.9
    likely = model.predict_proba(POINTS)
    assert np.allclose(likely.sum(axis=1), 1, atol=1e-6)
    assert (model.classes_[likely.argmax(axis=1)] == model.predict(POINTS)).all()


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 2)])
def test_values_come_back_in_the_shape_they_were_learned_in(shape: tuple[int, ...]) -> None:
    wanted = np.resize(POINTS.sum(axis=1), shape[::-1]).T
    model = Regressor(epochs=30, random_state=0).fit(POINTS, wanted)
    assert model.predict(POINTS).shape == shape
    assert model.score(POINTS, wanted) > 0.8


def test_a_seed_repeats_a_fit_and_leaves_the_process_s_draws_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        Classifier(epochs=1, random_state=seed).fit(POINTS, SIDES).predict_proba(POINTS)
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.rand(1), wanted)
    assert (first == again).all()
    assert (first != other).any()


def test_it_is_cloned_and_searched_within_a_pipeline() -> None:
    model = clone(Classifier(nn.Linear(2, 2), lr=0.1, epochs=4, random_state=0))
    assert model.get_params()["lr"] == 0.1
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model), {"classifier__lr": [1e-6, 0.1]}, cv=2
    )
    assert search.fit(POINTS, SIDES).best_params_ == {"classifier__lr": 0.1}


def unsized(width: int) -> nn.Module:
    return nn.Linear(2, width)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Classifier(unsized), r"num_inputs and num_outputs .* found one of \(width\)"),
        (Classifier(nn.Linear(3, 2)), "the loss could not be computed on the first 2 samples"),
        (Classifier(lambda num_inputs, num_outputs: nn.Linear(2, 2), agents=2), "top of a module"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(model: Any, words: str) -> None:
    with pytest.raises(JobError, match=words):
        model.fit(POINTS, SIDES)
