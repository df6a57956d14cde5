"""What owners of tasks learn and all members hold: told in one sum beside what they agree on.

A sentence shares some parameters and leaves out the others, such as heads. Where tasks have owners,
each member offers its part of what is left out, and everybody lands the sum: of gradients, that of
the whole batch; of walks, the mean of the owners' by the samples that they have of the task.
Buffers of heads, which no sentence shares, are told as well.

Legend: N trainable parameters, P all values that are told, S sources, whose parts stand last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coterie.agents import effects as do
from coterie.leases import Lease, count, within
from coterie.sync import fragments
from coterie.sync.room import Agreed
from coterie.sync.talk import Talk
from coterie.tasks.base import SourcedTask
from coterie.types import Layout

if TYPE_CHECKING:
    from coterie.agents.member import Member
    from coterie.agents.tally import Contribution

Stakes = tuple[Mapping[str, float], ...]  # of each source, by member: the samples it learns of it


def tells(member: Member, number: int) -> bool:
    """Whether members of a round have anything to tell beside what they agree on."""
    return member.placed is not None and bool(left_out(member, number).size or _buffers(member))


def left_out(member: Member, number: int) -> Layout:
    """The parameters that a round is about and its sentence does not share."""
    part = member.sentence.part(member.layout, number)
    return fragments.without(part, member.sentence.narrowed(part))


def size(member: Member, number: int) -> int:
    """How many values are told, with the parts that stand behind them."""
    assert member.placed is not None
    num_kept = sum(buffer.numel() for _, buffer in _buffers(member))
    return left_out(member, number).size + num_kept + 1 + len(member.placed.numbered)


def stakes(task: SourcedTask, leases: Mapping[str, Lease]) -> Stakes:
    """How much members learn of each source; where all learn from all, as much as they learn.

    >>> from types import SimpleNamespace
    >>> task = SimpleNamespace(numbered=((("a",), 4), (("b",), 6)))
    >>> stakes(task, {"x": Lease(((0, 3),), 3, (4, 10)), "y": Lease(((3, 6),), 3, (4, 10))})
    ({'x': 3.0, 'y': 1.0}, {'x': 0.0, 'y': 2.0})
    """
    stops = list(accumulate(size for _, size in task.numbered))
    bounds = zip((0, *stops), stops, strict=False)
    return tuple(
        {
            name: float(count(within(lease.spans, start, stop) if lease.laid else lease.spans))
            for name, lease in leases.items()
        }
        for start, stop in bounds
    )


def rates(member: Member, number: int, leases: Mapping[str, Lease]) -> dict[str, float]:
    """By what gradients of heads are multiplied in a walk, to be those of one machine's steps.

    A member's batch has samples of its own tasks alone, so that each counts for more in it.
    """
    task, mine = member.placed, leases.get(member.name)
    if task is None or mine is None or not mine.num_samples:
        return {}
    whole = sum(lease.num_samples for lease in leases.values())
    factors = {
        at: mine.num_samples * sum(stake.values()) / (whole * stake[member.name])
        for at, stake in enumerate(stakes(task, leases))
        if stake[member.name]
    }
    sources = {name: task.source_of(name) for name in left_out(member, number).names}
    return {name: factors[at] for name, at in sources.items() if at in factors}


def offer(
    member: Member, number: int, own_N: Tensor, leases: Mapping[str, Lease], counts: bool
) -> Tensor | None:
    """What a member tells of what is left out, by the part that it has in it; or nothing.

    `counts` is whether what it brings to the round does.
    """
    if not tells(member, number):
        return None
    assert member.placed is not None
    cohort = {name: leases[name] for name in member.cohort if name in leases}
    weights = {name: member.trust.get(name, 1.0) for name in cohort}
    of_all = {name: float(lease.num_samples) for name, lease in cohort.items()}
    of_each = stakes(member.placed, cohort)
    parts = [_part(member.name, stake, weights) if counts else 0.0 for stake in (of_all, *of_each)]
    told = [
        parts[_place(member, name, buffer)] * values
        for name, values, buffer in _values(member, number, own_N)
    ]
    return torch.cat([*told, own_N.new_tensor(parts)])


def beside(
    mine: Contribution, inner: Talk[tuple[Agreed, tuple[Any, ...]]]
) -> Talk[tuple[Agreed, tuple[Any, ...]]]:
    """A meeting, and the sum of what its members tell beside it."""
    agreed, memory = yield from inner
    if mine.beside_P is None:
        return agreed, memory
    told_P = yield do.Total(mine.beside_P)
    return replace(agreed, beside_P=told_P), memory


def taken(member: Member, mine: Contribution, told_P: Tensor | None) -> Tensor:
    """A member's own vector with what was told of what is left out; buffers are set at once."""
    if told_P is None or member.placed is None:
        return mine.own_N
    num_parts = 1 + len(member.placed.numbered)
    parts, at, pieces = told_P[-num_parts:].tolist(), 0, []
    own = [0.0] * num_parts if mine.beside_P is None else mine.beside_P[-num_parts:].tolist()
    buffers = dict(_buffers(member))
    for name, values, is_kept in _values(member, mine.round, mine.own_N):
        place, end = _place(member, name, is_kept), at + values.numel()
        part, found, at = parts[place], told_P[at:end], end
        if is_kept and part != own[place]:  # else it is its own, which may have moved since
            buffers[name].copy_((found / part).view_as(buffers[name]))
        elif not is_kept:  # nobody who learns it was heard: it stays
            pieces.append(found / part if part else torch.zeros_like(found))
    if not pieces:
        return mine.own_N
    layout = left_out(member, mine.round)
    return fragments.put(mine.own_N, torch.cat(pieces), member.layout, layout)


def _values(member: Member, number: int, own_N: Tensor) -> Iterator[tuple[str, Tensor, bool]]:
    """What is told, in order: name, own values, and whether they are a buffer's."""
    where = dict(member.layout.slices())
    for name in left_out(member, number).names:
        yield name, own_N[where[name]], False
    for name, buffer in _buffers(member):
        yield name, buffer.reshape(-1).to(own_N), True


def _place(member: Member, name: str, is_kept: bool) -> int:
    """Which of the parts says how much a member has in it: in all samples, or in a source's.

    A gradient is of the whole batch, to which all samples belong.
    """
    assert member.placed is not None
    source = member.placed.source_of(name)
    by_all = source is None or not (member.sentence.walks or is_kept)
    return 0 if by_all else 1 + (source or 0)


def _part(name: str, stake: Mapping[str, float], weights: Mapping[str, float]) -> float:
    whole = sum(num * weights[other] for other, num in stake.items())
    return stake.get(name, 0.0) * weights.get(name, 0.0) / whole if whole else 0.0


def _buffers(member: Member) -> list[tuple[str, Tensor]]:
    """What heads keep beside parameters, such as the means of batch normalisation."""
    assert member.placed is not None
    return [
        (name, buffer)
        for name, buffer in member.learner.model.named_buffers()
        if buffer.is_floating_point() and member.placed.source_of(name) is not None
    ]
