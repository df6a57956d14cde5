"""Samples that differ from pass to pass, and streams: each once, whoever asks in what order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import JobError
from coterie.tasks.passes import Streamed, Transformed, drawn_for, numbered

NUM = 6


class Shuffled:
    """A stream that comes in another order in each pass, as Hugging Face's do."""

    def __init__(self) -> None:
        self.data_epoch, self.num_read = 0, 0

    def set_epoch(self, data_epoch: int) -> None:
        self.data_epoch = data_epoch

    def __iter__(self) -> Iterator[int]:
        for number in np.random.default_rng(self.data_epoch).permutation(NUM):
            self.num_read += 1
            yield int(number)


@given(st.lists(st.integers(0, 3 * NUM - 1), max_size=12))
def test_a_number_names_one_sample_of_a_stream_whatever_was_asked_before(asked: list[int]) -> None:
    stream = Streamed(Shuffled())
    wanted = [int(i) for p in range(3) for i in np.random.default_rng(p).permutation(NUM)]
    assert [stream[index] for index in asked] == [wanted[index] for index in asked]
    assert stream.__getitems__(asked) == [wanted[index] for index in asked]


def test_two_agents_together_read_each_sample_once_and_never_go_back() -> None:
    sources = [Shuffled(), Shuffled()]
    mine, theirs = (Streamed(source, num_samples=NUM) for source in sources)
    learned = [*mine.__getitems__([0, 1]), *theirs.__getitems__([2, 3, 4]), *mine.__getitems__([5])]
    assert sorted(learned) == list(range(NUM))
    assert [source.num_read for source in sources] == [6, 5]  # none for the count: it was told


def test_a_stream_is_counted_by_reading_it_where_it_does_not_say() -> None:
    source = Shuffled()
    assert len(Streamed(source)) == NUM
    assert source.num_read == NUM


def test_a_pass_is_as_long_as_was_said_of_an_endless_stream() -> None:
    class Endless:
        def __iter__(self) -> Iterator[int]:
            number = -1
            while True:
                yield (number := number + 1)

    stream = Streamed(Endless(), num_samples=3)
    assert [stream[i] for i in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Streamed(iter([1])), "can be read anew, found list_iterator"),
        (lambda: Streamed({1}, num_samples=0), "num_samples of 1 or more in a pass, found 0"),
        (lambda: len(Streamed(set())), "a stream of samples, found an empty one"),
        (
            lambda: Streamed({1}, num_samples=2)[1],
            "2 samples in each pass .* ended after 1;",
        ),
        (lambda: numbered("train", 3), "train to be a dataset .* found int"),
    ],
)
def test_what_cannot_be_kept_is_refused(make: Any, words: str) -> None:
    with pytest.raises(JobError, match=words):
        make()


def noisy(value: torch.Tensor) -> torch.Tensor:
    return value + torch.rand(1) + float(np.random.rand()) + random.random()


def test_a_sample_is_changed_alike_whoever_asks_and_otherwise_in_the_next_pass() -> None:
    pairs = [(torch.zeros(1), i) for i in range(NUM)]
    one, other = Transformed(pairs, noisy), Transformed(pairs, noisy)
    first = [one[i][0].item() for i in range(2 * NUM)]
    torch.rand(7), random.random(), np.random.rand()
    assert [other[i][0].item() for i in reversed(range(2 * NUM))] == first[::-1]
    assert len(set(first)) == 2 * NUM
    assert one[NUM + 2][1] == 2
    assert Transformed(pairs, noisy, seed=1)[0][0].item() not in first


def test_draws_are_apart_from_those_of_whoever_asks() -> None:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    wanted = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with drawn_for(1, 2):
        noisy(torch.zeros(1))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted


def test_a_mapping_is_transformed_whole() -> None:
    assert Transformed([{"x": 1}], lambda sample: sample | {"y": 2})[0] == {"x": 1, "y": 2}
