"""Rounds of the star road as a member lives them: its own pace, or a server's."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.agents import effects as do
from coterie.agents.meet import REPORT_S, commit, report, tell_apart
from coterie.agents.member import Member
from coterie.agents.settle import heed
from coterie.agents.star import early, late, opened, pull, push
from coterie.agents.tally import Contribution
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
    counts = yield from _pushed(member, mine)
    if counts is None:
        return
    now_s = yield do.Now()
    yield from (tell_apart(member, number) if counts else report(member))
    member.tally.exchange_s += now_s - began_s
    member.memory = mine.memory if counts else member.memory
    member.round = number
    if counts:
        member.tally.count(mine, member.cohort)
    else:
        member.tally.skip(number, ())  # should nobody have heard the server say so
    if now_s - member.tally.since_s > REPORT_S or not counts:
        yield from report(member)


def _pushed(member: Member, mine: Contribution) -> do.Life[bool | None]:
    """Whether a push counted; None where it cannot have, as the member was left out before.

    What this server was sent, it answers. Another one does not know of it: it is sent anew.
    """
    base, sent_to = member.version, ""
    while member.name in member.term.members or sent_to == member.term.hub:
        sent_to = member.term.hub
        try:
            return (yield from push(member, mine, base))
        except Torn:
            yield from heed(member)
    assert member.anchor_N is not None
    member.learner.place(member.anchor_N)  # others learn it: it is no part of the next walk
    return None


def catch_up(member: Member) -> do.Life[None]:
    """Where a server holds the anchor, know its newest."""
    while member.term.apart and member.name in member.term.members:
        try:
            yield from pull(member)
        except Torn:
            yield from heed(member)
        else:
            return


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
    yield from commit(member, agreed, member.memory)
    return True
