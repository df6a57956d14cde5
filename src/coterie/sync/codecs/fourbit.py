"""Codecs that send each value in four bits, two values to a byte.

The scale of a block is a bfloat16 here: with blocks of 64 it costs a quarter of a bit for each
value, where a float32 would cost half a bit, and it moves a level by 0.8 % at most, where codes
are 14 % of the scale apart or more.
Legend of shape suffixes: N values of the delta, K blocks, B values of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie.sync.codecs.blocks import Blockwise
from coterie.sync.pieces import TINY

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx

INT4_MAX = 7
INT4_ZERO = 8  # a code is 8 more than its level, so that it has no sign
SCALE_BYTES = 2  # one bfloat16
PEAK = 3.37e38  # what float32 holds still after the scale was rounded up to a bfloat16
ROUND_UP = 1 + 2**-8  # then to the nearest bfloat16: never below what it was
E3M0_LEVELS = 7  # 2^-6 … 1; the eighth magnitude is zero
MANTISSA_BITS = 23
E3M0_BIAS = 127 - E3M0_LEVELS  # exponent field of float32 that stands for a magnitude of zero
SIGN = 8  # the highest bit of a code


@dataclass(frozen=True, repr=False)
class Int4(Blockwise):
    """Send each value as a whole 7th of the largest in its block: about an eighth of the bytes.

    Dettmers & Zettlemoyer 2023, The Case for 4-bit Precision (block-wise linear codes). A packet
    is the bfloat16 steps of the blocks, then two codes in each byte. Wrap it in ErrorFeedback.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.tensor([7.0, 2.2, -1.1, 0.0])
    >>> codec = Int4(block=4)
    >>> codec.decode(codec.encode(delta_N, Ctx()), delta_N, Ctx()).round(decimals=1)
    tensor([ 7.,  2., -1.,  0.])
    """

    block: int = 64
    pack_ns: ClassVar[float] = 1.4
    open_ns: ClassVar[float] = 2.3

    def bound(self, norm: float | None) -> float | None:
        """A value moves by at most half a step: norm · (1 + 1.02 · √block / 14)."""
        if norm is None:
            return None
        return norm * (1 + (1 + 2**-6) * math.sqrt(self.block) / (2 * INT4_MAX))

    def keeps(self) -> float:
        """Prior: between Int8 and E3M0, whose levels suit small values better."""
        return 0.99

    def _width(self) -> int:
        return 4

    def _scale_bytes(self) -> int:
        return SCALE_BYTES

    def _scale(self, peak_K: Tensor) -> Tensor:
        return int4_step(peak_K)

    def _codes(self, blocks_KB: Tensor, scale_K1: Tensor, ctx: Ctx) -> Tensor:
        return blocks_KB.mul_(scale_K1.reciprocal()).round_().add_(INT4_ZERO)

    def _levels(self, codes_N: Tensor, out_N: Tensor) -> Tensor:
        return int4_levels(codes_N, out_N)


@dataclass(frozen=True, repr=False)
class E3M0(Blockwise):
    """Send each value as a sign and the nearest power of two, 2^-6 … 1 of its block's largest.

    Douillard et al. 2025, Streaming DiLoCo with Overlapping Communication (4-bit floats of one
    sign, three exponent and no mantissa bits). What is nearest to 2^-7 or less becomes zero. A
    value moves by a third of itself, small or large: where Int4 keeps large values better, this
    keeps small ones. A packet is the bfloat16 maxima of the blocks, then two codes in each byte.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.tensor([1.0, 0.3, -0.02, 0.001])
    >>> codec = E3M0(block=4)
    >>> codec.decode(codec.encode(delta_N, Ctx()), delta_N, Ctx()).round(decimals=3)
    tensor([ 1.0000,  0.2500, -0.0160,  0.0000])
    """

    block: int = 64
    pack_ns: ClassVar[float] = 1.7
    open_ns: ClassVar[float] = 2.5

    def bound(self, norm: float | None) -> float | None:
        """A value grows by at most a third: from 3/4 of a power of two to all of it."""
        return None if norm is None else norm * 4 / 3

    def keeps(self) -> float:
        """Prior: 4-bit pseudo-gradients cost no quality (Streaming DiLoCo, 2025)."""
        return 0.985

    def _width(self) -> int:
        return 4

    def _scale_bytes(self) -> int:
        return SCALE_BYTES

    def _scale(self, peak_K: Tensor) -> Tensor:
        return peak_K.mul_(ROUND_UP).clamp_(TINY, PEAK)

    def _codes(self, blocks_KB: Tensor, scale_K1: Tensor, ctx: Ctx) -> Tensor:
        bits_KB = blocks_KB.div_(scale_K1).view(blocks_KB[:0].int().dtype)
        sign_KB = (bits_KB >> 28).bitwise_and_(SIGN)
        # Half a mantissa more, and the exponent is that of the nearest power of two.
        half = 1 << (MANTISSA_BITS - 1)
        bits_KB.bitwise_and_(0x7FFFFFFF).add_(half).bitwise_right_shift_(MANTISSA_BITS)
        return bits_KB.sub_(E3M0_BIAS).clamp_min_(0).bitwise_or_(sign_KB)

    def _levels(self, codes_N: Tensor, out_N: Tensor) -> Tensor:
        sign_N = codes_N.int()
        bits_N = sign_N.bitwise_and(SIGN - 1).bitwise_left_shift_(MANTISSA_BITS)
        bits_N.bitwise_or_(sign_N.bitwise_and_(SIGN).bitwise_left_shift_(28))
        # An exponent field of zero is the float zero: the other magnitudes start above it.
        return out_N.copy_(bits_N.view(codes_N[:0].float().dtype).mul_(2.0**E3M0_BIAS))


def int4_step(peak_K: Tensor) -> Tensor:
    """The step of 4-bit codes, (K,): a 7th of the peak, to be rounded to a bfloat16.

    >>> import torch
    >>> float(int4_step(torch.tensor([7.0])).bfloat16())
    1.0
    """
    return peak_K.clamp_max_(PEAK / ROUND_UP).mul_(ROUND_UP / INT4_MAX).clamp_min_(TINY)


def int4_levels(codes_N: Tensor, out_N: Tensor) -> Tensor:
    """The levels −7 … 7 of 4-bit codes, written to `out_N`.

    >>> import torch
    >>> int4_levels(torch.tensor([1, 8, 15], dtype=torch.uint8), torch.zeros(3))
    tensor([-7.,  0.,  7.])
    """
    return out_N.copy_(codes_N.view(codes_N[:0].char().dtype).sub(INT4_ZERO))
