"""Laws for rows that are right and conflict, such as the gradients of several tasks.

Each is a sum of the rows, with shares found from their inner products: two passes over the rows
and a problem as small as their number. They are scaled as a mean of the rows is, so that a rate
tuned for the mean serves; times M they stand beside a sum of losses. They are deterministic, and
the order of rows matters in the last bits at most. Equal rows give that row, and orthogonal rows
of one length and weight their mean, whatever the law; but CAGrad goes its c further.

Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coterie.combine.cones import Array, bargain, lift, nearest, root
from coterie.combine.rows import blend, gramian, heard
from coterie.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 1e-12  # relative; rows that oppose each other exactly have no bargain without it
RANK = 1e-12  # relative; eigenvalues below it are rounding


def pcgrad(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The mean of rows, each without its part against those that oppose it.

    Yu et al. 2020, Gradient Surgery for Multi-Task Learning. The paper draws the order in which a
    row meets the others; here it meets whoever opposes it most first, which is one of those
    orders and depends on no chance. The mean where nothing conflicts.

    >>> import torch
    >>> pcgrad([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])], [1, 1])
    tensor([0.2500, 0.7500])
    """
    rows, gram_MM, part_M = _known(rows, weight_M)
    length_M = np.sqrt(gram_MM.diagonal())
    share_M = np.zeros(len(rows))
    for i, part in enumerate(part_M):
        own_M = np.eye(len(rows))[i]
        unmet_M = (length_M > 0) & (own_M == 0)
        while unmet_M.any():
            cosine_M = np.where(unmet_M, own_M @ gram_MM, 0.0) / np.where(unmet_M, length_M, 1.0)
            worst = int(cosine_M.argmin())
            if cosine_M[worst] >= 0:
                break
            own_M[worst] -= (own_M @ gram_MM[worst]) / gram_MM[worst, worst]
            unmet_M[worst] = False
        share_M += part * own_M
    return blend(rows, share_M.tolist())


def upgrad(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The mean of rows, each moved to the nearest vector that opposes no row.

    Quinton and Rey 2024, Jacobian Descent for Multi-Objective Optimization. The result opposes no
    row; it is the mean where nothing conflicts.

    >>> import torch
    >>> upgrad([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])], [1, 1])
    tensor([0.2500, 0.7500])
    """
    rows, gram_MM, part_M = _known(rows, weight_M)
    cosine_MM, unit_M = _cosines(gram_MM)
    share_M = np.zeros(len(rows))
    for i, part in enumerate(part_M):
        lifted_M = lift(cosine_MM, cosine_MM[i]) * unit_M
        # The length of row i goes with what is added to it; a row of zeros stays zero.
        share_M += part * (np.eye(len(rows))[i] + lifted_M * np.sqrt(gram_MM[i, i]))
    return blend(rows, share_M.tolist())


def mgda(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The shortest vector among all means of the rows; its product with each is its own square.

    Désidéri 2012, Multiple-Gradient Descent Algorithm. Zero where some mean of the rows is zero,
    as when one of them is. Weights only say which rows count.

    >>> import torch
    >>> mgda([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])], [1, 1])
    tensor([0.9000, 0.3000])
    """
    rows, gram_MM, _ = _known(rows, weight_M)
    return blend(rows, nearest(gram_MM).tolist())


def cagrad(rows: Sequence[Tensor], weight_M: Sequence[float], c: float = 0.5) -> Tensor:
    """What serves the row served least best, within `c` lengths of the mean around the mean.

    Liu et al. 2021, Conflict-Averse Gradient Descent for Multi-task Learning. With c = 0 the mean;
    from c = 1 on it opposes no row. The paper's problem, bᵀw + r·‖Σ wᵢgᵢ‖ over shares w, is solved
    for one length τ of Σ wᵢgᵢ at a time, where it is MGDA's for rows moved by τ/r of the mean.

    >>> import torch
    >>> cagrad([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])], [1, 1], c=0.5)
    tensor([0.2500, 0.5000])
    """
    if not 0 <= c < np.inf:
        raise TrainingError(f"expected a c of at least zero, found {c}; write for example c=0.5")
    rows, gram_MM, part_M = _known(rows, weight_M)
    radius = c * _length(part_M, gram_MM)
    if radius == 0:
        return blend(rows, part_M.tolist())

    def served(length: float) -> Array:
        moved_MM = np.eye(len(rows)) + length / radius * np.outer(np.ones(len(rows)), part_M)
        return nearest(moved_MM @ gram_MM @ moved_MM.T)

    def too_long(length: float) -> float:
        return _length(served(length), gram_MM) - length

    longest = math.sqrt(float(gram_MM.diagonal().max())) * (1 + 1e-9)
    shortest = 1e-7 * longest  # below it the length of a sum is rounding
    length = root(too_long, shortest, longest) if too_long(shortest) > 0 else shortest
    return blend(rows, (part_M + radius / length * served(length)).tolist())


def nash_mtl(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The direction that tasks would settle on, were each to bargain for its own descent.

    Navon et al. 2022, Multi-Task Learning as a Bargaining Game: shares α with Gα = 1/α, or p/α
    for unequal weights. How long rows are does not change the direction. The paper fixes the
    length of the step; here α is scaled to add up to one. A row of zeros has nothing to bargain.

    >>> import torch
    >>> nash_mtl([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])], [1, 1])
    tensor([0.7500, 0.7500])
    """
    rows, gram_MM, part_M = _known(rows, weight_M)
    some = np.flatnonzero(gram_MM.diagonal())
    share_M = np.zeros(len(rows))
    if len(some):
        cosine_MM, unit_M = _cosines(gram_MM[np.ix_(some, some)])
        part_M = part_M[some] * len(some) / part_M[some].sum()
        share_M[some] = unit_M * bargain(cosine_MM + RIDGE * np.eye(len(some)), part_M)
        share_M *= 1 / share_M.sum()
    return blend(rows, share_M.tolist())


def aligned_mtl(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The mean of rows made orthogonal and as long as their weakest direction, moving least.

    Senushkin et al. 2023, Independent Component Alignment for Multi-Task Learning. Nearly
    parallel rows make a short result, for what tells them apart is weak.

    >>> import torch
    >>> aligned_mtl([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])], [1, 1])
    tensor([0.5000, 0.5000])
    """
    rows, gram_MM, part_M = _known(rows, weight_M)
    value_M, vector_MM = np.linalg.eigh(gram_MM)
    kept = value_M > RANK * value_M.max(initial=0.0)
    if kept.any():
        value_M, vector_MM = value_M[kept], vector_MM[:, kept]
        part_M = vector_MM @ (np.sqrt(value_M.min() / value_M) * (vector_MM.T @ part_M))
    return blend(rows, part_M.tolist())


def imtl_g(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The sum of rows, with shares that add up to one, that goes equally far along each of them.

    Liu et al. 2021, Towards Impartial Multi-task Learning. Shares may be negative. Zero where only
    zero goes equally far along all, as between opposed rows. Weights only say which rows count.

    >>> import torch
    >>> imtl_g([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])], [1, 1])
    tensor([0.7500, 0.7500])
    """
    rows, gram_MM, _ = _known(rows, weight_M)
    cosine_MM, unit_M = _cosines(gram_MM)
    along_M = (unit_M > 0).astype(float)
    share_M = np.linalg.pinv(cosine_MM, rcond=RANK, hermitian=True) @ along_M
    if np.abs(cosine_MM @ share_M - along_M).max(initial=0.0) > 1e-6:
        return blend(rows, [0.0] * len(rows))
    share_M = share_M * unit_M
    total = float(share_M.sum())  # where it is negative, the paper's scale would go uphill
    return blend(rows, (share_M / (total if total > 0 else np.abs(share_M).sum() or 1)).tolist())


def _known(
    rows: Sequence[Tensor], weight_M: Sequence[float]
) -> tuple[Sequence[Tensor], Array, Array]:
    """The rows that count, the inner products of every two, and weights that add up to one."""
    rows, weights = heard(rows, weight_M)
    part_M = np.array(weights)
    return rows, np.array(gramian(rows)), part_M / part_M.sum()


def _length(share_M: Array, gram_MM: Array) -> float:
    """How long a sum of the rows is."""
    return math.sqrt(max(0.0, float(share_M @ gram_MM @ share_M)))


def _cosines(gram_MM: Array) -> tuple[Array, Array]:
    """The cosine of every two rows, and one over their lengths; both zero for rows of zeros."""
    length_M = np.sqrt(gram_MM.diagonal())
    unit_M = np.divide(1.0, length_M, out=np.zeros_like(length_M), where=length_M > 0)
    return gram_MM * np.outer(unit_M, unit_M), unit_M
