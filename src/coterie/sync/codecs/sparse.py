"""Codecs that send few of the values.

Legend of shape suffixes: N values of the delta, K of them that travel (of each chunk, where there
are C chunks of V values), G groups of them sent with one magnitude, W bits of a code, P bytes, B
blocks of a slab of R × B values: block b is its column b, for columns are the quicker to reduce.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie.errors import StrategyError, TrainingError
from coterie.sync.codecs.base import (
    PASS_NS,
    Codec,
    Sketch,
    as_bytes,
    check_size,
    from_bytes,
    refuse_unless,
)
from coterie.sync.codecs.bits import MAX_BITS, counted, open_bits, pack_bits
from coterie.sync.pieces import Memory, is_count, is_number
from coterie.sync.talk import Talk, Total

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Layout

WORD_BYTES = 4  # an int32 or a float32
BLOCK = 8  # values whose largest is looked at before they are
SLAB = 2**18  # values that stay in the cache while they are read again
SPREAD = 3  # maxima that set the threshold, for each value wanted
MAX_SIZE = 2**31  # places that an int32 can name
LOSS_PER_HALVING = 0.12  # prior; see `_sparse_keeps`


@dataclass(frozen=True, repr=False)
class TopK(Codec):
    """Send the share `density` of the values that is largest in magnitude, as exact float32.

    Aji & Heafield 2017, Sparse Communication; Stich et al. 2018, Sparsified SGD with Memory. A
    packet is int32 places, then their values: eight bytes for each value sent. Among equals the
    lower place travels. What stays behind is lost: wrap it in ErrorFeedback.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> codec, delta_N = TopK(0.5), torch.tensor([1.0, -3.0, 0.5, 2.0])
    >>> codec.decode(codec.encode(delta_N, Ctx()), delta_N, Ctx())
    tensor([ 0., -3.,  0.,  2.])
    """

    density: float = 0.01
    divisible: ClassVar[bool] = False
    pack_ns: ClassVar[float] = 2.2
    open_ns: ClassVar[float] = 1.9

    def __post_init__(self) -> None:
        _check_density(self.density, self)

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The packet of K places and K values."""
        size = delta_N.numel()
        if size > MAX_SIZE:
            raise TrainingError(
                f"expected at most {MAX_SIZE} values to pack with {self}, found {size}; "
                "use ChunkTopK, whose places are counted within a chunk"
            )
        values_N, num = delta_N.float(), _num_kept(self.density, size)
        packed = as_bytes(values_N[:0]).new_empty(self.packet_bytes(size))
        if num:
            peaks = _peaks(values_N)
            refuse_unless(all(math.isfinite(peak_B.amax()) for peak_B in peaks), self)
            where_K = _largest(values_N, peaks, num)
            packed[: WORD_BYTES * num] = as_bytes(where_K.int())
            packed[WORD_BYTES * num :] = as_bytes(values_N.index_select(0, where_K))
        return packed

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The values sent in their places, zeros elsewhere."""
        check_size(packed, self.packet_bytes(like_N.numel()))
        cut = packed.numel() // 2
        where_K = from_bytes(packed[:cut], like_N[:0].int().dtype).long()
        values_K = from_bytes(packed[cut:], like_N[:0].float().dtype)
        return _placed(values_K, where_K, like_N)

    def packet_bytes(self, size: int) -> int:
        """Eight bytes for each of the ⌈density · size⌉ values sent."""
        return 2 * WORD_BYTES * _num_kept(self.density, size)

    def keeps(self) -> float:
        """Prior: see `_sparse_keeps`."""
        return _sparse_keeps(self.density)


@dataclass(frozen=True, repr=False)
class ChunkTopK(Codec):
    """Send the `k` largest of each `chunk` values, by place, sign and rank: 0.26 bit a parameter.

    Sarfi et al. 2025, SparseLoCo, whose 2-bit values this replaces: places travel in the order of
    falling magnitude, so that rank costs nothing, and the ranks 1, 2, 3–4, 5–8, 9–16 … share the
    mean magnitude of each group, a float32. What stays behind is lost: wrap it in ErrorFeedback.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> codec, delta_N = ChunkTopK(4, 2), torch.tensor([1.0, -3.0, 0.5, 2.0, 0.1])
    >>> codec.decode(codec.encode(delta_N, Ctx()), delta_N, Ctx())
    tensor([ 0.0000, -3.0000,  0.0000,  2.0000,  0.1000])
    """

    chunk: int = 4096
    k: int = 64
    divisible: ClassVar[bool] = False
    pack_ns: ClassVar[float] = 7.8
    open_ns: ClassVar[float] = 4.3

    def __post_init__(self) -> None:
        if not (is_count(self.chunk) and is_count(self.k) and self.k <= self.chunk):
            raise StrategyError(
                f"expected at least one value kept of each chunk, and no more than it has, "
                f"found {self}; write for example ChunkTopK(4096, 64)"
            )
        if self._code_bits() > MAX_BITS:
            raise StrategyError(
                f"expected chunks of at most {1 << MAX_BITS - 1} values, found {self}; "
                "write for example ChunkTopK(4096, 64)"
            )

    def encode(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """One row of bytes for each chunk: G magnitudes, then K places with their signs."""
        values_N = delta_N.float()
        packed = as_bytes(values_N[:0]).new_empty(self.packet_bytes(values_N.numel()))
        start = 0
        for where, num_rows, num_kept in self._parts(values_N.numel()):
            rows_CP = self._pack(values_N[where].view(num_rows, -1), num_kept)
            packed[start : start + rows_CP.numel()] = rows_CP.flatten()
            start += rows_CP.numel()
        return packed

    def decode(self, packed: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The values sent, with the magnitude of their group, in their places; zeros elsewhere."""
        check_size(packed, self.packet_bytes(like_N.numel()))
        opened_N = like_N.new_zeros(like_N.shape)
        start = 0
        for where, num_rows, num_kept in self._parts(like_N.numel()):
            stop = start + num_rows * self._row_bytes(num_kept)
            rows_CP = packed[start:stop].view(num_rows, -1)
            opened_N[where] = self._open(rows_CP, num_kept, opened_N[where])
            start = stop
        return opened_N

    def packet_bytes(self, size: int) -> int:
        """For each chunk four bytes a group, then each place and sign in whole bytes together."""
        return sum(rows * self._row_bytes(kept) for _, rows, kept in self._parts(size))

    def keeps(self) -> float:
        """Prior: see `_sparse_keeps`."""
        return _sparse_keeps(self.k / self.chunk)

    def _parts(self, size: int) -> Iterator[tuple[slice, int, int]]:
        """The whole chunks, then the shorter last one: values, number of chunks, kept of each."""
        whole = size - size % self.chunk
        if whole:
            yield slice(0, whole), whole // self.chunk, self.k
        if whole < size:
            yield slice(whole, size), 1, min(self.k, size - whole)

    def _code_bits(self) -> int:
        return (self.chunk - 1).bit_length() + 1  # a place in the chunk, and a sign

    def _row_bytes(self, num_kept: int) -> int:
        groups = len(list(_groups(num_kept)))
        return WORD_BYTES * groups + -(-num_kept * self._code_bits() // 8)

    def _pack(self, values_CV: Tensor, num_kept: int) -> Tensor:
        """The rows of bytes of some chunks of one length."""
        found = values_CV.abs().topk(num_kept)  # sorted: the order of places says the ranks
        negative_CK = values_CV.gather(1, found.indices) < 0
        codes_CK = (found.indices * 2 + negative_CK).int()
        groups = list(_groups(num_kept))
        level_CG = values_CV.new_empty((len(values_CV), len(groups)))
        for i, group in enumerate(groups):
            level_CG[:, i] = found.values[:, group].double().mean(1)  # float32 sums overflow
        refuse_unless(bool(level_CG.isfinite().all()), self)
        codes_CP = pack_bits(codes_CK, self._code_bits())
        rows_CP = codes_CP.new_empty((len(values_CV), self._row_bytes(num_kept)))
        rows_CP[:, : WORD_BYTES * len(groups)] = as_bytes(level_CG)
        rows_CP[:, WORD_BYTES * len(groups) :] = codes_CP
        return rows_CP

    def _open(self, rows_CP: Tensor, num_kept: int, like_N: Tensor) -> Tensor:
        """The values of some chunks of one length, as a flat vector."""
        groups = list(_groups(num_kept))
        cut = WORD_BYTES * len(groups)
        level = from_bytes(rows_CP[:, :cut].flatten(), like_N[:0].float().dtype)
        level_CG = level.view(len(rows_CP), -1)
        codes_CK = open_bits(rows_CP[:, cut:], self._code_bits(), num_kept)
        values_CK = level_CG.new_empty(codes_CK.shape)
        for i, group in enumerate(groups):
            values_CK[:, group] = level_CG[:, i : i + 1]
        values_CK.mul_(1 - 2 * (codes_CK & 1))
        start_C = counted(codes_CK, len(rows_CP)) * self.chunk
        where_CK = (codes_CK >> 1) + start_C[:, None]
        return _placed(values_CK.flatten(), where_CK.flatten(), like_N)


@dataclass(frozen=True, repr=False)
class RandomK(Sketch):
    """Agree on a share `density` of the values, the same on all members: values alone travel.

    Stich et al. 2018, Sparsified SGD with Memory; no 1 / density, for what stays behind is meant
    for ErrorFeedback around it. Which values is drawn from the round: place i is (a·i + b) mod N,
    a step a without a factor in common with N, so that over the rounds each is as likely as any.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> piece, delta_N = RandomK(0.5), torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> values_K = piece.pick(delta_N, Ctx(round=3))
    >>> piece.scatter(values_K, delta_N, Ctx(round=3))
    tensor([1., 2., 0., 0.])
    """

    density: float = 0.01

    def __post_init__(self) -> None:
        _check_density(self.density, self)

    def talk(
        self, mine_N: Tensor, share: float, memory: Memory, layout: Layout, ctx: Ctx
    ) -> Talk[tuple[Tensor, Memory]]:
        """One `Total` of the values drawn; what was not drawn is agreed to be zero."""
        _refuse_broken(mine_N, self)
        values_K = yield Total(self.pick(mine_N, ctx) * share)
        return self.scatter(values_K, mine_N, ctx), memory

    def pick(self, delta_N: Tensor, ctx: Ctx) -> Tensor:
        """The values of this round, of shape (K,), as a new vector."""
        return delta_N.index_select(0, self._where(delta_N, ctx))

    def scatter(self, values_K: Tensor, like_N: Tensor, ctx: Ctx) -> Tensor:
        """The values of this round in their places, zeros elsewhere, as a new vector."""
        return _placed(values_K, self._where(like_N, ctx), like_N)

    def num_bytes(self, layout: Layout) -> int:
        """Four bytes for each of the ⌈density · N⌉ values, of float32 parameters."""
        return WORD_BYTES * _num_kept(self.density, layout.size)

    def takes_ns(self) -> tuple[float, float]:
        """Few values are looked at; those in between are set to zero."""
        return self.density * PASS_NS, PASS_NS

    def keeps(self) -> float:
        """Prior: chance finds less of a delta than size does; as if it were half as dense."""
        return _sparse_keeps(self.density / 2)

    def _where(self, like_N: Tensor, ctx: Ctx) -> Tensor:
        size = like_N.numel()
        num = _num_kept(self.density, size)
        step, start = _draw(size, num, ctx.round)
        return counted(like_N[:0].long(), num).mul_(step).add_(start).remainder_(max(1, size))


def _check_density(density: object, piece: Codec | Sketch) -> None:
    if not (is_number(density) and 0 < density <= 1):  # type: ignore[operator]
        raise StrategyError(
            f"expected a density above 0 and at most 1, found {piece}; "
            f"write for example {type(piece).__name__}(0.01)"
        )


def _sparse_keeps(density: float) -> float:
    """1 / (1 + 0.12·log2(1/density)): a prior until progress is measured.

    With feedback 0.1 % of the values were found to lose nothing in long runs (Lin et al. 2018,
    Deep Gradient Compression). In runs of 100 to 400 steps 1.6 % took 1.2 to 2.1 times the steps of
    the same walks whole (docs/deciding.md, benchmarks/sync.md).
    """
    return 1 / (1 + LOSS_PER_HALVING * math.log2(1 / density))


def _num_kept(density: float, size: int) -> int:
    """⌈density · size⌉, at least one of any; the product's last bits do not count."""
    return min(size, max(1, math.ceil(round(density * size, 6))))


def _draw(size: int, num: int, round_: int) -> tuple[int, int]:
    """The step and start of a round, the same on every machine and in every version of Python."""
    digest = hashlib.sha256(f"{size} {round_}".encode()).digest()
    # num · step must fit into an int64.
    step = 1 + int.from_bytes(digest[:16], "big") % max(1, min(size, 2**62 // max(1, num)))
    while math.gcd(step, size) > 1:
        step -= 1  # ends at one
    return step, int.from_bytes(digest[16:], "big") % max(1, size)


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    """Flat vectors end to end, as a new vector of the dtype of `like`."""
    joined = like.new_empty(sum(part.numel() for part in parts))
    start = 0
    for part in parts:
        joined[start : start + part.numel()] = part
        start += part.numel()
    return joined


def _placed(values_K: Tensor, where_K: Tensor, like_N: Tensor) -> Tensor:
    """A new vector with these values in these places and zeros elsewhere."""
    if where_K.numel() and not 0 <= int(where_K.amin()) <= int(where_K.amax()) < like_N.numel():
        raise TrainingError(
            f"expected places below {like_N.numel()} in a packet, found {int(where_K.amin())} to "
            f"{int(where_K.amax())}; members must share one layout and one sentence"
        )
    return like_N.new_zeros(like_N.shape).index_copy_(0, where_K, values_K.to(like_N))


def _refuse_broken(mine_N: Tensor, piece: Sketch) -> None:
    """Raise TrainingError for a delta that holds NaN or infinity."""
    if mine_N.numel() and not all(math.isfinite(end) for end in mine_N.aminmax()):
        raise TrainingError(
            f"expected finite values to sum with {piece}, found NaN or infinity; "
            "lower the learning rate, or leave this member out of the round"
        )


def _groups(num: int) -> Iterator[slice]:
    """Ranks that share a magnitude: 1, 2, 3–4, 5–8, 9–16 … up to `num`."""
    start, stop = 0, 1
    while start < num:
        yield slice(start, min(stop, num))
        start, stop = stop, 2 * stop


def _slabs(values_N: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The vector in slabs (R, B) that fit the cache, each with its first place."""
    size = values_N.numel()
    step = SLAB if values_N.device.type == "cpu" else max(BLOCK, size - size % BLOCK)
    even = size - size % BLOCK
    for start in range(0, even, step):
        yield start, values_N[start : min(start + step, even)].view(BLOCK, -1)
    if even < size:
        yield even, values_N[even:].view(1, -1)


def _peaks(values_N: Tensor) -> list[Tensor]:
    """The largest magnitude of each block, slab by slab; NaN where a block holds one."""
    # Two plain reductions read the slab twice, and still beat one that writes magnitudes down.
    return [slab_RB.amax(0).maximum(slab_RB.amin(0).neg_()) for _, slab_RB in _slabs(values_N)]


def _largest(values_N: Tensor, peaks: list[Tensor], num: int) -> Tensor:
    """The places of the `num` largest magnitudes, of shape (K,); lower ones first among equals."""
    floor = _floor(_joined(peaks, values_N), num)
    where = _above(values_N, peaks, floor)
    if where.numel() < num:  # at least `num` reach the floor: the rest are equal to it
        return _joined([where, _equal(values_N, floor, num - where.numel())], where)
    magnitude = values_N.index_select(0, where).abs_()
    least = magnitude.kthvalue(where.numel() - num + 1).values
    larger = where[magnitude > least]
    return _joined([larger, where[magnitude == least][: num - larger.numel()]], where)


def _floor(peak_B: Tensor, num: int) -> Tensor:
    """A magnitude that at least `num` values reach, near the largest there is.

    The `num`-th largest of some maxima of separate groups of values is one: no sample can mislead
    it. Folding maxima onto each other makes few of many, for few are quick to put in order.
    """
    if peak_B.numel() < num:
        return peak_B.new_zeros(()) - 1  # fewer blocks than values wanted: all are candidates
    fold = max(1, peak_B.numel() // (SPREAD * num))
    folded = peak_B[: peak_B.numel() // fold * fold].view(fold, -1).amax(0)
    return folded.kthvalue(folded.numel() - num + 1).values


def _above(values_N: Tensor, peaks: list[Tensor], floor: Tensor) -> Tensor:
    """The places of magnitudes above the floor, in rising order."""
    found = [peaks[0][:0].long()]
    for (start, slab_RB), peak_B in zip(_slabs(values_N), peaks, strict=True):
        hot = (peak_B > floor).nonzero().flatten()
        row, nth = (slab_RB.index_select(1, hot).abs_() > floor).nonzero().unbind(1)
        found.append(hot.index_select(0, nth).add_(row, alpha=slab_RB.shape[1]).add_(start))
    return _joined(found, found[0])


def _equal(values_N: Tensor, floor: Tensor, num: int) -> Tensor:
    """The first `num` places whose magnitude is the floor, in rising order."""
    found = [values_N[:0].long()]
    for start, slab_RB in _slabs(values_N):
        missing = num - sum(part.numel() for part in found)
        if missing <= 0:
            break
        found.append((slab_RB.flatten().abs() == floor).nonzero().flatten()[:missing] + start)
    return _joined(found, found[0])
