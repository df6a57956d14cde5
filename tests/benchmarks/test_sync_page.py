"""Laws of what the synchronisation benchmark makes of its measurements."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sync_page import (
    NUM_EQUAL,
    Point,
    at,
    crossing,
    equal_loss,
    extrapolated,
    likelihood,
    ours,
    ratios,
    spread,
)


def event(kind: str, time_s: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "time_s": time_s, **fields}


def scores(time_s: float, round_: int, seconds: float, loss: float) -> dict[str, Any]:
    metrics = {"test_loss": loss}
    return event("scores", time_s, round=round_, seconds=seconds, metrics=metrics)


@given(st.lists(st.floats(0.1, 5.0), min_size=2, max_size=9), st.floats(0.1, 5.0))
def test_a_crossing_lies_on_the_line_or_nowhere(losses: list[float], target: float) -> None:
    line = list(enumerate([6.0, *losses]))
    met = crossing(line, target)
    if met is None:
        assert min(losses) > target
    else:
        assert at(line, met) == pytest.approx(target)
        assert all(loss > target for x, loss in line if x < met)


def test_a_line_that_begins_below_the_target_has_crossed_it_at_its_beginning() -> None:
    assert crossing([(3.0, 1.0), (5.0, 0.5)], 2.0) == 3.0


def test_time_spent_scoring_does_not_count() -> None:
    lease = {"leases": {"a": [[0, 100]], "b": [[100, 160]]}}
    run = ours(
        [
            event("agent", 8.0, state="ready"),
            event("decision", 10.0),
            event("committed", 14.0, last_round=1, **lease),
            scores(16.0, 1, 2.0, 3.0),
            event("committed", 20.0, last_round=2, **lease),
            scores(22.0, 2, 1.0, 2.0),
            event("agent", 23.0, state="ready"),
        ],
        first_loss=4.0,
        batch=16,
    )
    assert run.points == (Point(0, 0.0, 4.0), Point(10, 4.0, 3.0), Point(20, 9.0, 2.0))
    assert run.before_s == 2.0
    assert run.clock(3.0) == 3.0
    assert run.clock(8.0) == 10.0


def test_rounds_that_a_score_has_not_seen_are_not_its_samples() -> None:
    lease = {"leases": {"a": [[0, 32]]}}
    run = ours(
        [
            event("decision", 0.0),
            event("committed", 1.0, last_round=1, **lease),
            event("committed", 1.0, last_round=2, **lease),
            scores(2.0, 1, 0.5, 3.0),
        ],
        first_loss=4.0,
        batch=16,
    )
    assert run.points[-1].steps == 2


def test_a_run_that_stops_at_the_metric_has_passed_the_target() -> None:
    assert likelihood(2.3) > likelihood(2.31)
    assert crossing([(0, 4.0), (1, 2.3 * (1 - 1e-3))], 2.3) is not None


def test_steps_that_are_timed_add_up_to_the_run() -> None:
    steps = [9.0, *[2.0] * 19]
    assert extrapolated(steps[0], 2.0, len(steps) - 1) == sum(steps)


def test_a_ratio_needs_both_sides_of_its_own_seed() -> None:
    base = {0: {"seconds": 10.0}, 1: {"seconds": None}}
    runs = [{"seed": seed, "seconds": 2.0} for seed in range(3)]
    assert ratios(runs, base, "seconds") == [5.0, None, None]
    assert spread([5.0, None, None]) == "5"


def test_losses_are_compared_only_between_scores() -> None:
    first, before, after = (0, 0.0, 9.0), (NUM_EQUAL - 50, 1.0, 4.0), (NUM_EQUAL + 50, 9.0, 2.0)
    assert equal_loss([first, before, after]) == 3.0
    assert equal_loss([first, after]) is None
    assert equal_loss([first, before]) is None
