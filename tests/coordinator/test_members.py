"""A pulse: whoever keeps a rhythm lives, and a silence far outside of it is suspicious."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from coterie.coordinator.members import BEAT_S, EVICT_S, MISSED, Pulse

FLOOR_S = MISSED * BEAT_S


def beaten(gaps_s: Iterable[float]) -> Pulse:
    pulse = Pulse(heard_s=0.0)
    for gap_s in gaps_s:
        pulse.beat(pulse.heard_s + gap_s)
    return pulse


def patience_s(pulse: Pulse) -> float:
    return pulse.suspect_s() - pulse.heard_s


@given(st.lists(st.floats(0.0, 10.0), max_size=40))
def test_no_silence_within_a_few_beats_is_suspicious_and_none_beyond_eviction_is_not(gaps_s):
    assert FLOOR_S <= patience_s(beaten(gaps_s)) <= EVICT_S


def test_a_jittery_rhythm_is_given_more_time_than_a_regular_one():
    regular, jittery = beaten([2.0] * 40), beaten([0.1, 3.9] * 20)
    assert patience_s(jittery) > 2 * patience_s(regular)


def test_a_jitter_of_long_ago_is_forgotten():
    jittery = beaten([0.1, 3.9] * 20)
    for _ in range(100):
        jittery.beat(jittery.heard_s + 0.5)
    assert patience_s(jittery) == FLOOR_S


def test_many_words_at_once_do_not_make_the_next_silence_suspicious():
    pulse = beaten([0.0] * 200)
    assert patience_s(pulse) == FLOOR_S
