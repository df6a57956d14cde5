"""Packing a delta into fewer bytes, and remembering what did not fit.

Legend of shape suffixes: N values of the delta, K blocks, B values of a block. A packet is a flat
uint8 tensor of exactly `num_bytes(N)` bytes, in the machine's own byte order. Dtypes are taken
from tensors (`like.half().dtype`), because torch is imported for its types alone.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from coterie.errors import StrategyError, TrainingError
from coterie.sync.pieces import TINY, Kind, Memory, Piece, is_count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coterie.types import Ctx, Layout

FP16_MAX = 65504.0
INT8_MAX = 127
SCALE_BYTES = 4  # one float32


class Pack(Piece):
    """What stands next to the exchange: it turns a delta into a packet that others can open.

    >>> isinstance(Int8(), Pack), isinstance(ErrorFeedback(Int8()), Pack)
    (True, True)
    """

    kind: ClassVar[Kind] = "pack"

    @abc.abstractmethod
    def decode(self, packed: Tensor, like_N: Tensor) -> Tensor:
        """The delta in a packet, of the size, dtype and device of `like_N`, as a new vector.

        Raises TrainingError for a packet that is not of N values.
        """

    @abc.abstractmethod
    def num_bytes(self, size: int) -> int:
        """Exact bytes of the packet of `size` values."""


class Codec(Pack):
    """A pack without memory: encode and decode alone.

    >>> Fp16().num_bytes(10), Int8().num_bytes(10)
    (20, 14)
    """

    @abc.abstractmethod
    def encode(self, delta_N: Tensor) -> Tensor:
        """The packet of a delta; TrainingError if it holds NaN or infinity."""

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The packet; nothing is remembered."""
        return self.encode(delta_N), memory


@dataclass(frozen=True, repr=False)
class Fp16(Codec):
    """Send each value as a 16-bit float: half the bytes; values beyond ±65504 saturate.

    Micikevicius et al. 2018, Mixed Precision Training. Values below 3e-8 become zero: wrap it in
    ErrorFeedback where deltas are that small.

    >>> import torch
    >>> delta_N = torch.tensor([1.0, -2.5, 1e6])
    >>> Fp16().decode(Fp16().encode(delta_N), delta_N)
    tensor([ 1.0000e+00, -2.5000e+00,  6.5504e+04])
    """

    def encode(self, delta_N: Tensor) -> Tensor:
        """The packet of N 16-bit floats."""
        _refuse_unless(bool(delta_N.isfinite().all()), self)
        return _as_bytes(delta_N.clamp(-FP16_MAX, FP16_MAX).half())

    def decode(self, packed: Tensor, like_N: Tensor) -> Tensor:
        """The values as they were rounded."""
        _check_size(packed, self.num_bytes(like_N.numel()))
        return _from_bytes(packed, like_N[:0].half().dtype).to(like_N)

    def num_bytes(self, size: int) -> int:
        """Two bytes for each value."""
        return 2 * size

    def bound(self, norm: float | None) -> float | None:
        """Twice the norm: a value just above 3e-8, the half of the smallest step, doubles."""
        return None if norm is None else 2 * norm

    def keeps(self) -> float:
        """Prior: 16-bit pseudo-gradients were found to lose nothing (OpenDiLoCo, 2024)."""
        return 0.999


@dataclass(frozen=True, repr=False)
class Int8(Codec):
    """Send each value as a whole 127th of the largest in its block: about a quarter of the bytes.

    Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization. A packet is the float32
    maxima of the blocks, then one int8 for each value; the last block may be shorter.

    >>> import torch
    >>> delta_N = torch.tensor([1.0, 0.5, -0.25, 0.0, 100.0])
    >>> Int8(block=4).decode(Int8(block=4).encode(delta_N), delta_N)
    tensor([  1.0000,   0.5039,  -0.2520,   0.0000, 100.0000])
    """

    block: int = 1024

    def __post_init__(self) -> None:
        if not is_count(self.block):
            raise StrategyError(
                f"expected blocks of at least one value, found {self}; write for example Int8(1024)"
            )

    def encode(self, delta_N: Tensor) -> Tensor:
        """The packet of K maxima and N codes."""
        num = delta_N.numel()
        blocks_KB = self._blocks(delta_N, delta_N[:0].float())
        # The floor keeps a block of zeros from 0/0, whose code no standard defines.
        peak_K = blocks_KB.abs().amax(1).clamp_min(TINY)
        _refuse_unless(bool(peak_K.isfinite().all()), self)
        codes_KB = blocks_KB.div_(peak_K[:, None]).mul_(INT8_MAX).round_().char()
        packed = _as_bytes(codes_KB).new_empty(self.num_bytes(num))
        cut = SCALE_BYTES * self._num_blocks(num)
        packed[:cut] = _as_bytes(peak_K)
        packed[cut:] = _as_bytes(codes_KB).flatten()[:num]
        return packed

    def decode(self, packed: Tensor, like_N: Tensor) -> Tensor:
        """Each code's share of its block's maximum."""
        num = like_N.numel()
        _check_size(packed, self.num_bytes(num))
        cut = SCALE_BYTES * self._num_blocks(num)
        peak_K = _from_bytes(packed[:cut], like_N[:0].float().dtype).to(like_N)
        codes_N = packed[cut:].view(like_N[:0].char().dtype)
        blocks_KB = self._blocks(codes_N, like_N)
        return blocks_KB.div_(INT8_MAX).mul_(peak_K[:, None]).flatten()[:num]

    def num_bytes(self, size: int) -> int:
        """One byte for each value and four for each block."""
        return size + SCALE_BYTES * self._num_blocks(size)

    def bound(self, norm: float | None) -> float | None:
        """A value moves by at most 1/254 of its block's largest: norm · (1 + √block / 254)."""
        return None if norm is None else norm * (1 + math.sqrt(self.block) / (2 * INT8_MAX))

    def keeps(self) -> float:
        """Prior: 8-bit pseudo-gradients cost next to nothing (INTELLECT-1, 2024)."""
        return 0.995

    def _num_blocks(self, size: int) -> int:
        return -(-size // self.block)

    def _blocks(self, values_N: Tensor, like: Tensor) -> Tensor:
        """A copy of the values, padded with zeros to whole blocks: (K, B), of `like`'s dtype."""
        num = values_N.numel()
        padded = like.new_zeros(self._num_blocks(num) * self.block)
        padded[:num] = values_N
        return padded.view(-1, self.block)


@dataclass(frozen=True, repr=False)
class ErrorFeedback(Pack):
    """Pack a delta with a lossy codec and add what was lost to the next one.

    Seide et al. 2014, 1-Bit SGD; Karimireddy et al. 2019, Error Feedback Fixes SignSGD. The
    residual belongs to this member: checkpoint it, never average it.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> piece, wanted_N = ErrorFeedback(Int8(block=4)), torch.tensor([1.0, 0.3, -0.2, 0.0])
    >>> packed, residual_N = piece.update(wanted_N, torch.zeros(4), Ctx())
    >>> torch.allclose(piece.decode(packed, wanted_N) + residual_N, wanted_N)
    True
    """

    codec: Codec

    def __post_init__(self) -> None:
        if not isinstance(self.codec, Codec):
            raise StrategyError(
                f"expected a codec inside ErrorFeedback, found {self.codec!r}; "
                "write for example ErrorFeedback(Int8())"
            )

    def init(self, layout: Layout, like: Tensor) -> Tensor:
        """Nothing lost so far: zeros of shape (N,)."""
        return like.new_zeros(layout.size)

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The packet of delta and residual, and the new residual of shape (N,)."""
        wanted_N = delta_N + cast("Tensor", memory)  # new: the old must outlive a refused round
        packed = self.codec.encode(wanted_N)
        return packed, wanted_N.sub_(self.codec.decode(packed, wanted_N))

    def decode(self, packed: Tensor, like_N: Tensor) -> Tensor:
        """What the codec makes of the packet."""
        return self.codec.decode(packed, like_N)

    def num_bytes(self, size: int) -> int:
        """The codec's bytes: a residual stays at home."""
        return self.codec.num_bytes(size)

    def bound(self, norm: float | None) -> float | None:
        """Unknown: a residual can grow past any clip."""
        return None

    def keeps(self) -> float:
        """As the codec: a prior that gives feedback no credit until it is measured."""
        return self.codec.keeps()


def _as_bytes(values: Tensor) -> Tensor:
    return values.view(values[:0].byte().dtype)


def _from_bytes(packed: Tensor, dtype: torch.dtype) -> Tensor:
    # A packet cut out of a larger buffer may start at any byte; a copy starts at a whole value.
    return packed.clone().view(dtype)


def _check_size(packed: Tensor, num_bytes: int) -> None:
    if packed.numel() != num_bytes:
        raise TrainingError(
            f"expected a packet of {num_bytes} bytes, found {packed.numel()}; "
            "members must share one layout and one sentence"
        )


def _refuse_unless(finite: bool, codec: Codec) -> None:
    if not finite:
        raise TrainingError(
            f"expected finite values to pack with {codec}, found NaN, infinity or a value beyond "
            "float32; lower the learning rate, or leave this member out of the round"
        )
