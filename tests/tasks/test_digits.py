"""The demo's task: fixed, disjoint, and learnable."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from coterie.errors import JobError
from coterie.tasks import digits

pytest.importorskip("sklearn")


def test_the_split_is_whole_and_disjoint() -> None:
    train, test = digits.train_set().tensors, digits.test_set().tensors
    assert (len(train[0]), len(test[0])) == (1437, 360)
    rows = {tuple(image.flatten().tolist()) for image in torch.cat([train[0], test[0]])}
    assert len(rows) == 1797  # no two digits are drawn alike, so nothing is in both


def test_the_split_is_the_same_on_every_machine() -> None:
    first = [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    assert digits.train_set().tensors[1][:10].tolist() == first


def test_images_are_scaled_to_one() -> None:
    images, targets_N = digits.train_set().tensors
    assert images.shape[1:] == (1, 8, 8)
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert targets_N.unique().tolist() == list(range(10))


@pytest.mark.parametrize("width", [1, 4])
def test_the_model_answers_ten_classes_at_any_width(width: int) -> None:
    assert digits.model(width=width)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_accuracy_counts_the_largest() -> None:
    predictions_NC = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert digits.accuracy(predictions_NC, torch.tensor([1, 0, 1, 0])) == 0.75


def test_a_few_steps_learn() -> None:
    torch.manual_seed(0)
    model = digits.model(width=16)
    speeds = [torch.zeros_like(parameter) for parameter in model.parameters()]
    images, targets_N = (tensor[:64] for tensor in digits.train_set().tensors)
    losses = []
    for _ in range(100):
        loss = F.cross_entropy(model(images), targets_N)
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():  # by hand: the first torch.optim of a process takes seconds
            for parameter, speed, grad in zip(model.parameters(), speeds, grads, strict=True):
                parameter -= 0.05 * speed.mul_(0.9).add_(grad)
    assert losses[-1] < losses[0] / 2


def test_without_scikit_learn_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    digits._split.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(JobError, match=r"coterie\[demo\]"):
        digits.train_set()
