"""What each member's samples are to count for, from how its vectors lie to those of the others.

A healthy member is told from a broken one whatever its share and however noisy its gradients are:

length   |gᵢ| against the median of all, beyond what a smaller batch explains
lone     gᵢ · (the others' mean): |G|² where both are healthy, below 0 where it is against them
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median, stdev

from coterie.coordinator.noise import Norms

REMEMBERS = 40  # reports
LEAST_LENGTHS, LEAST_LONE = 3, 8  # reports, before one is judged by them
MAJORITY = 3  # members, at least: of two that differ nobody can say which is broken
UNUSUAL = 3.0  # times as long as others: it counts less from here on
AGAINST = -6.0  # standard errors: chance alone does not bring that about
LEAST_TRUST = 1 / 16  # below, it is left out


@dataclass
class Exile:
    """A member that is left out for what it brought, and until when; 0 once it is tried again."""

    until_s: float
    wait_s: float


@dataclass
class Standing:
    """What a member's last reports say of its vectors."""

    _lengths: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERS))
    _lone: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERS))
    num_samples: float = 1.0
    cosine: float = 0.0  # to what was agreed, in the last report
    stretch: float = 0.0  # its length against what was agreed

    def add(self, norms: Norms) -> None:
        """Take in a report."""
        self.num_samples = norms.num_own
        self._lengths.append(math.sqrt(norms.own))
        self._lone.append(norms.product - norms.part * norms.own)
        both = math.sqrt(norms.own * norms.agreed)
        self.cosine = norms.product / both if both > 0 else 0.0
        self.stretch = math.sqrt(norms.own / norms.agreed) if norms.agreed > 0 else 0.0

    @property
    def length(self) -> float | None:
        """How long its vectors are, once that is known."""
        return median(self._lengths) if len(self._lengths) >= LEAST_LENGTHS else None

    @property
    def is_judged(self) -> bool:
        """Whether enough is known of it."""
        return len(self._lone) >= LEAST_LONE

    @property
    def lone(self) -> float:
        """Its product with what the others brought."""
        return fmean(self._lone)

    @property
    def is_against(self) -> bool:
        """Whether its vectors point away from what the others agree on, beyond chance."""
        if not self.is_judged:
            return False
        error = stdev(self._lone) / math.sqrt(len(self._lone))
        return self.lone < AGAINST * error


def judge(standings: Mapping[str, Standing], paced: bool = False) -> dict[str, tuple[float, str]]:
    """What some members' samples should count for, 0..1, and why; those not named are as others.

    With `paced` walks, whoever is faster takes more steps and gets farther: that is no fault.

    >>> standings = {name: Standing() for name in "abc"}
    >>> for name, own in (("a", 4.0), ("b", 4.0), ("c", 400.0)):
    ...     for _ in range(LEAST_LENGTHS):
    ...         standings[name].add(Norms(own, 4.0, 1.0, 8, 1 / 3))
    >>> judge(standings)
    {'c': (0.0625, 'its vectors are 10 times as long as those of others')}
    """
    known = {name: each for name, each in standings.items() if each.length is not None}
    if len(known) < MAJORITY:
        return {}
    found: dict[str, tuple[float, str]] = {}
    usual = median(_length(each, paced) for each in known.values())
    share = median(each.num_samples for each in known.values())
    for name, each in known.items():
        noisier = 1.0 if paced else math.sqrt(max(1.0, share / each.num_samples))
        excess = _length(each, paced) / (usual * noisier) if usual > 0 else 1.0
        if excess > UNUSUAL:
            trust = 2.0 ** math.floor(2 * math.log2(UNUSUAL / excess))
            found[name] = (trust, f"its vectors are {excess:.3g} times as long as those of others")
    against = [name for name, each in known.items() if each.is_against]
    if 0 < len(against) < len(known):  # else the ones are as right as the others
        worst = min(against, key=lambda name: known[name].lone)  # others may seem so beside it
        found[worst] = (0.0, "its vectors point away from those of others")
    return found


def _length(standing: Standing, paced: bool) -> float:
    assert standing.length is not None
    return standing.length / (standing.num_samples if paced else 1.0)
