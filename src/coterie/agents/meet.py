"""A round's meeting: held on the road, landed, and told.

Legend: N trainable parameters, F those that a round is about, K the part of them that is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.agents import heads
from coterie.agents.deviation import norms
from coterie.agents.member import Member, Outcome
from coterie.agents.star import consult
from coterie.agents.tally import Contribution, Tally
from coterie.errors import TrainingError
from coterie.sync import fragments
from coterie.sync.chain import Landing
from coterie.sync.room import Agreed
from coterie.sync.talk import Talk
from coterie.sync.teams import Islands, Pipeline
from coterie.types import Message

REPORT_S = 0.25  # short rounds are told together


def talk(member: Member) -> Talk[tuple[Agreed, tuple[Any, ...]]]:
    """The meeting about what this member holds, and what is told beside it."""
    mine = member.contribution
    assert mine is not None
    return heads.beside(mine, _talk(member, mine))


def _talk(member: Member, mine: Contribution) -> Talk[tuple[Agreed, tuple[Any, ...]]]:
    """The meeting alone; on islands their first members meet for all."""
    team = member.sentence.team
    if isinstance(team, Pipeline) and len(member.cohort) >= team.least:
        weights = team.weights(mine.weights(member.cohort))
        weight = 0.0 if mine.declined else weights[member.name]
        return _among(member, mine, member.term.members, weights, weight)
    if isinstance(team, Islands):
        return _between_islands(member, mine, team.teams(member.cohort))
    return _among(member, mine, member.term.members, mine.weights(member.cohort), mine.weight)


def _among(
    member: Member,
    mine: Contribution,
    members: tuple[str, ...],
    weights: Mapping[str, float],
    weight: float,
) -> Talk[tuple[Agreed, tuple[Any, ...]]]:
    strategy, layout = member.sentence, member.layout
    room = strategy.room(member.name, members, weights, mine.own_N, layout, mine.ctx)
    message = Message(member.name, mine.payload, weight)
    return strategy.talk(message, mine.memory, room, layout)


def _between_islands(
    member: Member, mine: Contribution, islands: tuple[tuple[str, ...], ...]
) -> Talk[tuple[Agreed, tuple[Any, ...]]]:
    """One speaks for each island, where all hold the same, and tells the others what came of it."""
    weights = mine.weights(member.cohort)
    heads = tuple(island[0] for island in islands)
    sums = {island[0]: sum(weights[name] for name in island) for island in islands}
    island = next(island for island in islands if member.name in island)
    shared = member.sentence.shared(member.layout, mine.round)
    agreed, memory = None, mine.memory
    if member.name in heads:
        weight = sums[member.name] if not mine.declined else 0.0
        inner = _among(member, mine, heads, sums, weight)
        agreed, memory = yield from within(heads, inner)
    told_K = agreed.vector_K if agreed else mine.own_N.new_zeros(shared.size)
    if len(island) > 1:
        told_K = yield do.Total(told_K, among=island)
    stumbled = mine.own_N.new_zeros(len(member.term.members))
    stumbled[member.term.members.index(member.name)] = float(mine.stumbled)
    stumbled = yield do.Total(stumbled)
    for name, missed in zip(member.term.members, stumbled.tolist(), strict=True):
        if missed and name in weights:
            weights[name] = 0.0  # what it was to learn is to be learned again
    return Agreed(told_K, weights), memory


def within(team: tuple[str, ...], inner: Talk[Any]) -> Talk[Any]:
    """The same talk, among some of the members."""
    answer: Any = None
    while True:
        try:
            ask = inner.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(ask, do.Total):
            answer = yield do.Total(ask.vector_N, team)
        elif isinstance(ask, do.Gather):
            answer = yield do.Gather(ask.vector_N, team)
        elif isinstance(ask, do.Shuffle):
            answer = yield do.Shuffle(ask.parts, team)
        else:
            answer = yield ask


def meet(member: Member) -> do.Life[None]:
    """Hold the meeting, or wait for the one that was begun, and land what came of it."""
    mine = member.contribution
    assert mine is not None
    began_s = yield do.Now()
    try:
        if member.early_N is not None:
            early_N, member.early_N = member.early_N, None
            agreed, memory = Agreed(early_N, mine.weights(member.cohort)), mine.memory
        elif member.handle is not None:
            handle, member.handle = member.handle, None  # torn or not, it is over
            agreed, memory = yield do.Finish(handle)
        elif member.sentence.exchange.road == "star":
            agreed, memory = yield from consult(member, mine)
        else:
            agreed, memory = yield from talk(member)
    except TrainingError as error:
        raise TrainingError(mine.declined or str(error)) from error
    exchange_s = member.early_s + mine.pack_s + (yield do.Now()) - began_s
    if not isinstance(member.sentence.team, Pipeline):  # where a spare's samples went through
        heard = tuple(m for m in member.cohort if agreed.weights.get(m, 0.0) > 0)
        member.cohort = heard or member.cohort
    if not agreed.weights.get(member.name, 0.0) > 0:
        memory = member.sentence.unheard(member.memory, memory, mine.ctx)
    yield from tell_apart(member, mine.round)
    member.tally.exchange_s += exchange_s
    yield from commit(member, agreed, memory)


def commit(member: Member, agreed: Agreed, memory: tuple[Any, ...]) -> do.Life[None]:
    """Land what was agreed; from here on the round counts."""
    agreed_K, weights = agreed.vector_K, agreed.weights
    mine = member.contribution
    assert mine is not None
    yield from tell_apart(member, mine.round)
    began_s = yield do.Now()
    if mine.round == member.check_round or began_s - member.tally.since_s > REPORT_S:
        member.tally.norms = norms(member, mine, agreed_K, weights)
    member.outcome = Outcome(mine.round, agreed_K, weights, agreed.beside_P)
    land(member, mine, agreed_K, memory)
    member.round, member.contribution = mine.round, None
    now_s = yield do.Now()
    if member.sentence.walks:
        member.tally.exchange_s += now_s - began_s
    else:  # it stepped
        member.tally.take_longer(now_s - began_s)
    if member.torn_at_s is not None and member.committed_at_s is not None:
        member.tally.gap_s, member.torn_at_s = now_s - member.committed_at_s, None
    member.committed_at_s = now_s
    member.tally.count(mine, member.cohort)
    asked = mine.round == member.check_round
    if asked:
        member.tally.digest = member.digest()
    asked = asked or mine.round in member.tell_rounds
    if asked or now_s - member.tally.since_s > REPORT_S or member.tally.gap_s:
        yield from report(member)


def land(member: Member, mine: Contribution, agreed_K: Tensor, memory: tuple[Any, ...]) -> None:
    """Step on an agreed gradient, or move the anchor by what an agreed walk comes to."""
    strategy, layout, learner = member.sentence, member.layout, member.learner
    own_N = heads.taken(member, mine, member.outcome.beside_P)
    anchor_N = own_N if member.anchor_N is None else member.anchor_N
    heard = member.outcome.weights.get(member.name, 0.0) > 0
    landing = Landing(own_N, anchor_N, mine.payload, heard)
    update_F, member.memory = strategy.land(agreed_K, landing, memory, layout, mine.ctx)
    if member.anchor_N is None:
        learner.apply(update_F)
        return
    part = strategy.part(layout, mine.round)
    anchor_F = fragments.take(anchor_N, layout, part) - update_F
    member.anchor_N = fragments.put(anchor_N, anchor_F, layout, part)
    if part == layout and not strategy.overlap:
        learner.place(anchor_F)
    else:
        walk, here_N = strategy.walk, learner.vector()
        assert walk is not None
        here_F = anchor_F
        if walk.overlap:  # it has walked on since
            here_F = torch.lerp(anchor_F, fragments.take(here_N, layout, part), walk.mix)
        learner.place(fragments.put(here_N, here_F, layout, part))


def tell_apart(member: Member, number: int) -> do.Life[None]:
    """Tell what was done before a round that is to be told apart from it."""
    if not member.tally.goes_on(number, member.cohort):
        yield from report(member)


def report(member: Member) -> do.Life[None]:
    """Tell what was done since the last time."""
    told = member.tally.report(member.term.number, member.granted)
    member.tally = Tally(since_s=(yield do.Now()))
    if told is not None:
        member.told.append(told)
        yield do.Tell(told)
