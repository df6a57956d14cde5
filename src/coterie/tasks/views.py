"""Views of a sample: changes after which it is still the same thing, drawn anew at each call.

Each takes a batch and returns one of the same shape; samples are changed independently. Draws are
torch's own, on the CPU. Whether a change keeps the meaning depends on the data: a mirrored 3 is no
3, so nothing here mirrors. Legend of shape suffixes: B samples, D features, C channels, H×W pixels,
T times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coterie.errors import JobError


def by_shape(samples: Tensor) -> Tensor:
    """The view that suits samples of this shape: (D,), (C, T) or (C, H, W).

    >>> by_shape(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """
    known: dict[int, Callable[[Tensor], Tensor]] = {1: vectors, 2: series, 3: images}
    if (num_axes := samples.dim() - 1) in known:
        return known[num_axes](samples)
    raise JobError(
        f"expected samples that are vectors, series (C, T) or images (C, H, W), found ones of "
        f"shape {tuple(samples.shape[1:])}; give views, a function of a batch"
    )


def vectors(samples_BD: Tensor, noise: float = 0.1, mask: float = 0.2) -> Tensor:
    """Vectors with some features replaced by another sample's, and noise on the rest.

    `mask` is the fraction of features that are replaced (Bahri et al. 2022, SCARF), `noise` is
    relative to each feature's spread in the batch.

    >>> vectors(torch.ones(4, 3))
    tensor([[1., 1., 1.],
            [1., 1., 1.],
            [1., 1., 1.],
            [1., 1., 1.]])
    """
    others_BD = samples_BD[torch.randperm(len(samples_BD))]
    replaced_BD = torch.rand(samples_BD.shape) < mask
    spread_D = samples_BD.std(0, correction=0)
    noisy_BD = samples_BD + noise * spread_D * torch.randn_like(samples_BD)
    return torch.where(replaced_BD, others_BD, noisy_BD)


def series(
    samples_BCT: Tensor, noise: float = 0.1, scale: float = 0.2, cover: float = 0.2
) -> Tensor:
    """Windows of series, each scaled a little, with noise, and a stretch of time set to its mean.

    `noise` is relative to each channel's spread in its window, `scale` is the standard deviation
    of the factor, `cover` the fraction of the window that is covered. Um et al. 2017.

    >>> series(torch.ones(2, 1, 10), scale=0.0).unique()
    tensor([1.])
    """
    size, _, num_times = samples_BCT.shape
    mean_BC1 = samples_BCT.mean(2, keepdim=True)
    spread_BC1 = samples_BCT.std(2, correction=0, keepdim=True)
    noisy_BCT = samples_BCT + noise * spread_BC1 * torch.randn_like(samples_BCT)
    is_covered_BT = _stretch(size, num_times, cover)
    whole_BCT = torch.where(is_covered_BT[:, None], mean_BC1, noisy_BCT)
    return whole_BCT * (1 + scale * torch.randn(size, 1, 1).to(samples_BCT))


def images(
    samples_BCHW: Tensor, shift: float = 0.125, contrast: float = 0.4, cover: float = 0.25
) -> Tensor:
    """Images shifted, brightened or dimmed, and with a rectangle set to the image's mean.

    `shift` is the largest one as a fraction of each side, `contrast` the largest change of the
    factor on brightness, `cover` the sides of the rectangle as a fraction of the image's. Shifted
    and jittered as in SimCLR (Chen et al. 2020), covered as in Cutout (DeVries and Taylor 2017).

    >>> images(torch.ones(2, 1, 8, 8), contrast=0.0, shift=0.0).unique()
    tensor([1.])
    """
    size, _, height, width = samples_BCHW.shape
    rows_BH, columns_BW = _shifted(size, height, shift), _shifted(size, width, shift)
    which_B = torch.arange(size)
    seen_BCHW = samples_BCHW[which_B[:, None, None], :, rows_BH[:, :, None], columns_BW[:, None]]
    seen_BCHW = seen_BCHW.movedim(-1, 1)
    factor_B = 1 + contrast * (2 * torch.rand(size, 1, 1, 1) - 1).to(samples_BCHW)
    is_covered = _stretch(size, height, cover)[:, :, None] & _stretch(size, width, cover)[:, None]
    mean_B = samples_BCHW.mean((1, 2, 3), keepdim=True)
    return torch.where(is_covered[:, None], mean_B, seen_BCHW * factor_B)


def _shifted(size: int, length: int, shift: float) -> Tensor:
    """For each sample, the places along an axis that a shift brings into view; edges repeat."""
    most = round(shift * length)
    by_B1 = torch.randint(-most, most + 1, (size, 1))
    return (torch.arange(length) + by_B1).clamp(0, length - 1)


def _stretch(size: int, length: int, cover: float) -> Tensor:
    """For each sample, whether a place along an axis lies in a stretch drawn for it."""
    num = round(cover * length)
    first_B1 = torch.randint(0, length - num + 1, (size, 1))
    at = torch.arange(length) - first_B1
    return (at >= 0) & (at < num)
