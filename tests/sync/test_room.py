"""Who meets, and what stands on the table."""

from __future__ import annotations

import torch

from coterie.sync.codecs import ErrorFeedback, Int8, Pack, PowerSGD
from coterie.sync.room import Room
from coterie.types import Ctx


def room(pack: Pack | None) -> Room:
    return Room("a", ("a", "b"), {"a": 3.0, "b": 5.0}, torch.zeros(2), pack, Ctx())


def test_a_room_knows_what_was_planned() -> None:
    assert room(None).planned == 8.0


def test_a_codec_is_found_with_and_without_feedback_and_a_sketch_is_none() -> None:
    assert room(Int8()).codec == room(ErrorFeedback(Int8())).codec == Int8()
    assert room(None).codec is None
    assert room(ErrorFeedback(PowerSGD())).codec is None
