"""Laws of what the fault benchmark makes of its measurements."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults_page import page, tails
from benchmarks.faults_sums import (
    absent_s,
    first_after,
    goodput,
    longest_gap_s,
    pause_s,
    recount,
    thrown_away,
    typical_s,
)
from coterie.watch.events import audit

gaps = st.lists(st.floats(0.01, 2.0), min_size=3, max_size=20)


@given(gaps, st.floats(0.0, 1.0), st.floats(0.0, 9.0))
def test_a_pause_is_what_a_fault_adds_to_a_step(steps: list[float], part: float, extra: float):
    step_s = 1.0
    before = [float(number) for number in range(len(steps))]
    fault_s = before[-1] + part * step_s
    after = [before[-1] + step_s + extra + number for number in range(5)]
    found = pause_s([*before, *after], fault_s, step_s)
    assert found == pytest.approx(extra if after[0] > fault_s else 0.0)


def test_a_step_that_ends_just_after_the_death_does_not_hide_the_pause() -> None:
    commits = [0.0, 1.0, 2.0, 3.0, 9.0, 10.0, 11.0]
    assert pause_s(commits, 2.99, 1.0) == 5.0


def test_a_pause_long_after_a_fault_is_not_its() -> None:
    commits = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 90.0]
    assert pause_s(commits, 2.5, 1.0) == 0.0


def test_who_never_goes_on_has_no_pause() -> None:
    assert pause_s([1.0, 2.0], 2.5, 1.0) is None
    assert first_after([1.0], 2.0) is None
    assert longest_gap_s([1.0], 0.0, 9.0) is None
    assert math.isnan(typical_s([1.0]))


spans = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=5)


@given(st.lists(st.tuples(st.integers(0, 2), spans), max_size=6), st.sets(st.integers(0, 2)))
def test_both_ways_to_count_samples_agree(
    told: list[tuple[int, list[tuple[int, int]]]], finished: set[int]
) -> None:
    events: list[dict[str, Any]] = [{"kind": "task", "num_train": 10}]
    for number, (epoch, leased) in enumerate(told):
        lease = [[start, min(10, start + size)] for start, size in leased]
        events.append(
            {"kind": "committed", "last_round": number, "data_epoch": epoch, "leases": {"a": lease}}
        )
    seen = {epoch for epoch, _ in told}
    events += [{"kind": "epoch", "data_epoch": epoch} for epoch in sorted(finished & seen)]
    books, own = audit(events), recount(events)
    assert own["lost"] == books.num_lost
    assert own["epochs"] == len(books.epochs)
    if books.num_repeated:
        assert own["repeated"] >= books.num_repeated


@given(st.lists(st.booleans(), max_size=30))
def test_each_step_that_was_computed_counts_or_was_in_vain(fates: list[bool]) -> None:
    steps = [0, *accumulate(int(fate) for fate in fates)]
    log = [{"step": step, "committed": fate} for step, fate in zip(steps, fates, strict=False)]
    assert thrown_away(log) == {"dropped": fates.count(False), "repeated": 0}


def test_back_to_a_checkpoint_every_step_since_is_repeated() -> None:
    log = [{"step": step, "committed": True} for step in [*range(30), *range(20, 40)]]
    assert thrown_away(log) == {"dropped": 0, "repeated": 10}


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), max_size=5))
def test_nobody_is_away_for_longer_than_one_looked(pairs: list[tuple[float, float]]) -> None:
    away = [(min(pair), max(pair)) for pair in pairs]
    assert 0.0 <= absent_s(away, 10.0, 20.0) <= 10.0 * len(away)


def test_goodput_is_whole_where_the_others_lose_nothing() -> None:
    assert goodput(90, 1.0, 90.0, 0.0, 3) == {"gross": 1.0, "capacity": 1.0, "net": 1.0}
    assert goodput(60, 1.0, 90.0, 1.0, 3)["net"] == pytest.approx(1.0)


def test_a_page_of_nothing_says_so() -> None:
    told = {"about": {"date": "d", "machine": "m", "versions": {}}, "measured": []}
    assert "Nothing in the figures." in page(told)
    assert tails([]) == "-"
