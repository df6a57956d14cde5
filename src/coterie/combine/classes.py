"""Many samples become one of their class, and a sample is told by which it is nearest to.

Legend of shape suffixes: B samples, D features, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 20.0  # of distances in features of about unit size


def class_means(features_BD: Tensor, targets_B: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The mean of each class's samples, (C, D), and how many there are, (C,); zeros for none.

    Snell et al. 2017, Prototypical Networks for Few-shot Learning.

    >>> import torch
    >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    >>> class_means(features, torch.tensor([0, 0, 2]), 3)
    (tensor([[2., 0.],
            [0., 0.],
            [0., 5.]]), tensor([2., 0., 1.]))
    """
    sum_CD = features_BD.new_zeros(num_classes, features_BD.shape[1])
    count_C = features_BD.new_zeros(num_classes)
    sum_CD = sum_CD.index_add(0, targets_B, features_BD)
    count_C = count_C.index_add(0, targets_B, count_C.new_ones(len(targets_B)))
    return sum_CD / count_C.clamp(min=1)[:, None], count_C


def nearness(features_BD: Tensor, means_CD: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Logits (B, C) of how near samples are to classes: minus their mean squared distance × T.

    >>> import torch
    >>> nearness(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    tensor([[ -0., -20.]])
    """
    square_BC = (
        features_BD.square().sum(1, keepdim=True)
        - 2 * features_BD @ means_CD.T
        + means_CD.square().sum(1)
    )
    return -temperature / features_BD.shape[1] * square_BC
