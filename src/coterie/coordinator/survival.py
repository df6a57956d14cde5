"""How often members are lost, as far as that is known, and how often it so pays to save.

failures_per_s = (1 + losses) / (1/prior + member-seconds watched)       of one member
interval_s     = sqrt(2 · cost of a save / (members · failures_per_s))   of the run
"""

from __future__ import annotations

import math

from coterie.world import DEFAULT_FAILURES_PER_S

LEAST_S, MOST_S = 5.0, 600.0  # between two checkpoints, where they cost next to nothing or a lot
PAUSED_PART = 0.01  # of the time, at most, that saving may cost


def failures_per_s(num_losses: int, member_s: float) -> float:
    """How often one member is lost: what was counted, on the prior of one loss a day.

    The mean of a gamma distribution that began as if one loss had been seen in 1/prior seconds.

    >>> round(1 / failures_per_s(0, 0.0)), round(1 / failures_per_s(3, 3600.0))
    (86400, 22500)
    """
    return (1 + num_losses) / (1 / DEFAULT_FAILURES_PER_S + member_s)


def checkpoint_interval_s(cost_s: float, num_members: int, rate_per_s: float) -> float:
    """Seconds between checkpoints that lose least: Young (1974), Daly (2006).

    `cost_s` is how long a save holds up its members. The loss of any of them counts as the end of
    the run: machines that share a room or a plug are lost together. However often that is, saving
    takes no more than its part of the time.

    >>> day_s = 86_400
    >>> [round(checkpoint_interval_s(cost_s, 3, 1 / day_s)) for cost_s in (0.0, 0.05, 1.0, 30.0)]
    [5, 54, 240, 3000]
    """
    best_s = math.sqrt(2 * cost_s / (max(1, num_members) * rate_per_s))
    return max(cost_s / PAUSED_PART, min(MOST_S, max(LEAST_S, best_s)))
