"""The words for combining against the arithmetic they stand for.

Legend of shape suffixes: N values of a row, M rows.
"""

from __future__ import annotations

import math

import pytest
import torch

from coterie import combine
from coterie.errors import StrategyError, TrainingError
from coterie.sync.laws import (
    CentredClip,
    Kin,
    Krum,
    Law,
    Mean,
    Median,
    MultiKrum,
    TrimmedMean,
)

GENERATOR = torch.Generator().manual_seed(0)
ROWS = list(torch.randn(7, 5, generator=GENERATOR))
WEIGHTS = [60.0, 40.0, 20.0, 1.0, 7.0, 7.0, 30.0]
LAWS: list[Law] = [
    Mean(),
    Median(),
    TrimmedMean(),
    TrimmedMean(2),
    Krum(),
    Krum(2),
    MultiKrum(),
    MultiKrum(2, keep=3),
    CentredClip(),
    CentredClip(0.5, num_steps=1),
    Kin(),
]
every_law = pytest.mark.parametrize("law", LAWS, ids=repr)


@pytest.mark.parametrize(
    ("law", "expected_N"),
    [
        (Mean(), combine.mean(ROWS, WEIGHTS)),
        (Median(), combine.median(ROWS, WEIGHTS)),
        (TrimmedMean(2), combine.trimmed_mean(ROWS, WEIGHTS, 2)),
        (Krum(2), combine.krum(ROWS, WEIGHTS, 2)),
        (MultiKrum(2, keep=3), combine.multi_krum(ROWS, WEIGHTS, 2, 3)),
        (CentredClip(0.5, num_steps=1), combine.centred_clip(ROWS, WEIGHTS, 0.5, 1)),
        (Kin(), combine.kin(ROWS, WEIGHTS)),
    ],
    ids=repr,
)
def test_a_word_is_its_arithmetic(law: Law, expected_N: torch.Tensor) -> None:
    assert torch.equal(law.combine(ROWS, WEIGHTS), expected_N)


@every_law
def test_a_word_travels_as_it_is_written(law: Law) -> None:
    name, _, rest = repr(law).partition("(")
    words = [word for word in rest.rstrip(")").split(", ") if word]
    given = [float(word.split("=")[-1]) for word in words]
    again = type(law)(*(int(value) if value.is_integer() else value for value in given))
    assert name == type(law).__name__
    assert again == law
    assert hash(again) == hash(law)


def test_defaults_are_not_written() -> None:
    assert [repr(law) for law in LAWS[2:6]] == [
        "TrimmedMean()",
        "TrimmedMean(2)",
        "Krum()",
        "Krum(2)",
    ]


@every_law
def test_coordinatewise_says_whether_columns_can_be_combined_apart(law: Law) -> None:
    whole_N = law.combine(ROWS, WEIGHTS)
    columns = [law.combine([row_N[i : i + 1] for row_N in ROWS], WEIGHTS) for i in range(5)]
    assert torch.equal(torch.cat(columns), whole_N) == law.coordinatewise


@every_law
def test_linear_says_whether_sums_go_through(law: Law) -> None:
    through = []
    for other_MN in torch.randn(5, 7, 5, generator=torch.Generator().manual_seed(1)):
        added_N = law.combine(ROWS, WEIGHTS) + law.combine(list(other_MN), WEIGHTS)
        summed_N = law.combine(list(torch.stack(ROWS) + other_MN), WEIGHTS)
        through.append(torch.allclose(summed_N, added_N, atol=1e-6))
    assert all(through) == law.linear


@every_law
def test_the_fewest_members_are_enough(law: Law) -> None:
    rows = [torch.tensor([float(i), 1.0]) for i in range(law.least)]
    assert law.combine(rows, [1.0] * law.least).isfinite().all()


@pytest.mark.parametrize("law", [law for law in LAWS if law.least > 3], ids=repr)
def test_one_fewer_is_refused(law: Law) -> None:
    rows = ROWS[: law.least - 1]
    with pytest.raises(TrainingError, match=f"at least {law.least} rows"):
        law.combine(rows, [1.0] * len(rows))


def test_least_is_what_papers_ask_for() -> None:
    laws = [Mean(), Median(), TrimmedMean(2), Krum(1), MultiKrum(2, keep=9), CentredClip(), Kin()]
    assert [law.least for law in laws] == [1, 3, 5, 5, 9, 3, 3]


@pytest.mark.parametrize(
    ("law", "arguments", "message"),
    [
        (TrimmedMean, (-1,), "how many values"),
        (TrimmedMean, (True,), "how many values"),
        (TrimmedMean, (1.0,), "how many values"),
        (Krum, ("1",), "how many members"),
        (Krum, (-1,), "how many members"),
        (MultiKrum, (False,), "how many members"),
        (MultiKrum, (1, 0), "how many rows"),
        (MultiKrum, (1, 1.5), "how many rows"),
        (CentredClip, (0.0,), "radius above zero"),
        (CentredClip, (math.inf,), "radius above zero"),
        (CentredClip, (1.0, 0), "number of steps"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_written(
    law: type[Law], arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(StrategyError, match=message):
        law(*arguments)
