"""Who learns which samples: an epoch's positions cut into rounds, and rounds into members' leases.

A *position* is a place in the shuffled order of one data epoch. A block says which positions its
rounds consume; every member and the coordinator cut it alike, so nobody has to be asked and each
position has exactly one owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

from coterie.errors import CheckpointError

Span = tuple[int, int]  # positions start..stop, stop excluded
Pool = tuple[int, str]  # a part, and the owner of some of its positions
K = TypeVar("K", str, int, Pool)


def count(spans: Sequence[Span]) -> int:
    """How many positions the spans hold.

    >>> count([(0, 3), (10, 12)])
    5
    """
    return sum(stop - start for start, stop in spans)


def take(spans: Sequence[Span], num: int) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Split spans after their first `num` positions: (taken, left).

    >>> take([(0, 3), (10, 12)], 4)
    (((0, 3), (10, 11)), ((11, 12),))
    """
    taken: list[Span] = []
    left: list[Span] = []
    for start, stop in spans:
        cut = min(stop, start + num)
        num -= cut - start
        if cut > start:
            taken.append((start, cut))
        if stop > cut:
            left.append((cut, stop))
    return tuple(taken), tuple(left)


def merge(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same positions in ascending order, in as few spans as possible.

    >>> merge([(4, 6), (0, 2), (2, 4)])
    ((0, 6),)
    """
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        elif stop > start:
            merged.append((start, stop))
    return tuple(merged)


def without(spans: Sequence[Span], taken: Sequence[Span]) -> tuple[Span, ...]:
    """The positions of `spans` that lie in none of `taken`.

    >>> without([(0, 10)], [(2, 4), (8, 12)])
    ((0, 2), (4, 8))
    """
    left: list[Span] = list(spans)
    for start, stop in taken:
        left = [
            part
            for a, b in left
            for part in ((a, min(b, start)), (max(a, stop), b))
            if part[0] < part[1]
        ]
    return tuple(left)


def apportion(total: int, weights: Mapping[K, int]) -> dict[K, int]:
    """Share `total` in proportion to whole weights by largest remainder (Hamilton 1792).

    >>> apportion(10, {"a": 4, "b": 2, "c": 1})
    {'a': 6, 'b': 3, 'c': 1}
    """
    whole = sum(weights.values())
    parts = {name: total * weight // whole for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: (-(total * weights[name] % whole), name))
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


@dataclass(frozen=True)
class Part:
    """Positions from where the part before stops up to `stop`, and how much of them each owner has.

    Where members own tasks, an epoch is laid out in parts: samples of some tasks each.
    """

    stop: int
    shares: Mapping[str, int]


def are_owned_apart(parts: Sequence[Part]) -> bool:
    """Whether not all parts have the same owners: an epoch that begins is then laid out in parts.

    >>> are_owned_apart([Part(4, {"a": 1}), Part(6, {"a": 2})])
    False
    """
    return len({frozenset(name for name, num in part.shares.items() if num) for part in parts}) > 1


@dataclass(frozen=True)
class Lease:
    """What one member learns in one round: its positions, and its batch size for each step.

    `laid` is where the parts of its epoch stop; none where all positions are shuffled together.
    """

    spans: tuple[Span, ...]
    batch: int
    laid: tuple[int, ...] = ()

    @cached_property
    def num_samples(self) -> int:
        """Positions in this lease."""
        return count(self.spans)

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps that this lease takes."""
        return -(-self.num_samples // self.batch) if self.num_samples else 0

    def in_step(self, step: int) -> int:
        """Samples of a step, counted from 0; none after the last."""
        return min(self.batch, max(0, self.num_samples - step * self.batch))


def cut_round(
    spans: Sequence[Span], shares: Mapping[str, int], batch: int | None = None
) -> dict[str, Lease]:
    """Cut one round's positions among members, in proportion to their shares.

    A step is on a share, or on the same `batch` for all: slow members then take fewer steps.

    >>> leases = cut_round([(0, 7)], {"a": 4, "b": 2, "c": 1})
    >>> leases["a"].spans, leases["c"].spans
    (((0, 4),), ((6, 7),))
    """
    parts = apportion(count(spans), shares)
    left = tuple(spans)
    leases = {}
    for member, num in parts.items():
        taken, left = take(left, num)
        leases[member] = Lease(taken, max(1, batch or shares[member]))
    return leases


def cut_block(
    spans: Sequence[Span],
    shares: Mapping[str, int],
    every: int,
    batch: int | None = None,
    parts: Sequence[Part] = (),
) -> tuple[dict[str, Lease], ...]:
    """Cut a block into rounds of `every` steps on `sum(shares)` samples; the last is shorter.

    Of an epoch that is laid out in parts, members are given what they own, and each step takes as
    large a part of what each has left.

    >>> [sum(k.num_samples for k in r.values()) for r in cut_block([(0, 20)], {"a": 3, "b": 1}, 2)]
    [8, 8, 4]
    >>> owned = [Part(6, {"a": 1}), Part(10, {"b": 1})]
    >>> [k.spans for k in cut_block([(0, 10)], {"a": 3, "b": 2}, 1, parts=owned)[0].values()]
    [((0, 3),), ((6, 8),)]
    """
    if parts:
        return _cut_parts(spans, shares, every, batch, parts)
    rounds = []
    left = tuple(spans)
    while left:
        taken, left = take(left, sum(shares.values()) * every)
        rounds.append(cut_round(taken, shares, batch))
    return tuple(rounds)


def within(spans: Sequence[Span], start: int, stop: int) -> tuple[Span, ...]:
    """The positions of `spans` that lie in start..stop.

    >>> within([(0, 3), (5, 9)], 2, 6)
    ((2, 3), (5, 6))
    """
    return tuple((max(a, start), min(b, stop)) for a, b in spans if max(a, start) < min(b, stop))


def take_evenly(
    spans: Sequence[Span], num: int, parts: Sequence[Part]
) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Split spans after `num` positions: as large a part of what is left of each part.

    >>> take_evenly([(0, 6), (8, 10)], 4, [Part(8, {"a": 1}), Part(10, {"b": 1})])
    (((0, 3), (8, 9)), ((3, 6), (9, 10)))
    """
    if not parts:
        return take(spans, num)
    taken, left = _draw(dict(enumerate(_parted(spans, parts))), num)
    return merge(sum(taken.values(), ())), merge(sum(left.values(), ()))


def _parted(spans: Sequence[Span], parts: Sequence[Part]) -> list[tuple[Span, ...]]:
    """What lies in each part."""
    starts = (0, *(part.stop for part in parts))
    return [within(spans, start, stop) for start, stop in pairwise(starts)]


def _draw(
    pools: Mapping[K, tuple[Span, ...]], num: int
) -> tuple[dict[K, tuple[Span, ...]], dict[K, tuple[Span, ...]]]:
    """Take `num` positions, of each pool in proportion to what it holds: (taken, left)."""
    sizes = {key: count(spans) for key, spans in pools.items() if spans}
    wanted = apportion(min(num, sum(sizes.values())), sizes) if sizes else {}
    cuts = {key: take(pools[key], num) for key, num in wanted.items()}
    taken = {key: cut[0] for key, cut in cuts.items()}
    return taken, {key: cut[1] for key, cut in cuts.items() if cut[1]}


def _cut_parts(
    spans: Sequence[Span],
    shares: Mapping[str, int],
    every: int,
    batch: int | None,
    parts: Sequence[Part],
) -> tuple[dict[str, Lease], ...]:
    laid = tuple(part.stop for part in parts)
    pools: dict[Pool, tuple[Span, ...]] = {}
    for number, (part, inside) in enumerate(zip(parts, _parted(spans, parts), strict=True)):
        for owner, lease in cut_round(inside, part.shares).items():
            if lease.spans:
                pools[number, owner] = lease.spans
    rounds = []
    while pools:
        own: dict[str, list[Span]] = {name: [] for name in shares}
        num_steps = 0
        while pools and num_steps < every:
            taken, pools = _draw(pools, sum(shares.values()))
            for (_, owner), drawn in taken.items():
                own.setdefault(owner, []).extend(drawn)
            num_steps += 1
        rounds.append(
            {
                name: Lease(_joined(mine), batch or max(1, -(-count(mine) // num_steps)), laid)
                for name, mine in own.items()
            }
        )
    return tuple(rounds)


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same positions in the same order, in as few spans as possible."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        elif stop > start:
            joined.append((start, stop))
    return tuple(joined)


def unlearned(meta: Mapping[str, Any], num_train: int) -> tuple[int, dict[int, tuple[Span, ...]]]:
    """Epochs learned whole, and what is left of those begun, as a checkpoint's meta tells.

    Raises CheckpointError when it was taken on a dataset of another size.

    >>> unlearned({"num_train": 9, "num_epochs": 2, "free": {"2": [[4, 9]]}}, 9)
    (2, {2: ((4, 9),)})
    """
    if meta["num_train"] != num_train:
        raise CheckpointError(
            f"expected the {meta['num_train']} training samples of the checkpoint, found "
            f"{num_train}; resume on the same dataset"
        )
    left = {int(epoch): merge([(a, b) for a, b in spans]) for epoch, spans in meta["free"].items()}
    return meta["num_epochs"], {epoch: spans for epoch, spans in left.items() if spans}
