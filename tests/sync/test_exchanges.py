"""The meaning of a meeting, and its price."""

from __future__ import annotations

import pytest
import torch

from coterie.errors import JobError, StrategyError, TrainingError
from coterie.sync.exchanges import Reduce
from coterie.sync.laws import Krum, Mean, Median
from coterie.sync.room import Payload
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


@pytest.mark.parametrize("law", [1, False, Median, "Median()"])
def test_reduce_refuses_what_is_no_law(law: object) -> None:
    with pytest.raises(StrategyError, match="expected a law of combining"):
        Reduce(law)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weighted": 1}, "weighted=True, False"),
        ({"weighted": "samples"}, "weighted=True, False"),
        ({"road": "sea"}, 'road="ring" or road="star"'),
        ({"quorum": 2}, "only on the star road"),
        ({"quorum": -1, "road": "star"}, "a quorum of some members"),
        ({"quorum": 1.0, "road": "star"}, "a quorum of some members"),
    ],
)
def test_reduce_refuses_what_it_cannot_mean(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        Reduce(**arguments)  # type: ignore[arg-type]


def test_reduce_needs_as_many_as_its_law_and_its_quorum() -> None:
    assert Reduce().least() == 1
    assert Reduce(Krum(2)).least() == 7
    assert Reduce(road="star", quorum=4).least() == 4


def test_a_mean_is_linear_and_as_long_as_its_rows_and_others_need_not_be() -> None:
    assert (Reduce(Mean()).linear, Reduce(Mean()).bound(2.0)) == (True, 2.0)
    assert (Reduce(Median()).linear, Reduce(Median()).bound(2.0)) == (False, None)


def test_who_brings_nothing_has_no_weight_however_weights_are_made() -> None:
    assert [Reduce().weigh(w) for w in (0.0, 0.5, 7.0)] == [0.0, 0.5, 7.0]
    assert [Reduce(weighted=False).weigh(w) for w in (0.0, 0.5, 7.0)] == [0.0, 1.0, 1.0]
    assert Reduce(weighted="score").weigh(0.25) == 0.25


def test_a_dense_vector_goes_round_a_ring_at_the_pace_of_the_slowest_link() -> None:
    assert Reduce().price(DENSE, 3, TRIANGLE) == pytest.approx(4 * 0.2 + 4 / 3 * 10)


def test_packets_are_gathered() -> None:
    assert Reduce().price(PACKED, 3, TRIANGLE) == pytest.approx(2 * (0.2 + 10))


def test_packets_that_can_be_cut_are_gathered_in_parts() -> None:
    cut = Payload(900, summable=False, divisible=True)
    assert Reduce().price(cut, 3, TRIANGLE) == Reduce().price(DENSE, 3, TRIANGLE)
    assert Reduce().price(cut, 2, TRIANGLE[:1]) == Reduce().price(PACKED, 2, TRIANGLE[:1])


def test_a_sketch_waits_for_each_of_its_sums() -> None:
    once, thrice = (Payload(900, summable=True, num_sums=num) for num in (1, 3))
    more_s = Reduce().price(thrice, 3, TRIANGLE) - Reduce().price(once, 3, TRIANGLE)
    assert more_s == pytest.approx(2 * 4 * 0.2)


@pytest.mark.parametrize(
    ("payload", "passes"),
    [(PACKED, (1, 5)), (Payload(900, False, True), (1.2, 2.2)), (DENSE, (1, 1))],
    ids=["gathered", "in parts", "summed"],
)
def test_all_packets_are_opened_or_of_parts_about_two(
    payload: Payload, passes: tuple[float, float]
) -> None:
    assert Reduce().passes(payload, 5) == pytest.approx(passes)
    assert Reduce().passes(payload, 1) == (0, 0)


def test_by_the_star_road_everything_goes_up_and_down_again() -> None:
    assert Reduce(road="star").price(DENSE, 3, TRIANGLE) == pytest.approx(2 * (0.2 + 9))


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
