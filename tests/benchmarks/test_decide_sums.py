"""Laws of what the benchmark of decisions makes of its measurements, and what its page says."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.decide_page import page
from benchmarks.decide_sums import (
    compared,
    error,
    in_order,
    judged,
    limit_s,
    met_s,
    plans,
    recovered,
    share_changes,
    soonest,
    switched,
)

HERE = {"part": "run", "size": "small", "skew": "equal", "mbit": 10.0, "seed": 0}
CELL = ("small", "equal", 10.0)
TERMS = {"batch": 48, "epoch": 32, "targets": "2.3 (small)", "patience": 1.25}


def event(kind: str, time_s: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "time_s": time_s, **fields}


def decision(time_s: float, shares: dict[str, int], strategy: str = "s", **fields: Any) -> Any:
    device = {"overhead_s": 0.0, "per_sample_s": 0.01, "max_batch": 64, "failures_per_s": 0.0}
    devices = [{**device, "name": name} for name in ("a", "b", "c")]
    world = {"devices": devices, "links": [], "batch": 42, "num_train": 420, "meeting_s": 0.0}
    chosen = {"strategy": strategy, "shares": shares, "round_s": 1.0, **fields}
    return event("decision", time_s, chosen=chosen, world=world)


def work(time_s: float, last_round: int, member: str = "a") -> dict[str, Any]:
    return event("work", time_s, member=member, last_round=last_round, num_samples=14)


def run(arm: str, seconds: float | None, **fields: Any) -> dict[str, Any]:
    return {**HERE, "arm": arm, "seconds": seconds, **fields}


def told(*found: dict[str, Any]) -> dict[str, Any]:
    facts = {"date": "d", "machine": "m", "versions": {}, "num_cores": 2, "terms": TERMS}
    return {"about": facts, "measured": list(found)}


@given(st.floats(0.1, 2.0), st.floats(1.0, 50.0), st.floats(0.2, 0.9))
def test_a_loss_that_falls_by_the_logarithm_is_met_where_it_is(
    slope: float, first_s: float, part: float
) -> None:
    scores_s = [first_s * 2**k for k in range(5)]
    points = [(0.0, 9.0), *((s, 5.0 - slope * math.log(s)) for s in scores_s)]
    met_at_s = first_s * 16**part
    assert met_s(points, 5.0 - slope * math.log(met_at_s)) == pytest.approx(met_at_s)


def test_a_promise_that_holds_has_no_error_whatever_is_scored_between() -> None:
    reports = [work(10.0 + k + 0.5 * (k > 5), k) for k in range(11)]
    events = [decision(9.5, {"a": 42}), *reports, event("scores", 15.7, seconds=0.5)]
    [plan] = plans(events)
    assert plan["achieved_s"] == pytest.approx(1.0)
    assert error(plan) == pytest.approx(0.0)


def test_rounds_belong_to_the_plan_under_which_they_ran() -> None:
    slow, fast = [work(1.0 + 2 * k, k) for k in range(5)], [work(11 + k, 9 + k) for k in range(5)]
    events = [decision(0.0, {"a": 42}), *slow, decision(10.0, {"a": 42}), *fast]
    assert [plan["achieved_s"] for plan in plans(events)] == [2.0, 1.0]
    assert judged({"plans": plans(events)}) == {"first": 0.5, "last": 0.0}


def test_too_few_rounds_judge_no_promise() -> None:
    [plan] = plans([decision(0.0, {"a": 42}), work(1.0, 1), work(2.0, 2)])
    assert plan["achieved_s"] is None
    assert judged({"plans": [plan]}) == {"first": None, "last": None}


def test_a_plan_that_is_decided_anew_but_alike_is_no_change() -> None:
    plan = {"strategy": "s", "shares": {"a": 1}, "num_rounds": 10}
    assert share_changes([{"plans": [plan, plan]}, {}]) == (0, 20)
    assert share_changes([{"plans": [plan, {**plan, "strategy": "t"}]}]) == (1, 20)


def test_shares_are_right_again_with_the_first_block_near_the_best_of_the_new_speeds() -> None:
    equal, better = ({"a": 14, "b": b, "c": 28 - b} for b in (14, 9))
    best = {"a": 18, "b": 6, "c": 18}
    events = [decision(0.0, equal), work(9.0, 20)]
    for number, shares in enumerate([equal, equal, better, best]):
        events.append(event("block", 10.5 + number, first_round=22 + number, shares=shares))
    found = recovered(events, 10.0, "b", 3.0)
    assert (found["rounds"], found["seconds"], found["shares"]) == (4, 3.5, best)
    assert found["over_at_last"] == pytest.approx(0.0)
    never = recovered(events[:-1], 10.0, "b", 3.0)
    assert (never["rounds"], never["over_at_last"]) == (None, pytest.approx(0.5))


def test_members_that_take_fewer_steps_are_judged_by_the_best_of_such_plans() -> None:
    equal, best = {"a": 14, "b": 14, "c": 14}, {"a": 18, "b": 6, "c": 18}
    before = [decision(0.0, equal), work(9.0, 20), work(9.5, 21)]
    told = {"first_round": 25, "shares": best, "batch": 18}
    late = event("block", 10.5, first_round=23, shares=equal, batch=14)
    found = recovered([*before, late, event("block", 12.0, **told)], 10.1, "b", 3.0)
    assert found["over_at_last"] == pytest.approx(0.0)
    assert (found["rounds"], found["shares"]) == (2, best)  # 22 had ended when it was slowed


def test_a_strategy_is_changed_when_it_or_its_members_are_others() -> None:
    both = [decision(0.0, {"a": 1, "b": 1}), work(9.0, 20), work(12.0, 23)]
    alike = decision(11.0, {"a": 2, "b": 1})
    other = decision(12.5, {"a": 1, "b": 1}, strategy="t")
    fewer = decision(12.5, {"a": 1})
    assert switched([*both, alike], 10.0)["to"] is None
    assert switched([*both, alike, other], 10.0) == {
        "from": "s on a, b", "to": "t on a, b", "seconds": 2.5, "rounds": 3,
    }  # fmt: skip
    assert switched([*both, alike, fewer], 10.0)["to"] == "s on a"


def test_what_did_best_is_tried_first_and_bounds_what_follows() -> None:
    found = [run("a", None), run("b", 4.0), run("c", 3.0)]
    assert in_order(["a", "b", "c", "d"], found, "small") == ["c", "b", "a", "d"]
    assert limit_s(found, 2.0, 60.0) == 6.0


def test_an_arm_that_failed_once_is_not_the_best() -> None:
    assert soonest([run("a", 1.0), run("a", None, limit_s=9.0), run("b", 5.0)]) == ("b", 5.0)


def test_where_no_fixed_strategy_came_in_time_the_ratio_is_an_upper_bound() -> None:
    found = [run("auto", 6.0), run("a", None, limit_s=7.5), run("b", None, failed="torn")]
    assert compared(found, CELL)["over_best"] == pytest.approx(0.8)
    assert "no fixed strategy came within its limit" in page(told(*found))


def test_a_page_of_nothing_says_what_is_missing() -> None:
    words = page(told())
    assert "0 of 12 cells were measured." in words
    assert "A slowdown was not measured." in words


@pytest.mark.parametrize(("auto", "is_named"), [(12.0, False), (14.0, True)])
def test_a_page_names_every_cell_beyond_the_claim(auto: float, is_named: bool) -> None:
    plan = {"strategy": "s", "shares": {"a": 1}, "num_rounds": 9}
    plan |= {"promised_s": 1.5, "achieved_s": 1.0}
    single = run("single", 11.0)
    found = (single, run("auto", auto, plans=[plan]), run("a", 10.0, plans=[plan]))
    changed = [
        {"part": "slowdown", "arm": "a", "size": "small", "rounds": 7, "seconds": 3.0,
         "over_at_last": 0.02, "before_per_s": 9.0, "after_per_s": 5.0},
        {"part": "links", "size": "small", "from": "s on a", "to": None, "wanted": "t on a",
         "seconds": None, "rounds": None, "watched_s": 30.0, "before_per_s": 9.0,
         "slow_per_s": 1.0, "after_per_s": 1.0},
        {"part": "replan", "size": "small", "world": "this bed", "ms": 300.0, "most_ms": 400.0},
        {**HERE, "part": "simulated", "arm": "a", "seconds": 13.0, "bed_s": 10.0},
    ]  # fmt: skip
    words = page(told(*found, *changed, run("ddp", 40.0), run("b", None, limit_s=12.5)))
    assert "7 rounds (3.0 s) until shares were near, more than 5" in words
    assert "s on a was kept for 30 s" in words
    assert "A decision, small, this bed: 300 ms." in words
    assert "within 15% of the bed's in 0 of 1 cells" in words
    assert (f"{auto / 10:.2f} times a, above 1.3" in words) is is_named
    assert "times the time of the best single device" in words
    assert "50 % (50, 50)" in words
    assert "> 12.5" in words
