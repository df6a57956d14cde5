"""The sentences worth pricing in a world: few enough to price all of them on many sets of members.

Left out is what a price or a prior rules out beforehand: DyLU where speeds are alike, islands where
links tell none apart, gossip among few, PowerSGD and signs, whose progress was measured to be below
that of walks with fewer bytes, and all that needs a server, which is not started unless asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from coterie.coordinator.islands import Groups, islands
from coterie.sync import recipes
from coterie.sync.chain import chain
from coterie.sync.codecs import ChunkTopK, ErrorFeedback, Int4, Int8
from coterie.sync.exchanges import Reduce
from coterie.sync.outer import Outer
from coterie.sync.pieces import DyLU, Every
from coterie.sync.teams import Islands
from coterie.world import World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

LONGEST_WALK = 512  # steps: beyond what the priors of progress were read from
SHORTEST_DILOCO = 65  # steps: below, Nesterov outside wins nothing back
SHORTEST_STREAM = 16  # steps
UNEQUAL = 2.0  # times as fast as the slowest is the fastest, where members may take fewer steps
MANY = 16  # members, for whom one swap is much cheaper than a ring
FRAGMENTS = 4
PACKS = (ErrorFeedback(Int8()), ErrorFeedback(Int4()))
LIGHT, HEAVY = Outer(0.7, 0.5, nesterov=True), Outer(0.7, 0.9, nesterov=True)
OVERLAP_PART = 0.5  # of the steps between two meetings, at most: what lands later is staler


def candidates(world: World) -> tuple[Strategy, ...]:
    """Meeting every step, or after walks of 2, 4, 8, ... 512 steps; the simpler sentences first.

    A walk is never so long that members would not meet in a data epoch.

    >>> [s.every for s in candidates(World((), (), batch=64, num_train=160)) if s.pack is None]
    [1, 2, 3]
    """
    many = len(world.devices) >= MANY
    return _sentences(tuple(_lengths(world)), _unequal(world), many, islands(world))


@lru_cache(maxsize=64)  # worlds change all the time, what tells these apart hardly ever
def _sentences(
    lengths: tuple[int, ...], unequal: bool, many: bool, groups: Groups
) -> tuple[Strategy, ...]:
    return tuple(dict.fromkeys(_written(lengths, unequal, many, groups)))


def _written(
    lengths: tuple[int, ...], unequal: bool, many: bool, groups: Groups
) -> Iterator[Strategy]:
    yield recipes.all_reduce()
    yield recipes.all_reduce_fp16()
    yield recipes.all_reduce_int8()
    yield chain(PACKS[1], Reduce())
    for num_steps in lengths:
        yield recipes.local_sgd(num_steps)
        for pack in PACKS:
            yield chain(Every(num_steps), pack, Reduce(), LIGHT)
        yield chain(Every(num_steps), ErrorFeedback(ChunkTopK()), Reduce(), LIGHT)
        yield from _overlapping(num_steps)
        if num_steps >= SHORTEST_STREAM:
            yield from _streaming(num_steps)
        if num_steps >= SHORTEST_DILOCO:
            yield recipes.diloco(num_steps)
            yield recipes.diloco_int8(num_steps)
        if unequal:
            yield recipes.dylu(num_steps)
            yield chain(DyLU(num_steps), PACKS[0], Reduce(), LIGHT)
        if many:
            yield recipes.noloco(num_steps)
        if groups:
            yield from _tiers(num_steps, groups)


def _lengths(world: World) -> list[int]:
    """Of walks: 2, 4, 8, ..., and one that lasts a data epoch."""
    once_an_epoch = math.ceil(world.num_train / world.batch)
    lengths = [2**k for k in range(1, LONGEST_WALK.bit_length()) if 2**k <= once_an_epoch]
    if lengths and lengths[-1] < once_an_epoch < LONGEST_WALK:
        lengths.append(once_an_epoch)
    return lengths


def _overlapping(num_steps: int) -> Iterator[Strategy]:
    """The walk goes on for as long as its meeting may last."""
    for overlap in sorted({1, int(OVERLAP_PART * num_steps)}) if num_steps > 2 else ():
        walk = Every(num_steps, overlap=overlap)
        yield chain(walk, PACKS[0], Reduce(), LIGHT)


def _streaming(num_steps: int) -> Iterator[Strategy]:
    between = num_steps // FRAGMENTS
    if num_steps % FRAGMENTS == 0:
        for overlap in sorted({1, int(OVERLAP_PART * between)}):
            yield recipes.streaming_diloco(num_steps, FRAGMENTS, overlap)


def _tiers(num_steps: int, groups: Groups) -> Iterator[Strategy]:
    outer = HEAVY if num_steps >= SHORTEST_DILOCO else LIGHT
    for pack in PACKS:
        yield chain(Every(num_steps), Islands(groups), pack, Reduce(), outer)


def _unequal(world: World) -> bool:
    paces_s = [d.step_s(max(1, world.batch // len(world.devices))) for d in world.devices]
    return max(paces_s, default=0.0) > UNEQUAL * min(paces_s, default=0.0)
