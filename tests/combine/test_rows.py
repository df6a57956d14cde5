"""Sums and products of rows, whatever the blocks they are read in."""

from __future__ import annotations

import torch

from coterie.combine.rows import BLOCK_COLUMNS, blend, gramian

ROWS_MN = torch.randn(3, 2 * BLOCK_COLUMNS + 5, generator=torch.Generator().manual_seed(0))


def test_products_of_float32_rows_are_added_up_in_float64() -> None:
    expected_MM = ROWS_MN.double() @ ROWS_MN.double().T
    found_MM = torch.tensor(gramian(list(ROWS_MN)), dtype=torch.float64)
    torch.testing.assert_close(found_MM, expected_MM, rtol=1e-12, atol=1e-9)
    huge = [row_N * 1e30 for row_N in ROWS_MN]  # whose float32 squares overflow
    assert torch.tensor(gramian(huge), dtype=torch.float64).isfinite().all()


def test_a_blend_is_the_plain_loop_over_rows_to_the_bit() -> None:
    expected_N = torch.zeros(ROWS_MN.shape[1])
    for row_N, share in zip(ROWS_MN, (0.5, -2.0, 0.1), strict=True):
        expected_N.add_(row_N, alpha=share)
    assert torch.equal(blend(list(ROWS_MN), [0.5, -2.0, 0.1]), expected_N)
