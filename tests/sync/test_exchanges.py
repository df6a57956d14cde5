"""The meaning of a meeting, and its price."""

from __future__ import annotations

import pytest
import torch

from coterie.errors import JobError, StrategyError, TrainingError
from coterie.sync.exchanges import Payload, Reduce
from coterie.types import Message
from coterie.world import Link

DENSE, PACKED = Payload(900, summable=True), Payload(900, summable=False)
TRIANGLE = (Link("a", "b", 0.1, 300.0), Link("b", "c", 0.2, 100.0), Link("a", "c", 0.1, 200.0))


def messages(*weights: float) -> list[Message]:
    return [Message(f"m{i}", torch.full((2,), float(i)), w) for i, w in enumerate(weights)]


def test_reduce_weighs_by_samples() -> None:
    assert Reduce().meet(messages(1, 3))[0].tolist() == [0.75, 0.75]


def test_reduce_can_count_heads_instead() -> None:
    assert Reduce(weighted=False).meet(messages(1, 3))[0].tolist() == [0.5, 0.5]


def test_reduce_refuses_two_messages_of_one_member() -> None:
    twice = [Message("a", torch.ones(1), 1), Message("a", torch.zeros(1), 1)]
    with pytest.raises(TrainingError, match="several of a"):
        Reduce().meet(twice)


def test_reduce_refuses_an_empty_meeting() -> None:
    with pytest.raises(TrainingError, match="found none"):
        Reduce().meet([])


def test_reduce_refuses_what_is_no_switch() -> None:
    with pytest.raises(StrategyError, match=r"found Reduce\(1\)"):
        Reduce(1)  # type: ignore[arg-type]


def test_a_dense_vector_goes_round_a_ring_at_the_pace_of_the_slowest_link() -> None:
    assert Reduce().price(DENSE, 3, TRIANGLE) == pytest.approx(4 * 0.2 + 4 / 3 * 9)


def test_packets_are_gathered() -> None:
    assert Reduce().price(PACKED, 3, TRIANGLE) == pytest.approx(2 * (0.2 + 9))


@pytest.mark.parametrize("payload", [DENSE, PACKED])
def test_alone_a_meeting_is_free(payload: Payload) -> None:
    assert Reduce().price(payload, 1, ()) == 0.0


@pytest.mark.parametrize(("links", "found"), [((), "0 reached"), (TRIANGLE[:1], r"\(a, b\)")])
def test_a_member_without_a_link_has_no_price(links: tuple[Link, ...], found: str) -> None:
    with pytest.raises(JobError, match=found):
        Reduce().price(DENSE, 3, links)


def test_a_dead_link_has_no_price() -> None:
    with pytest.raises(JobError, match="between a and b"):
        Reduce().price(DENSE, 2, [Link("a", "b", 0.1, 0.0)])
