from __future__ import annotations

import pytest

from coterie.transport.duties import Able, Duties, Judged, Kinship, Learned
from coterie.transport.frames import (
    BadMessage,
    decode_from_agent,
    decode_from_coordinator,
    encode,
)

TOLD = [
    Able(step_s={"greek": 0.1}, refused={"latin": "no data"}, holds={"greek": 7}),
    Judged(pupil="bob", teacher="ann", currency="labels", num_bytes=9, num_steps=4, reason="no"),
    Kinship(pupil="bob", num_steps=30, row={"ann": (0.5, 0.1)}),
    Learned(
        pupil="bob", num_steps=4, num_samples=8, data_epoch=0, position=8, num_epochs=0.5,
        loss=float("nan"), step_s=0.1,
    ),
]  # fmt: skip


@pytest.mark.parametrize("message", TOLD, ids=lambda message: message.kind)
def test_what_agents_say_is_read_as_it_was_said(message: Able) -> None:
    read = decode_from_agent(encode(message))
    assert encode(read) == encode(message)


def test_duties_are_read_as_they_were_said() -> None:
    duties = Duties(pupils={"greek": 40}, groups=(("greek", "latin"),), board="h:1#k")
    assert decode_from_coordinator(encode(duties)) == duties


@pytest.mark.parametrize(
    "frame",
    [
        b'{"kind":"able","step_s":{"greek":-1.0}}',
        b'{"kind":"able","step_s":{"greek":NaN}}',
        b'{"kind":"judged","pupil":"bob"}',
        b'{"kind":"duties","pupils":{}}',
        b'{"kind":"kept","pupil":"bob","num_steps":-1}',
        b'{"kind":"kinship","pupil":"bob","num_steps":1,"row":{"ann":[1]}}',
    ],
)
def test_what_is_no_word_of_an_agents_is_refused(frame: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_from_agent([frame])
