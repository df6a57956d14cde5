"""What is offered: no walk longer than a data epoch, nothing twice, and nothing that cannot pay."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.candidates import LONGEST_WALK, candidates
from coterie.sync.reading import parse
from coterie.world import Device, Link, World


def world(num: int = 3, slowest: float = 1.0, slow_road: float = 1e9, **fields: int) -> World:
    """Alike devices on a mesh; the last one `slowest` times slower, behind a road of its own."""
    names = [f"d{i:02}" for i in range(num)]
    pace = dict.fromkeys(names, 0.001) | {names[-1]: 0.001 * slowest}
    links = tuple(
        Link(a, b, 1e-4, slow_road if b == names[-1] else 1e9)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    )
    devices = tuple(Device(name, 0.001, pace[name], 512) for name in names)
    return World(devices, links, **{"batch": 128, "num_train": 100_000, **fields})


def words(offered: World) -> str:
    return " ".join(map(repr, candidates(offered)))


@given(st.integers(1, 300), st.integers(1, 100_000))
def test_no_candidate_is_offered_twice_or_outlasts_a_data_epoch(batch: int, num: int) -> None:
    offered = candidates(World((), (), batch, num))
    assert len(set(offered)) == len(offered) <= 100
    assert max(s.every for s in offered) <= min(LONGEST_WALK, math.ceil(num / batch))


def test_walks_double_and_the_last_one_lasts_an_epoch() -> None:
    assert max(s.every for s in candidates(world(num_train=10**9))) == 512
    plain = [s for s in candidates(world(num_train=128 * 40)) if not s.overlap and s.pack is None]
    assert [s.every for s in plain] == [1, 2, 4, 8, 16, 32, 40]
    assert {s.every for s in candidates(world(num_train=100))} == {1}


@pytest.mark.parametrize(
    ("word", "where", "elsewhere"),
    [
        ("DyLU", world(slowest=8), world()),
        ("Pairs", world(num=16), world(num=8)),
        ("Islands", world(slow_road=1e7), world()),
    ],
)
def test_some_words_are_offered_only_where_they_may_pay(
    word: str, where: World, elsewhere: World
) -> None:
    assert word in words(where)
    assert word not in words(elsewhere)


def test_every_candidate_is_read_as_it_is_written_and_needs_no_server() -> None:
    for strategy in candidates(world(num=16, slowest=8, slow_road=1e7)):
        assert parse(repr(strategy)) == strategy
        assert strategy.exchange.road == "ring"
        assert not strategy.exchange.asynchronous
