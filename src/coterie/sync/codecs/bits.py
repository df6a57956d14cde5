"""Codes of any width, end to end in bytes.

Legend of shape suffixes: C rows, K codes of each, P bytes of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WORD_BYTES = 4  # that a code may be spread over
MAX_BITS = 25  # that fit into them wherever they begin


def counted(like: Tensor, num: int) -> Tensor:
    """0, 1, … num − 1, of the dtype of `like`, which counts in whole numbers."""
    return like.new_ones(num).cumsum(0).sub_(1).to(like)


def pack_bits(codes_CK: Tensor, width: int) -> Tensor:
    """Codes of `width` bits, lowest first, end to end in (C, P) bytes; spare bits are zero.

    >>> import torch
    >>> pack_bits(torch.tensor([[1, 2, 3]]), width=4)
    tensor([[33,  3]], dtype=torch.uint8)
    """
    num = codes_CK.shape[1]
    first_K, shift_K = _places_of(codes_CK, width, num)
    moved_CK = codes_CK.long() << shift_K
    packed_CP = moved_CK.new_zeros((len(codes_CK), -(-num * width // 8) + WORD_BYTES))
    for byte in range(WORD_BYTES):  # no two codes share a bit: to add is to lay beside
        part_CK = moved_CK >> 8 * byte & 255
        packed_CP.scatter_add_(1, (first_K + byte).expand_as(part_CK), part_CK)
    return packed_CP[:, :-WORD_BYTES].byte()


def open_bits(packed_CP: Tensor, width: int, num: int) -> Tensor:
    """The (C, K) codes packed by `pack_bits`, as int64.

    >>> import torch
    >>> open_bits(torch.tensor([[33, 3]], dtype=torch.uint8), width=4, num=3)
    tensor([[1, 2, 3]])
    """
    rows, num_bytes = packed_CP.shape
    longer_CP = packed_CP[:0].long().new_zeros((rows, num_bytes + WORD_BYTES))
    longer_CP[:, :num_bytes] = packed_CP
    first_K, shift_K = _places_of(longer_CP, width, num)
    words_CK = longer_CP.index_select(1, first_K)
    for byte in range(1, WORD_BYTES):
        words_CK += longer_CP.index_select(1, first_K + byte) << 8 * byte
    return (words_CK >> shift_K) & ((1 << width) - 1)


def _places_of(like: Tensor, width: int, num: int) -> tuple[Tensor, Tensor]:
    """The byte that each code begins in, and by how many bits it is shifted there."""
    bit_K = counted(like.long(), num) * width
    return bit_K >> 3, bit_K & 7
