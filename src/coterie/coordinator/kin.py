"""Who are kin: whose models do well on one another's samples.

A[i][j] is the loss of j's model on i's samples, after both learned alone for a while. What i loses
by j's model instead of its own, on the mean over both directions, is S = A[i][j] − A[i][i]. Pairs
whose S lies below the widest gap of all are joined, and whoever hangs together is a group (after
Fifty et al. 2021, Efficiently Identifying Task Groupings, who look at the effect of gradients).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

Groups = tuple[tuple[str, ...], ...]


def kin_groups(names: Sequence[str], losses: Mapping[str, Mapping[str, float]]) -> Groups:
    """The groups of two and more; whose models nobody could try is in none.

    A cut at the widest gap always splits, even where all are alike: it counts only where the gap
    is wider than all that lies below it, else all whose models could be tried are one group.

    >>> kin_groups("abc", {"a": {"a": 1, "b": 1.2, "c": 9}, "b": {"a": 1.3, "b": 1, "c": 8},
    ...                    "c": {"a": 9, "b": 9, "c": 1}})
    (('a', 'b'),)
    """
    apart = {
        (a, b): excess
        for a, b in combinations(names, 2)
        if (excess := _excess(a, b, losses)) is not None
    }
    limit = _limit(sorted(apart.values()))
    group = {name: {name} for name in names}
    for (a, b), excess in apart.items():
        if excess <= limit and group[a] is not group[b]:
            group[a] |= group[b]
            for name in group[b]:
                group[name] = group[a]
    found = {tuple(name for name in names if name in group[one]) for one in names}
    return tuple(sorted(each for each in found if len(each) > 1))


def _excess(a: str, b: str, losses: Mapping[str, Mapping[str, float]]) -> float | None:
    there = [(losses.get(i, {}), i, j) for i, j in ((a, b), (b, a))]
    if any(i not in row or j not in row for row, i, j in there):
        return None
    return sum(row[j] - row[i] for row, i, j in there) / 2


def _limit(ordered: Sequence[float]) -> float:
    """Up to which excess two are kin."""
    if len(ordered) < 2:
        return ordered[0] if ordered else 0.0
    gap, below = max((high - low, low) for low, high in pairwise(ordered))
    return below if gap > below - ordered[0] else ordered[-1]
