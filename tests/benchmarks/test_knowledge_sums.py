"""Laws of what the benchmark of sharing makes of its measurements."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.knowledge_claims import CLAIMS, Claim, claim_lines, shares_of_fusion
from benchmarks.knowledge_page import page
from benchmarks.knowledge_sums import (
    Curve,
    gain,
    largest_gap,
    pairs_right,
    same_groups,
    sooner,
    tuned,
    worst_gain,
)

parts = st.floats(0.0, 1.0)
looks = st.lists(st.tuples(parts, parts), min_size=1, max_size=8)


def curve(looks: list[tuple[float, ...]], pace_s: float = 1.0, num_bytes: int = 0) -> Curve:
    every = range(1, len(looks) + 1)
    return Curve(
        tuple(10 * i for i in every), tuple(pace_s * i for i in every), tuple(looks), num_bytes
    )


@given(looks, st.integers(0, 10**9))
def test_a_curve_is_read_as_it_was_written(told: list[tuple[float, ...]], num_bytes: int) -> None:
    before = curve(told, num_bytes=num_bytes)
    assert Curve.read(before.write()) == before


@given(looks)
def test_learners_gain_nothing_over_themselves_and_are_as_soon(
    told: list[tuple[float, ...]],
) -> None:
    one = curve(told)
    assert gain(one, one) == 0.0
    assert worst_gain(one, one) == 0.0
    assert sooner(one, one, 1.0) == sooner(one, one) == (1.0, 1.0)


@given(looks, looks)
def test_the_task_that_gained_least_gained_no_more_than_the_mean(
    told: list[tuple[float, ...]], other: list[tuple[float, ...]]
) -> None:
    assert worst_gain(curve(told), curve(other)) <= gain(curve(told), curve(other)) + 1e-6


@given(looks, looks)
def test_a_lower_level_is_never_reached_later(
    told: list[tuple[float, ...]], other: list[tuple[float, ...]]
) -> None:
    level = curve(other).best()
    whole, nearly = curve(told).first(level), curve(told).first(0.99 * level)
    assert whole is None or (nearly is not None and nearly <= whole)


def test_time_is_steps_and_what_they_cost() -> None:
    slow = curve([(0.1,), (0.2,), (0.4,), (0.4,)], pace_s=1.0)
    soon = curve([(0.4,), (0.6,)], pace_s=1.5)
    assert sooner(soon, slow, 1.0) == (pytest.approx(1 / 3), pytest.approx(0.5))
    assert sooner(slow, soon, 1.0) is None


def test_learners_alone_are_judged_by_the_best_of_their_rates() -> None:
    arms = {"alone": curve([(0.3,)]), "alone, fast": curve([(0.4,)]), "x": curve([(0.9,)])}
    assert tuned(arms).best() == 0.4


members = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=6, unique=True)


@given(members, st.data())
def test_groups_are_the_same_exactly_where_every_pair_is_right(
    names: list[str], data: st.DataObject
) -> None:
    def drawn() -> list[list[str]]:
        groups: dict[int, list[str]] = {}
        for name in names:
            groups.setdefault(data.draw(st.integers(0, 2)), []).append(name)
        return list(groups.values())

    one, other = drawn(), drawn()
    assert same_groups(one, other) == (pairs_right(one, other) == 1.0)


@given(st.lists(st.integers(0, 1), min_size=3, max_size=7).filter(lambda told: len({*told}) == 2))
def test_the_largest_gap_parts_who_is_near_from_who_is_far(camps: list[int]) -> None:
    names = [f"m{i}" for i in range(len(camps))]
    likeness = {
        a: {
            b: 0.8 + 0.01 * (i + j) if camps[i] == camps[j] else 0.01 * (i + j)
            for j, b in enumerate(names)
        }
        for i, a in enumerate(names)
    }
    true = [[n for n, camp in zip(names, camps, strict=True) if camp == which] for which in (0, 1)]
    assert same_groups(largest_gap(likeness), true)


def outcome(part: str, seed: int, **arms: Curve) -> dict[str, Any]:
    written = {name: each.write() for name, each in arms.items()}
    return {"part": part, "seed": seed, "load": 1.0, "curves": written}


def test_a_claim_holds_by_its_median_and_says_in_how_many_seeds() -> None:
    claim = Claim("points", "x", lambda each: each["value"], 6.0)
    told = [{"part": "x", "value": value} for value in (5.0, 7.0, 8.0)]
    assert claim.line([*told, {"part": "y", "value": 0.0}]) == (
        "| points | ≥ 6 | 7 (5, 8) | yes | 2 of 3 |"
    )
    assert claim.line([]) is None


def test_what_was_never_reached_is_no_success() -> None:
    claim = Claim("time", "x", lambda each: each["value"], 0.5, at_least=False)
    told = [{"part": "x", "value": value} for value in (None, None, 0.1)]
    assert claim.line(told) == "| time | ≤ 0.5 | 0.1 | **no** | 1 of 3 |"


def test_prototypes_are_measured_by_the_gain_and_the_bytes_of_fusion() -> None:
    alone = curve([(0.5,)])
    told = {
        "prototypes": curve([(0.55,)], num_bytes=10),
        "labels": curve([(0.52,)], num_bytes=50),
    }
    fusion = curve([(0.6,)], num_bytes=1000)
    found = [
        outcome("kin", 0, alone=alone, fusion=fusion, **told),
        outcome("widths", 0, alone=alone, **told),
    ]
    part = shares_of_fusion(found)["prototypes"][0]
    assert (part.gain, part.num_bytes) == (pytest.approx(0.5), 0.01)
    assert any("| ≥ 0.4 | 0.5 | yes |" in line for line in claim_lines(found))
    assert shares_of_fusion(found[1:]) == {}


def test_a_page_tells_only_of_what_was_measured() -> None:
    about = {"date": "d", "machine": "m", "python": "3", "versions": {}}
    assert "##" not in page({"about": about, "measured": []})
    alone, ours = curve([(0.4,) * 8]), curve([(0.5,) * 8])
    arms = {"alone": alone, "alone, fast": alone, "trunk": ours, "fusion": ours}
    told = page({"about": about, "measured": [outcome("alphabets", 0, **arms)]})
    assert told.count("\n## ") == 2
    assert "| yes |" in told


def test_no_two_claims_are_called_alike() -> None:
    words = [claim.words for claim in CLAIMS]
    assert len(set(words)) == len(words)
