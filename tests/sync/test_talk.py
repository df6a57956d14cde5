"""What can be asked of a road."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from coterie.sync.talk import Ask, Gather, Shuffle, Swap, Total

ONE = torch.ones(1)


@pytest.mark.parametrize(
    "ask", [Total(ONE), Gather(ONE), Shuffle((ONE, ONE)), Swap("a", "b", ONE)], ids=repr
)
def test_an_ask_is_frozen(ask: Ask) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ask.vector_N = ONE  # type: ignore[misc,union-attr]


@pytest.mark.parametrize("ask", [Total(ONE), Gather(ONE), Shuffle((ONE,))], ids=repr)
def test_where_nobody_is_named_everybody_is_meant(ask: Total | Gather | Shuffle) -> None:
    assert ask.among == ()
