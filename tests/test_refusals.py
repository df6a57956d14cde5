"""What is wrong with plain values, as a sentence a user can act on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from coterie.refusals import refusal, shown


class Cup(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


class Tea(BaseModel):
    model_config = ConfigDict(extra="forbid")
    minutes: int
    cups: list[Cup] = []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "expected the key minutes, found none; add it"),
        (
            {"minutes": "long"},
            "minutes: expected a valid integer, unable to parse string as an integer, "
            "found 'long'; pour again",
        ),
        (
            {"minutes": 1, "cups": [{"sise": 2}]},
            "a key of cups.0, found 'sise'; did you mean 'size'",
        ),
        ({"minutes": 1, "xyz": 2}, "a key of the tea, found 'xyz'; possible are minutes, cups"),
        ({"minutes": 1, "cups": [3]}, "cups.0: expected"),
    ],
)
def test_the_first_thing_to_mend_is_named(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        Tea.model_validate(data)
    assert said in refusal(error.value, data, Tea, "the tea", "pour again")


def test_what_is_long_is_cut() -> None:
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
