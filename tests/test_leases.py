from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import CheckpointError
from coterie.leases import (
    Part,
    apportion,
    are_owned_apart,
    count,
    cut_block,
    cut_round,
    merge,
    take,
    take_evenly,
    unlearned,
    within,
)

Spans = list[tuple[int, int]]
shares = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), min_size=1).filter(
    lambda parts: sum(parts.values()) > 0
)


@st.composite
def spans(draw: st.DrawFn) -> Spans:
    cuts = sorted(draw(st.sets(st.integers(0, 300), max_size=12)))
    return list(zip(cuts[::2], cuts[1::2], strict=False))


def positions(found: Spans | tuple[tuple[int, int], ...]) -> list[int]:
    return [position for start, stop in found for position in range(start, stop)]


@given(spans(), st.integers(0, 400))
def test_taking_splits_and_loses_nothing(given_spans: Spans, num: int) -> None:
    taken, left = take(given_spans, num)
    assert count(taken) == min(num, count(given_spans))
    assert positions(taken) + positions(left) == positions(given_spans)


@given(spans(), st.randoms())
def test_merging_keeps_positions_and_closes_gaps(given_spans: Spans, random: object) -> None:
    pieces = [(p, p + 1) for p in positions(given_spans)]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    merged = merge(pieces)
    assert positions(merged) == positions(given_spans)
    assert all(a[1] < b[0] for a, b in pairwise(merged))


@given(st.integers(0, 10_000), shares)
def test_parts_add_up_and_are_within_one_of_their_due(total: int, weights: dict[str, int]) -> None:
    parts = apportion(total, weights)
    assert sum(parts.values()) == total
    whole = sum(weights.values())
    assert all(abs(parts[name] - total * w / whole) < 1 for name, w in weights.items())


@given(spans(), shares)
def test_a_round_gives_each_position_one_owner(given_spans: Spans, parts: dict[str, int]) -> None:
    leases = cut_round(given_spans, parts)
    owned = [position for lease in leases.values() for position in positions(lease.spans)]
    assert sorted(owned) == positions(given_spans)
    assert leases.keys() == parts.keys()


@given(spans(), shares, st.integers(1, 5))
def test_a_block_is_full_rounds_and_a_shorter_last(
    given_spans: Spans, parts: dict[str, int], every: int
) -> None:
    rounds = cut_block(given_spans, parts, every)
    sizes = [sum(lease.num_samples for lease in leases.values()) for leases in rounds]
    assert sum(sizes) == count(given_spans)
    assert all(size == every * sum(parts.values()) for size in sizes[:-1])
    for leases in rounds[:-1]:
        assert all(leases[m].num_samples == every * share for m, share in parts.items())
        assert all(leases[m].num_steps == every for m, share in parts.items() if share)


def test_a_checkpoint_of_another_dataset_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expected the 9 training samples.*found 10"):
        unlearned({"num_train": 9, "num_epochs": 0, "free": {}}, 10)


def test_an_epoch_with_nothing_left_is_not_open() -> None:
    meta = {"num_train": 9, "num_epochs": 3, "free": {"3": [[4, 4]], "4": [[0, 2], [2, 9]]}}
    assert unlearned(meta, 9) == (3, {4: ((0, 9),)})


# Parts of an epoch, and who owns them

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@st.composite
def owned(draw: st.DrawFn) -> tuple[list[Part], dict[str, int]]:
    stop, parts = 0, []
    for size in draw(SIZES):
        stop += size
        owners = draw(st.sets(st.sampled_from("abc"), min_size=1))
        parts.append(Part(stop, {name: draw(st.integers(1, 9)) for name in sorted(owners)}))
    return parts, {name: draw(st.integers(0, 5)) for name in "ab"} | {"c": draw(st.integers(1, 5))}


@given(owned(), st.integers(1, 4), st.integers(0, 60))
def test_positions_in_parts_have_one_owner_each_who_owns_their_part(
    made: tuple[list[Part], dict[str, int]], every: int, start: int
) -> None:
    parts, shares = made
    stop = parts[-1].stop
    spans = ((min(start, stop - 1), stop),)
    rounds = cut_block(spans, shares, every, parts=parts)
    leases = [(name, lease) for leases in rounds for name, lease in leases.items()]
    assert merge([span for _, lease in leases for span in lease.spans]) == spans
    assert sum(lease.num_samples for _, lease in leases) == count(spans)
    for name, lease in leases:
        assert lease.laid == tuple(part.stop for part in parts)
        assert lease.num_steps <= every
        begin = 0
        for part in parts:
            if within(lease.spans, begin, part.stop):
                assert name in part.shares
            begin = part.stop
    whole = sum(shares.values()) * every
    assert all(sum(k.num_samples for k in r.values()) == whole for r in rounds[:-1])


def test_every_step_has_as_large_a_part_of_each_task_and_of_each_owner() -> None:
    parts = [Part(400, {"a": 1}), Part(600, {"b": 3, "a": 1}), Part(1000, {"c": 1})]
    rounds = cut_block([(0, 1000)], {"a": 45, "b": 15, "c": 40}, 2, parts=parts)
    assert len(rounds) == 5
    for leases in rounds:
        assert {n: (k.num_samples, k.num_steps) for n, k in leases.items()} == {
            "a": (90, 2),
            "b": (30, 2),
            "c": (80, 2),
        }
        first = within(leases["a"].spans[:2], 0, 400)
        assert count(first) == 40  # a step has both of its tasks


@given(owned(), st.integers(0, 200))
def test_what_is_taken_evenly_is_taken_once_and_of_all_parts_alike(
    made: tuple[list[Part], dict[str, int]], num: int
) -> None:
    parts, stop = made[0], made[0][-1].stop
    taken, left = take_evenly([(0, stop)], num, parts)
    assert merge((*taken, *left)) == ((0, stop),)
    assert count(taken) == min(num, stop)
    begin = 0
    for part in parts:
        fair = (part.stop - begin) * min(num, stop) / stop
        assert abs(count(within(taken, begin, part.stop)) - fair) < 1
        begin = part.stop


def test_parts_are_owned_apart_where_owners_differ_and_not_where_only_their_shares_do() -> None:
    assert are_owned_apart([Part(1, {"a": 1}), Part(2, {"b": 1})])
    assert not are_owned_apart([Part(1, {"a": 1, "b": 0}), Part(2, {"a": 3})])
    assert not are_owned_apart([])
