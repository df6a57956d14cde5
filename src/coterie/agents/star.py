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


def consult(member: Member, mine: Contribution) -> do.Life[tuple[Agreed, tuple[Any, ...]]]:
    """Send what this member brings to a round, and wait until the server closes it."""
    packet = {
        "kind": "bring",
        "term": member.term.number,
        "round": mine.round,
        "weight": mine.weight,
        "payload": mine.payload,
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
    return Agreed(vector_K, outcome["weights"])


def _hear(member: Member, wait: bool, answer: bool = False) -> do.Life[Any]:
    """The server's next word in this term, or its answer in any; None where none is waited for."""
    while True:
        mail = yield do.Fetch(CHANNEL, wait)
        if mail is None:
            return None
        said = unpack_state(mail[1])
        if answer or said["term"] == member.term.number:
            return said


# -- asynchronous -------------------------------------------------------------------------------


def pull(member: Member) -> do.Life[bool]:
    """Take over the server's anchor, or be its first; whether there was one already."""
    asked: dict[str, Any] = {"kind": "pull", "term": member.term.number}
    if member.version < 0:
        names, shapes = member.layout.names, [list(shape) for shape in member.layout.shapes]
        asked |= {"names": list(names), "shapes": shapes, "vector": member.agreed_vector()}
    yield do.Post(HUB, CHANNEL, pack_state(asked))
    anchor = yield from _hear(member, wait=True, answer=True)
    member.version = anchor["version"]
    member.learner.place(anchor["payload"])
    if member.anchor_N is not None:
        member.anchor_N = anchor["payload"]
    return bool(anchor["version"])


def push(member: Member, mine: Contribution) -> do.Life[None]:
    """Send a walk to the server."""
    packet = {
        "kind": "push",
        "term": member.term.number,
        "round": mine.round,
        "base": member.version,
        "num_steps": mine.num_steps,
        "weight": mine.weight,
        "payload": mine.payload,
    }
    yield do.Post(HUB, CHANNEL, pack_state(packet))


def answered(member: Member) -> do.Life[bool]:
    """Go on from the server's answer to a push; whether it counted."""
    answer = yield from _hear(member, wait=True, answer=True)
    assert member.anchor_N is not None
    member.version = answer["version"]
    member.anchor_N = anchor_after(member, answer)
    member.learner.place(member.anchor_N)
    return bool(answer["accepted"])


def anchor_after(member: Member, answer: Mapping[str, Any]) -> Tensor:
    """The server's anchor: as it is, or as what it has moved by since it was last sent."""
    moved: Tensor = answer["payload"]
    if moved.is_floating_point():
        return moved
    assert member.anchor_N is not None
    ctx = Ctx(round=answer["version"])
    return member.anchor_N + member.sentence.open(moved, member.anchor_N, ctx)
