"""Members in a sentence: by name where they are few, counted where they are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import islice

MOST_NAMED = 12


def named(names: Collection[str]) -> str:
    """Names, the first of them where there are many.

    >>> named(("a", "b")), named([f"pi-{number}" for number in range(40)])
    ('a, b', 'pi-0, pi-1, pi-2 and 37 others')
    """
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(islice(names, 3))} and {len(names) - 3:,} others"


def shared(shares: Mapping[str, int]) -> str:
    """Who has which share; of many, how many have which.

    >>> shared({"a": 3, "b": 1}), shared({f"pi-{number}": 1 + number // 30 for number in range(40)})
    ('a 3, b 1', '2 each for 10, 1 each for 30')
    """
    if len(shares) <= MOST_NAMED:
        return ", ".join(f"{name} {share:,}" for name, share in shares.items())
    groups = sorted(Counter(shares.values()).items(), reverse=True)
    told = ", ".join(f"{share:,} each for {num:,}" for share, num in groups[:MOST_NAMED])
    others = sum(num for _, num in groups[MOST_NAMED:])
    return told + (f", less for {others:,}" if others else "")
