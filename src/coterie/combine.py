"""Many rows become one: the laws of combining, whether rows are workers or tasks.

Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coterie.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor


def mean(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The weighted mean of M rows of shape (N,), as a new tensor.

    A sum depends on its order in the last bit, so callers sort the rows first. A row of weight
    zero is not read at all. Raises TrainingError when there is nothing to average or a weight is
    not a finite number of at least zero.

    >>> import torch
    >>> mean([torch.tensor([1.0, 0.0]), torch.tensor([4.0, 3.0])], [2, 1])
    tensor([2., 1.])
    """
    _check(rows, weight_M)
    largest = max(weight_M)
    total = math.fsum(weight / largest for weight in weight_M)  # the plain sum could overflow
    mean_N = rows[0].new_zeros(rows[0].shape)
    for row_N, weight in zip(rows, weight_M, strict=True):
        if weight > 0:
            # A share of at most one cannot overflow; weight × row could.
            mean_N.add_(row_N, alpha=weight / largest / total)
    return mean_N


def _check(rows: Sequence[Tensor], weight_M: Sequence[float]) -> None:
    if not rows:
        raise TrainingError("expected at least one row to average, found none; wait for a member")
    if len(rows) != len(weight_M):
        raise TrainingError(
            f"expected one weight for each of {len(rows)} rows, found {len(weight_M)}; "
            "pair each row with the samples behind it"
        )
    sizes = {tuple(row.shape) for row in rows}
    if len(sizes) > 1:
        raise TrainingError(
            f"expected rows of one shape, found {sorted(sizes)}; members must share one layout"
        )
    for weight in weight_M:
        if not 0 <= weight < math.inf:
            raise TrainingError(
                f"expected weights that are finite and at least zero, found {weight}; "
                "leave out the row it belongs to"
            )
    if not any(weight_M):
        raise TrainingError(
            "expected a positive weight among the rows, found only zeros; "
            "skip a round in which nobody learned from a sample"
        )
