"""Each weighing against its paper, on losses made up by hand.

Legend of shape suffixes: M tasks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.errors import JobError
from coterie.tasks.weighing import (
    DWA,
    FAMO,
    WEIGHINGS,
    Conflict,
    Fixed,
    GradNorm,
    Moment,
    Random,
    Uncertainty,
    Weighing,
    balance_of,
)

NAMES = ("a", "b", "c")
LOSSES = torch.tensor([1.0, 2.0, 4.0])
UNKNOWN = torch.full((3,), torch.nan)


def moment(loss_M: Tensor = LOSSES, **known: Tensor) -> Moment:
    slope_M, change_M = known.get("slope_M", UNKNOWN), known.get("change_M", UNKNOWN)
    return Moment(NAMES, loss_M, lambda: slope_M, lambda: change_M)


def weigh(weighing: Weighing, *moments: Moment) -> Tensor:
    """λ at the last of some steps."""
    memory, found = weighing.memory(NAMES), None
    for each in moments:
        found, memory = weighing.weigh(memory, each)
    return torch.as_tensor(found)


SHARING = {name: kind for name, kind in WEIGHINGS.items() if name != "uncertainty"}


@pytest.mark.parametrize("kind", SHARING.values(), ids=SHARING)
@pytest.mark.parametrize("missing", [False, True])
def test_weights_are_shared_out_and_none_is_lost(kind: Any, missing: bool) -> None:
    loss_M = torch.tensor([1.0, torch.nan, 4.0]) if missing else LOSSES
    told = [moment(loss_M, slope_M=LOSSES, change_M=-loss_M) for _ in range(250)]
    weight_M = weigh(kind(), *told)
    assert weight_M.isfinite().all()
    assert (weight_M >= 0).all()
    assert float(weight_M.sum()) == pytest.approx(3, rel=1e-5)


def test_fixed_weights_are_not_rounded() -> None:
    weights, _ = Fixed({"b": 0.1}).weigh({}, moment())
    assert list(weights) == [1.0, 0.1, 1.0]


def test_uncertainty_settles_where_one_over_the_weight_is_twice_the_loss() -> None:
    """Of exp(−s)·L + s/2 the least is at exp(s) = 2L."""
    memory = Uncertainty().memory(NAMES)
    descent = torch.optim.SGD([memory["log_variance_M"]], lr=0.5)
    for _ in range(200):
        descent.zero_grad()
        weight_M, _ = Uncertainty().weigh(memory, moment())
        ((torch.as_tensor(weight_M) * LOSSES).sum() + Uncertainty().toll(memory)).backward()
        descent.step()
    weight_M, _ = Uncertainty().weigh(memory, moment())
    torch.testing.assert_close(1 / torch.as_tensor(weight_M), 2 * LOSSES)


def test_dwa_goes_by_the_ratio_of_two_windows() -> None:
    halved, same = torch.tensor([0.5, 2.0, 8.0]), LOSSES
    weighing = DWA(temperature=2.0, every=2)
    windows = [moment(same), moment(same), moment(halved), moment(halved)]
    assert torch.equal(weigh(weighing, *windows), torch.ones(3))
    expected_M = 3 * (torch.tensor([0.5, 1.0, 2.0]) / 2).softmax(0)
    torch.testing.assert_close(weigh(weighing, *windows, moment()), expected_M)


def test_gradnorm_makes_gradients_equally_long_and_helps_whoever_lags() -> None:
    slope_M = torch.tensor([1.0, 2.0, 4.0])
    even = [moment(slope_M=slope_M) for _ in range(3000)]  # no loss falls: none lags
    weight_M = weigh(GradNorm(rate=0.002), *even)
    length_M = weight_M * slope_M
    torch.testing.assert_close(length_M, length_M.mean().expand(3), rtol=0.05, atol=0)
    lagging = torch.tensor([0.1, 0.2, 4.0])
    told = [moment(slope_M=torch.ones(3)), *[moment(lagging, slope_M=torch.ones(3))] * 20]
    weight_M = weigh(GradNorm(), *told)
    assert float(weight_M[2]) > 1.5 > float(weight_M[0])


def test_famo_is_the_paper_s_update() -> None:
    change_M = torch.tensor([-0.3, -0.1, 0.2])
    found_M = weigh(FAMO(rate=0.5, decay=0.01), moment(), moment(change_M=change_M))
    logit_M = torch.zeros(3, requires_grad=True)
    (logit_M.softmax(0) @ -change_M).backward()  # δ = J·(log before − log after)
    assert logit_M.grad is not None
    share_M = (-0.5 * logit_M.grad).softmax(0)
    expected_M = share_M / LOSSES
    torch.testing.assert_close(found_M, 3 * expected_M / expected_M.sum())


def test_random_weights_are_drawn_from_the_member_s_own_numbers() -> None:
    torch.manual_seed(4)
    first_M = weigh(Random(), moment())
    assert not torch.equal(weigh(Random(), moment()), first_M)
    torch.manual_seed(4)
    assert torch.equal(weigh(Random(), moment()), first_M)


@pytest.mark.parametrize("said", [Conflict("mgda"), DWA(every=3)])
def test_a_balance_may_be_an_object(said: Any) -> None:
    assert balance_of(said) is said


def test_a_law_by_another_name_is_refused() -> None:
    with pytest.raises(JobError, match=r"expected a law of pcgrad, .* found 'krum'"):
        Conflict("krum")
