"""What holds of four-bit codes alone; the laws of all dense codecs are in test_dense.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.sync.codecs.base import Codec
from coterie.sync.codecs.fourbit import E3M0, Int4, int4_levels, int4_step
from coterie.types import Ctx


def through(codec: Codec, delta_N: Tensor) -> Tensor:
    return codec.decode(codec.encode(delta_N, Ctx()), delta_N, Ctx())


def test_int4_keeps_its_own_levels_apart() -> None:
    delta_N = torch.arange(-7.0, 8.0)
    step = float(int4_step(torch.tensor([7.0])).bfloat16())
    assert torch.equal(through(Int4(), delta_N), step * delta_N)


def test_int4_levels_are_whole_and_symmetric() -> None:
    levels_N = int4_levels(torch.arange(1, 16, dtype=torch.uint8), torch.zeros(15))
    assert torch.equal(levels_N, -levels_N.flip(0))
    assert levels_N.tolist() == list(range(-7, 8))


@pytest.mark.parametrize("peak", [1.0, 7.0, 1.99609375, 1.9999, 3.3e38, 1e-30])
def test_the_step_that_travels_is_never_rounded_down(peak: float) -> None:
    assert 7 * float(int4_step(torch.tensor([peak])).bfloat16()) >= peak * (1 - 1e-6)


def test_e3m0_knows_seven_powers_of_two_their_opposites_and_zero() -> None:
    powers_N = 2.0 ** torch.arange(-6.0, 1.0)
    delta_N = torch.cat([powers_N, -powers_N, torch.zeros(1)])
    assert torch.equal(through(E3M0(), delta_N), delta_N)


def test_e3m0_takes_the_nearest_power() -> None:
    delta_N = torch.tensor([1.0, 0.76, 0.74, -0.38, -0.37, 0.012, 0.0115])
    opened_N = through(E3M0(), delta_N)
    assert opened_N.tolist() == [1.0, 1.0, 0.5, -0.5, -0.25, 2**-6, 0.0]


def test_e3m0_moves_a_value_by_a_third_of_itself_at_most() -> None:
    delta_N = torch.cat([torch.ones(1), torch.logspace(-6, 0, 1000, base=2.0)])
    moved_N = ((through(E3M0(block=1001), delta_N) - delta_N) / delta_N).abs()
    assert 0.3 < moved_N.max() <= 1 / 3 + 1e-3


def test_small_values_fare_better_as_powers_and_large_ones_as_steps() -> None:
    small_N, large_N = torch.full((64,), 0.03), torch.full((64,), 0.7)
    small_N[0] = large_N[0] = 1.0
    for delta_N, better, worse in ((small_N, E3M0(), Int4()), (large_N, Int4(), E3M0())):
        good, bad = ((through(c, delta_N) - delta_N).norm() for c in (better, worse))
        assert good < bad


@pytest.mark.parametrize("codec", [Int4(), E3M0()], ids=repr)
def test_a_value_costs_four_bits_and_a_quarter(codec: Codec) -> None:
    assert codec.packet_bytes(64_000) * 8 / 64_000 == 4.25
