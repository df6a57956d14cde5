"""Small quadratic problems: the conditions that their answers meet.

Legend of shape suffixes: M rows.
"""

from __future__ import annotations

import numpy as np
import pytest

from coterie.combine import cones
from coterie.combine.cones import bargain, lift, nearest, root


def products(seed: int, num: int, size: int) -> np.ndarray:
    """The inner products of random rows; of more rows than values, they are singular."""
    rows_MN = np.random.default_rng(seed).normal(size=(num, size))
    return rows_MN @ rows_MN.T


@pytest.mark.parametrize("exchanges", [0, cones.MAX_EXCHANGES], ids=["one by one", "at once"])
@pytest.mark.parametrize("size", [2, 4, 6])
@pytest.mark.parametrize("seed", range(10))
def test_at_the_lowest_point_no_number_can_descend_alone(
    seed: int, size: int, exchanges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conditions of Karush, Kuhn and Tucker: of a convex function they leave no other point."""
    monkeypatch.setattr(cones, "MAX_EXCHANGES", exchanges)
    square_MM = products(seed, 5, size)
    slope_M = square_MM @ np.random.default_rng(seed + 100).normal(size=5)
    found_M = lift(square_MM, slope_M)
    ascent_M = square_MM @ found_M + slope_M
    assert (found_M >= 0).all()
    assert (ascent_M >= -1e-9).all()
    assert np.abs(ascent_M * found_M).max() < 1e-9


def test_nearest_is_zero_where_rows_surround_it() -> None:
    gram_MM = products(0, 6, 2)
    share_M = nearest(gram_MM)
    assert share_M @ gram_MM @ share_M < 1e-12
    assert nearest(np.zeros((2, 2))).tolist() == [0.5, 0.5]


def test_a_bargain_between_almost_opposed_rows_is_struck() -> None:
    cosine_MM = np.array([[1.0, -1.0 + 1e-9], [-1.0 + 1e-9, 1.0]])
    alpha_M = bargain(cosine_MM, np.ones(2))
    assert (cosine_MM @ alpha_M * alpha_M).tolist() == pytest.approx([1, 1], rel=1e-5)


def test_root_is_found() -> None:
    assert root(lambda x: x**3 - 8, 0.0, 5.0) == pytest.approx(2, abs=1e-12)
