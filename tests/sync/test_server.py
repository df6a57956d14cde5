"""The asynchronous exchange."""

from __future__ import annotations

import pytest
import torch

from coterie.errors import StrategyError, TrainingError
from coterie.sync.room import Payload, Room
from coterie.sync.server import Push
from coterie.types import Ctx, Message
from coterie.world import Link


def test_deltas_are_applied_as_they_came() -> None:
    messages = [Message(name, torch.tensor([float(i)]), 1.0) for i, name in enumerate("ba")]
    assert [row.tolist() for row in Push().meet(messages)] == [[0.0], [1.0]]


def test_members_do_not_meet_one_another() -> None:
    room = Room("a", ("a",), {"a": 1.0}, torch.zeros(1), None, Ctx())
    with pytest.raises(TrainingError, match="found a meeting"):
        next(Push().talk(Message("a", torch.zeros(1), 1.0), None, room))


def test_a_push_goes_up_and_down_however_many_there_are() -> None:
    links = [Link("a", "b", 0.5, 100.0), Link("b", "c", 0.25, 200.0)]
    prices = [Push().price(Payload(100, summable=True), num, links) for num in (2, 3)]
    assert prices == [2 * (0.5 + 1.0)] * 2
    assert Push().price(Payload(100, summable=True), 1, []) == 0.0


@pytest.mark.parametrize("staleness", [0, -1, 2.0, True, None])
def test_a_bound_that_cannot_be_is_refused(staleness: object) -> None:
    with pytest.raises(StrategyError, match="at least one update"):
        Push(max_staleness=staleness)  # type: ignore[arg-type]
