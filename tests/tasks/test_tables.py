"""Tables of answers, some of which nobody gave."""

from __future__ import annotations

import math

import pytest
import torch

from coterie.errors import JobError
from coterie.tasks.tables import MISSING, Table

ANSWERS = {
    "digit": torch.tensor([MISSING, 1, 2, MISSING]),
    "pair": torch.tensor([[1.0, 2.0], [math.nan, 3.0], [math.nan, math.nan], [0.0, 0.0]]),
}


@pytest.mark.parametrize("inputs", [torch.eye(4), [torch.eye(4)[i] for i in range(4)]])
def test_a_column_holds_the_samples_that_were_answered(inputs: object) -> None:
    table = Table(inputs, ANSWERS)
    digits, pairs = table.column("digit"), table.column("pair")
    assert [int(digits[i][1]) for i in range(len(digits))] == [1, 2]
    assert len(pairs) == 3  # half an answer is one
    assert torch.equal(digits[1][0], torch.eye(4)[2])
    assert torch.equal(table.gather([3, 1]), torch.eye(4)[[3, 1]])
    assert list(table[2][1]) == ["digit"]


def test_answers_of_a_batch_come_with_their_places() -> None:
    which_K, answers_K = Table(torch.eye(4), ANSWERS).answered("digit", [2, 0, 1])
    assert (which_K.tolist(), answers_K.tolist()) == ([0, 2], [2, 1])


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"digit": torch.zeros(3)}, "an answer of digit for each of 4 inputs, found 3"),
        ({"digit": torch.full((4,), MISSING)}, "an answer of digit to at least one input"),
    ],
)
def test_answers_that_do_not_fit_are_refused(
    answers: dict[str, torch.Tensor], sentence: str
) -> None:
    with pytest.raises(JobError, match=sentence):
        Table(torch.eye(4), answers)
