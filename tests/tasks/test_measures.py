"""Measures agree with scikit-learn's, or with what they say by hand."""

from __future__ import annotations

import pytest
import torch

from coterie.errors import JobError
from coterie.tasks.measures import (
    adjusted_mutual_information,
    alignment,
    auroc,
    linear_probe,
    uniformity,
)

metrics = pytest.importorskip("sklearn.metrics")


def drawn(num: int, size: int = 60, seed: int = 0) -> torch.Tensor:
    return torch.randint(num, (size,), generator=torch.Generator().manual_seed(seed))


def test_auroc_is_scikit_learn_s_with_ties_too() -> None:
    usual, odd = drawn(9).double(), drawn(12, 40, seed=1).double()
    truth = [0] * len(usual) + [1] * len(odd)
    expected = metrics.roc_auc_score(truth, torch.cat([usual, odd]))
    assert auroc(usual, odd) == pytest.approx(expected, abs=1e-12)
    assert auroc(odd, usual) == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize(("num_found", "num_true"), [(4, 3), (1, 3), (3, 1), (1, 1), (60, 5)])
def test_mutual_information_is_scikit_learn_s(num_found: int, num_true: int) -> None:
    found, true = 7 * drawn(num_found) - 3, drawn(num_true, seed=1)
    expected = metrics.adjusted_mutual_info_score(true, found)
    assert adjusted_mutual_information(found, true) == pytest.approx(expected, abs=1e-10)


def test_groupings_that_are_one_agree_wholly() -> None:
    truth = drawn(5)
    assert adjusted_mutual_information(10 - truth, truth) == pytest.approx(1, abs=1e-12)
    assert adjusted_mutual_information(torch.arange(9), torch.arange(9)) == 1


def test_a_probe_tells_what_is_linear_and_not_what_is_not() -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    apart, crossed = (x[:, 0] > x[:, 1]).long(), (x[:, 0] * x[:, 1] > 0).long()
    assert linear_probe((x[:100], apart[:100]), (x[100:], apart[100:])) > 0.95
    assert linear_probe((x[:100], crossed[:100]), (x[100:], crossed[100:])) < 0.65


def test_a_probe_knows_features_that_never_change_for_nothing() -> None:
    x, y = torch.ones(4, 3), torch.tensor([2, 2, 2, 5])
    assert linear_probe((x, y), (x, y)) == 0.75
    with pytest.raises(JobError, match="labelled samples for a probe, found none"):
        linear_probe((x[:0], y[:0]), (x, y))


def test_alignment_and_uniformity_are_of_directions_alone() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 5.0]])
    assert alignment(a, b) == pytest.approx(-1.0)  # one pair √2 apart, one not at all
    assert uniformity(a) == pytest.approx(4.0)  # exp(−2 · 2)
    assert uniformity(a[:1]) == 0
