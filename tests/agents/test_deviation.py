"""What a member tells of its own vector against the agreed one, and what its samples count for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.transport import messages as say

WALK = "chain(Every(2), Reduce(), Outer(1.0))"


def told(stage: Any, strategy: str, **given: Any) -> tuple[Any, list[tuple[float, ...]]]:
    """What a and b tell of the last round of a block after which they say where they stand."""
    group = stage.two()
    every = 2 if "Every" in strategy else 1
    group.tell(stage.block(1, 1, 16, strategy=strategy, every=every, digest=True, **given))
    reports = [group.of(name, say.Report)[-1].norms for name in "ab"]
    return group, [norms for norms in reports if norms is not None]


@pytest.mark.parametrize("strategy", ["chain(Reduce())", WALK])
def test_products_with_what_was_agreed_add_up_to_its_square(stage: Any, strategy: str) -> None:
    _, (a, b) = told(stage, strategy)
    assert a[1] == b[1]
    assert a[4] * a[2] + b[4] * b[2] == pytest.approx(a[1], rel=1e-5)
    assert a[4] + b[4] == pytest.approx(1.0)
    assert a[2] ** 2 <= a[0] * a[1] * (1 + 1e-6)
    assert (a[3], b[3]) == ((10.0, 6.0) if "Every" in strategy else (5.0, 3.0))


def test_where_everybody_goes_home_with_another_nothing_is_told(stage: Any) -> None:
    _, norms = told(stage, "chain(Every(2), Gossip('ring'), Outer(1.0))")
    assert norms == []


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "chain(Fp16(), Reduce())", WALK])
def test_samples_that_count_for_nothing_change_nothing(stage: Any, strategy: str) -> None:
    with_b, (a, b) = told(stage, strategy, trust={"b": 1e-9})
    other, _ = told(stage, strategy, trust={"a": 1e-9})
    usual, _ = told(stage, strategy)
    assert b[4] < 1e-8
    assert a[0] == pytest.approx(a[1], rel=1e-3)
    assert torch.equal(*with_b.vectors())
    assert not torch.equal(with_b.vectors()[0], usual.vectors()[0])
    assert not torch.allclose(with_b.vectors()[0], other.vectors()[0], atol=1e-6)
