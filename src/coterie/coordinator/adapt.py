"""What is measured while the run goes on, folded into what is believed."""

from __future__ import annotations

import math
from dataclasses import replace

from coterie.errors import JobError
from coterie.world import Device

JUMP_LOG_RATIO = 0.5  # beyond a factor of 1.65 it is a change, not noise
WEIGHT_OF_A_JUMP = 0.7
WEIGHT_OF_NOISE = 0.2


def observe(device: Device, batch: int, step_s: float) -> Device:
    """The device as believed after one step on `batch` samples was measured to take `step_s`.

    An exponentially weighted mean that trusts a jump of |log(measured / predicted)| > 0.5 more
    than noise: a device that slows threefold is known to 10 % after five steps. One measured time
    cannot tell a from c, hence both are scaled alike. Measure computing, not waiting for others.

    >>> observe(Device("laptop", 0.25, 0.25, 64), batch=3, step_s=1.5).step_s(3)
    1.1
    """
    if batch < 1 or not (math.isfinite(step_s) and step_s > 0):
        raise JobError(
            f"expected a finite time above 0 s of a step on 1 sample or more, found {step_s} s "
            f"on {batch}; leave this measurement of {device.name!r} out"
        )
    ratio = step_s / device.step_s(batch)
    weight = WEIGHT_OF_A_JUMP if abs(math.log(ratio)) > JUMP_LOG_RATIO else WEIGHT_OF_NOISE
    scale = 1 + weight * (ratio - 1)
    return replace(
        device,
        overhead_s=device.overhead_s * scale,
        per_sample_s=device.per_sample_s * scale,
    )
