"""A member's side of the star road: rounds that a server closes, and pushes that nobody waits for.

Legend: N trainable parameters, K the part of them that a sentence shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coterie.agents import effects as do
from coterie.agents.member import Member
from coterie.agents.state import pack_state, unpack_state
from coterie.agents.tally import Contribution
from coterie.errors import TrainingError
from coterie.leases import Lease
from coterie.sync.room import Agreed
from coterie.transport.messages import HUB
from coterie.types import Ctx

CHANNEL = "server"
ANSWER_S = 30.0  # until the server is asked anew; twice as long each time


def consult(member: Member, mine: Contribution) -> do.Life[tuple[Agreed, tuple[Any, ...]]]:
    """Send what this member brings to a round, and wait until the server closes it."""
    packet = {
        "kind": "bring",
        "term": member.term.number,
        "round": mine.round,
        "weight": mine.weight,
        "payload": mine.payload,
        "beside": mine.beside_P,
    }
    yield do.Post(HUB, CHANNEL, pack_state(packet))
    while True:
        outcome = yield from _hear(member, wait=True)
        if outcome["round"] == mine.round:
            return opened(member, outcome, mine.ctx), mine.memory


def early(member: Member, number: int) -> do.Life[dict[str, Any] | None]:
    """The outcome of a round that was closed before this member began it; None while it is open."""
    while True:
        outcome: dict[str, Any] | None = yield from _hear(member, wait=False)
        if outcome is None or outcome["round"] == number:
            return outcome


def late(member: Member, number: int, ctx: Ctx, leases: Mapping[str, Lease]) -> Contribution:
    """What a member that comes too late brings to a round: nothing."""
    zero_N = member.learner.vector().zero_()
    return Contribution(
        round=number,
        num_samples=0,
        num_steps=0,
        loss_sum=0.0,
        compute_s=0.0,
        weight=0.0,
        own_N=zero_N,
        payload=zero_N,
        memory=member.memory,
        ctx=ctx,
        leases=leases,
    )


def opened(member: Member, outcome: Mapping[str, Any], ctx: Ctx) -> Agreed:
    """What the server says was agreed; raises TrainingError where nobody was heard."""
    if outcome["refused"]:
        raise TrainingError(outcome["refused"])
    strategy, layout = member.sentence, member.layout
    like_K = member.learner.vector()[: strategy.shared(layout, ctx.round).size]
    vector_K = outcome["payload"]
    if not vector_K.is_floating_point():
        vector_K = strategy.open(vector_K, like_K, ctx)
    return Agreed(vector_K, outcome["weights"], beside_P=outcome.get("beside"))


def _hear(member: Member, wait: bool) -> do.Life[Any]:
    """The server's next word in this term; None where none is waited for."""
    while True:
        mail = yield do.Fetch(CHANNEL, wait)
        if mail is None:
            return None
        said = unpack_state(mail[1])
        if said["term"] == member.term.number:
            return said


# -- asynchronous -------------------------------------------------------------------------------


def pull(member: Member) -> do.Life[bool]:
    """Take over the server's anchor; whether it was fresher than this member's.

    A server that is new to this member is handed what it holds of the anchor: all members do so,
    and the server goes on from the freshest.
    """
    asked: dict[str, Any] = {"kind": "pull", "term": member.term.number, "round": 0}
    if member.server != member.term.hub:
        held = {"vector": member.agreed_vector(), "answered": member.answered}
        asked |= {"version": member.version, **held}
    anchor = yield from _ask(member, asked)
    is_fresher = bool(anchor["version"] > max(0, member.version))
    member.server, member.version = member.term.hub, anchor["version"]
    member.heard, member.answered = anchor["answer"], anchor["answered"]
    member.learner.place(anchor["payload"])
    if member.anchor_N is not None:
        member.anchor_N = anchor["payload"]
    return is_fresher


def push(member: Member, mine: Contribution, base: int) -> do.Life[bool]:
    """Send a walk that began at a version of the anchor, and go on from the answer to it.

    Whether it counted. To say it again does no harm: the server knows it by its number.
    """
    packet = {
        "kind": "push",
        "term": member.term.number,
        "round": mine.round,
        "base": base,
        "heard": member.heard,
        "num_steps": mine.num_steps,
        "weight": mine.weight,
        "payload": mine.payload,
    }
    answer = yield from _ask(member, packet)
    member.version, member.anchor_N = answer["version"], anchor_after(member, answer)
    member.heard, member.answered = answer["answer"], answer["answered"]
    member.learner.place(member.anchor_N)
    return bool(answer["accepted"])


def _ask(member: Member, packet: Mapping[str, Any]) -> do.Life[Any]:
    """The server's answer; asked anew, with ever more patience, where it does not come."""
    patience_s = ANSWER_S
    while True:
        yield do.Post(HUB, CHANNEL, pack_state(dict(packet)))
        while (mail := (yield do.Fetch(CHANNEL, patience_s=patience_s))) is not None:
            answer = unpack_state(mail[1])
            if answer["round"] == packet["round"]:  # others are to what was asked twice
                return answer
        patience_s *= 2


def anchor_after(member: Member, answer: Mapping[str, Any]) -> Tensor:
    """The server's anchor: as it is, or as what it has moved by since it was last sent."""
    moved: Tensor = answer["payload"]
    if moved.is_floating_point():
        return moved
    assert member.anchor_N is not None
    ctx = Ctx(round=answer["version"])
    return member.anchor_N + member.sentence.open(moved, member.anchor_N, ctx)
