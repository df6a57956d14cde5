"""Membership: a meeting broke off or a term was named, and its members come to stand at one place.

Legend: N trainable parameters, K the part of them that a sentence shares.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import torch

from coterie.agents import effects as do
from coterie.agents.meet import commit, report
from coterie.agents.member import Member, as_tensor
from coterie.agents.star import pull
from coterie.errors import CoterieError, Torn
from coterie.sync.room import Agreed
from coterie.transport.messages import Settled, Stop, Term, TornRound, Who


class Stopped(CoterieError):
    """The coordinator ended the run, or this member's part in it; it may be called back."""

    def __init__(self, order: Stop) -> None:
        super().__init__(order.reason)
        self.again = order.again


def regroup(member: Member) -> do.Life[None]:
    """A meeting broke off: hold the contribution and wait for the term that replaces it."""
    member.torn_at_s = yield do.Now()
    yield from report(member)
    yield do.Tell(TornRound(term=member.term.number))
    while not (yield from heed(member)):
        continue


def heed(member: Member) -> do.Life[bool]:
    """Carry out what broke off a wait, and keep other orders for later; whether it was a term."""
    yield from report(member)
    while True:
        order = yield do.Hear()
        if isinstance(order, Stop) and order.at_once:
            raise Stopped(order)
        if isinstance(order, Who):
            yield do.Tell(member.back())
            return False
        if isinstance(order, Term) and order.at_once:
            if order.number > member.term.number:
                yield from join(member, order)
                return True
        else:
            member.backlog.append(order)


def join(member: Member, term: Term) -> do.Life[None]:
    """Build the group of a term, and settle with its members on a round."""
    member.term = term
    if member.handle is not None:  # of a meeting that the others have left
        handle, member.handle = member.handle, None
        yield do.Leave(handle)
    if term.anew or member.name not in term.members:
        member.stands = member.round  # no earlier order counts
        member.told.clear()  # and what it told may be void
        member.drop()
    if member.name not in term.members:
        return
    began_s = yield do.Now()
    try:
        yield do.Form(member.name, term)
        if term.apart:
            healed = member.server != term.hub and (yield from pull(member))
        else:
            healed = yield from settle(member)
    except Torn:
        yield from regroup(member)
        return
    seconds = (yield do.Now()) - began_s
    yield do.Tell(
        Settled(
            term=term.number,
            round=member.round,
            stands=member.stands,
            healed=healed,
            seconds=seconds,
        )
    )


def settle(member: Member) -> do.Life[bool]:
    """Bring every member of a new group to the same round; whether this one had to heal.

    One gather of (round, newest held, outcome known, digest) tells all. A member that holds the
    contribution to the newest round only missed its outcome, and is given that; any other that is
    behind, or differs, takes over the whole state of the freshest member: where all are to step
    alike from here on, also one whose optimizer differs. Of earlier orders those
    rounds stand that a member holds a part of.
    """
    waits = member.contribution.round if member.contribution else 0
    digest = member.whole_digest() if member.term.alike else member.digest()
    mine = [member.round, member.held, waits, member.outcome.round, digest]
    row = torch.tensor(mine, dtype=torch.int64)
    rows = [tuple(told) for told in torch.stack((yield do.Gather(row))).tolist()]
    newest = max(number for number, *_ in rows)
    member.stands = max(newest, *(held for _, held, *_ in rows))
    # Where the freshest differ, whoever is of one mind with most of them is right.
    digests = Counter(digest for number, *_, digest in rows if number == newest)
    common = max(digests, key=lambda digest: digests[digest])
    donor = next(i for i, r in enumerate(rows) if r[0] == newest and r[-1] == common)
    healed = False
    _, _, _, outcome, agreed = rows[donor]
    agrees = member.strategy is None or member.strategy.exchange.agrees
    for name, (number, _, waiting, _, digest) in zip(member.term.members, rows, strict=True):
        if number == newest and digest == agreed:
            continue
        missed = agrees and number == newest - 1 and waiting == newest == outcome
        if member.name == member.term.members[donor]:
            yield from (give_outcome if missed else give_state)(member, name)
        elif member.name == name:
            yield from (take_outcome if missed else take_state)(member, member.term.members[donor])
            healed = not missed
    return healed


def give_outcome(member: Member, peer: str) -> do.Life[None]:
    """Send what a meeting came to, and who was heard in it."""
    outcome = member.outcome
    assert outcome.agreed_K is not None
    heard = [outcome.weights.get(name, 0.0) for name in sorted(outcome.weights)]
    names = "\n".join(sorted(outcome.weights)).encode()
    yield do.Give(peer, torch.tensor([len(names), len(heard)]))
    yield do.Give(peer, as_tensor(names))
    yield do.Give(peer, torch.tensor(heard, dtype=torch.float64))
    yield do.Give(peer, outcome.agreed_K)
    if outcome.beside_P is not None:
        yield do.Give(peer, outcome.beside_P)


def take_outcome(member: Member, peer: str) -> do.Life[None]:
    """Land what was agreed while this member was cut off."""
    mine = member.contribution
    assert mine is not None
    sizes = (yield do.Take(peer, torch.zeros(2, dtype=torch.int64))).tolist()
    names = yield do.Take(peer, torch.zeros(sizes[0], dtype=torch.uint8))
    heard = yield do.Take(peer, torch.zeros(sizes[1], dtype=torch.float64))
    weights = dict(zip(names.numpy().tobytes().decode().split("\n"), heard.tolist(), strict=True))
    size = member.sentence.shared(member.layout, mine.round).size
    agreed_K = yield do.Take(peer, mine.own_N.new_empty(size))
    beside_P = None
    if mine.beside_P is not None:
        beside_P = yield do.Take(peer, torch.empty_like(mine.beside_P))
    member.cohort = tuple(name for name in member.cohort if weights.get(name, 0.0) > 0)
    member.handle = None
    memory = mine.memory if weights.get(member.name, 0.0) > 0 else member.memory
    yield from commit(member, Agreed(agreed_K, weights, beside_P=beside_P), memory)


def give_state(member: Member, peer: str) -> do.Life[None]:
    """Send all that this member is."""
    data = member.snapshot().to_bytes()
    yield do.Give(peer, torch.tensor([len(data)]))
    yield do.Give(peer, as_tensor(hashlib.sha256(data).digest()))
    yield do.Give(peer, as_tensor(data))


def take_state(member: Member, peer: str) -> do.Life[None]:
    """Become a peer of another member."""
    (length,) = (yield do.Take(peer, torch.zeros(1, dtype=torch.int64))).tolist()
    digest = yield do.Take(peer, torch.zeros(32, dtype=torch.uint8))
    data = yield do.Take(peer, torch.zeros(length, dtype=torch.uint8))
    member.inherit_whole(data.numpy().tobytes(), digest.numpy().tobytes(), peer)
