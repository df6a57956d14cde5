"""Whatever comes over the wire is a message of the protocol or a BadMessage, and quickly so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st

from coterie.transport import messages as say
from coterie.transport.frames import BadMessage, decode_from_agent, decode_from_coordinator, encode

DECODERS: list[Callable[[Sequence[bytes]], Any]] = [decode_from_agent, decode_from_coordinator]
KINDS = [
    kind.model_fields["kind"].default
    for union in (say.FromAgent, say.FromCoordinator)
    for kind in get_args(get_args(union)[0])
]
HELLO = say.Hello(name="a", pid=1, cores=2.0, memory_bytes=9, device="cpu", store="a:1")
READY = say.Ready(names=("w",), shapes=((2, 3),), num_train=9, needs_closure=False)
REPORT = say.Report(
    term=1, first_round=1, last_round=2, cohort=("a", "b"), num_samples=3, num_steps=1, loss=0.5,
    compute_s=0.1, exchange_s=0.1, norms=(1.0, 2.0, 0.5, 8.0, 0.5), digest=7,
)  # fmt: skip
VALID: list[say.Wire] = [
    HELLO,
    READY,
    REPORT,
    say.Back(hello=HELLO, ready=READY, term=1, round=2, reports=(REPORT, REPORT)),
    say.Probed(timings=((1, 0.1), (8, 0.2)), fixed_bytes=1, bytes_per_sample=2.0),
    say.Linked(term=1, links=(("b", 1e-4, 1e9),)),
    say.Settled(term=1, round=2, stands=3, healed=True, seconds=0.1),
    say.Scores(round=1, metrics={"accuracy": 0.5}, seconds=0.1),
    say.State(ticket=1, file="model", index=0, total=2, blob=b"bytes"),
    say.Beat(computing_s=2.0),
    say.Term(number=1, members=("a", "b"), store="a:1", shapes=((2,),), names=("w",)),
    say.Block(
        term=1, first_round=1, data_epoch=0, spans=((0, 8),), shares={"a": 5, "b": 3}, every=1,
        strategy="chain(Reduce())", trust={"b": 0.5},
    ),
    say.Welcome(job={"name": "x", "deep": [1, {"y": None}]}, num_files=1),
]  # fmt: skip


def decode(frames: Sequence[bytes]) -> None:
    """By either door: a message, or BadMessage; anything else fails the test."""
    for door in DECODERS:
        with suppress(BadMessage):
            assert isinstance(door(frames), say.Wire)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, -(10**300), 2**63, -1])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=64), max_size=4))
@example([])
@example([b""])
@example([b"\xff\xfe", b""])
@example([b"[" * 100_000])
@example([b'{"kind":' * 100_000])
@example([b'{"kind":"beat","computing_s":' + b"9" * 100_000 + b"}"])
@example([b'{"kind":"scores","round":1e400,"metrics":{},"seconds":1}'])
@example([b'{"kind":"welcome","job":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"])
def test_arbitrary_frames_are_refused(frames: list[bytes]) -> None:
    decode(frames)


@settings(max_examples=400)
@given(st.sampled_from(KINDS), st.dictionaries(st.text(max_size=8), values, max_size=4))
def test_arbitrary_fields_of_a_kind_are_refused(kind: str, fields: dict[str, Any]) -> None:
    decode([json.dumps({"kind": kind, **fields}).encode()])


@settings(max_examples=400)
@given(st.sampled_from(VALID), st.data())
def test_fields_of_other_types_are_refused_or_taken_as_they_are(
    message: say.Wire, data: st.DataObject
) -> None:
    frames = encode(message)
    said = json.loads(frames[0])
    for name in data.draw(st.sets(st.sampled_from(sorted(said)), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            said[name] = data.draw(values)
        else:
            del said[name]
    decode([json.dumps(said).encode(), *frames[1:]])


@settings(max_examples=1000)
@given(st.sampled_from(VALID), st.sampled_from(VALID), st.data())
def test_frames_damaged_cut_short_or_swapped_are_refused(
    message: say.Wire, other: say.Wire, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in (*encode(message), *encode(other))]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(frames) - 1))
        frame = frames[at]
        act = data.draw(st.sampled_from(["flip", "cut", "double", "swap", "drop"]))
        if act == "flip" and frame:
            bit = data.draw(st.integers(0, 8 * len(frame) - 1))
            frame[bit // 8] ^= 1 << bit % 8
        elif act == "cut":
            del frame[data.draw(st.integers(0, len(frame))) :]
        elif act == "double":
            frame += bytes(frame)
        elif act == "swap":
            frames.reverse()
        elif len(frames) > 1:
            del frames[at]
    decode([bytes(frame) for frame in frames])
    decode([bytes(frame) for frame in frames[:1]])
