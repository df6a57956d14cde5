"""Two views of a sample are told from all others: what couples samples, and what does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents.stages import split
from coterie.errors import JobError
from coterie.tasks import Contrastive, IndexedTask, StagedTask, checked, digits
from coterie.tasks.contrastive import nt_xent
from coterie.tasks.measures import linear_probe

ROWS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELLED = TensorDataset(ROWS, (ROWS[:, 0] > 0).long())


def noisy(rows: Tensor) -> Tensor:
    """The same noise each time: what differs between members must not be chance here."""
    return rows + 0.1 * (37 * rows).sin()


def task(**changes: Any) -> Contrastive:
    parts = {"model": nn.Linear(4, 3).double(), "train": ROWS, "test": ROWS, "views": noisy}
    return Contrastive(**{"name": "toy", **parts, **changes})


def by_hand(features: Tensor, temperature: float) -> float:
    """Chen et al. 2020, equation 1, term by term."""
    z, terms = features / features.norm(dim=1, keepdim=True), []
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        others = sum((z[i] @ z[k] / temperature).exp() for k in range(len(z)) if k != i)
        terms.append(-((z[i] @ z[j] / temperature).exp() / others).log())
    return float(sum(terms)) / len(z)


def test_is_a_task_and_in_stages_not_the_same_one() -> None:
    assert isinstance(task(), IndexedTask)
    assert isinstance(task(), StagedTask)
    assert not task().in_stages


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_loss_is_that_of_the_paper(temperature: float) -> None:
    found = nt_xent(ROWS[:10], temperature).item()
    assert found == pytest.approx(by_hand(ROWS[:10], temperature), abs=1e-12)


def test_groups_are_means_of_their_own_whole_or_not() -> None:
    parts = [by_hand(part, 0.5) * len(part) for part in ROWS[:14].split(4)]
    assert nt_xent(ROWS[:14], 0.5, group=2).item() == pytest.approx(sum(parts) / 14, abs=1e-12)


def gradients(one: Contrastive, shares: list[int]) -> Tensor:
    """What members with these shares agree on."""
    model, start, total = one.build(), 0, 0.0
    for share in shares:
        part = one.loss(model, one.fetch(range(start, start + share)))
        total, start = total + part * share / sum(shares), start + share
    return torch.autograd.grad(total, list(model.parameters()))[0]  # type: ignore[arg-type]


def test_unequal_shares_of_whole_groups_are_the_whole_batch_and_others_are_not() -> None:
    grouped, coupled = task(group=4), task()
    whole = gradients(grouped, [24])
    assert (gradients(grouped, [12, 8, 4]) - whole).abs().max() < 1e-12
    assert (gradients(grouped, [11, 9, 4]) - whole).abs().max() > 1e-6
    assert (gradients(coupled, [12, 8, 4]) - gradients(coupled, [24])).abs().max() > 1e-3


def test_stages_of_the_model_run_one_after_another_are_the_model() -> None:
    one = task(head=nn.Linear(3, 2).double())
    model, batch = one.build(), one.fetch(range(6))
    views, targets = batch.data
    first, last = split(model, ["head"], views)
    found = one.criterion(last.module(*first.module(views)), targets)
    assert torch.equal(found, one.loss(model, batch))
    assert len(views) == len(targets) == 6  # a sample is one row, however it is cut


def test_one_sample_alone_has_nothing_to_be_told_from() -> None:
    one = task()
    loss = one.loss(one.build(), one.fetch([3]))
    assert loss.item() == 0
    assert loss.requires_grad


def test_views_are_drawn_anew_for_each_batch_by_the_seed() -> None:
    one = task(views=lambda rows: rows + torch.randn_like(rows))
    torch.manual_seed(1)
    first, second = one.fetch([0, 1]).data[0], one.fetch([0, 1]).data[0]
    torch.manual_seed(1)
    assert torch.equal(one.fetch([0, 1]).data[0], first)
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert first.shape == (2, 2, 4)


def test_the_score_is_sure_and_leaves_the_seed_as_it_was() -> None:
    one = task(views=lambda rows: rows + torch.randn_like(rows))
    model = one.build()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    scores = one.score(model)
    assert torch.equal(torch.rand(1), expected)
    assert scores == one.score(model)
    assert scores.keys() == {"alignment", "uniformity", "test_loss"}


def test_a_probe_is_taught_on_some_labels_and_asked_about_others() -> None:
    taught = TensorDataset(*(tensor[:12] for tensor in LABELLED.tensors))
    one = task(labelled=taught, test=LABELLED, head=nn.Linear(3, 2).double())
    model = one.build()
    assert one.score(model).keys() == {"accuracy", "test_loss"}
    features = one.embed(model, ROWS)
    assert features.shape == (24, 3)  # of the encoder: the head is for the loss alone
    expected = linear_probe((features[:12], taught.tensors[1]), (features, LABELLED.tensors[1]))
    assert one.score(model)["accuracy"] == expected


def scored(**changes: Any) -> dict[str, float]:
    one = checked(task(**changes))
    return one.score(one.build())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 0.0}, "a temperature above 0 and groups of two"),
        ({"group": 1}, "found temperature 0.5 and group 1"),
        ({"views": lambda rows: rows[:, :2]}, r"shaped as the samples, \(2, 4\), found \(2, 2\)"),
        ({"head": lambda: 3}, "expected the head to be a torch.nn.Module, found int"),
        ({"labelled": ROWS}, "expected labelled samples of"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        scored(**changes)


def test_what_was_learned_without_labels_helps_where_there_are_few(
    learned: Callable[..., Any],
) -> None:
    pytest.importorskip("sklearn")
    (x, y), (held, truth) = digits.train_set().tensors, digits.test_set().tensors
    few = torch.cat([(y == digit).nonzero().flatten()[:5] for digit in range(10)])
    one = Contrastive(
        "digits",
        encoder,
        digits.train_set,
        digits.test_set,
        head=functools.partial(nn.Linear, 64, 32),
        temperature=0.2,
        labelled=TensorDataset(x[few], y[few]),
    )
    pixels = linear_probe((x[few].flatten(1), y[few]), (held.flatten(1), truth))
    torch.manual_seed(0)
    at_random = one.score(one.build())["accuracy"]
    model = learned(one, functools.partial(torch.optim.Adam, lr=3e-3), 6)
    assert one.score(model)["accuracy"] > max(pixels, at_random) + 0.03


def encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
    )
