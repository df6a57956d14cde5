"""Feature spaces: a map from one to another, and how alike they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.errors import LessonError
from coterie.knowledge.align import aligned, similarity, turned


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


def test_a_turn_keeps_proportions_and_is_the_best_of_all_turns() -> None:
    points, there = drawn(0, 7, 5), drawn(1, 7, 3)
    found = turned(points, there)
    wide = drawn(2, 5, 9)
    turn, _ = torch.linalg.qr(wide.T)
    assert torch.allclose(turned(points, 2 * points @ turn.T + 4)(points), 2 * points @ turn.T + 4)
    best = (found(points) - there).square().sum()
    for seed in range(20):
        other, _ = torch.linalg.qr(drawn(seed, 5, 3))
        moved = (points - points.mean(0)) @ other
        scale = (moved * (there - there.mean(0))).sum() / moved.square().sum()
        assert best <= (scale * moved + there.mean(0) - there).square().sum() + 1e-9
    with pytest.raises(LessonError, match="two classes or more in common"):
        turned(points[:1], there[:1])


def test_similarity_is_symmetric_knows_turned_spaces_and_is_nothing_by_chance() -> None:
    x, y = drawn(0, 60, 5), drawn(1, 60, 7)
    turn, _ = torch.linalg.qr(drawn(2, 5, 5))
    assert similarity(x, 3 * x @ turn + 1) == pytest.approx(1, abs=1e-9)
    assert similarity(x, y) == pytest.approx(similarity(y, x), abs=1e-12)
    chance = [similarity(drawn(s, 30, 20), drawn(s + 100, 30, 20)) for s in range(40)]
    assert abs(sum(chance) / 40) < 0.03
    with pytest.raises(LessonError, match="four samples or more"):
        similarity(x[:3], y[:3])
