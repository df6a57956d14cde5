"""What a member does between two meetings: one gradient, or a walk, alone or with its team.

Legend: N trainable parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.agents import heads
from coterie.agents.meet import meet, within
from coterie.agents.member import Member
from coterie.agents.settle import regroup
from coterie.agents.tally import Contribution
from coterie.agents.turns import LoopEnded
from coterie.errors import NotFinite, Torn, TrainingError
from coterie.leases import Lease
from coterie.sync.exchanges import Reduce
from coterie.sync.recipes import all_reduce
from coterie.sync.teams import Islands, Pipeline
from coterie.transport.messages import Declined
from coterie.types import Ctx, Message

Batches = list[list[int]]
Walked = tuple[float, Tensor]  # the sum of losses, and the gradient or where the walk ended
LEAST_SCORE = 1e-30  # of the worst model there is: a float32 still tells it from none
INSIDE = all_reduce()  # how members of an island average each gradient


def learn(
    member: Member, number: int, data_epoch: int, leases: Mapping[str, Lease]
) -> do.Life[Contribution | None]:
    """Walk, or compute one gradient; then do what the sentence asks before the exchange.

    None where a meeting broke off meanwhile and the round is to be begun anew, if at all.
    """
    lease = leases.get(member.name, Lease((), 1))
    batches = list(member.stream.batches(data_epoch, lease))
    member.busy_s, member.early_s, member.early_N = 0.0, 0.0, None
    member.stumbled = declined = ""
    walked: Walked | None = (0.0, torch.empty(0))
    try:
        walked = yield from _work(member, number, batches, leases, data_epoch)
        if walked is not None and not _finite(member, walked[1]):
            raise NotFinite(f"expected finite values to share, found others in round {number}")
    except NotFinite as error:
        declined = str(error)
    except LoopEnded as error:
        if not member.sentence.exchange.asynchronous:
            raise
        declined = str(error)  # nobody waits for it: the server is to hear that nothing comes
    if declined:
        walked = yield from _decline(member, number, declined)
    if walked is None:
        return None
    member.num_declined = member.num_declined + 1 if declined or member.stumbled else 0
    if member.stumbled:
        told = Declined(round=number, reason=member.stumbled, in_a_row=member.num_declined)
        yield do.Tell(told)
    return (yield from _contribution(member, number, walked, declined, leases))


def _decline(member: Member, number: int, reason: str) -> do.Life[Walked | None]:
    """Bring nothing to this round, and go back to where all agreed to be."""
    in_a_row = member.num_declined + 1
    yield do.Tell(Declined(round=number, reason=reason, in_a_row=in_a_row))
    if not (yield from _landed(member, number)):
        return None
    if member.anchor_N is not None:
        member.learner.place(member.anchor_N)
        member.learner.forget()
    return 0.0, member.learner.vector().zero_()


def _landed(member: Member, number: int) -> do.Life[bool]:
    """Land the meeting of the round before, if it goes on; whether this round still stands."""
    if member.contribution is None:
        return True
    member.walking = number
    yield from finish(member)
    return member.walking == number


def _finite(member: Member, own_N: Tensor) -> bool:
    # A finite sum has finite parts: where it is made already, there is no need to look again.
    # And a sum is quick to make: only where it overflows does each value have to be asked.
    known = member.early_N is not None or bool(own_N.sum().isfinite())
    return known or bool(own_N.isfinite().all())


def _contribution(
    member: Member, number: int, walked: Walked, declined: str, leases: Mapping[str, Lease]
) -> do.Life[Contribution]:
    strategy, lease = member.sentence, leases.get(member.name, Lease((), 1))
    loss_sum, own_N = walked
    began_s = yield do.Now()
    anchor_N = own_N if member.anchor_N is None else member.anchor_N
    if member.anchor_N is not None:
        own_N = own_N if declined else anchor_N - own_N
    ctx = context(member, number, leases)
    payload, memory = strategy.prepare(own_N, anchor_N, member.memory, member.layout, ctx)
    weight = 0.0 if declined else float(lease.num_samples)
    if weight and strategy.exchange.weighted == "score":
        weight = max(LEAST_SCORE, math.exp(-loss_sum / lease.num_samples))
    weight *= member.trust.get(member.name, 1.0)
    pack_s = (yield do.Now()) - began_s
    return Contribution(
        round=number,
        num_samples=lease.num_samples,
        num_steps=lease.num_steps,
        loss_sum=loss_sum,
        compute_s=member.busy_s,
        weight=weight,
        own_N=own_N,
        payload=payload,
        memory=memory,
        ctx=ctx,
        leases=leases,
        trust=member.trust,
        declined=declined,
        stumbled=bool(member.stumbled),
        beside_P=heads.offer(member, number, own_N, leases, counts=weight > 0),
        pack_s=pack_s,
    )


def context(member: Member, number: int, leases: Mapping[str, Lease]) -> Ctx:
    """What the pieces of the sentence may know of a round."""
    names = sorted(leases)
    seat = names.index(member.name) if member.name in leases else len(names)
    generator = torch.Generator()
    if member.sentence.secret:
        generator.seed()
    else:
        generator.manual_seed(hash((member.learner.setup.seed, number, seat)) & (2**63 - 1))
    num_samples = sum(lease.num_samples for lease in leases.values())
    walked = sum(lease.num_samples * lease.num_steps for lease in leases.values())
    return Ctx(
        round=number,
        generator=generator,
        num_steps=max(1, leases[member.name].num_steps) if member.name in leases else 1,
        mean_steps=max(1.0, walked / max(1, num_samples)),
        num_members=max(1, sum(lease.num_samples > 0 for lease in leases.values())),
    )


def _work(
    member: Member,
    number: int,
    batches: Batches,
    leases: Mapping[str, Lease],
    data_epoch: int,
) -> do.Life[Walked | None]:
    team = member.sentence.team
    if not member.sentence.walks:
        # Of a round that stands from an earlier term, another may hold its part: that one streams
        # nothing any more, and all have to meet in one way.
        can_stream = member.sentence.plain and member.learner.streams and member.hands_out
        can_stream = can_stream and not heads.tells(member, number)
        if can_stream and len(member.cohort) > 1 and number > member.stands:
            return (yield from _streamed(member, batches, leases))
        return (yield from _gradient(member, batches))
    if isinstance(team, Pipeline) and len(member.cohort) >= team.least:
        walk = _in_pipeline(member, data_epoch, leases, team)
        return (yield from _undone_if_torn(member, walk))
    if isinstance(team, Islands):
        island = team.team_of(member.name, member.cohort)
        return (yield from _undone_if_torn(member, _on_island(member, batches, leases, island)))
    return (yield from _alone(member, number, batches, heads.rates(member, number, leases)))


def _compute(member: Member, run: Callable[[], Any], batches: Batches) -> do.Life[Any]:
    began_s = yield do.Now()
    value = yield do.Compute(run, tuple(map(len, batches)))
    now_s = yield do.Now()
    _busy(member, batches, now_s - began_s, now_s)
    return value


def _busy(member: Member, batches: Batches, seconds: float, now_s: float) -> None:
    """Note that a member computed on these batches until now."""
    member.busy_s += seconds
    if num_samples := sum(map(len, batches)):
        member.tally.time(num_samples, len(batches), seconds, now_s)


def _gradient(member: Member, batches: Batches) -> do.Life[Walked]:
    if not batches:
        return 0.0, member.learner.vector().zero_()
    (batch,) = batches
    loss, gradient_N = yield from _compute(member, lambda: member.learner.gradient(batch), batches)
    return loss * len(batch), gradient_N


def _streamed(member: Member, batches: Batches, leases: Mapping[str, Lease]) -> do.Life[Walked]:
    """A gradient whose sum over members begins while the backward pass still goes on.

    What was summed is kept for the meeting, which has then only to look at it. Where a member's
    share of it is not finite, all see that alike, and meet in the usual way instead.
    """
    learner = member.learner
    exchange = cast("Reduce", member.sentence.exchange)
    leased = {
        name: lease.num_samples * member.trust.get(name, 1.0) for name, lease in leases.items()
    }
    weights = [exchange.weigh(leased[name]) for name in member.cohort]
    mine = exchange.weigh(leased.get(member.name, 0.0))
    told_N = learner.room_to_tell()
    batch = batches[0] if batches else []

    def run(emit: Callable[[Tensor], None]) -> float:
        return learner.stream(batch, told_N, mine / sum(weights), emit)

    began_s = yield do.Now()
    try:
        loss, whole, computed_s = yield do.Stream(run, tuple(map(len, batches)))
    except Torn:  # before it began: what it brings is needed all the same
        return (yield from _gradient(member, batches))
    now_s = yield do.Now()
    _busy(member, [batch], computed_s, now_s)
    member.tally.restates = learner.restates
    member.early_s = now_s - began_s - computed_s
    if not whole:
        learner.leave_rooms()
    if whole and bool(told_N.sum().isfinite()):
        member.early_N = told_N
        return loss * len(batch), told_N  # its own part is of no use any more
    return loss * len(batch), learner.computed()


def _alone(
    member: Member, number: int, batches: Batches, rates: Mapping[str, float]
) -> do.Life[Walked | None]:
    """A walk; a meeting that still goes on from the round before is landed on the way."""
    ahead = member.sentence.overlap if member.contribution is not None else 0
    loss_sum = yield from _steps(member, batches[:ahead], rates)
    if not (yield from _landed(member, number)):
        return None
    loss_sum += yield from _steps(member, batches[ahead:], rates)
    return loss_sum, member.learner.vector()


def _steps(member: Member, batches: Batches, rates: Mapping[str, float]) -> do.Life[float]:
    learner, pull = member.learner, member.sentence.pull
    anchor_N = member.anchor_N if pull else None

    def run(some: Batches) -> float:
        return sum(learner.step(batch, pull, anchor_N, rates) * len(batch) for batch in some)

    loss_sum, half = 0.0, -(-len(batches) // 2)  # timed apart: what changes meanwhile shows
    for some in (batches[:half], batches[half:]):
        if some:
            loss_sum += yield from _compute(member, partial(run, some), some)
    return loss_sum


def finish(member: Member) -> do.Life[None]:
    """Hold the meeting about what is held until it counts, in whatever term."""
    while member.contribution is not None and member.name in member.term.members:
        try:
            yield from meet(member)
        except Torn:
            yield from regroup(member)


def _undone_if_torn(member: Member, walk: do.Life[Walked]) -> do.Life[Walked | None]:
    """A walk whose every step is a meeting of a team: where one breaks off, all of it is undone."""
    assert member.anchor_N is not None
    before = copy.deepcopy(member.learner.private())
    try:
        return (yield from walk)
    except Torn:
        member.learner.restore(member.learner.weights(), before)
        member.learner.place(member.anchor_N)
        yield from regroup(member)
        return None


def _on_island(
    member: Member, batches: Batches, leases: Mapping[str, Lease], island: tuple[str, ...]
) -> do.Life[Walked]:
    """Every gradient is averaged over the island, as one machine would compute it."""
    learner, layout, loss_sum = member.learner, member.layout, 0.0
    memory = INSIDE.init(layout, learner.vector())
    for step in range(max(leases[name].num_steps for name in island)):
        here = batches[step : step + 1]
        try:
            loss, gradient_N = yield from _gradient(member, here)
        except NotFinite as error:
            member.stumbled = str(error)  # the others take the step without it
            loss, gradient_N, here = 0.0, learner.vector().zero_(), []
        loss_sum += loss
        weights = {name: float(leases[name].in_step(step)) for name in island}
        ctx = Ctx(round=step + 1)
        room = INSIDE.room(member.name, island, weights, gradient_N, layout, ctx)
        mine = Message(member.name, gradient_N, float(sum(map(len, here))))
        try:
            agreed, _ = yield from within(island, INSIDE.talk(mine, memory, room, layout))
        except TrainingError:  # nobody on the island has anything finite: it stays where it is
            continue
        learner.apply(agreed.vector_K)
    return loss_sum, learner.vector()


def _in_pipeline(
    member: Member, data_epoch: int, leases: Mapping[str, Lease], cut: Pipeline
) -> do.Life[Walked]:
    """Every batch goes through the stages of a team; this member steps on its own stage alone.

    Where it ends, all but its stage stands where the walk began. The delta of a stage counts as
    often as there are stages, for that many members share the weight of their team.
    """
    learner, anchor_N = member.learner, member.anchor_N
    assert anchor_N is not None
    team, crew = cut.crew_of(member.name, member.cohort)
    if member.name not in team:
        return 0.0, anchor_N.clone()  # a spare: its samples go through a pipeline that is whole
    stages = learner.stages(cut.cuts)
    stage = stages[team.index(member.name)]
    shares = [list(member.stream.batches(data_epoch, leases[name])) for name in crew]
    loss_sum = 0.0
    for step in range(max(len(batches) for batches in shares)):
        indices = [i for batches in shares for batch in batches[step : step + 1] for i in batch]
        batch = learner.fetch(indices)
        began_s = yield do.Now()
        loss, computed_s = yield do.Pass(
            team,
            stage.module,
            batch,
            learner.criterion,
            cut.micro_batches,
            partial(learner.pass_alone, batch, stage, last=member.name == team[-1]),
        )
        learner.step_stage(stage)
        now_s = yield do.Now()
        member.busy_s += now_s - began_s
        member.tally.time(len(indices), 1, computed_s, now_s)
        loss_sum += math.nan if loss is None else loss * len(indices)
    here_N, where = learner.vector(), dict(member.layout.slices())
    walked_N = anchor_N.clone()
    for name in stage.names:
        inside = where[name]
        walked_N[inside] += len(team) * (here_N[inside] - anchor_N[inside])
    own = leases[member.name].num_samples / max(1, sum(leases[name].num_samples for name in crew))
    return loss_sum * own, walked_N
