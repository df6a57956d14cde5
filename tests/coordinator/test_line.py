"""A line that forgets: sure where it was told something, and no surer anywhere else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.line import FORGETS, Line

BELIEVED = Line(a=1.0, c=2.0, aa=0.5, cc=0.5)


@given(st.floats(0.0, 100.0))
def test_what_was_predicted_changes_nothing_but_how_sure_it_is(x):
    seen = BELIEVED.seen(x, BELIEVED.at(x))
    assert (seen.a, seen.c) == (pytest.approx(1.0), pytest.approx(2.0))


def test_two_places_tell_both_terms_and_one_place_only_their_sum():
    once, twice = BELIEVED, BELIEVED
    for _ in range(60):
        once = once.seen(2.0, 20.0)
        twice = twice.seen(2.0, 20.0).seen(5.0, 26.0)
    assert once.at(2.0) == pytest.approx(20.0)
    assert (once.a, once.c) != (pytest.approx(16.0, abs=1), pytest.approx(2.0, abs=1))
    assert (twice.a, twice.c) == (pytest.approx(16.0, abs=0.05), pytest.approx(2.0, abs=0.02))


def test_however_long_one_place_is_measured_the_next_new_place_does_not_upset_it():
    """Plain forgetting winds up: after much of the same, anything else is believed outright."""
    generator, line = random.Random(3), BELIEVED
    for _ in range(2_000):
        line = line.seen(4.0, 9.0 + generator.gauss(0.0, 0.3))
    assert line.aa + 2 * line.ac * 4 + line.cc * 16 == pytest.approx(FORGETS, rel=1e-3)
    assert line.aa <= BELIEVED.aa + 0.1
    assert line.seen(5.0, 12.0).at(4.0) == pytest.approx(9.0, abs=1.0)


@given(st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(0.0, 100.0)), max_size=60))
def test_variances_stay_what_variances_are(measured):
    line = BELIEVED
    for x, y in measured:
        line = line.seen(x, y)
    assert line.aa >= -1e-9
    assert line.cc >= -1e-9
    assert line.aa * line.cc >= line.ac**2 - 1e-9


def test_what_is_known_for_sure_is_not_learned():
    assert Line(1.0, 0.0, 0.0, 0.0).seen(1.0, 5.0) == Line(1.0, 0.0, 0.0, 0.0)
