"""Laws that every exchange obeys: a new one joins EXCHANGES and inherits them.

Legend of shape suffixes: N values of the delta, M members.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import TrainingError
from coterie.sync.exchanges import Exchange, Payload, Reduce
from coterie.types import Message
from coterie.world import Link

EXCHANGES: list[Exchange] = [Reduce(), Reduce(weighted=False)]
WEIGHTED: list[Exchange] = [Reduce()]  # those that read the weights
NAMES = ("ann", "bob", "cy", "dee")
ROWS_MN = torch.randn(4, 33, generator=torch.Generator().manual_seed(0))
WEIGHTS = (7.0, 1.0, 3.0, 0.1)
MESSAGES = [Message(*m) for m in zip(NAMES, ROWS_MN, WEIGHTS, strict=True)]

every_exchange = pytest.mark.parametrize("exchange", EXCHANGES, ids=repr)
every_weighted = pytest.mark.parametrize("exchange", WEIGHTED, ids=repr)


def heard(exchange: Exchange, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
    met = exchange.meet(messages)
    return {message.member: row_N for message, row_N in zip(messages, met, strict=True)}


@every_exchange
def test_order_of_arrival_changes_no_bit(exchange: Exchange) -> None:
    expected = heard(exchange, MESSAGES)
    for arrived in itertools.permutations(MESSAGES):
        found = heard(exchange, arrived)
        assert all(torch.equal(found[name], expected[name]) for name in NAMES)


@every_exchange
def test_names_change_nothing_but_rounding(exchange: Exchange) -> None:
    renamed = [
        dataclasses.replace(message, member=name)
        for message, name in zip(MESSAGES, reversed(NAMES), strict=True)
    ]
    found, expected = exchange.meet(renamed), exchange.meet(MESSAGES)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


@every_exchange
def test_mass_is_kept(exchange: Exchange) -> None:
    same = [dataclasses.replace(message, payload=ROWS_MN[0]) for message in MESSAGES]
    for row_N in exchange.meet(same):
        torch.testing.assert_close(row_N, ROWS_MN[0])


@every_exchange
@pytest.mark.parametrize("factor", [-2.0, 0.0, 1024.0])
def test_meeting_is_linear(exchange: Exchange, factor: float) -> None:
    scaled = [dataclasses.replace(m, payload=factor * m.payload) for m in MESSAGES]
    for found_N, row_N in zip(exchange.meet(scaled), exchange.meet(MESSAGES), strict=True):
        assert torch.equal(found_N, factor * row_N)


@every_exchange
@pytest.mark.parametrize("num", [1, 2, 4])
def test_everybody_goes_home_with_a_row(exchange: Exchange, num: int) -> None:
    assert len(exchange.meet(MESSAGES[:num])) == num


@every_exchange
def test_messages_are_not_written_to(exchange: Exchange) -> None:
    before_MN = ROWS_MN.clone()
    exchange.meet(MESSAGES)
    assert torch.equal(ROWS_MN, before_MN)


@every_exchange
def test_doubled_weights_change_nothing(exchange: Exchange) -> None:
    doubled = [dataclasses.replace(message, weight=2 * message.weight) for message in MESSAGES]
    for found_N, row_N in zip(exchange.meet(doubled), exchange.meet(MESSAGES), strict=True):
        assert torch.equal(found_N, row_N)


@every_weighted
def test_a_row_of_weight_zero_changes_nothing(exchange: Exchange) -> None:
    idle = Message("abe", torch.full((33,), 1e30), 0.0)
    assert torch.equal(exchange.meet([*MESSAGES, idle])[0], exchange.meet(MESSAGES)[0])


@every_weighted
@pytest.mark.parametrize("weight", [math.nan, -1.0, math.inf])
def test_a_weight_that_cannot_be_is_refused(exchange: Exchange, weight: float) -> None:
    broken = dataclasses.replace(MESSAGES[0], weight=weight)
    with pytest.raises(TrainingError, match="finite and at least zero"):
        exchange.meet([broken, *MESSAGES[1:]])


@every_weighted
def test_a_meeting_without_samples_is_refused(exchange: Exchange) -> None:
    with pytest.raises(TrainingError, match="only zeros"):
        exchange.meet([dataclasses.replace(message, weight=0.0) for message in MESSAGES])


sizes = st.integers(1, 10**10)
bandwidths = st.floats(1.0, 1e12)
latencies = st.floats(0.0, 10.0)
members = st.integers(1, 64)


def ring(num_members: int, latency_s: float, bytes_per_s: float) -> list[Link]:
    ends = zip(range(num_members), range(1, num_members), strict=False)
    return [Link(str(a), str(b), latency_s, bytes_per_s) for a, b in ends]


@every_exchange
@given(sizes, sizes, st.booleans(), members, latencies, bandwidths)
@settings(deadline=None)
def test_price_grows_with_bytes(
    exchange: Exchange,
    less: int,
    more: int,
    summable: bool,
    num_members: int,
    latency_s: float,
    bytes_per_s: float,
) -> None:
    less, more = sorted((less, more))
    links = ring(num_members, latency_s, bytes_per_s)
    low = exchange.price(Payload(less, summable), num_members, links)
    high = exchange.price(Payload(more, summable), num_members, links)
    assert 0 <= low <= high


@every_exchange
@given(sizes, st.booleans(), members, latencies, bandwidths, bandwidths)
@settings(deadline=None)
def test_price_falls_with_bandwidth(
    exchange: Exchange,
    num_bytes: int,
    summable: bool,
    num_members: int,
    latency_s: float,
    slow: float,
    fast: float,
) -> None:
    slow, fast = sorted((slow, fast))
    payload = Payload(num_bytes, summable)
    dear = exchange.price(payload, num_members, ring(num_members, latency_s, slow))
    cheap = exchange.price(payload, num_members, ring(num_members, latency_s, fast))
    assert cheap <= dear
    assert num_members == 1 or dear > 0
