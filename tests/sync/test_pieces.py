"""The pieces that work on a member's own delta.

Legend of shape suffixes: N values of the delta, K of them that a pattern selects.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import JobError, StrategyError
from coterie.sync.codecs import ErrorFeedback, Int8
from coterie.sync.pieces import Clip, Every, Only, is_count, is_number, norm_before
from coterie.types import Ctx, Layout

LAYOUT = Layout(("trunk.a", "head", "trunk.b"), ((2,), (3,), (1, 2)))


def clipped(norm: float, delta_N: torch.Tensor) -> torch.Tensor:
    return Clip(norm).update(delta_N, None, Ctx())[0]


def test_clip_scales_a_long_delta_down_to_its_norm() -> None:
    torch.testing.assert_close(clipped(1.0, torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]))


def test_clip_leaves_a_short_delta_as_it_is() -> None:
    delta_N = torch.tensor([0.3, -0.4])
    assert torch.equal(clipped(1.0, delta_N), delta_N)


def test_clip_keeps_the_direction_of_values_whose_squares_overflow() -> None:
    torch.testing.assert_close(clipped(5.0, torch.tensor([3e30, 4e30])), torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_clip_does_not_hide_a_broken_value(broken: float) -> None:
    assert clipped(1.0, torch.tensor([1.0, broken])).isnan().any()


def test_clip_bounds_the_unknown() -> None:
    assert (Clip(2.0).bound(None), Clip(2.0).bound(1.0), Clip(2.0).bound(9.0)) == (2.0, 1.0, 2.0)


def test_only_takes_the_selected_values_in_order() -> None:
    delta_N = torch.arange(7.0)
    piece = Only("trunk.*")
    shared_K, _ = piece.update(delta_N, piece.init(LAYOUT, delta_N), Ctx())
    assert shared_K.tolist() == [0, 1, 5, 6]
    assert piece.narrow(LAYOUT).size == shared_K.numel()


@pytest.mark.parametrize("method", ["init", "narrow"])
def test_only_refuses_a_pattern_that_trains_nobody(method: str) -> None:
    like = (torch.zeros(1),) if method == "init" else ()
    with pytest.raises(JobError, match=r"trunk\.a, head, trunk\.b"):
        getattr(Only("tronk.*"), method)(LAYOUT, *like)


def test_every_expects_less_of_longer_walks() -> None:
    kept = [Every(2**k).keeps() for k in range(10)]
    assert kept == sorted(kept, reverse=True)
    assert 0.6 < kept[-1] < kept[0] < 0.9
    assert Every(8, overlap=4).keeps() < Every(8, overlap=1).keeps() < Every(8).keeps()


@pytest.mark.parametrize("num_steps", [0, -3, 2.0, True, "8"])
def test_every_refuses_what_is_no_number_of_steps(num_steps: object) -> None:
    with pytest.raises(StrategyError, match="at least one"):
        Every(num_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [0, -1.0, math.inf, math.nan, True, "1"])
def test_clip_refuses_what_is_no_norm(norm: object) -> None:
    with pytest.raises(StrategyError, match="above zero"):
        Clip(norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["", 3, None])
def test_only_refuses_what_is_no_pattern(pattern: object) -> None:
    with pytest.raises(StrategyError, match="pattern"):
        Only(pattern)  # type: ignore[arg-type]


def test_numbers_and_counts_are_told_from_switches() -> None:
    assert is_number(1)
    assert is_number(0.5)
    assert is_count(1)
    assert not any(map(is_number, (True, "1", math.inf, None)))
    assert not any(map(is_count, (True, 1.0, 0, "1")))


def test_the_norm_before_noise_is_that_of_the_last_bound() -> None:
    assert norm_before([Clip(3.0), Clip(2.0)]) == 2.0
    assert norm_before([Clip(3.0), ErrorFeedback(Int8())]) is None
