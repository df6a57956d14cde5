"""Effects are values: a driver may compare, log and repeat them."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from coterie.agents import effects as do
from coterie.transport.messages import Beat


@pytest.mark.parametrize("kind", get_args(do.Effect), ids=lambda kind: kind.__name__)
def test_every_effect_is_frozen(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_a_life_is_driven_by_answering_what_it_yields() -> None:
    def life() -> do.Life[float]:
        began_s = yield do.Now()
        yield do.Tell(Beat())
        return float((yield do.Now()) - began_s)

    lived = life()
    assert next(lived) == do.Now()
    assert lived.send(3.0) == do.Tell(Beat())
    assert lived.send(None) == do.Now()
    with pytest.raises(StopIteration) as end:
        lived.send(5.0)
    assert end.value.value == 2.0
