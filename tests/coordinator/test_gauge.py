"""What was achieved is told by arm and decision, and only of undisturbed intervals."""

from __future__ import annotations

from coterie.coordinator.gauge import RECENT, Flow, Gauge, Pace


def test_nothing_timed_is_unknown_rather_than_zero_or_an_error():
    assert (Flow().per_s, Flow().round_s) == (None, None)
    assert Gauge().recent_per_s() == Gauge().typical_round_s() == 0.0


def test_an_interval_that_spans_a_change_of_conditions_is_left_out():
    gauge = Gauge()
    gauge.mark("ours", decision=1)
    gauge.commit(0.0, 0, 0)
    gauge.commit(1.0, 100, 10)
    gauge.mark("fewer", decision=2)  # after a long pause
    gauge.commit(50.0, 200, 20)
    gauge.commit(51.0, 250, 30)
    assert gauge.arms["ours"] == Flow(100, 10, 1.0)
    assert gauge.arms["fewer"] == Flow(50, 10, 1.0)


def test_arms_are_measured_apart_and_equal_shares_are_no_decision():
    gauge = Gauge()
    for arm, rate in (("ours", 300), ("equal", 100)):
        gauge.mark(arm, decision=1)
        gauge.commit(0.0, 0, 0)
        gauge.commit(2.0, 2 * rate, 20)
    assert (gauge.arms["ours"].per_s, gauge.arms["equal"].per_s) == (300, 100)
    assert gauge.decisions == {1: Flow(600, 20, 2.0)}


def test_the_live_figure_forgets_what_is_long_ago():
    gauge = Gauge()
    gauge.mark("ours", decision=1)
    gauge.commit(0.0, 0, 0)
    gauge.commit(100.0, 1, 1)  # slow at first
    for second in range(1, RECENT + 1):
        gauge.commit(100.0 + second, 1 + 50 * second, 1 + second)
    assert gauge.recent_per_s() == 50.0


def test_one_long_pause_does_not_change_the_typical_round():
    gauge = Gauge()
    gauge.mark("ours", decision=1)
    now_s, rounds = 0.0, 0
    gauge.commit(now_s, 0, 0)
    for gap_s in (2.0, 2.0, 60.0, 2.0, 2.0):
        now_s, rounds = now_s + gap_s, rounds + 4
        gauge.commit(now_s, 10 * rounds, rounds)
    assert gauge.typical_round_s() == 0.5


def test_a_stutter_does_not_change_a_pace():
    steady, stuttering = Pace(), Pace()
    for report in range(5):
        steady.add(batch=8, step_s=0.1, meeting_s=0.02)
        stutters = report == 2
        stuttering.add(batch=1 if stutters else 8, step_s=9.0 if stutters else 0.1, meeting_s=0.02)
    assert stuttering.num_reports == 5
    for figure in ("batch", "step_s", "meeting_s"):
        assert getattr(stuttering, figure) == getattr(steady, figure)


def test_the_batch_of_a_pace_is_one_that_was_reported():
    pace = Pace()
    for batch in (8, 9):
        pace.add(batch, step_s=0.1, meeting_s=0.0)
    assert pace.batch in (8, 9)
