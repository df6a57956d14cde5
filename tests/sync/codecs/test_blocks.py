"""Walking a vector in slabs, and packing codes in bits.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.sync.codecs import blocks
from coterie.sync.codecs.blocks import fold, peaks, slabs, unfold


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("num", [0, 1, 2, 3, 7, 8, 9, 64, 65])
def test_codes_come_out_as_they_were_folded(width: int, num: int) -> None:
    generator = torch.Generator().manual_seed(num)
    codes_N = torch.randint(2**width, (num,), dtype=torch.uint8, generator=generator)
    folded = fold(codes_N, width)
    assert folded.numel() == math.ceil(num * width / 8)
    assert torch.equal(unfold(folded, width, num), codes_N)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_folding_leaves_codes_alone_and_uses_every_bit(width: int) -> None:
    codes_N = torch.full((16,), 2**width - 1, dtype=torch.uint8)
    assert (fold(codes_N, width) == 255).all()
    assert (codes_N == 2**width - 1).all()


@pytest.mark.parametrize("num", [0, 1, 7, 100, 1000])
@pytest.mark.parametrize("block", [1, 3, 4, 5, 1000])
def test_slabs_cover_a_vector_in_whole_blocks_and_bytes(
    num: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "CPU_SLAB", 50)
    cuts = list(slabs(torch.zeros(num), block))
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(num))
    assert all(cut.start % block == 0 and cut.start % 8 == 0 for cut in cuts)
    assert all(cut.stop - cut.start <= max(50, math.lcm(block, 8)) for cut in cuts)


def test_a_peak_has_no_sign_and_hides_no_nan() -> None:
    found = peaks(torch.tensor([[1.0, -3.0], [math.nan, 2.0], [0.0, -math.inf], [-0.0, 0.0]]))
    assert found[[0, 2, 3]].tolist() == [3.0, math.inf, 0.0]
    assert found[1].isnan()
