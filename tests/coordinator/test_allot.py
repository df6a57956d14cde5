"""Several jobs on one cluster: the best sum, what it is compared with, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.cluster import Cluster, checked
from coterie.coordinator.allot import Wish, allot
from coterie.coordinator.allotment import sentences
from coterie.coordinator.decide import best_together
from coterie.coordinator.forecast import Question, outlook
from coterie.errors import JobError
from coterie.inventory import Known, Links, Load, Machine, Road
from coterie.sync.reading import parse
from coterie.types import Layout
from coterie.world import World

HOME = Cluster(
    machines=[
        Machine(name="desktop", speed=3),
        Machine(name="laptop", count=2, speed=1),
        Machine(name="pi", speed=0.25, memory_gb=0.01),
    ],
    links=Links(default=Road(mbit_per_s=900, latency_ms=0.3)),
)


def wish(
    task: str, priority: float = 1.0, values: int = 10_000, batch: int = 64, asked: str = ""
) -> Wish:
    layout = Layout(("w",), ((values,),))
    question = Question(layout, {"epochs": 3.0}, parse(asked) if asked else None)

    def world_of(cluster: Cluster, on: Sequence[str]) -> World:
        return cluster.world(batch, 6_400, values, Load(0.002, 0.001), on)

    return Wish(task, priority, question, world_of)


def test_the_sum_is_the_best_of_all_ways_to_give_machines_to_two() -> None:
    first, second = wish("first", 2.0, asked="all-reduce"), wish("second", asked="diloco(16)")
    names = ["desktop", "laptop-1", "laptop-2", "pi"]
    sets = [on for size in range(1, 5) for on in combinations(names, size)]

    def value(each: Wish, on: tuple[str, ...]) -> float:
        asked = (each.question.asked,) if each.question.asked else None
        best = best_together(each.world_of(HOME, on), each.question.layout, asked)
        return best.goodput_per_s if best else 0.0

    mine, theirs = ({on: value(each, on) for on in sets} for each in (first, second))
    best = max(
        2 * sqrt(mine.get(a, 0.0) / max(mine.values()))
        + sqrt(theirs.get(b, 0.0) / max(theirs.values()))
        for a in ((), *sets)
        for b in ((), *sets)
        if not set(a) & set(b)
    )
    told = allot(HOME, [first, second])
    assert told.utility == pytest.approx(best)
    given = [name for each in told.given for name in each.machines]
    assert sorted((*given, *told.free)) == names
    assert all(rival.utility <= told.utility * (1 + 1e-9) for rival in told.rivals)


def test_the_higher_priority_keeps_the_larger_part() -> None:
    told = allot(HOME, [wish("low"), wish("high", 5.0)])
    low, high = told.given
    assert high.part > low.part > 0
    same = allot(HOME, [wish("low", 2.0), wish("high", 10.0)])  # only ratios count
    assert [each.machines for each in same.given] == [each.machines for each in told.given]


def test_what_is_decided_on_its_machines_is_what_one_job_there_would_do() -> None:
    told = allot(HOME, [wish("a", 2.0), wish("b")])
    for number, each in enumerate(told.given, start=1):
        assert each.there is not None
        alone = outlook(wish(each.task).world_of(HOME, each.machines), wish("a").question, number)
        assert each.there.decision.chosen == alone.decision.chosen


def test_a_machine_whose_memory_is_too_small_for_one_job_serves_another() -> None:
    told = allot(HOME, [wish("large", values=800_000), wish("small", asked="all-reduce")])
    large = told.given[0]
    assert "pi" not in large.machines
    assert large.there is not None


def test_a_job_that_fits_nowhere_is_told_with_its_reason_and_the_others_learn() -> None:
    kinds = [kind.model_copy(update={"memory_gb": 0.01}) for kind in HOME.machines]
    tiny = Cluster(machines=kinds, links=HOME.links)
    told = allot(tiny, [wish("huge", 9.0, values=10**9), wish("small")])
    huge, small = told.given
    assert (huge.there, huge.utility) == (None, 0.0)
    assert "to hold a model of 1,000,000,000 parameters" in huge.why_not
    assert small.there is not None
    assert any("huge, of priority 9, is given nothing: expected" in s for s in sentences(told))
    with pytest.raises(JobError, match="one of the jobs can learn, found none: huge: expected"):
        allot(tiny, [wish("huge", values=10**9), wish("vast", values=10**9)])


def test_one_machine_for_two_jobs_goes_to_one_and_the_other_is_told_why() -> None:
    alone = Cluster(machines=[Machine(name="pc", speed=1)])
    told = allot(alone, [wish("first", 2.0), wish("second"), wish("idle", 0.0)])
    assert [each.why_not for each in told.given] == [
        "",
        "other tasks bring more on every device",
        "its priority is 0",
    ]
    words = list(sentences(told))
    assert words[0] == "Machines: first on pc; second waits; idle waits."
    assert "Rejected: first waits; second on pc; idle waits: utility 1.00, 50 % less." in words
    assert "One pc less: impossible: nobody would be left." in words


def test_what_one_more_brings_is_told_in_the_units_of_what_is_here() -> None:
    wishes = [wish("a", 2.0), wish("b")]
    told = allot(HOME, wishes)
    more = next(shift for shift in told.machines if shift.what == "one more desktop")
    bigger = HOME.counting("desktop", 2)
    assert bigger is not None
    there = allot(bigger, wishes)
    in_units = sum(
        each.priority * sqrt(there_too.part * there_too.whole_per_s / each.whole_per_s)
        for each, there_too in zip(told.given, there.given, strict=True)
    )
    assert more.gain is not None
    assert more.gain > 0.05
    assert more.utility == pytest.approx(in_units, rel=0.01)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ([wish("a", 0.0), wish("b", 0.0)], "a priority above 0 of at least one task"),
        ([wish("a", -1.0), wish("b")], "priority of 0 or more of 'a', found -1"),
        ([wish("a"), wish("a", 2.0)], "one priority of 'a', found 1 and 2"),
    ],
)
def test_priorities_that_contradict_are_refused(wishes: list[Wish], said: str) -> None:
    with pytest.raises(JobError, match=said):
        allot(HOME, wishes)


def test_times_of_one_job_are_no_times_of_several() -> None:
    timed = Machine(name="pc", overhead_ms=1, per_sample_ms=1)
    with pytest.raises(JobError, match=r"the speed of pc where several jobs .* per_sample_ms"):
        allot(Cluster(machines=[timed]), [wish("a"), wish("b")])
    known = HOME.model_copy(update={"task": Known(samples=9)})
    with pytest.raises(JobError, match="under tasks, by their names, found task, which is of one"):
        allot(known, [wish("a"), wish("b")])


def test_thirty_machines_are_shared_out_among_three() -> None:
    kinds = [Machine(name="pc", count=20, speed=1), Machine(name="pi", count=10, speed=0.2)]
    many = Cluster(machines=kinds, links=Links(default=Road(mbit_per_s=1000)))
    jobs = [wish(name, len(name), batch=600, asked="local-sgd(8)") for name in ("a", "bb", "ccc")]
    told = allot(many, jobs)
    assert all(each.there is not None for each in told.given)
    assert max(map(len, sentences(told))) < 400


ANY = st.sampled_from([1e-300, 1e-6, 0.01, 1.0, 50.0, 1e15])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_described_is_shared_out_or_refused_in_a_sentence(data: st.DataObject) -> None:
    draw = data.draw
    described = {
        "machines": [
            {"name": name, "count": draw(st.integers(1, 2)), "speed": draw(ANY),
             "memory_gb": draw(ANY), "fails_every_h": draw(ANY)}
            for name in "ab"
        ],
        "links": {"default": {"mbit_per_s": draw(ANY), "latency_ms": draw(ANY)}},
    }  # fmt: skip
    sizes = st.sampled_from([1, 64, 10**6])
    wishes = [
        wish(task, draw(ANY), draw(sizes), draw(sizes), draw(st.sampled_from(["", "diloco(8)"])))
        for task in draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=3))
    ]
    try:
        told = allot(checked(described, "cluster.yaml"), wishes)
    except JobError:  # and nothing else
        return
    given = [name for each in told.given for name in each.machines]
    assert len(given) == len(set(given))
    assert 0 < told.utility <= told.most * (1 + 1e-9)
    assert "nan" not in " ".join(sentences(told))
