"""What is said arrives as it was said, and nothing else gets past the door."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coterie.leases import cut_block
from coterie.transport.frames import BadMessage, decode_from_agent, decode_from_coordinator, encode
from coterie.transport.messages import (
    Back,
    Beat,
    Begun,
    Block,
    Bye,
    Declined,
    Ended,
    Evaluate,
    Failed,
    FromAgent,
    FromCoordinator,
    Hello,
    Land,
    Linked,
    Offence,
    Probe,
    Probed,
    ProbeLinks,
    Ready,
    Refused,
    Report,
    Said,
    Save,
    Saved,
    Scores,
    Settled,
    State,
    Stop,
    Term,
    TornRound,
    Turn,
    Welcome,
    Who,
    Wire,
)

Decode = Callable[[list[bytes]], Any]

STATE = State(ticket=3, file="model.safetensors", index=1, total=2, blob=b"\x00weights\xff")
HELLO = Hello(name="ann", pid=7, cores=1.5, memory_bytes=1 << 40, device="cpu", store="10.0.0.1:1")
READY = Ready(names=("w", "scale"), shapes=((2, 3), ()), num_train=60_000, needs_closure=False)
REPORT = Report(
    term=2,
    first_round=1,
    last_round=2,
    cohort=("ann", "bob"),
    num_samples=96,
    num_steps=2,
    loss=0.1,
    compute_s=1 / 3,
    exchange_s=0.0,
    gap_s=2.5,
    norms=(4.0, 1 / 3, -1e-9, 96.0, 0.75),
    digest=1 << 55,
)
FROM_AGENT: list[Wire] = [
    HELLO,
    READY,
    Refused(reason="no such dataset"),
    Beat(computing_s=0.25),
    Probed(timings=((8, 0.25), (64, 1e-9)), fixed_bytes=4, bytes_per_sample=0.5),
    Linked(term=1, links=(("bob", 1e-4, 1.25e8),)),
    TornRound(term=1),
    Settled(term=2, round=17, stands=19, healed=True, seconds=0.125),
    REPORT,
    Back(hello=HELLO, ready=READY, term=2, round=2, reports=(REPORT, REPORT)),
    Declined(round=4, reason="expected a finite loss, found nan", in_a_row=2),
    Offence(member="ann", reason="expected 8 values, found 9"),
    Saved(ticket=3, pause_s=0.25),
    Scores(round=3, metrics={"accuracy": 0.97}, seconds=0.5),
    Failed(reason="the loss is not finite – lower the rate"),
    STATE,
    Begun(data_epoch=2),
    Ended(),
    Said(text="epoch 1: 0.93"),
    Bye(),
]
BLOCK = Block(
    term=2,
    first_round=5,
    data_epoch=1,
    spans=((0, 40), (90, 100)),
    shares={"ann": 6, "bob": 2},
    every=3,
    strategy="chain(Reduce())",
    epoch_loss=0.3,
    trust={"bob": 0.25},
    digest=True,
)
FROM_COORDINATOR: list[Wire] = [
    Welcome(job={"name": "x", "until": {"epochs": 1.5}, "task": [None, True]}, num_files=2),
    Welcome(job={}, code={"nets.py": "0f"}, source={"nets.py": "x = '\u00e9'\n"}),
    Who(),
    Probe(sizes=(8, 64), seconds=0.5),
    Term(number=2, members=("ann", "bob"), store="10.0.0.1:1", at_once=True),
    ProbeLinks(term=2),
    BLOCK,
    Land(term=2),
    Evaluate(term=2),
    Turn(term=2, data_epoch=3, epoch_loss=0.5),
    Save(term=2, ticket=7, whole=True),
    Stop(reason="done"),
    STATE,
    Beat(),
]
SPOKEN = [(decode_from_agent, m) for m in FROM_AGENT]
SPOKEN += [(decode_from_coordinator, m) for m in FROM_COORDINATOR]

every_message = pytest.mark.parametrize(
    ("decode", "message"),
    SPOKEN,
    ids=[f"{d.__name__.removeprefix('decode_')}-{type(m).__name__}" for d, m in SPOKEN],
)
both_ends = pytest.mark.parametrize("decode", [decode_from_agent, decode_from_coordinator])


def spoken_by(side: Any) -> set[type]:
    union, _ = get_args(side)
    return set(get_args(union))


def with_fields(message: Wire, **fields: Any) -> list[bytes]:
    """The frames of a message with some fields replaced, as a stranger would write them."""
    head, *rest = encode(message)
    return [json.dumps({**json.loads(head), **fields}).encode(), *rest]


@every_message
def test_what_is_said_arrives_as_it_was_said(decode: Decode, message: Wire) -> None:
    heard = decode(encode(message))
    assert type(heard) is type(message)
    assert heard == message


def test_every_kind_of_message_is_among_these() -> None:
    assert {type(m) for m in FROM_AGENT} == spoken_by(FromAgent)
    assert {type(m) for m in FROM_COORDINATOR} == spoken_by(FromCoordinator)


@given(st.tuples(st.integers(0, 1 << 62), st.floats()), st.dictionaries(st.text(), st.floats()))
@example((1, math.nan), {"loss": math.inf, "": -math.inf})
def test_every_number_and_every_text_survives(
    timing: tuple[int, float], metrics: dict[str, float]
) -> None:
    probed = Probed(timings=(timing,), fixed_bytes=timing[0], bytes_per_sample=timing[1])
    scores = Scores(round=0, metrics=metrics, seconds=timing[1])
    for said in (probed, scores):
        assert repr(decode_from_agent(encode(said))) == repr(said)  # NaN equals no NaN


def test_what_a_job_holds_keeps_its_type() -> None:
    job = {"lr": math.inf, "word": "Infinity", "num": 1, "real": 1.0, "none": None}
    heard = decode_from_coordinator(encode(Welcome(job=job))).job
    assert heard == job
    assert [type(value) for value in heard.values()] == [type(value) for value in job.values()]


@given(st.binary())
def test_bytes_of_state_survive(blob: bytes) -> None:
    said = STATE.model_copy(update={"blob": blob})
    assert decode_from_agent(encode(said)) == said


def test_a_block_is_cut_alike_by_all_who_hear_it() -> None:
    heard = decode_from_coordinator(encode(BLOCK))
    assert heard.rounds() == cut_block(BLOCK.spans, BLOCK.shares, BLOCK.every)
    assert list(heard.shares) == list(BLOCK.shares), "leases follow the order of the shares"


@every_message
def test_unknown_fields_are_refused(decode: Decode, message: Wire) -> None:
    with pytest.raises(BadMessage, match="stranger"):
        decode(with_fields(message, stranger=1))


@every_message
def test_a_message_without_one_of_its_fields_is_refused(decode: Decode, message: Wire) -> None:
    for name, field in type(message).model_fields.items():
        if not field.is_required():
            continue
        head, *rest = encode(message)
        fields = json.loads(head)
        del fields[name]
        with pytest.raises(BadMessage, match=name):
            decode([json.dumps(fields).encode(), *rest])


@pytest.mark.parametrize(
    "fields",
    [
        {"pid": "7"},
        {"pid": 7.0},
        {"pid": True},
        {"pid": None},
        {"cores": "1.5"},
        {"name": 7},
        {"name": ["ann"]},
        {"memory_bytes": {}},
    ],
    ids=str,
)
def test_what_only_resembles_a_type_is_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(BadMessage, match=name):
        decode_from_agent(with_fields(HELLO, **fields))


def test_a_side_hears_only_what_the_other_may_say() -> None:
    both = spoken_by(FromAgent) & spoken_by(FromCoordinator)
    assert both == {State, Beat}
    for decode, messages in (
        (decode_from_agent, FROM_COORDINATOR),
        (decode_from_coordinator, FROM_AGENT),
    ):
        for message in messages:
            if type(message) not in both:
                with pytest.raises(BadMessage, match=r"kind|tag"):
                    decode(encode(message))


@every_message
def test_frames_too_few_or_too_many_are_refused(decode: Decode, message: Wire) -> None:
    frames = encode(message)
    with pytest.raises(BadMessage):
        decode(frames[:-1])
    with pytest.raises(BadMessage, match=f"frames for {message.kind}"):  # type: ignore[attr-defined]
        decode([*frames, b""])


@pytest.mark.parametrize(("index", "total"), [(2, 2), (-1, 2), (0, 0), (0, -1)])
def test_a_piece_that_is_none_of_its_file_is_refused(index: int, total: int) -> None:
    with pytest.raises(BadMessage):
        decode_from_agent(with_fields(STATE, index=index, total=total))


@both_ends
@given(frames=st.lists(st.binary(), max_size=3))
@example(frames=[])
@example(frames=[b"[" * 100_000])
@example(frames=[b'{"kind":"beat"'])
@example(frames=[b'{"kind":"\xff"}'])
@example(frames=[b'{"kind":"torn","term":' + b"9" * 10_000 + b"}"])
@example(frames=[b"null"])
def test_garbage_is_a_bad_message_and_nothing_worse(decode: Decode, frames: list[bytes]) -> None:
    with pytest.raises(BadMessage):
        decode(frames)


@given(
    st.integers(0, len(FROM_AGENT) - 1), st.randoms(use_true_random=False), st.binary(max_size=4)
)
def test_a_damaged_message_is_a_message_or_a_bad_one(
    which: int, rng: random.Random, damage: bytes
) -> None:
    head, *rest = encode(FROM_AGENT[which])
    at = rng.randrange(len(head))
    damaged = head[:at] + damage + head[at + len(damage) :]
    try:
        heard = decode_from_agent([damaged, *rest])
    except BadMessage:
        return
    assert type(heard) in spoken_by(FromAgent)


class Trap:
    sprung = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", 1)


@both_ends
def test_a_pickle_is_refused_unopened(decode: Decode) -> None:
    trap = pickle.dumps(Trap())
    with pytest.raises(BadMessage):
        decode([trap])
    head, _ = encode(STATE)
    assert decode([head, trap]).blob == trap
    assert Trap.sprung == 0


def test_a_refusal_is_short_enough_to_be_logged() -> None:
    with pytest.raises(BadMessage) as refusal:
        decode_from_agent([b'{"kind":"hello","name":' + b"9" * 100_000 + b"}"])
    assert len(str(refusal.value)) < 300
