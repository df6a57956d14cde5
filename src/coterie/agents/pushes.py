"""Rounds of the star road as a member lives them: its own pace, or a server's."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.agents import effects as do
from coterie.agents.meet import REPORT_S, commit, report, tell_apart
from coterie.agents.member import Member
from coterie.agents.settle import regroup
from coterie.agents.star import early, late, opened, push
from coterie.agents.walks import context, learn
from coterie.errors import Torn
from coterie.leases import Lease


def push_round(
    member: Member, number: int, data_epoch: int, leases: Mapping[str, Lease]
) -> do.Life[None]:
    """Walk, push, and go on from the server's answer."""
    if member.name not in leases or member.name not in member.term.members:
        return
    member.cohort = (member.name,)
    mine = yield from learn(member, number, data_epoch, leases)
    assert mine is not None
    began_s = yield do.Now()
    try:
        counts = yield from push(member, mine)
    except Torn:
        yield from regroup(member)  # the server is gone: only an end can follow
        return
    now_s = yield do.Now()
    if counts:
        yield from tell_apart(member, number)
    member.tally.exchange_s += now_s - began_s
    member.memory = mine.memory if counts else member.memory
    member.round = number
    if counts:
        member.tally.count(mine, member.cohort)
    if now_s - member.tally.since_s > REPORT_S:
        yield from report(member)


def came_late(member: Member, number: int, leases: Mapping[str, Lease]) -> do.Life[bool]:
    """Whether a round was closed before this member began it; it then lands what was agreed."""
    try:
        outcome = yield from early(member, number)
    except Torn:
        return False  # the round goes on in another term
    if outcome is None:
        return False
    ctx = context(member, number, leases)
    member.contribution = late(member, number, ctx, leases)
    agreed = opened(member, outcome, ctx)
    member.cohort = tuple(agreed.weights)
    yield from commit(member, agreed.vector_K, agreed.weights, member.memory)
    return True
