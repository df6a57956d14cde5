"""Laws for rows that may be wrong, or that want something else: no few of them lead astray.

Legend of shape suffixes: N values of a row, M rows, B columns looked at together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coterie.combine.rows import blocks, doubles, heard, mean, pairs
from coterie.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-12  # relative; sums of weights closer to each other are equal
TINY = 2.0**-126  # smallest normal float32: dividing by it keeps zero at zero


def median(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The weighted median of each value on its own, as a new tensor.

    Half of the weight lies at or below it and half at or above: where the weights can be halved
    exactly, it is the midpoint of the two values between which they part. So equal weights give
    the plain median, with the mean of the two middle values for an even number of rows. Rows of
    less than half the weight move it only among the values of the others (Yin et al. 2018,
    Byzantine-robust Distributed Learning).

    >>> import torch
    >>> rows = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, 5.0]), torch.tensor([9e9, 3.0])]
    >>> median(rows, [1, 1, 1]), median(rows, [2, 1, 1])
    (tensor([2., 3.]), tensor([1.5000, 2.0000]))
    """
    rows, weight_M = heard(rows, weight_M)
    half = math.fsum(weight_M) / 2
    weights = doubles(rows[0], weight_M)
    median_N = rows[0].new_empty(rows[0].shape)
    for where, block_MB in blocks(rows):
        value_MB, order_MB = block_MB.sort(0)
        upto_MB = weights[order_MB].cumsum(0)
        lower_B = (upto_MB < half * (1 - ROUNDING)).sum(0)
        upper_B = (upto_MB <= half * (1 + ROUNDING)).sum(0)
        middle_B = value_MB.gather(0, lower_B[None])[0] / 2
        median_N[where] = middle_B.add_(value_MB.gather(0, upper_B[None])[0] / 2)
    return median_N


def trimmed_mean(rows: Sequence[Tensor], weight_M: Sequence[float], trim: int) -> Tensor:
    """The weighted mean of each value, once its `trim` smallest and largest are dropped.

    Yin et al. 2018, Byzantine-robust Distributed Learning. It stays among the values of the
    others when at most `trim` rows are arbitrary. Needs more than 2·trim rows.

    >>> import torch
    >>> rows = [torch.tensor([value]) for value in (1.0, 2.0, 4.0, -9e9)]
    >>> trimmed_mean(rows, [1, 1, 1, 1], trim=1)
    tensor([1.5000])
    """
    rows, weight_M = heard(rows, weight_M)
    _need(f"a mean with trim={trim}", trim, 2 * trim + 1, len(rows))
    if trim == 0:
        return mean(rows, weight_M)
    weights = doubles(rows[0], weight_M)
    mean_N = rows[0].new_empty(rows[0].shape)
    kept = slice(trim, len(rows) - trim)
    for where, block_MB in blocks(rows):
        value_MB, order_MB = block_MB.sort(dim=0, stable=True)
        weight_MB = weights[order_MB[kept]]
        share_MB = weight_MB / weight_MB.cumsum(0)[-1]
        sum_B = share_MB.new_zeros(share_MB.shape[1])
        for value_B, share_B in zip(value_MB[kept], share_MB, strict=True):
            sum_B.addcmul_(value_B, share_B)  # row by row: a column adds up alike in any block
        mean_N[where] = sum_B
    return mean_N


def krum(rows: Sequence[Tensor], weight_M: Sequence[float], faulty: int) -> Tensor:
    """The one row that lies closest to its n − faulty − 2 nearest, as a new tensor.

    Blanchard et al. 2017, Machine Learning with Adversaries. Weights only say which rows count;
    of equally good rows the first is taken. Needs at least 2·faulty + 3 rows.

    >>> import torch
    >>> rows = [torch.tensor([value]) for value in (1.0, 2.0, 4.0, 2.5, -9e9)]
    >>> krum(rows, [1, 1, 1, 1, 1], faulty=1)
    tensor([2.])
    """
    rows, _ = heard(rows, weight_M)
    return rows[_by_krum(rows, faulty)[0]].clone()


def multi_krum(
    rows: Sequence[Tensor], weight_M: Sequence[float], faulty: int, keep: int | None = None
) -> Tensor:
    """The weighted mean of the `keep` best rows by Krum's score: by default n − faulty of them.

    Blanchard et al. 2017, Machine Learning with Adversaries. Needs at least 2·faulty + 3 rows,
    and `keep` of them.

    >>> import torch
    >>> rows = [torch.tensor([value]) for value in (1.0, 2.0, 4.0, 3.0, -9e9)]
    >>> multi_krum(rows, [1, 1, 1, 1, 1], faulty=1)
    tensor([2.5000])
    """
    rows, weight_M = heard(rows, weight_M)
    best = _by_krum(rows, faulty)
    keep = len(rows) - faulty if keep is None else keep
    if not 1 <= keep <= len(rows):
        raise TrainingError(
            f"expected to keep 1 to {len(rows)} rows, as many as there are, found keep={keep}; "
            "keep fewer, or wait for more members"
        )
    kept = sorted(best[:keep])  # the caller's order, so that keeping all is the mean to the bit
    return mean([rows[i] for i in kept], [weight_M[i] for i in kept])


def centred_clip(
    rows: Sequence[Tensor],
    weight_M: Sequence[float],
    radius: float | None = None,
    num_steps: int = 3,
) -> Tensor:
    """A centre that each row pulls towards itself, from at most `radius` away, `num_steps` times.

    Karimireddy et al. 2021, Learning from History for Byzantine Robust Optimization. The paper
    starts where the round before ended; this law has no memory and starts at the weighted median
    of each value. The default radius is the weighted median of the rows' distances from there.
    One row of share p moves the centre by at most num_steps·p·radius.

    >>> import torch
    >>> rows = [torch.tensor([value]) for value in (1.0, 2.0, 3.0, 4.0, 9e9)]
    >>> centred_clip(rows, [1, 1, 1, 1, 1], radius=1.0, num_steps=1)
    tensor([3.])
    """
    if num_steps < 1 or (radius is not None and not radius > 0):
        raise TrainingError(
            f"expected at least one step and a radius above zero, found num_steps={num_steps} and "
            f"radius={radius}; leave them out for 3 steps and the median distance"
        )
    rows, weight_M = heard(rows, weight_M)
    total = math.fsum(weight_M)
    centre_N = median(rows, weight_M)
    away_M = _distances(rows, centre_N)
    if radius is None:
        radius = float(median([centre_N.new_tensor([away]) for away in away_M], weight_M))
    for step in range(num_steps):
        away_M = _distances(rows, centre_N) if step else away_M
        pull_N = centre_N.new_zeros(centre_N.shape)
        for row_N, weight, away in zip(rows, weight_M, away_M, strict=True):
            reach = min(1.0, radius / max(away, TINY))
            pull_N.add_(row_N - centre_N, alpha=weight / total * reach)
        centre_N = pull_N.add_(centre_N)
    return centre_N


def kin(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The mean with weights times how far a row agrees with the others, those that oppose at zero.

    Agreement is the mean cosine similarity with the other rows, or zero where that is negative; a
    row of zeros agrees with nobody. The plain weighted mean where no row agrees, as when there is
    only one. It listens to likeness and is not a defence: rows that copy each other agree.

    >>> import torch
    >>> rows = [torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]), torch.tensor([-9.0, 0.0])]
    >>> kin(rows, [1, 1, 1]), kin([*rows[:2], torch.tensor([0.0, 8.0])], [1, 1, 1])
    (tensor([-1.6667,  0.0000]), tensor([2., 0.]))
    """
    rows, weight_M = heard(rows, weight_M)
    product_MM: list[list[float]] = pairs(rows, lambda many, one: (many * one).sum(1)).tolist()
    length_M = [math.sqrt(product_MM[i][i]) for i in range(len(rows))]
    agreeing_M = [
        weight * max(0.0, _agreement(i, product_MM[i], length_M))
        for i, weight in enumerate(weight_M)
    ]
    return mean(rows, agreeing_M if any(agreeing_M) else weight_M)


def _agreement(mine: int, product_M: Sequence[float], length_M: Sequence[float]) -> float:
    """Mean cosine similarity of row `mine` with the others, of its inner products with all."""
    cosines = [
        product / (length_M[mine] * length) if length_M[mine] and length else 0.0
        for i, (product, length) in enumerate(zip(product_M, length_M, strict=True))
        if i != mine
    ]
    return math.fsum(cosines) / len(cosines) if cosines else 0.0


def _by_krum(rows: Sequence[Tensor], faulty: int) -> list[int]:
    """The places of the rows, that with the smallest sum of squared distances first."""
    _need(f"Krum with faulty={faulty}", faulty, 2 * faulty + 3, len(rows))
    square_MM = pairs(rows, lambda many, one: (many - one).square().sum(1)).tolist()
    score_M = []
    for i, square_M in enumerate(square_MM):
        others = sorted(square for j, square in enumerate(square_M) if j != i)
        score_M.append(math.fsum(others[: len(rows) - faulty - 2]))
    return sorted(range(len(rows)), key=score_M.__getitem__)


def _distances(rows: Sequence[Tensor], centre_N: Tensor) -> list[float]:
    """The L2 distance of each row from a centre."""
    square_M = doubles(centre_N, [0.0] * len(rows))
    for where, block_MB in blocks(rows):
        square_M += (block_MB.double() - centre_N[where]).square().sum(1)
    away_M: list[float] = square_M.sqrt().tolist()
    return away_M


def _need(law: str, wrong: int, least: int, num: int) -> None:
    if wrong < 0:
        raise TrainingError(f"expected a number of at least zero, found {law}; write zero or more")
    if num < least:
        raise TrainingError(
            f"expected at least {least} rows for {law}, found {num}; "
            "wait for more members, or expect fewer of them to be wrong"
        )
