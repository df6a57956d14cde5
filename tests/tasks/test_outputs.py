"""Models that are called by name and answer by name, as those of Hugging Face."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import JobError
from coterie.tasks.kinds import checked
from coterie.tasks.outputs import own_loss
from coterie.tasks.supervised import Supervised


class Answer(OrderedDict[str, Any]):
    """As a ModelOutput: a mapping whose values are attributes too, among them what no batch has."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Answer:
        logits = self.inner(x)
        cache = object()
        if labels is None:
            return Answer(logits=logits, cache=cache)
        return Answer(loss=2 * F.cross_entropy(logits, labels), logits=logits, cache=cache)


ROWS = [{"x": torch.randn(3), "labels": torch.tensor(i % 2)} for i in range(6)]


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(dim=1) == targets).double().mean().item()


def task(**changes: Any) -> Supervised:
    return Supervised("named", Named, ROWS, ROWS, metrics={"accuracy": accuracy}, **changes)


def test_a_loss_of_its_own_is_descended_and_logits_are_scored() -> None:
    one = checked(task(loss=own_loss))
    model = one.build()
    batch = one.fetch([0, 1, 2])
    assert torch.equal(one.loss(model, batch), model(**batch.data).loss)
    scores = one.score(model)
    assert scores["accuracy"] in {i / 6 for i in range(7)}
    assert not one.in_stages


def test_another_loss_is_told_the_logits() -> None:
    one = task()
    model = one.build()
    batch = one.fetch([0, 1, 2])
    wanted = F.cross_entropy(model(batch.data["x"]).logits, batch.data["labels"])
    assert torch.equal(one.loss(model, batch), wanted)


def test_what_has_no_loss_or_no_labels_is_refused() -> None:
    with pytest.raises(JobError, match="a model that returns its loss, found Tensor without"):
        own_loss(torch.ones(1), None)
    rows = [{"x": row["x"]} for row in ROWS]
    with pytest.raises(JobError, match="expected batches with 'labels', found 'x'"):
        checked(Supervised("named", Named, rows, rows))
