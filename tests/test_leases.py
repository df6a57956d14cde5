from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import CheckpointError
from coterie.leases import apportion, count, cut_block, cut_round, merge, take, unlearned

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
