"""What holds of signs alone; the laws of all dense codecs are in test_dense.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.sync.codecs.sign import Sign
from coterie.types import Ctx


def through(codec: Sign, delta_N: Tensor) -> Tensor:
    return codec.decode(codec.encode(delta_N, Ctx()), delta_N, Ctx())


def random(num: int) -> Tensor:
    return torch.randn(num, generator=torch.Generator().manual_seed(num))


@pytest.mark.parametrize("num", [1, 7, 8, 9, 16, 24, 61])
def test_a_value_is_its_sign_times_the_mean_of_its_block(num: int) -> None:
    delta_N = random(num)
    means = [part.abs().mean().expand(part.shape) for part in delta_N.split(8)]
    wanted_N = delta_N.sign() * torch.cat(means)
    torch.testing.assert_close(through(Sign(block=8), delta_N), wanted_N)


def test_the_last_block_is_averaged_over_its_own_values() -> None:
    assert through(Sign(block=4), torch.tensor([1.0, 1.0, 1.0, 1.0, -6.0])).tolist()[-1] == -6.0


def test_a_block_of_zeros_beside_another_stays_zero() -> None:
    opened_N = through(Sign(block=4), torch.tensor([0.0] * 4 + [1.0] * 4))
    assert opened_N.tolist() == [0.0] * 4 + [1.0] * 4


def test_signs_alone_do_not_make_a_vector_longer() -> None:
    for num in range(1, 100):
        assert through(Sign(block=8), random(num)).norm() <= random(num).norm() * (1 + 1e-5)


def test_the_error_is_smaller_than_the_delta() -> None:
    for num in range(2, 100):  # what Karimireddy et al. ask of a codec under error feedback
        delta_N = random(num)
        error_N = through(Sign(block=32), delta_N) - delta_N
        assert error_N.norm() < delta_N.norm()


def test_a_sum_that_overflows_has_a_mean_that_does_not() -> None:
    assert through(Sign(), torch.full((2000,), -1e38)).allclose(torch.full((2000,), -1e38))


def test_a_value_costs_little_more_than_a_bit() -> None:
    assert Sign().packet_bytes(1024_000) * 8 / 1024_000 == 1 + 32 / 1024
