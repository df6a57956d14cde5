"""From one feature space to another: linear maps in closed form, and how alike two spaces are.

Legend of shape suffixes: B samples, D and E features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.errors import LessonError

RIDGE = 0.1  # relative to the features' mean variance: samples are few, features many


@dataclass(frozen=True, eq=False)
class Map:
    """Features x to x·W + b.

    >>> Map(2 * torch.eye(2), torch.ones(2))(torch.tensor([[1.0, 2.0]]))
    tensor([[3., 5.]])
    """

    weight_DE: Tensor
    bias_E: Tensor

    def __call__(self, features_BD: Tensor) -> Tensor:
        """Features as they would stand in the other space, with a gradient if they have one."""
        return features_BD @ self.weight_DE + self.bias_E


def aligned(from_BD: Tensor, to_BE: Tensor, ridge: float = RIDGE) -> Map:
    """The linear map that takes samples' features nearest to their features in another space.

    Ridge regression in float64, on centred features. LessonError where there is no sample.

    >>> told = aligned(torch.eye(3), torch.eye(3)[:, :2] * 5, ridge=0.0)
    >>> told(torch.eye(3)).round(decimals=3).abs()
    tensor([[5., 0.],
            [0., 5.],
            [0., 0.]])
    """
    if not len(from_BD):
        raise LessonError("expected samples to align features on, found none; give some")
    x_BD, y_BE = from_BD.detach().double(), to_BE.detach().double()
    mean_D, mean_E = x_BD.mean(0), y_BE.mean(0)
    x_BD, y_BE = x_BD - mean_D, y_BE - mean_E
    penalty = ridge * x_BD.square().sum() / x_BD.shape[1] + torch.finfo(torch.float64).eps
    few = len(x_BD) < x_BD.shape[1]  # the smaller of two equal problems
    gram = x_BD @ x_BD.T if few else x_BD.T @ x_BD
    gram.diagonal().add_(penalty)
    if few:
        weight_DE = x_BD.T @ torch.linalg.solve(gram, y_BE)
    else:
        weight_DE = torch.linalg.solve(gram, x_BD.T @ y_BE)
    bias_E = mean_E - mean_D @ weight_DE
    return Map(weight_DE.to(from_BD), bias_E.to(from_BD))


def turned(from_CE: Tensor, to_CD: Tensor) -> Map:
    """The turn, scale and move that take points nearest to their partners in another space.

    Schönemann 1966, A Generalized Solution of the Orthogonal Procrustes Problem, with a scale and
    for spaces of other widths: distances keep their proportions, and what no point tells of is
    left out. LessonError for fewer than two points.

    >>> points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> told = turned(points, torch.stack([3 + points[:, 1], 5 - points[:, 0]], 1))
    >>> told(points)[1].round(decimals=3)
    tensor([3., 3.])
    """
    if len(from_CE) < 2:
        raise LessonError(
            f"expected two classes or more in common to align features by, found {len(from_CE)}"
        )
    x_CE, y_CD = from_CE.detach().double(), to_CD.detach().double()
    mean_E, mean_D = x_CE.mean(0), y_CD.mean(0)
    x_CE, y_CD = x_CE - mean_E, y_CD - mean_D
    left, size, right = torch.linalg.svd(x_CE.T @ y_CD, full_matrices=False)
    some = size > size.max() * 1e-9
    turn_ED = left[:, some] @ right[some]
    scale = size.sum() / x_CE.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    weight_ED = scale * turn_ED
    return Map(weight_ED.to(from_CE), (mean_D - mean_E @ weight_ED).to(from_CE))


def similarity(a_BD: Tensor, b_BE: Tensor) -> float:
    """Linear CKA of two spaces by features of the same samples, 0 to 1; turning changes nothing.

    Kornblith et al. 2019, Similarity of Neural Network Representations Revisited. Without the
    bias that it has for few samples: the estimator of Song et al. 2012, which is about 0 for
    spaces that have nothing in common, and may be a little below. Takes four samples or more.

    >>> a = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> b = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    >>> round(similarity(a, 3 * a[:, [7, 6, 5, 4, 3, 2, 1, 0]]), 3), abs(similarity(a, b)) < 0.1
    (1.0, True)
    """
    if len(a_BD) < 4:
        raise LessonError(f"expected four samples or more to compare, found {len(a_BD)}")
    k_BB, l_BB = (x.detach().double() @ x.detach().double().T for x in (a_BD, b_BE))
    both = _shared(k_BB, l_BB)
    alone = _shared(k_BB, k_BB) * _shared(l_BB, l_BB)
    return both / alone**0.5 if alone > 0 else 0.0


def _shared(k_BB: Tensor, l_BB: Tensor) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion."""
    num = len(k_BB)
    off = 1 - torch.eye(num, dtype=torch.float64)
    k_BB, l_BB = k_BB * off, l_BB * off
    whole = k_BB.sum() * l_BB.sum() / ((num - 1) * (num - 2))
    rows = k_BB.sum(0) @ l_BB.sum(0) * 2 / (num - 2)
    return float(((k_BB * l_BB).sum() + whole - rows) / (num * (num - 3)))
