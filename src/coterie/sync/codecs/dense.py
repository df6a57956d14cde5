"""Codecs that keep every value, in 8 or 16 bits.

Legend of shape suffixes: N values of the delta, K blocks, B values of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie.errors import StrategyError
from coterie.sync.codecs.base import Codec, as_bytes, check_size, from_bytes, refuse_unless
from coterie.sync.codecs.blocks import Blockwise, bfloat16, peaks, slabs
from coterie.sync.codecs.fourbit import INT4_MAX, INT4_ZERO, SCALE_BYTES, int4_levels, int4_step
from coterie.sync.pieces import TINY

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coterie.types import Ctx

FP16_MAX = 65504.0
BF16_MAX = 2.0**128 - 2.0**120
INT8_MAX = 127
INT8_PEAK = 3.4e38  # 127 steps of its 127th stay below float32's end, however they round
DITHER = 2.0**-16  # a drawn int16 as a share of a step


@dataclass(frozen=True, repr=False)
class Fp16(Codec):
    """Send each value as a 16-bit float: half the bytes; values beyond ±65504 saturate.

    Micikevicius et al. 2018, Mixed Precision Training. Values below 3e-8 become zero: wrap it in
    ErrorFeedback where deltas are that small.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.tensor([1.0, -2.5, 1e6])
    >>> Fp16().decode(Fp16().encode(delta_N, Ctx()), delta_N, Ctx())
    tensor([ 1.0000e+00, -2.5000e+00,  6.5504e+04])
    """

    pack_ns: ClassVar[float] = 0.6
    open_ns: ClassVar[float] = 1.8

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of N 16-bit floats."""
        return _narrowed(delta_N, delta_N[:0].half().dtype, FP16_MAX, self)

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The values as they were rounded."""
        return _widened(packed, like_N[:0].half().dtype, like_N)

    def packet_bytes(self, size: int) -> int:
        """Two bytes for each value."""
        return 2 * size

    def bound(self, norm: float | None) -> float | None:
        """Twice the norm: a value just above 3e-8, the half of the smallest step, doubles."""
        return None if norm is None else 2 * norm

    def keeps(self) -> float:
        """Prior: 16-bit pseudo-gradients were found to lose nothing (OpenDiLoCo, 2024)."""
        return 0.999


@dataclass(frozen=True, repr=False)
class Bf16(Codec):
    """Send each value as a bfloat16: half the bytes, float32's range, three digits less.

    Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training. Nothing saturates but
    the last 0.4 % of float32's range. See Stochastic(16) for the same without a bias.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.tensor([1.0, -2.5, 1e-30])
    >>> Bf16().decode(Bf16().encode(delta_N, Ctx()), delta_N, Ctx())
    tensor([ 1.0000e+00, -2.5000e+00,  9.9840e-31])
    """

    pack_ns: ClassVar[float] = 0.8
    open_ns: ClassVar[float] = 1.8

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of N bfloat16 values."""
        return _narrowed(delta_N, bfloat16(delta_N), BF16_MAX, self)

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The values as they were rounded."""
        return _widened(packed, bfloat16(like_N), like_N)

    def packet_bytes(self, size: int) -> int:
        """Two bytes for each value."""
        return 2 * size

    def bound(self, norm: float | None) -> float | None:
        """A value moves by at most 1/256 of itself."""
        return None if norm is None else norm * (1 + 2**-8)

    def keeps(self) -> float:
        """Prior: as Fp16; its coarser digits are made up for by its range."""
        return 0.999


@dataclass(frozen=True, repr=False)
class Int8(Blockwise):
    """Send each value as a whole 127th of the largest in its block: about a quarter of the bytes.

    Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization. A packet is the float32
    steps of the blocks (a 127th of their maxima), then one int8 for each value.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.tensor([1.0, 0.5, -0.25, 0.0, 100.0])
    >>> Int8(block=4).decode(Int8(block=4).encode(delta_N, Ctx()), delta_N, Ctx())
    tensor([  1.0000,   0.5039,  -0.2520,   0.0000, 100.0000])
    """

    block: int = 1024
    pack_ns: ClassVar[float] = 0.8
    open_ns: ClassVar[float] = 2.2

    def bound(self, norm: float | None) -> float | None:
        """A value moves by at most 1/254 of its block's largest: norm · (1 + √block / 254)."""
        return None if norm is None else norm * (1 + math.sqrt(self.block) / (2 * INT8_MAX))

    def keeps(self) -> float:
        """Prior: 8-bit pseudo-gradients cost next to nothing (INTELLECT-1, 2024)."""
        return 0.995

    def _width(self) -> int:
        return 8

    def _scale(self, peak_K: Tensor) -> Tensor:
        return _int8_step(peak_K)

    def _codes(self, blocks_KB: Tensor, scale_K1: Tensor, ctx: Ctx) -> Tensor:
        return blocks_KB.mul_(scale_K1.reciprocal()).round_()

    def _levels(self, codes_N: Tensor, out_N: Tensor) -> Tensor:
        return _int8_levels(codes_N, out_N)


@dataclass(frozen=True, repr=False)
class Stochastic(Blockwise):
    """Round up or down by chance, so that on average nothing is lost: in 8, 4 or 16 bits.

    Alistarh et al. 2017, QSGD. 8 and 4 bits are the packets of Int8 and Int4, 16 bits is a
    bfloat16 (`block` then has no meaning). The chance of going up is the share of a step that
    rounding cuts off, to 2^-17 of a step; it is drawn from `ctx.generator`, which is a member's
    own: means over many members are then better than those of rounding to nearest. Four bits
    want short blocks: Stochastic(4, 64).

    >>> import torch
    >>> from coterie.types import Ctx
    >>> delta_N = torch.full((10_000,), 0.3)
    >>> delta_N[0] = 7.0  # the step of 4 bits is then about 1
    >>> ctx = Ctx(generator=torch.Generator().manual_seed(0))
    >>> codec = Stochastic(4, block=10_000)
    >>> round(float(codec.decode(codec.encode(delta_N, ctx), delta_N, ctx)[1:].mean()), 1)
    0.3
    """

    bits: int = 8
    block: int = 1024
    pack_ns: ClassVar[float] = 2.3
    open_ns: ClassVar[float] = 2.3

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in (4, 8, 16):
            raise StrategyError(
                f"expected 4, 8 or 16 bits, found {self}; write for example Stochastic(8)"
            )
        super().__post_init__()

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of K steps and N codes, or of N bfloat16 values."""
        if self.bits != 16:
            return super().encode(delta_N, ctx)
        packed = as_bytes(delta_N[:0]).new_empty(self.packet_bytes(delta_N.numel()))
        out_N = packed.view(delta_N[:0].short().dtype)
        for part in slabs(delta_N, 1):
            slab_N = _clamped(delta_N[part], BF16_MAX, self)
            bits_N = slab_N.view(delta_N[:0].int().dtype)
            # Carries out of the lower half go up with the chance that the lower half says.
            bits_N.add_(_draws(slab_N, ctx.generator)).add_(1 << 15)
            out_N[part].copy_(bits_N.bitwise_right_shift_(16))
        return packed

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The values as they were rounded."""
        if self.bits != 16:
            return super().decode(packed, like_N, ctx)
        return _widened(packed, bfloat16(like_N), like_N)

    def packet_bytes(self, size: int) -> int:
        """As Int8, as Int4, or two bytes for each value."""
        return 2 * size if self.bits == 16 else super().packet_bytes(size)

    def bound(self, norm: float | None) -> float | None:
        """A value moves by less than a step: twice as far as by rounding to nearest."""
        if norm is None:
            return None
        if self.bits == 16:
            return norm * (1 + 2**-7)
        levels = INT8_MAX if self.bits == 8 else INT4_MAX / (1 + 2**-6)  # as Int4.bound
        return norm * (1 + math.sqrt(self.block) / levels)

    def keeps(self) -> float:
        """Prior: a little less than rounding to nearest, whose noise is smaller."""
        return {16: 0.999, 8: 0.99, 4: 0.95}[self.bits]

    def _width(self) -> int:
        return self.bits

    def _scale(self, peak_K: Tensor) -> Tensor:
        return _int8_step(peak_K) if self.bits == 8 else int4_step(peak_K)

    def _scale_bytes(self) -> int:
        return 4 if self.bits == 8 else SCALE_BYTES

    def _codes(self, blocks_KB: Tensor, scale_K1: Tensor, ctx: Ctx) -> Tensor:
        top, zero = (INT8_MAX, 0) if self.bits == 8 else (INT4_MAX, INT4_ZERO)
        dither_KB = _draws(blocks_KB.flatten(), ctx.generator).view(blocks_KB.shape).float()
        blocks_KB.mul_(scale_K1.reciprocal()).add_(dither_KB, alpha=DITHER)
        return blocks_KB.add_(0.5 + DITHER / 2).floor_().clamp_(-top, top).add_(zero)

    def _levels(self, codes_N: Tensor, out_N: Tensor) -> Tensor:
        return (_int8_levels if self.bits == 8 else int4_levels)(codes_N, out_N)


def _int8_step(peak_K: Tensor) -> Tensor:
    # The floor keeps a block of zeros from 0/0, and a reciprocal from overflowing.
    return peak_K.clamp_max_(INT8_PEAK).div_(INT8_MAX).clamp_min_(TINY)


def _int8_levels(codes_N: Tensor, out_N: Tensor) -> Tensor:
    return out_N.copy_(codes_N.view(codes_N[:0].char().dtype))


def _draws(like_N: Tensor, generator: torch.Generator | None) -> Tensor:
    """N int16 values, each of the 65536 as likely: four from one draw of 64 bits."""
    words = like_N[:0].long().new_empty(-(-like_N.numel() // 4))
    words.random_(-(2**63), None, generator=generator)
    return words.view(like_N[:0].short().dtype)[: like_N.numel()]


def _clamped(values_N: Tensor, largest: float, codec: Codec) -> Tensor:
    """A float32 copy of the values within ±largest; TrainingError for NaN and infinity."""
    slab_N = values_N.to(values_N[:0].float().dtype, copy=True)
    refuse_unless(bool(peaks(slab_N[None]).isfinite().all()), codec)
    return slab_N.clamp_(-largest, largest)


def _narrowed(delta_N: Tensor, dtype: torch.dtype, largest: float, codec: Codec) -> Tensor:
    """The packet of a vector's values in another dtype; those beyond `largest` saturate."""
    out_N = delta_N.new_empty(delta_N.numel(), dtype=dtype)
    for part in slabs(delta_N, 1):
        out_N[part].copy_(_clamped(delta_N[part], largest, codec))
    return as_bytes(out_N)


def _widened(packed: Tensor, dtype: torch.dtype, like_N: Tensor) -> Tensor:
    """The values in a packet, in the dtype of `like_N`."""
    size = like_N[:0].to(dtype).element_size()
    check_size(packed, size * like_N.numel())
    out_N = like_N.new_empty(like_N.numel())
    for part in slabs(like_N, 1):
        out_N[part].copy_(from_bytes(packed[size * part.start : size * part.stop], dtype))
    return out_N
