"""Lessons as values and bytes: what comes back, and what stays outside."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from coterie.errors import LessonError
from coterie.knowledge import Door, Evidence, Lesson, Packing
from coterie.sync.codecs import Int8
from coterie.types import Ctx

ARRAYS = {"trunk.w": torch.arange(6.0).view(2, 3), "counts": torch.tensor([1, 2])}


def lesson(**changes: object) -> Lesson:
    parts = {
        "teacher": "ann",
        "task": "colours",
        "currency": "parameters",
        "num_steps": 7,
        "arrays": ARRAYS,
        "evidence": Evidence(12.0, -0.5),
        "basis": "abc",
        "classes": ("red", "blue"),
    }
    return Lesson(**{**parts, **changes})  # type: ignore[arg-type]


def test_bytes_bring_back_all_of_it_and_how_many_they_were() -> None:
    data = lesson().to_bytes()
    read = Lesson.from_bytes(data)
    for name in ("teacher", "task", "currency", "num_steps", "evidence", "basis", "classes"):
        assert getattr(read, name) == getattr(lesson(), name)
    assert read.num_bytes == len(data)
    assert read.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert torch.equal(read.arrays[name], array)


def test_it_is_a_value() -> None:
    with pytest.raises(TypeError):
        lesson().arrays["more"] = torch.ones(1)  # type: ignore[index]


def test_a_codec_takes_a_quarter_of_the_bytes_and_feedback_makes_up_for_it() -> None:
    packing = Packing.of(Int8())
    rng = torch.Generator().manual_seed(0)
    wanted = {"trunk.w": torch.randn(4096, generator=rng), "counts": torch.tensor([3])}
    told = lesson(arrays=wanted)
    plain, packed = len(told.to_bytes()), len(told.to_bytes(packing))
    assert packed < 0.3 * plain
    heard, lost = [], None
    for _ in range(64):
        data, lost = told.packed(packing, lost)
        read = Lesson.from_bytes(data, packings=(packing,))
        assert torch.equal(read.arrays["counts"], wanted["counts"])
        heard.append(read.arrays["trunk.w"])
    once = (heard[0] - wanted["trunk.w"]).norm()
    assert (torch.stack(heard).mean(0) - wanted["trunk.w"]).norm() < once / 10
    assert torch.equal(
        heard[0], Int8().decode(Int8().encode(wanted["trunk.w"], Ctx()), heard[0], Ctx())
    )


def test_a_codec_that_the_pupil_does_not_have_is_named() -> None:
    data = lesson().to_bytes(Packing.of(Int8()))
    with pytest.raises(LessonError, match="found one packed by Int8"):
        Lesson.from_bytes(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrays": {"w": torch.tensor([1.0, math.nan])}}, "expected w to be finite"),
        ({"arrays": {"w": torch.ones(2, dtype=torch.complex64)}}, "expected w to be of"),
        ({"arrays": {"": torch.ones(2)}}, "expected the array of a lesson to be a name"),
        ({"teacher": ""}, "expected the teacher of a lesson"),
        ({"task": "a\nb"}, "expected the task of a lesson"),
        ({"num_steps": -1}, "whole number of steps"),
        ({"evidence": Evidence(-1.0)}, "expected evidence"),
        ({"evidence": Evidence(1.0, math.inf)}, "expected evidence"),
        ({"classes": ("x" * 500,)}, "expected the class of a lesson"),
    ],
)
def test_what_is_no_lesson_is_refused_in_a_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(LessonError, match=words) as refusal:
        lesson(**changes)
    assert "\n" not in str(refusal.value)


def test_the_door_refuses_what_is_too_big_before_it_is_read() -> None:
    with pytest.raises(LessonError, match="at most 10 bytes, found 1,000"):
        Lesson.from_bytes(bytes(1000), Door(max_bytes=10))
    with pytest.raises(LessonError, match="norm of at most 1"):
        Lesson.from_bytes(lesson().to_bytes(), Door(max_norm=1.0))
    with pytest.raises(LessonError, match="at most 1 arrays"):
        Lesson.from_bytes(lesson().to_bytes(), Door(max_arrays=1))


HEAD = {"teacher": "a", "task": "t", "currency": "c", "num_steps": 1, "num_samples": 1}
GOOD = {**HEAD, "utility": None, "basis": "", "classes": []}


@pytest.mark.parametrize(
    "head",
    [
        HEAD,
        [1],
        {**GOOD, "num_samples": "many"},
        {**GOOD, "num_steps": 1.5},
        {**GOOD, "utility": "good"},
        {**GOOD, "classes": 7},
        {**GOOD, "packing": "Int8()", "shapes": {"w": [1 << 40, 1 << 40]}},
        {**GOOD, "packing": "Int8()", "shapes": {"w": [-1]}},
        {**GOOD, "packing": "Int8()", "shapes": {"w": [3]}},
        {**GOOD, "packing": ["Int8()"], "shapes": {}},
    ],
)
def test_heads_of_others_are_believed_nothing(head: object) -> None:
    data = save({"packed": torch.zeros(2, dtype=torch.uint8)}, {"lesson": json.dumps(head)})
    with pytest.raises(LessonError):
        Lesson.from_bytes(data, packings=(Packing.of(Int8()),))


@given(st.binary(max_size=64), st.integers(0, 400))
def test_bytes_that_were_changed_are_a_lesson_or_refused(noise: bytes, at: int) -> None:
    data = lesson().to_bytes()
    at = min(at, len(data))
    for broken in (noise, data[:at], data[:at] + noise + data[at + len(noise) :]):
        try:
            Lesson.from_bytes(broken)
        except LessonError as refusal:
            assert "\n" not in str(refusal)  # noqa: PT017
