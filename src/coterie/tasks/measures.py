"""How well something was learned without answers: measures of held-out samples, each one number.

Legend of shape suffixes: S samples, D features, K clusters, C classes, V pairs of views.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.errors import JobError

RIDGE = 1e-2  # of a linear probe, relative to the features' variance


def auroc(usual_S: Tensor, odd_A: Tensor) -> float:
    """The chance that an odd sample has a larger value than a usual one, ties counting half.

    The area under the ROC curve, as Mann and Whitney's U (1947). Values must be finite.

    >>> auroc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.3]))
    0.875
    """
    usual_S = usual_S.sort().values
    below = torch.searchsorted(usual_S, odd_A)
    not_above = torch.searchsorted(usual_S, odd_A, right=True)
    return (below + not_above).double().mean().item() / (2 * len(usual_S))


def adjusted_mutual_information(found_S: Tensor, true_S: Tensor) -> float:
    """How much two ways to group samples agree: 1 if they are one, about 0 if by chance.

    (I − E[I]) / (mean entropy − E[I]): Vinh, Epps and Bailey 2010, with the arithmetic mean.
    Labels are whole numbers, in any order.

    >>> adjusted_mutual_information(torch.tensor([5, 5, 2, 2]), torch.tensor([0, 0, 1, 1]))
    1.0
    """
    _, found_S = torch.unique(found_S, return_inverse=True)
    _, true_S = torch.unique(true_S, return_inverse=True)
    num_found, num_true = int(found_S.max()) + 1, int(true_S.max()) + 1
    table_KC = (found_S * num_true + true_S).bincount(minlength=num_found * num_true)
    table_KC = table_KC.view(num_found, num_true).double()
    sizes_K, sizes_C, num = table_KC.sum(1), table_KC.sum(0), float(len(found_S))
    entropy = (_entropy(sizes_K / num) + _entropy(sizes_C / num)) / 2
    shared = _entropy(sizes_K / num) + _entropy(sizes_C / num) - _entropy(table_KC / num)
    if num_found == num_true == 1 or num_found == num_true == num:
        return 1.0  # nothing to tell apart, or everything: both groupings are the same
    chance = _shared_by_chance(sizes_K, sizes_C, num)
    least = torch.finfo(torch.float64).eps
    return (shared - chance) / math.copysign(max(abs(entropy - chance), least), entropy - chance)


def _entropy(parts: Tensor) -> float:
    return -float(torch.special.xlogy(parts, parts).sum())


def _shared_by_chance(sizes_K: Tensor, sizes_C: Tensor, num: float) -> float:
    """The mutual information of groupings of these sizes, on average over all there are."""

    def ln_factorial(of: Tensor | float) -> Tensor:
        return torch.lgamma(torch.as_tensor(of, dtype=torch.float64) + 1)

    total = 0.0
    for a in sizes_K.tolist():
        for b in sizes_C.tolist():
            both = torch.arange(max(1.0, a + b - num), min(a, b) + 1, dtype=torch.float64)
            ln_chance = sum(map(ln_factorial, (a, b, num - a, num - b)), -ln_factorial(num))
            for cell in (both, a - both, b - both, num - a - b + both):
                ln_chance = ln_chance - ln_factorial(cell)
            gain = both / num * (num * both / (a * b)).log()
            total += (gain * ln_chance.exp()).sum().item()
    return total


def linear_probe(
    taught: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor], ridge: float = RIDGE
) -> float:
    """How many labels a linear map of features tells, 0..1; features (S, D) and labels (S,).

    Fitted to the first pair and asked of the second, by ridge regression on the classes: in
    closed form, so that the same features always come to the same accuracy.

    >>> features = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [2.0, 0.0]])
    >>> linear_probe((features, torch.tensor([3, 3, 7, 7])), (features, torch.tensor([3, 3, 7, 3])))
    0.75
    """
    (x_SD, y_S), (asked_SD, truth_S) = taught, asked
    if len(x_SD) == 0 or len(asked_SD) == 0:
        raise JobError("expected labelled samples for a probe, found none; give some")
    classes_C, y_S = torch.unique(y_S, return_inverse=True)
    mean_D = x_SD.double().mean(0)
    x_SD, asked_SD = x_SD.double() - mean_D, asked_SD.double() - mean_D
    wanted_SC = F.one_hot(y_S, len(classes_C)).double()
    mean_C = wanted_SC.mean(0)
    gram_DD = x_SD.T @ x_SD
    gram_DD.diagonal().add_(ridge * gram_DD.diagonal().mean() + torch.finfo(torch.float64).tiny)
    map_DC = torch.linalg.lstsq(gram_DD, x_SD.T @ (wanted_SC - mean_C)).solution
    told_S = classes_C[(asked_SD @ map_DC + mean_C).argmax(1)]
    return float((told_S == truth_S).double().mean())


def alignment(a_VD: Tensor, b_VD: Tensor) -> float:
    """How near two views of a sample lie on the sphere: minus their mean squared distance.

    Wang and Isola 2020, negated, so that higher is better; 0 is best.

    >>> alignment(torch.eye(2), torch.eye(2))
    -0.0
    """
    return -(_on_sphere(a_VD) - _on_sphere(b_VD)).square().sum(1).mean().item()


def uniformity(features_SD: Tensor) -> float:
    """How evenly samples lie over the sphere: minus the log of their mean potential exp(−2d²).

    Wang and Isola 2020, negated, so that higher is better; 0 where all lie at one point.

    >>> uniformity(torch.ones(3, 2))
    -0.0
    """
    distances = torch.pdist(_on_sphere(features_SD)).square()
    return -(distances.mul(-2).exp().mean().log().item()) if len(distances) else 0.0


def _on_sphere(features_SD: Tensor) -> Tensor:
    return F.normalize(features_SD.double(), dim=1)
