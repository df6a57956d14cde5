from __future__ import annotations

from collections import Counter

import pytest

from coterie.coordinator.homes import Host, Learner, homes


def learners(num: int, **about: object) -> list[Learner]:
    return [Learner(f"t{number}", "t", **about) for number in range(num)]  # type: ignore[arg-type]


def test_equal_agents_share_equal_learners() -> None:
    found = homes(learners(6), [Host(name, {"t": 0.1}) for name in "abc"])
    assert Counter(found.of.values()) == {"a": 2, "b": 2, "c": 2}


def test_a_faster_agent_holds_more() -> None:
    found = homes(learners(10), [Host("fast", {"t": 0.1}), Host("slow", {"t": 0.4})])
    counts = Counter(found.of.values())
    # sqrt(k) - sqrt(k - 1) of each: 8 and 2 are the best split of ten at four times the speed.
    assert counts == {"fast": 8, "slow": 2}


def test_the_dearest_task_gets_the_best_agent() -> None:
    wants = [Learner("a", "a"), Learner("b", "b", priority=5.0)]
    hosts = [Host("fast", {"a": 0.1, "b": 0.1}), Host("slow", {"a": 0.9, "b": 0.9})]
    assert homes(wants, hosts).of["b"] == "fast"


def test_a_task_lives_only_where_it_can_be_learned() -> None:
    wants = [Learner("a", "a"), Learner("b", "b"), Learner("c", "c")]
    found = homes(wants, [Host("one", {"a": 0.1}), Host("two", {"b": 9.0, "a": 9.0})])
    assert found.of == {"a": "one", "b": "two"}
    assert found.homeless == {"c": "it fits on no set of devices"}


def test_an_agent_that_often_dies_is_given_less() -> None:
    steady, shaky = Host("steady", {"t": 0.1}), Host("shaky", {"t": 0.1}, failures_per_s=0.01)
    assert Counter(homes(learners(4), [steady, shaky]).of.values())["steady"] > 2


def test_whoever_moved_just_now_stays_and_a_move_has_to_pay() -> None:
    hosts = [Host("old", {"t": 0.1}), Host("new", {"t": 0.1})]
    settled = homes(learners(2, home="old", age_s=0.0), hosts)
    assert set(settled.of.values()) == {"old"}
    moved = homes(learners(2, home="old", age_s=600.0), hosts)
    assert set(moved.of.values()) == {"old", "new"}


def test_kin_live_together_where_nothing_else_decides() -> None:
    hosts = [Host("a", {"t": 0.1}), Host("b", {"t": 0.1})]
    wants = [
        Learner("one", "t", home="a", age_s=1e9),
        Learner("other", "t", home="b", age_s=1e9),
        Learner("orphan", "t"),
    ]
    assert homes(wants, hosts, [("other", "orphan")]).of["orphan"] == "b"
    assert homes(wants, hosts, [("one", "orphan")]).of["orphan"] == "a"


def test_a_home_that_is_gone_costs_nothing_to_leave() -> None:
    found = homes(learners(1, home="gone", age_s=0.0), [Host("here", {"t": 0.1})])
    assert found.of == {"t0": "here"}


@pytest.mark.parametrize(("num", "hosts"), [(0, 1), (2, 0)])
def test_nobody_and_nowhere(num: int, hosts: int) -> None:
    found = homes(learners(num), [Host("a", {"t": 0.1})] * hosts)
    assert found.of == {}
    assert len(found.homeless) == num
