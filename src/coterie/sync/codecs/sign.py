"""The codec that keeps a sign of every value.

Legend of shape suffixes: N values of the delta, K blocks, B values of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie.sync.codecs.blocks import Blockwise

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx


@dataclass(frozen=True, repr=False)
class Sign(Blockwise):
    """Send each value as its sign, times the mean absolute value of its block: a bit for each.

    Seide et al. 2014, 1-Bit Stochastic Gradient Descent; Karimireddy et al. 2019, Error Feedback
    Fixes SignSGD; Tang et al. 2021, 1-bit Adam. Wrap it in ErrorFeedback: without, it does not
    converge in general. A packet is the float32 means of the blocks, then eight signs in each
    byte. Zero counts as positive; a block of zeros stays zero.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.tensor([1.0, -3.0, 2.0, 0.0, 0.0])
    >>> Sign(block=4).decode(Sign(block=4).encode(delta_N, Ctx()), delta_N, Ctx())
    tensor([ 1.5000, -1.5000,  1.5000,  1.5000,  0.0000])
    """

    block: int = 1024
    pack_ns: ClassVar[float] = 1.6
    open_ns: ClassVar[float] = 2.1

    def bound(self, norm: float | None) -> float | None:
        """The norm: √B times the mean absolute value of B values is never above theirs."""
        return norm

    def keeps(self) -> float:
        """Prior: 1-bit Adam (2021) needed no more samples, but only after an exact warm-up."""
        return 0.9

    def _width(self) -> int:
        return 1

    def _measure(self, blocks_KB: Tensor, num: int) -> Tensor:
        block = blocks_KB.shape[1]
        mean_K = blocks_KB.abs().div_(block).sum(1)  # divided first: a sum may overflow
        mean_K[-1:].mul_(block / (num - (mean_K.numel() - 1) * block))
        return mean_K

    def _scale(self, peak_K: Tensor) -> Tensor:
        return peak_K

    def _codes(self, blocks_KB: Tensor, scale_K1: Tensor, ctx: Ctx) -> Tensor:
        return blocks_KB.ge(0)

    def _levels(self, codes_N: Tensor, out_N: Tensor) -> Tensor:
        return out_N.copy_(codes_N).mul_(2).sub_(1)
