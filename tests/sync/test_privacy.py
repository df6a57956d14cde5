"""The Gaussian mechanism: how much noise, of what shape, and when it refuses.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import StrategyError
from coterie.sync.privacy import Noise
from coterie.types import Ctx, Layout

DELTA_N = torch.full((20_000,), 5.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_of_a_mean_is_that_of_one_member_over_their_number() -> None:
    assert Noise(2.0).scale(1.5) == 3.0
    assert Noise(2.0).scale(1.5, num_members=6) == 0.5


@pytest.mark.parametrize(("of_mean", "scale"), [(False, 3.0), (True, 0.75)])
def test_what_is_added_has_the_promised_deviation(of_mean: bool, scale: float) -> None:
    noise = Noise(1.5)
    memory = noise.remember(2.0, DELTA_N, of_mean=of_mean)
    out_N, after = noise.update(DELTA_N, memory, Ctx(num_members=4, generator=seeded()))
    added_N = (out_N - DELTA_N).double()
    assert abs(float(added_N.mean())) < 4 * scale / math.sqrt(20_000)
    assert abs(float(added_N.std()) / scale - 1) < 0.03
    within = [float((added_N.abs() < k * scale).double().mean()) for k in (1, 2)]
    assert within == pytest.approx([0.6827, 0.9545], abs=0.015)
    assert after is memory
    assert out_N.dtype == DELTA_N.dtype


def test_values_are_veiled_independently() -> None:
    added_N = Noise(1.0).add(torch.zeros(20_000), 1.0, seeded())
    assert abs(float((added_N[1:] * added_N[:-1]).mean())) < 0.03


def test_the_same_generator_gives_the_same_noise_once() -> None:
    generator = seeded(3)
    first_N = Noise(1.0).add(DELTA_N, 1.0, generator)
    assert torch.equal(first_N, Noise(1.0).add(DELTA_N, 1.0, seeded(3)))
    assert not torch.equal(first_N, Noise(1.0).add(DELTA_N, 1.0, generator))


def test_noise_comes_from_its_own_generator_alone() -> None:
    before = torch.get_rng_state()
    Noise(1.0).add(DELTA_N, 1.0, seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_added_to_a_new_vector() -> None:
    delta_N = torch.zeros(4)
    assert Noise(1.0).add(delta_N, 1.0, seeded()).abs().sum() > 0
    assert delta_N.tolist() == [0.0] * 4


def test_the_remembered_norm_is_not_rounded_down() -> None:
    like = torch.zeros(1, dtype=torch.float16)
    memory = Noise(1.0).remember(0.1, like, of_mean=True)
    assert isinstance(memory, torch.Tensor)
    assert memory.tolist() == [0.1, 1.0]


@pytest.mark.parametrize("norm", [None, 0.0, -1.0, math.inf, math.nan])
def test_without_a_bound_there_is_no_privacy(norm: float | None) -> None:
    with pytest.raises(StrategyError, match="bound on what a member brings"):
        Noise(1.0).remember(norm, DELTA_N, of_mean=True)
    with pytest.raises(StrategyError, match="bound on what a member brings"):
        Noise(1.0).scale(norm)


def test_a_mean_of_nobody_is_refused() -> None:
    with pytest.raises(StrategyError, match="at least one member"):
        Noise(1.0).scale(1.0, num_members=0)


def test_fresh_memory_holds_no_norm_and_is_refused() -> None:
    memory = Noise(1.0).init(Layout(("w",), ((2,),)), DELTA_N)
    with pytest.raises(StrategyError, match="remembered clip norm"):
        Noise(1.0).update(DELTA_N, memory, Ctx(generator=seeded()))


def test_noise_is_never_drawn_from_a_shared_generator() -> None:
    memory = Noise(1.0).remember(1.0, DELTA_N, of_mean=False)
    with pytest.raises(StrategyError, match="generator"):
        Noise(1.0).update(DELTA_N, memory, Ctx())


def test_noise_has_no_bound_and_stands_on_either_side() -> None:
    assert Noise(1.0).bound(1.0) is None
    assert Noise.stands == "either"


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.inf, math.nan, "1", True])
def test_a_multiplier_that_hides_nothing_is_refused(multiplier: object) -> None:
    with pytest.raises(StrategyError, match="multiplier above zero"):
        Noise(multiplier)  # type: ignore[arg-type]
