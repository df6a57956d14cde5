"""Samples come as batches by every road, and move to where the model is."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import TensorDataset

from coterie.errors import JobError
from coterie.tasks.samples import SCORE_BATCH, Source, to_device

META = torch.device("meta")
ROWS = torch.randn(7, 3)


class TestSource:
    @pytest.mark.parametrize(
        "given",
        [
            ROWS,
            list(ROWS),
            TensorDataset(ROWS),
            TensorDataset(ROWS, torch.arange(7)),
            [(row, "a name", 3) for row in ROWS],
            lambda: ROWS,
        ],
        ids=["tensor", "list", "dataset", "labelled", "tuples", "made"],
    )
    def test_the_first_of_each_sample_is_learned(self, given: Any) -> None:
        source = Source.of("train", given)
        assert len(source) == 7
        assert torch.equal(source.inputs([4, 1, 1]), ROWS[[4, 1, 1]])

    def test_all_come_in_order_some_at_a_time(self) -> None:
        rows = torch.arange(SCORE_BATCH + 3.0)
        parts = list(Source.of("test", rows).each())
        assert [len(part) for part in parts] == [SCORE_BATCH, 3]
        assert torch.equal(torch.cat(parts), rows)

    def test_a_collate_of_ones_own_sees_samples(self) -> None:
        source = Source.of("train", [1, 2, 3], lambda samples: torch.tensor(samples) / 2)
        assert source.inputs([2, 0]).tolist() == [1.5, 0.5]

    def test_what_is_not_there_is_none_and_what_is_empty_is_refused(self) -> None:
        assert Source.given("labelled", None, None) is None
        with pytest.raises(JobError, match="labelled to hold samples, found an empty dataset"):
            Source.given("labelled", [], None)

    def test_what_is_no_number_is_refused(self) -> None:
        with pytest.raises(JobError, match=r"floating point, .* found torch\.int64"):
            Source.of("train", [1, 2]).inputs([0])
        with pytest.raises(JobError, match="expected labelled samples of"):
            list(Source.of("labelled", ROWS).labelled())


class TestToDevice:
    def test_keeps_the_nest(self) -> None:
        Point = namedtuple("Point", "x y")
        moved = to_device([Point(torch.ones(1), "a"), {"k": (torch.ones(1), None)}], META)
        assert isinstance(moved[0], Point)
        assert (moved[0].y, moved[1]["k"][1]) == ("a", None)
        assert moved[0].x.device == moved[1]["k"][0].device == META

    def test_what_knows_how_to_move_moves_itself(self) -> None:
        packed = to_device(pack_sequence([torch.ones(2), torch.ones(1)]), torch.device("cpu"))
        assert isinstance(packed, PackedSequence)
