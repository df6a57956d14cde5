"""Who is here: what each agent said of itself, and whether it is still heard."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from coterie.coordinator.line import Line
from coterie.transport.messages import Hello, Ready
from coterie.world import Device

BEAT_S = 0.5  # an agent says no less often that it lives
MISSED = 3  # beats in a row, at least, before a member is suspected
NUM_DEVIATIONS = 8.0
EVICT_S = 60.0  # of silence, before a member that is only suspected is given up


@dataclass
class Pulse:
    """The rhythm of a member's words; a silence far outside of it is suspicious.

    Chen, Toueg and Aguilera 2002: a deadline from the mean and deviation of past intervals. Between
    words that come faster than beats nothing is learned: others may follow them at the beats' pace.
    """

    heard_s: float
    mean_s: float = BEAT_S
    variance_s2: float = 0.0

    def beat(self, now_s: float) -> None:
        """Note a word."""
        gap_s = max(BEAT_S, now_s - self.heard_s)
        self.heard_s = now_s
        self.variance_s2 += 0.1 * ((gap_s - self.mean_s) ** 2 - self.variance_s2)
        self.mean_s += 0.1 * (gap_s - self.mean_s)

    def suspect_s(self) -> float:
        """When silence becomes suspicious, if nothing is heard before.

        >>> Pulse(heard_s=100.0).suspect_s()
        101.5
        """
        patience_s = self.mean_s + NUM_DEVIATIONS * math.sqrt(self.variance_s2)
        return self.heard_s + min(EVICT_S, max(MISSED * BEAT_S, patience_s))

    def evict_s(self) -> float:
        """When silence becomes death.

        >>> Pulse(heard_s=100.0).evict_s()
        160.0
        """
        return self.heard_s + EVICT_S


def series(release: str) -> str:
    """What two releases share whose numbers and states are alike.

    >>> series("2.13.0+cpu")
    '2.13'
    """
    return ".".join(release.split(".")[:2])


def other_torch(hello: Hello, others: Iterable[Hello]) -> str:
    """What to know of an agent that has another torch than others; empty where all have the same.

    It is welcome, but groups, kernels and states of optimizers change from series to series.
    """
    for other in others:
        if hello.torch and other.torch and series(hello.torch) != series(other.torch):
            return (
                f"expected torch {series(other.torch)} on every agent, as {other.name} has "
                f"({other.torch}), found {hello.torch} on {hello.name}, which takes part all the "
                "same; should it not get on with the others, install the same there"
            )
    return ""


@dataclass(frozen=True)
class Usual:
    """How long a member's stage takes in a sentence, over what it was expected to take.

    >>> Usual("pipeline(8, ('2',))", first_round=4).seen(1.5).seen(1.2).ratio
    1.2
    """

    sentence: str
    first_round: int  # that is surely one of this sentence
    num_reports: int = 0  # that it stands on
    ratio: float = math.inf  # the least of them: what comes first is slow

    def seen(self, ratio: float) -> Usual:
        """The same after another report."""
        return replace(self, num_reports=self.num_reports + 1, ratio=min(self.ratio, ratio))


@dataclass
class Member:
    """One agent as the coordinator knows it."""

    hello: Hello
    pulse: Pulse
    ready: Ready | None = None
    device: Device | None = None
    line: Line | None = None  # its time of a step, as it is learned from its reports
    cores: float | None = None  # that its machine granted it when it said so last
    usual: Usual | None = None  # of its stage, where it holds one
    scatter: float = 0.0  # how far its reports lie from what was expected, as a part of it
    solo_per_s: float = 0.0  # as last measured running freely on the whole batch
    computing_s: float = 0.0  # on one thing, as it said last
    round: int = 0  # the last one it committed, as it said when it came back
    holds: bool = False  # what it held when it came back: others may have to meet it again
    outdated: bool = False  # it was suspected: what it tells of rounds is void until it has settled
    state: Literal["joined", "ready", "measured"] = "joined"
