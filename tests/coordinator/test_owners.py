"""Who owns which task: about their shares of all, on as few as can be, where they were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator.fixed import refuse_owners
from coterie.coordinator.owners import SLACK, Wish, check_sources, entrust
from coterie.errors import JobError, StrategyError
from coterie.specs import MultiSpec
from coterie.sync.reading import parse

SHARES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 50), min_size=1)
SIZES = st.lists(st.integers(1, 500), min_size=1, max_size=6)


def sizes_of(parts: Any) -> list[dict[str, int]]:
    return [dict(part.shares) for part in parts]


@given(SIZES, SHARES)
def test_every_sample_has_an_owner_and_members_have_about_their_shares(
    sizes: list[int], shares: dict[str, int]
) -> None:
    parts = entrust(sizes, shares, [Wish()] * len(sizes), sorted(shares))
    stop = 0
    for part, size in zip(parts, sizes, strict=True):
        stop += size
        assert (part.stop, sum(part.shares.values())) == (stop, size)
        assert all(num > 0 for num in part.shares.values())
    for name, share in shares.items():
        fair = sum(sizes) * share / sum(shares.values())
        assert sum(part.shares.get(name, 0) for part in parts) <= (1 + SLACK) * fair + 2
    num_cuts = sum(len(part.shares) - 1 for part in parts)
    assert num_cuts < len(shares)


@given(SIZES, SHARES)
def test_who_has_a_task_keeps_it_while_shares_stay(
    sizes: list[int], shares: dict[str, int]
) -> None:
    order = sorted(shares)
    first = entrust(sizes, shares, [Wish()] * len(sizes), order)
    wishes = [Wish(before=tuple(part.shares)) for part in first]
    again = entrust(sizes, shares, wishes, order[::-1])
    moved = sum(
        num
        for old, new in zip(first, again, strict=True)
        for name, num in new.shares.items()
        if name not in old.shares
    )
    assert moved <= SLACK * sum(sizes)


def test_what_counts_most_is_laid_first_on_who_is_named_first() -> None:
    sizes, shares = [30, 30, 30], {"a": 1, "b": 1, "c": 1}
    for number in range(3):
        wishes = [Wish(priority=2.0 if at == number else 1.0) for at in range(3)]
        parts = entrust(sizes, shares, wishes, ["c", "a", "b"])
        assert sizes_of(parts)[number] == {"c": 30}


def test_tasks_that_fit_are_whole_though_speeds_differ_by_a_little() -> None:
    parts = entrust([100, 100, 100], {"a": 34, "b": 33, "c": 35}, [Wish()] * 3, ["a", "b", "c"])
    assert sorted(tuple(owners) for owners in sizes_of(parts)) == [("a",), ("b",), ("c",)]


def test_a_large_task_is_cut_and_the_small_one_is_not() -> None:
    assert sizes_of(entrust([90, 10], {"a": 2, "b": 2}, [Wish()] * 2, ["a", "b"])) == [
        {"a": 50, "b": 40},
        {"b": 10},
    ]


def test_who_is_asked_for_has_it_by_speed_and_others_take_over_only_what_nobody_here_is() -> None:
    shares = {"a": 3, "b": 1}
    wishes = [Wish(wanted=("a", "b")), Wish(wanted=("b",)), Wish(wanted=("gone",))]
    parts = sizes_of(entrust([40, 20, 20], shares, wishes, ["a", "b"]))
    assert parts == [{"a": 30, "b": 10}, {"b": 20}, {"a": 20}]
    idle = sizes_of(entrust([10], {"a": 1, "b": 0}, [Wish(wanted=("b",))], ["a", "b"]))
    assert idle == [{"b": 10}]


def job(**given: Any) -> Job:
    ref = Ref(call="m:x")
    part = TaskSpec(model=ref, train=ref, test=ref)
    place = given.pop("place", "auto")
    spec = MultiSpec(trunk=ref, tasks={"one": part, "two": part}, place=place)
    fields: dict[str, Any] = {"name": "x", "batch": 8, "until": {"epochs": 1.0}, **given}
    return Job(task=spec, optimizer=ref, **fields)


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("asynchronous(8)", "a server whenever each is ready"),
        (
            'chain(Every(2), Only("trunk.*"), Clip(1.0), Noise(1.0), Reduce(weighted=False), '
            "Outer(1.0))",
            "with noise",
        ),
        (
            'chain(Every(2), Islands((("a", "b"), ("c",))), Only("trunk.*"), Reduce(), Outer(1.0))',
            "of islands",
        ),
    ],
)
def test_a_sentence_by_which_heads_would_not_reach_all_is_refused(
    sentence: str, found: str
) -> None:
    with pytest.raises(StrategyError, match=f"owners of tasks meet all others.*{found}"):
        refuse_owners(job(), parse(sentence))
    refuse_owners(job(place="everywhere"), parse(sentence))


def test_equal_shares_are_no_baseline_of_tasks_with_owners() -> None:
    with pytest.raises(JobError, match="no baseline of equal shares beside"):
        refuse_owners(job(baselines=["equal"]), parse("chain(Reduce())"))


@pytest.mark.parametrize(
    "sources", [(), ((("one",), 8),), ((("one",), 4), (("two",), 3)), ((("one", "three"), 8),)]
)
def test_an_agent_that_numbers_other_samples_is_refused(sources: Any) -> None:
    with pytest.raises(JobError, match=r"expected 8 samples of one, two, found sources"):
        check_sources(job(), sources, 8)
    check_sources(job(), ((("two",), 4), (("one",), 4)), 8)
