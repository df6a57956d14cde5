"""Every member reads the same order from the seed, and an epoch is each sample once."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coterie.agents.stream import Stream, stream_of, whole_epoch
from coterie.leases import Lease, cut_block
from coterie.tasks.passes import Transformed
from coterie.tasks.supervised import Supervised

SAMPLES = [float(i) for i in range(7)]


def task_of(train: Any) -> Supervised:
    return Supervised("numbers", nn.Linear(1, 1), train, SAMPLES)


@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_every_sample_once(num_train: int, seed: int, data_epoch: int) -> None:
    found = Stream(num_train, seed).indices(data_epoch, [(0, num_train)])
    assert sorted(found) == list(range(num_train))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def read(seed: int, data_epoch: int) -> list[int]:
        return Stream(50, seed).indices(data_epoch, [(0, 50)])

    assert read(1, 2) == read(1, 2)
    assert len({tuple(read(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@given(st.integers(1, 90), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_members_together_read_what_one_would(num_train: int, a: int, b: int, every: int) -> None:
    stream = Stream(num_train, seed=3)
    rounds = cut_block([(0, num_train)], {"a": a, "b": b}, every)
    read = [
        index
        for leases in rounds
        for lease in leases.values()
        for batch in stream.batches(0, lease)
        for index in batch
    ]
    assert read == stream.indices(0, [(0, num_train)])


def test_a_lease_in_pieces_is_cut_into_full_batches() -> None:
    stream = Stream(20, seed=0)
    lease = Lease(((0, 3), (10, 14)), batch=3)
    batches = list(stream.batches(0, lease))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [index for batch in batches for index in batch] == stream.indices(0, lease.spans)
    assert lease.num_steps == len(batches)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 60))
def test_a_member_alone_steps_through_what_is_left_of_an_epoch(
    num_train: int, batch: int, done: int
) -> None:
    leases = whole_epoch(num_train, batch, done)
    positions = [i for lease in leases for a, b in lease.spans for i in range(a, b)]
    assert positions == list(range(done, num_train))
    assert all(lease.num_steps == 1 for lease in leases)


def test_an_epoch_in_parts_has_the_same_order_within_each_and_one_part_is_none() -> None:
    stream = Stream(50, seed=3)
    order, laid = stream.order(1).tolist(), stream.order(1, (20, 30, 50)).tolist()
    bounds = ((0, 20), (20, 30), (30, 50))
    assert laid == [i for low, high in bounds for i in order if low <= i < high]
    assert stream.order(1, (50,)).tolist() == order


class TestStreamOf:
    def test_samples_that_differ_from_pass_to_pass_are_numbered_through_all_of_them(self) -> None:
        plain, renewed = (
            stream_of(task_of(train), seed=3) for train in (SAMPLES, Transformed(SAMPLES, float))
        )
        spans = [(0, 2), (5, 7)]
        numbers = renewed.indices(2, spans)
        assert [number - 2 * len(SAMPLES) for number in numbers] == plain.indices(2, spans)

    def test_a_stream_is_learned_in_its_own_order(self) -> None:
        stream = stream_of(task_of(set(SAMPLES)), seed=3)
        assert stream.indices(1, [(0, 3)]) == [7, 8, 9]
        rng = np.random.default_rng(0)
        assert stream.some(rng, 9) == [0, 1, 2, 3, 4, 5, 6, 0, 1]
        assert set(stream_of(task_of(SAMPLES), 0).some(rng, 50)) == set(range(7))
