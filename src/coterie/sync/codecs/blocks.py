"""What block-wise codecs share: a walk in pieces that fit the cache, and codes packed in bits.

A packet is one scale for each block, then one code of a few bits for each value; the last block
may be shorter. A vector is walked slab by slab, so that main memory is read once and written once;
what comes out does not depend on the slab's size.
Legend of shape suffixes: N values of the delta, K blocks, B values of a block.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coterie.errors import StrategyError
from coterie.sync.codecs.base import Codec, as_bytes, check_size, from_bytes, refuse_unless
from coterie.sync.pieces import is_count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coterie.types import Ctx

CPU_SLAB = 1 << 19  # values: 2 MB of float32 stay in cache, and calls cost little beside them
GPU_SLAB = 1 << 24  # values: launches cost more than memory
WORD_BITS = 8  # a slab starts at a whole byte, whatever the width of a code


def slabs(like_N: Tensor, block: int) -> Iterator[slice]:
    """Cut a vector into slabs of whole blocks; the last may end in a shorter one.

    >>> import torch
    >>> [part.stop for part in slabs(torch.zeros(1_000_000), 1024)]
    [524288, 1000000]
    """
    num, least = like_N.numel(), math.lcm(block, WORD_BITS)
    wanted = CPU_SLAB if like_N.device.type == "cpu" else GPU_SLAB
    size = max(1, wanted // least) * least
    return (slice(start, min(start + size, num)) for start in range(0, num, size))


def fold(codes_N: Tensor, width: int) -> Tensor:
    """Pack N bytes that hold codes of `width` bits (1, 2, 4 or 8): ceil(N · width / 8) bytes.

    Neighbours meet in one byte, pair by pair, until it is full.

    >>> import torch
    >>> fold(torch.tensor([1, 0, 15], dtype=torch.uint8), 4)
    tensor([ 1, 15], dtype=torch.uint8)
    """
    byte, pair = codes_N[:0].byte().dtype, codes_N[:0].short().dtype
    codes_N = codes_N.view(byte)
    whole = -(-codes_N.numel() * width // WORD_BITS) * WORD_BITS // width
    if whole > codes_N.numel():
        padded = codes_N.new_zeros(whole)
        padded[: codes_N.numel()] = codes_N
        codes_N = padded
    while width < WORD_BITS:
        pairs = codes_N.view(pair)
        codes_N = (pairs >> (WORD_BITS - width)).bitwise_or_(pairs).byte()
        width *= 2
    return codes_N


def unfold(folded: Tensor, width: int, num: int) -> Tensor:
    """The N = `num` codes of `width` bits that were folded, one to a byte.

    >>> import torch
    >>> unfold(fold(torch.tensor([1, 0, 1], dtype=torch.uint8), 1), 1, 3)
    tensor([1, 0, 1], dtype=torch.uint8)
    """
    byte = folded.dtype
    wide = WORD_BITS
    while wide > width:
        wide //= 2
        pairs = folded.short()
        mask = 0x0101 * ((1 << wide) - 1)
        folded = (pairs << (WORD_BITS - wide)).bitwise_or_(pairs).bitwise_and_(mask).view(byte)
    return folded[:num]


def peaks(blocks_KB: Tensor) -> Tensor:
    """The largest absolute value of each block, (K,); NaN where there is one.

    >>> import torch
    >>> peaks(torch.tensor([[1.0, -3.0], [0.0, 2.0]]))
    tensor([3., 2.])
    """
    return blocks_KB.amax(1).maximum(blocks_KB.amin(1).neg_())


def bfloat16(like: Tensor) -> torch.dtype:
    """The dtype bfloat16, taken from a tensor.

    >>> import torch
    >>> bfloat16(torch.zeros(1))
    torch.bfloat16
    """
    return like[:0].bfloat16().dtype


class Blockwise(Codec):
    """A codec of one scale for each block and one code for each value; a value is level · scale.

    >>> from coterie.sync.codecs.dense import Int8
    >>> isinstance(Int8(), Blockwise)
    True
    """

    block: int

    def __post_init__(self) -> None:
        if not is_count(self.block):
            raise StrategyError(
                f"expected blocks of at least one value, found {self}; "
                f"write for example {type(self).__name__}(block=1024)"
            )

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of K scales and N codes."""
        num, block = delta_N.numel(), self._row(delta_N.numel())
        packed = as_bytes(delta_N[:0]).new_empty(self.packet_bytes(num))
        head = self._head_bytes(num)
        scales_K, codes = packed[:head].view(self._scale_dtype(delta_N)), packed[head:]
        scratch = delta_N[:0].float()
        for part in slabs(delta_N, block):
            blocks_KB, scratch = _as_blocks(delta_N[part], block, scratch)
            peak_K = self._measure(blocks_KB, part.stop - part.start)
            refuse_unless(bool(peak_K.isfinite().all()), self)
            rows = slice(part.start // block, -(-part.stop // block))
            scale_K1 = scales_K[rows].copy_(self._scale(peak_K))[:, None].float()
            codes_N = self._codes(blocks_KB, scale_K1, ctx).flatten()[: part.stop - part.start]
            self._put(codes_N, codes, part)
        return packed

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """Each code's level times its block's scale."""
        num, block = like_N.numel(), self._row(like_N.numel())
        check_size(packed, self.packet_bytes(num))
        head, width = self._head_bytes(num), self._width()
        scales_K = from_bytes(packed[:head], self._scale_dtype(like_N)).float()
        out_N = like_N.new_empty(num)
        for part in slabs(like_N, block):
            size, first = part.stop - part.start, part.start // block
            codes = packed[head + part.start * width // WORD_BITS :]
            codes_N = unfold(codes[: -(-size * width // WORD_BITS)], width, size)
            values_N = self._levels(codes_N, out_N[part])
            whole = size // block
            blocks_KB = values_N[: whole * block].view(whole, block)
            blocks_KB.mul_(scales_K[first : first + whole, None])
            values_N[whole * block :].mul_(scales_K[first + whole : first + whole + 1])
        return out_N

    def packet_bytes(self, size: int) -> int:
        """The codes, in whole bytes, and one scale for each block."""
        return self._head_bytes(size) + -(-size * self._width() // WORD_BITS)

    def part(self, packed: Tensor, size: int, where: slice) -> Tensor:
        """The scales and the codes of some blocks: they open to the very same values."""
        if self._width() > WORD_BITS:
            return super().part(packed, size, where)
        num = where.stop - where.start
        cut = packed.new_zeros(self.packet_bytes(num))
        for into, first, stop in (
            (0, self._head_bytes(where.start), self._head_bytes(min(where.stop, size))),
            (
                self._head_bytes(num),
                self._head_bytes(size) + where.start * self._width() // WORD_BITS,
                self._head_bytes(size) + where.stop * self._width() // WORD_BITS,
            ),
        ):
            told = packed[first:stop]
            cut[into : into + told.numel()] = told
        return cut

    @abc.abstractmethod
    def _width(self) -> int:
        """Bits of a code: 1, 2, 4 or 8."""

    @abc.abstractmethod
    def _scale(self, peak_K: Tensor) -> Tensor:
        """The scale that travels, given what was measured of each block."""

    @abc.abstractmethod
    def _codes(self, blocks_KB: Tensor, scale_K1: Tensor, ctx: Ctx) -> Tensor:
        """The code of each value, in any dtype; may write to the blocks."""

    @abc.abstractmethod
    def _levels(self, codes_N: Tensor, out_N: Tensor) -> Tensor:
        """Write the level that each code (a byte) stands for into `out_N`, and return that."""

    def _measure(self, blocks_KB: Tensor, num: int) -> Tensor:
        """What the scale is made of, (K,), of blocks that hold `num` values and zeros after them.

        It must be NaN or infinite if a value is.
        """
        return peaks(blocks_KB)

    def _scale_bytes(self) -> int:
        """Bytes of a scale: 4 for a float32, 2 for a bfloat16."""
        return 4

    def _scale_dtype(self, like: Tensor) -> torch.dtype:
        return like[:0].float().dtype if self._scale_bytes() == 4 else bfloat16(like)

    def _head_bytes(self, size: int) -> int:
        """Bytes of all scales."""
        return self._scale_bytes() * -(-size // self.block)

    def _row(self, num: int) -> int:
        """Values of a block, no more than there are."""
        return max(1, min(self.block, num))

    def _put(self, codes_N: Tensor, codes: Tensor, part: slice) -> None:
        """Write a slab's codes to their place in the packet."""
        width, signed = self._width(), codes[:0].char().dtype
        if width == WORD_BITS:
            codes[part].view(signed).copy_(codes_N)
        else:
            folded = fold(codes_N.to(signed), width)
            first = part.start * width // WORD_BITS
            codes[first : first + folded.numel()] = folded


def _as_blocks(values_N: Tensor, block: int, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 copy of the values, padded with zeros to (K, B), and the scratch it lies in.

    One scratch serves all slabs: a system takes back what is freed, and new memory is dear.
    """
    num = values_N.numel()
    whole = -(-num // block) * block
    if scratch.numel() < whole:
        scratch = scratch.new_empty(whole)
    scratch[:num].copy_(values_N)
    scratch[num:whole].zero_()
    return scratch[:whole].view(-1, block), scratch
