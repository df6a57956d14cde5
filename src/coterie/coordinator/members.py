"""Who is here: what each agent said of itself, and whether it is still heard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from coterie.transport.messages import Hello, Ready
from coterie.world import Device

FLOOR_S = 5.0  # no silence shorter than this counts as death
NUM_DEVIATIONS = 8.0


@dataclass
class Pulse:
    """The rhythm of a member's words; a silence far outside of it is a death.

    Chen, Toueg and Aguilera 2002: a deadline from the mean and deviation of past intervals.
    """

    heard_s: float
    mean_s: float = 0.5
    variance_s2: float = 0.0

    def beat(self, now_s: float) -> None:
        """Note a word."""
        gap_s = now_s - self.heard_s
        self.heard_s = now_s
        self.variance_s2 += 0.1 * ((gap_s - self.mean_s) ** 2 - self.variance_s2)
        self.mean_s += 0.1 * (gap_s - self.mean_s)

    def deadline_s(self) -> float:
        """When silence becomes death, if nothing is heard before.

        >>> Pulse(heard_s=100.0).deadline_s()
        105.0
        """
        patience_s = self.mean_s + NUM_DEVIATIONS * math.sqrt(self.variance_s2)
        return self.heard_s + max(FLOOR_S, patience_s)


@dataclass
class Member:
    """One agent as the coordinator knows it."""

    hello: Hello
    pulse: Pulse
    ready: Ready | None = None
    device: Device | None = None
    solo_per_s: float = 0.0  # as last measured running freely on the whole batch
    state: Literal["joined", "ready", "measured"] = "joined"
