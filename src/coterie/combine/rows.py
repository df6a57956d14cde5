"""Rows below one another: their mean, their inner products, and what is checked of all.

Legend of shape suffixes: N values of a row, M rows, B columns looked at together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from coterie.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_COLUMNS = 1 << 15  # so many columns of some rows fit into a cache, and extra memory is small


def mean(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The weighted mean of M rows of shape (N,), as a new tensor.

    >>> import torch
    >>> mean([torch.tensor([1.0, 0.0]), torch.tensor([4.0, 3.0])], [2, 1])
    tensor([2., 1.])
    """
    rows, weight_M = heard(rows, weight_M)
    total = math.fsum(weight_M)
    # A share of at most one cannot overflow; weight × row could.
    return blend(rows, [weight / total for weight in weight_M])


def blend(rows: Sequence[Tensor], share_M: Sequence[float]) -> Tensor:
    """The sum of rows, each times its share, as a new tensor; shares may be negative.

    >>> import torch
    >>> blend([torch.tensor([1.0, 0.0]), torch.tensor([4.0, 3.0])], [2.0, -0.5])
    tensor([ 0.0000, -1.5000])
    """
    sum_N = rows[0].new_zeros(rows[0].shape)
    for where in _cuts(rows[0].numel()):  # the sum of a block stays in the cache
        for row_N, share in zip(rows, share_M, strict=True):
            sum_N[where].add_(row_N[where], alpha=share)
    return sum_N


def blocks(rows: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """The rows below one another as (M, B), a few columns at a time, with their place in N.

    >>> import torch
    >>> [block.shape for _, block in blocks([torch.zeros(40_000)] * 2)]
    [torch.Size([2, 32768]), torch.Size([2, 7232])]
    """
    for where in _cuts(rows[0].numel()):
        block_MB = rows[0].new_empty((len(rows), where.stop - where.start))
        for i, row_N in enumerate(rows):
            block_MB[i] = row_N[where]
        yield where, block_MB


def pairs(rows: Sequence[Tensor], measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A symmetric measure that adds up over columns, between every two rows: float64 of (M, M).

    >>> import torch
    >>> pairs([torch.tensor([1.0]), torch.tensor([4.0])], lambda many, one: (many - one).sum(1))
    tensor([[0., 3.],
            [3., 0.]], dtype=torch.float64)
    """
    half_MM = doubles(rows[0], [0.0] * len(rows) ** 2).view(len(rows), len(rows))
    for _, block_MB in blocks(rows):
        double_MB = block_MB.double()  # float32 squares overflow above 1e19
        for i, row_B in enumerate(double_MB):
            half_MM[i, i:] += measure(double_MB[i:], row_B)
    return half_MM + half_MM.triu(1).T


def gramian(rows: Sequence[Tensor]) -> list[list[float]]:
    """The inner product of every two rows, (M, M), added up in float64 in one pass over them.

    >>> import torch
    >>> gramian([torch.tensor([1.0, 0.0]), torch.tensor([4.0, 3.0])])
    [[1.0, 4.0], [4.0, 25.0]]
    """
    sum_MM = doubles(rows[0], [0.0] * len(rows) ** 2).view(len(rows), len(rows))
    cuts = list(_cuts(rows[0].numel(), BLOCK_COLUMNS // 2))  # in twice as many bytes
    widest = max((where.stop - where.start for where in cuts), default=0)
    room = doubles(rows[0], []).new_empty(len(rows) * widest)  # one for all: new memory is dear
    for where in cuts:
        block_MB = room[: len(rows) * (where.stop - where.start)].view(len(rows), -1)
        for i, row_N in enumerate(rows):
            block_MB[i] = row_N[where]  # float32 becomes float64 on the way: one pass
        sum_MM += block_MB @ block_MB.T
    listed_MM: list[list[float]] = sum_MM.tolist()
    return listed_MM


def doubles(like: Tensor, values: Sequence[float]) -> Tensor:
    """Values as a float64 tensor, on the device of another tensor.

    >>> import torch
    >>> doubles(torch.zeros(1), [1.0, 2.0])
    tensor([1., 2.], dtype=torch.float64)
    """
    return like.new_tensor(values, dtype=like[:0].double().dtype)


def heard(
    rows: Sequence[Tensor], weight_M: Sequence[float]
) -> tuple[Sequence[Tensor], Sequence[float]]:
    """The rows of a weight above zero, and their weights over the largest, once all is checked.

    >>> import torch
    >>> heard([torch.zeros(1), torch.ones(1), torch.ones(1)], [0, 4, 2])
    ([tensor([1.]), tensor([1.])], [1.0, 0.5])
    """
    _check(rows, weight_M)
    largest = max(weight_M)  # the plain sum could overflow
    heard = [i for i, weight in enumerate(weight_M) if weight > 0]
    return [rows[i] for i in heard], [weight_M[i] / largest for i in heard]


def _cuts(size: int, width: int = BLOCK_COLUMNS) -> Iterator[slice]:
    return (slice(at, min(at + width, size)) for at in range(0, size, width))


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
