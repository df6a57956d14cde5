"""Parts of a flat vector: which parameters meet in which round.

Legend of shape suffixes: N values of the whole vector, K of a part.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from coterie.types import Layout

if TYPE_CHECKING:
    from torch import Tensor


BUCKET_BYTES = 1 << 22  # small enough to begin early, large enough that calls cost little


@lru_cache(maxsize=64)
def split(layout: Layout, num: int) -> tuple[Layout, ...]:
    """The layout in `num` parts of whole parameters, about equal in size, largest ones first.

    >>> layout = Layout(("a", "b", "c"), ((4,), (3,), (2,)))
    >>> [part.names for part in split(layout, 2)]
    [('a',), ('b', 'c')]
    """
    if num == 1:
        return (layout,)
    sizes = {name: math.prod(s) for name, s in zip(layout.names, layout.shapes, strict=True)}
    bins: list[list[str]] = [[] for _ in range(num)]
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        lightest = min(bins, key=lambda names: sum(sizes[n] for n in names))
        lightest.append(name)
    return tuple(_only(layout, frozenset(names)) for names in bins)


def buckets(layout: Layout, value_bytes: int) -> list[tuple[int, slice]]:
    """The vector in parts, last parameters first, as their gradients come.

    Each is the number of parameters that must be there before it, counted from the last, and its
    place in the vector.

    >>> buckets(Layout(("a", "b"), ((2,), (3,))), value_bytes=1 << 21)
    [(1, slice(2, 5, None)), (2, slice(0, 2, None))]
    """
    parts: list[tuple[int, slice]] = []
    places = [where for _, where in layout.slices()]
    stop, start = layout.size, layout.size
    for num, where in enumerate(reversed(places), start=1):
        start = where.start
        if (stop - start) * value_bytes >= BUCKET_BYTES or num == len(places):
            parts.append((num, slice(start, stop)))
            stop = start
    return parts


def without(layout: Layout, part: Layout) -> Layout:
    """What is left of a layout beside a part of it.

    >>> without(Layout(("a", "b"), ((2,), (3,))), Layout(("b",), ((3,),))).names
    ('a',)
    """
    return _only(layout, frozenset(layout.names) - frozenset(part.names))


def _only(layout: Layout, names: frozenset[str]) -> Layout:
    kept = [(n, s) for n, s in zip(layout.names, layout.shapes, strict=True) if n in names]
    return Layout(tuple(n for n, _ in kept), tuple(s for _, s in kept))


@lru_cache(maxsize=256)
def places(layout: Layout, part: Layout) -> tuple[tuple[slice, slice], ...]:
    """Where each run of a part's values lies in the whole, and in the part.

    >>> places(Layout(("a", "b"), ((2,), (3,))), Layout(("b",), ((3,),)))
    ((slice(2, 5, None), slice(0, 3, None)),)
    """
    within = dict(part.slices())
    runs: list[tuple[slice, slice]] = []
    for name, where in layout.slices():
        if name not in within:
            continue
        inner = within[name]
        if runs and runs[-1][0].stop == where.start and runs[-1][1].stop == inner.start:
            before, inside = runs.pop()
            where, inner = slice(before.start, where.stop), slice(inside.start, inner.stop)
        runs.append((where, inner))
    return tuple(runs)


def take(vector_N: Tensor, layout: Layout, part: Layout) -> Tensor:
    """A part's values; the vector itself where the part is the whole."""
    if part == layout:
        return vector_N
    part_K = vector_N.new_empty(part.size)
    for where, inner in places(layout, part):
        part_K[inner] = vector_N[where]
    return part_K


def put(vector_N: Tensor, part_K: Tensor, layout: Layout, part: Layout) -> Tensor:
    """The vector with a part's values replaced, as a new one."""
    if part == layout:
        return part_K
    whole_N = vector_N.clone()
    for where, inner in places(layout, part):
        whole_N[where] = part_K[inner]
    return whole_N
