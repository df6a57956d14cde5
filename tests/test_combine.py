"""The laws of combining rows.

Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.combine import mean
from coterie.errors import TrainingError

GENERATOR = torch.Generator().manual_seed(0)
ROWS = list(torch.randn(4, 7, generator=GENERATOR, dtype=torch.float64))
WEIGHTS = [60.0, 40.0, 20.0, 1.0]


def test_mean_is_the_weighted_sum_over_the_sum_of_weights() -> None:
    weight_M = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected_N = (weight_M[:, None] * torch.stack(ROWS)).sum(0) / weight_M.sum()
    torch.testing.assert_close(mean(ROWS, WEIGHTS), expected_N, rtol=0, atol=1e-15)


def test_doubled_weights_change_nothing() -> None:
    assert torch.equal(mean(ROWS, WEIGHTS), mean(ROWS, [2 * weight for weight in WEIGHTS]))


def test_a_row_of_weight_zero_is_not_read() -> None:
    broken_N = torch.full((7,), math.nan, dtype=torch.float64)
    assert torch.equal(mean([*ROWS, broken_N], [*WEIGHTS, 0]), mean(ROWS, WEIGHTS))


def test_rows_are_not_written_to() -> None:
    before = [row_N.clone() for row_N in ROWS]
    mean(ROWS, WEIGHTS)
    assert all(map(torch.equal, ROWS, before))


def test_one_row_comes_back_as_a_new_tensor() -> None:
    row_N = torch.ones(3)
    out_N = mean([row_N], [5])
    assert torch.equal(out_N, row_N)
    assert out_N.data_ptr() != row_N.data_ptr()


def test_huge_values_and_weights_do_not_overflow() -> None:
    rows = [torch.full((2,), 3e38), torch.full((2,), 3e38)]
    assert mean(rows, [1e308, 1e308]).isfinite().all()


def test_influence_of_one_row_is_not_bounded() -> None:
    """Known and wanted: robust laws exist because the mean is not one."""
    liar_N = torch.full((7,), 1e30, dtype=torch.float64)
    assert mean([*ROWS, liar_N], [1.0] * 5).abs().max() > 1e29


@pytest.mark.parametrize("weight", [math.nan, -1.0, math.inf, -math.inf])
def test_a_weight_that_cannot_be_is_refused(weight: float) -> None:
    with pytest.raises(TrainingError, match="finite and at least zero"):
        mean(ROWS, [1.0, 1.0, weight, 1.0])


def test_weights_of_zero_alone_are_refused() -> None:
    with pytest.raises(TrainingError, match="only zeros"):
        mean(ROWS, [0.0] * 4)


def test_no_row_is_refused() -> None:
    with pytest.raises(TrainingError, match="found none"):
        mean([], [])


def test_a_missing_weight_is_refused() -> None:
    with pytest.raises(TrainingError, match="one weight for each of 4 rows, found 3"):
        mean(ROWS, [1.0] * 3)


def test_rows_of_two_lengths_are_refused() -> None:
    with pytest.raises(TrainingError, match="one shape"):
        mean([torch.ones(3), torch.ones(1)], [1.0, 1.0])
