"""The gate: what it keeps never lowers held-out utility by more than it is told to bear."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coterie.knowledge import Attended, Gate, Moment, Open, Placed, Pupil
from tests.knowledge.conftest import Make

SCORES = st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4).map(torch.tensor)


def harm(pupil: Pupil, moment: Moment) -> Tensor:
    """A loss that is least where no class can be told from another."""
    return 50 * pupil.predictions(moment.inputs_B).square().mean()


def nothing(pupil: Pupil, moment: Moment) -> Tensor:
    return moment.features_BD.sum() * 0


@given(SCORES, SCORES)
def test_without_tolerance_nothing_that_is_kept_lowers_utility(
    before: Tensor, after: Tensor
) -> None:
    verdict = Gate(tolerance=0.0).judge(before, after)
    assert verdict.kept == (float((after.double() - before.double()).mean()) >= 0)


@given(SCORES, SCORES, st.floats(0, 3))
def test_it_may_fall_by_so_many_standard_errors(
    before: Tensor, after: Tensor, tolerance: float
) -> None:
    verdict = Gate(tolerance).judge(before, after)
    gained = (after.double() - before.double()).tolist()
    mean = math.fsum(gained) / 4
    spread = math.sqrt(math.fsum((g - mean) ** 2 for g in gained) / 3)
    assert verdict.error == pytest.approx(spread / 2, abs=1e-9)
    if abs(mean + tolerance * spread / 2) > 1e-6:
        assert verdict.kept == (mean > -tolerance * spread / 2)


def test_what_is_not_finite_or_cannot_be_judged_is_refused() -> None:
    ones = torch.ones(2)
    assert "finite" in Gate().judge(ones, torch.tensor([1.0, math.nan])).refusal
    assert "no held-out sample" in Gate().judge(torch.ones(0), torch.ones(0)).refusal
    assert not Open().judge(ones, torch.tensor([1.0, math.inf])).kept


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_a_worse_place_is_left_and_a_better_one_kept(make: Make, tolerance: float) -> None:
    ann, gate = make("ann", 30), Gate(tolerance)
    here, before = ann.vector(), ann.held_out().mean()
    worse = gate.keep(ann, Placed(-here))
    assert not worse.kept
    assert worse.gain < 0
    assert torch.equal(ann.vector(), here)
    ann.place(-here)
    assert gate.keep(ann, Placed(here)).kept
    assert ann.held_out().mean() == before


def test_a_loss_that_does_harm_is_tried_and_dropped_and_the_walk_is_kept(make: Make) -> None:
    ann, alone = make("ann", 20), make("ann", 20)
    verdict = Gate().keep(ann, Attended("harm", harm, shows_after=10))
    for _ in range(10):
        alone.step()
    assert not verdict.kept
    assert torch.equal(ann.vector(), alone.vector())
    for pupil in (ann, alone):
        pupil.step()
    assert torch.equal(ann.vector(), alone.vector())


def test_a_loss_that_is_nothing_gains_nothing_and_is_kept(make: Make) -> None:
    ann = make("ann", 5)
    verdict = Gate(tolerance=0.0).keep(ann, Attended("nothing", nothing, shows_after=3))
    assert (verdict.gain, verdict.error, verdict.kept) == (0.0, 0.0, True)
    assert ann.num_steps == 8


def test_a_loss_that_breaks_the_pupil_is_refused(make: Make) -> None:
    def broken(pupil: Pupil, moment: Moment) -> Tensor:
        return moment.features_BD.sum() * math.nan

    ann = make("ann", 5)
    assert "finite loss" in Gate().keep(ann, Attended("broken", broken)).refusal
    assert math.isfinite(ann.step())


def test_an_open_gate_keeps_what_a_gate_refuses(make: Make) -> None:
    ann: Any = make("ann", 30)
    there = -ann.vector()
    assert Open().keep(ann, Placed(there)).kept
    assert torch.equal(ann.vector(), there)
