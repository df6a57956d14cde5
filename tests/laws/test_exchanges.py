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
from coterie.sync.exchanges import Exchange, Reduce
from coterie.sync.gossip import GRAPHS, Gossip, Neighbourly, Pairs
from coterie.sync.laws import CentredClip, Kin, Krum, Law, Mean, Median, MultiKrum, TrimmedMean
from coterie.sync.recipes import WORDS
from coterie.sync.room import Payload
from coterie.sync.server import Push
from coterie.types import Message
from coterie.world import Link

LAWS: list[Law] = [
    Mean(),
    Median(),
    TrimmedMean(0),
    TrimmedMean(),
    TrimmedMean(2),
    Krum(0),
    Krum(),
    MultiKrum(),
    MultiKrum(0, keep=2),
    CentredClip(),
    CentredClip(0.5, num_steps=1),
    Kin(),
]
REDUCES = [
    *map(Reduce, LAWS),
    Reduce(weighted=False),
    Reduce(Median(), weighted=False),
    Reduce(weighted="score"),
    Reduce(road="star", quorum=2),
]
NEIGHBOURLY: list[Exchange] = [*map(Gossip, GRAPHS), Pairs(), Pairs(0.25)]
EXCHANGES: list[Exchange] = [*REDUCES, *NEIGHBOURLY, Push()]
LINEAR = [each for each in EXCHANGES if each.linear]
WEIGHTED = [each for each in REDUCES if each.weighted]  # those that read the weights
NAMES = ("ann", "bob", "cy", "dee", "eva")
ROWS_MN = torch.randn(5, 34, generator=torch.Generator().manual_seed(0))
WEIGHTS = (7.0, 1.0, 3.0, 0.1, 2.0)
MESSAGES = [Message(*m) for m in zip(NAMES, ROWS_MN, WEIGHTS, strict=True)]

every_exchange = pytest.mark.parametrize("exchange", EXCHANGES, ids=repr)
every_weighted = pytest.mark.parametrize("exchange", WEIGHTED, ids=repr)


def heard(exchange: Exchange, messages: Sequence[Message]) -> dict[str, torch.Tensor]:
    met = exchange.meet(messages)
    return {message.member: row_N for message, row_N in zip(messages, met, strict=True)}


def test_every_exchange_and_law_of_the_language_is_under_the_laws() -> None:
    words = [word for word in WORDS.values() if isinstance(word, type)]
    assert {w for w in words if issubclass(w, Exchange)} == set(map(type, EXCHANGES))
    assert {w for w in words if issubclass(w, Law)} == set(map(type, LAWS))


@every_exchange
def test_order_of_arrival_changes_no_bit(exchange: Exchange) -> None:
    expected = heard(exchange, MESSAGES)
    for arrived in itertools.islice(itertools.permutations(MESSAGES), 0, None, 7):
        found = heard(exchange, arrived)
        assert all(torch.equal(found[name], expected[name]) for name in NAMES)


@pytest.mark.parametrize("exchange", REDUCES, ids=repr)
def test_names_change_nothing_but_rounding(exchange: Exchange) -> None:
    renamed = [
        dataclasses.replace(message, member=name)
        for message, name in zip(MESSAGES, reversed(NAMES), strict=True)
    ]
    found, expected = exchange.meet(renamed), exchange.meet(MESSAGES)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize("exchange", [e for e in EXCHANGES if not isinstance(e, Pairs)], ids=repr)
def test_mass_is_kept_where_all_bring_the_same(exchange: Exchange) -> None:
    same = [dataclasses.replace(message, payload=ROWS_MN[0]) for message in MESSAGES]
    for row_N in exchange.meet(same):
        torch.testing.assert_close(row_N, ROWS_MN[0])


@pytest.mark.parametrize("exchange", NEIGHBOURLY, ids=repr)
@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_the_mean_over_members_stays_where_it_is(
    exchange: Neighbourly, num: int, number: int
) -> None:
    mixed_MN = torch.stack(exchange.meet_in(MESSAGES[:num], number))
    brought_N = ROWS_MN[:num].mean(0)
    wanted_N = brought_N[:17] if isinstance(exchange, Pairs) else brought_N
    torch.testing.assert_close(mixed_MN.mean(0), wanted_N, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exchange", [Pairs(), Pairs(1.0)], ids=repr)
def test_pairs_that_hold_the_same_keep_their_delta(exchange: Exchange) -> None:
    same = [dataclasses.replace(message, payload=ROWS_MN[0]) for message in MESSAGES]
    for row_N in exchange.meet(same):
        torch.testing.assert_close(row_N, ROWS_MN[0][:17])


@pytest.mark.parametrize("exchange", LINEAR, ids=repr)
@pytest.mark.parametrize("factor", [-2.0, 0.0, 1024.0])
def test_meeting_is_linear_where_it_says_so(exchange: Exchange, factor: float) -> None:
    scaled = [dataclasses.replace(m, payload=factor * m.payload) for m in MESSAGES]
    for found_N, row_N in zip(exchange.meet(scaled), exchange.meet(MESSAGES), strict=True):
        assert torch.equal(found_N, factor * row_N)


@pytest.mark.parametrize("exchange", LINEAR, ids=repr)
def test_sums_go_through_where_it_is_linear(exchange: Exchange) -> None:
    other_MN = torch.randn(5, 34, generator=torch.Generator().manual_seed(1))
    others = [
        dataclasses.replace(message, payload=row_N)
        for message, row_N in zip(MESSAGES, other_MN, strict=True)
    ]
    both = [
        dataclasses.replace(message, payload=message.payload + row_N)
        for message, row_N in zip(MESSAGES, other_MN, strict=True)
    ]
    met = zip(exchange.meet(both), exchange.meet(MESSAGES), exchange.meet(others), strict=True)
    for both_N, one_N, other_N in met:
        torch.testing.assert_close(both_N, one_N + other_N, rtol=1e-5, atol=1e-5)


@every_exchange
@pytest.mark.parametrize("num", [1, 2, 4, 5])
def test_everybody_goes_home_with_a_row(exchange: Exchange, num: int) -> None:
    if num < exchange.least():
        return
    rows = exchange.meet(MESSAGES[:num])
    assert len(rows) == num
    assert len({row_N.shape for row_N in rows}) == 1


@every_exchange
def test_all_go_home_with_the_same_where_it_says_that_they_agree(exchange: Exchange) -> None:
    first_N, *others = exchange.meet(MESSAGES)
    if isinstance(exchange, Push):
        return  # each agrees with the server, alone
    if exchange == Gossip("complete"):
        return  # but for rounding: each begins its sum with itself
    assert all(torch.equal(first_N, other_N) for other_N in others) == exchange.agrees


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


@pytest.mark.parametrize("exchange", REDUCES, ids=repr)
@pytest.mark.parametrize("value", [1e30, math.nan, math.inf])
def test_a_row_of_weight_zero_changes_nothing(exchange: Exchange, value: float) -> None:
    idle = Message("abe", torch.full((34,), value), 0.0)
    assert torch.equal(exchange.meet([*MESSAGES, idle])[0], exchange.meet(MESSAGES)[0])


@every_weighted
@pytest.mark.parametrize("weight", [math.nan, -1.0, math.inf])
def test_a_weight_that_cannot_be_is_refused(exchange: Exchange, weight: float) -> None:
    broken = dataclasses.replace(MESSAGES[0], weight=weight)
    with pytest.raises(TrainingError, match="finite and at least zero"):
        exchange.meet([broken, *MESSAGES[1:]])


@every_weighted
def test_a_meeting_without_samples_is_refused(exchange: Exchange) -> None:
    with pytest.raises(TrainingError, match="at least one row"):
        exchange.meet([dataclasses.replace(message, weight=0.0) for message in MESSAGES])


@every_exchange
def test_two_messages_of_one_member_are_refused(exchange: Exchange) -> None:
    with pytest.raises(TrainingError, match="several of ann"):
        exchange.meet([*MESSAGES, MESSAGES[0]])


@pytest.mark.parametrize("exchange", [e for e in REDUCES if e.least() > 3], ids=repr)
def test_a_meeting_of_too_few_is_refused(exchange: Exchange) -> None:
    with pytest.raises(TrainingError, match=f"at least {exchange.least()} rows"):
        exchange.meet(MESSAGES[: exchange.least() - 1])


ROBUST = [Median(), TrimmedMean(1), TrimmedMean(2), Krum(1), MultiKrum(1), CentredClip()]


@pytest.mark.parametrize("law", ROBUST, ids=repr)
@pytest.mark.parametrize("liar", range(5))
@pytest.mark.parametrize("value", [1e6, -1e30])
def test_one_liar_of_five_cannot_take_a_robust_law_out_of_the_others_reach(
    law: Law, liar: int, value: float
) -> None:
    told = [
        dataclasses.replace(m, payload=torch.full((34,), value) if i == liar else m.payload)
        for i, m in enumerate(MESSAGES)
    ]
    honest_MN = torch.stack([row_N for i, row_N in enumerate(ROWS_MN) if i != liar])
    found_N = Reduce(law, weighted=False).meet(told)[0]
    slack = 6 * float(honest_MN.norm(dim=1).max()) if isinstance(law, CentredClip) else 0.0
    assert (found_N <= honest_MN.amax(0) + slack + 1e-6).all()
    assert (found_N >= honest_MN.amin(0) - slack - 1e-6).all()


@pytest.mark.parametrize("law", [Mean(), Kin()], ids=repr)
def test_one_liar_of_five_can_take_a_law_that_is_no_defence_anywhere(law: Law) -> None:
    lie = dataclasses.replace(MESSAGES[0], payload=1e6 * ROWS_MN[1])
    found_N = Reduce(law, weighted=False).meet([lie, *MESSAGES[1:]])[0]
    assert found_N.abs().max() > 1e3


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
