"""Codes end to end in bytes: what is packed is what is opened, at every width."""

from __future__ import annotations

import pytest
import torch

from coterie.sync.codecs.bits import MAX_BITS, counted, open_bits, pack_bits


@pytest.mark.parametrize("width", range(1, MAX_BITS + 1))
@pytest.mark.parametrize("num", [1, 2, 7, 8, 33])
def test_what_is_packed_is_what_is_opened(width: int, num: int) -> None:
    chance = torch.Generator().manual_seed(width * 100 + num)
    codes_CK = torch.randint(1 << width, (3, num), generator=chance)
    codes_CK[0] = (1 << width) - 1  # all bits of a whole row
    packed_CP = pack_bits(codes_CK, width)
    assert packed_CP.shape == (3, -(-num * width // 8))
    assert torch.equal(open_bits(packed_CP, width, num), codes_CK)


def test_spare_bits_are_zero() -> None:
    assert pack_bits(torch.tensor([[7]]), 3).tolist() == [[7]]


def test_counting_begins_at_zero() -> None:
    assert counted(torch.zeros(0, dtype=torch.int64), 4).tolist() == [0, 1, 2, 3]
