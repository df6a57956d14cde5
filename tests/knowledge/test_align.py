"""Feature spaces: a map from one to another, and how alike they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.errors import LessonError
from coterie.knowledge.align import aligned, similarity


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("num", "width"), [(40, 6), (5, 6)])
def test_the_map_is_that_of_ridge_regression(num: int, width: int) -> None:
    x, y = drawn(0, num, width), drawn(1, num, 3)
    centred = x - x.mean(0)
    penalty = 0.1 * centred.square().sum() / width * torch.eye(width, dtype=torch.float64)
    weight = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (y - y.mean(0)))
    found = aligned(x, y)
    assert torch.allclose(found.weight_DE, weight, atol=1e-10)
    assert torch.allclose(found(x), centred @ weight + y.mean(0), atol=1e-10)


def test_a_space_that_is_another_one_turned_and_moved_is_found_again() -> None:
    x = drawn(0, 50, 6)
    y = x @ drawn(1, 6, 9) + drawn(2, 9)
    assert torch.allclose(aligned(x, y, ridge=0.0)(x), y, atol=1e-8)
    with pytest.raises(LessonError, match="samples to align features on, found none"):
        aligned(x[:0], y[:0])


def test_similarity_is_symmetric_knows_turned_spaces_and_is_nothing_by_chance() -> None:
    x, y = drawn(0, 60, 5), drawn(1, 60, 7)
    turn, _ = torch.linalg.qr(drawn(2, 5, 5))
    assert similarity(x, 3 * x @ turn + 1) == pytest.approx(1, abs=1e-9)
    assert similarity(x, y) == pytest.approx(similarity(y, x), abs=1e-12)
    chance = [similarity(drawn(s, 30, 20), drawn(s + 100, 30, 20)) for s in range(40)]
    assert abs(sum(chance) / 40) < 0.03
    with pytest.raises(LessonError, match="four samples or more"):
        similarity(x[:3], y[:3])
