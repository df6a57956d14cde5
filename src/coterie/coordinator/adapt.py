"""What is measured while the run goes on, folded into what is believed."""

from __future__ import annotations

import math
from dataclasses import replace

from coterie.coordinator.line import FORGETS, Line
from coterie.errors import JobError
from coterie.world import Device

JUMP_LOG_RATIO = 0.5  # beyond a factor of 1.65 it is a change, not noise
WEIGHT_OF_A_JUMP = 0.7
TILT = 1.0  # how far a probe may have split a time wrongly, in units of one measurement's noise


def timed(device: Device, batch: int) -> Line:
    """A probed device's seconds of a step as a line that learns, from steps on `batch` on.

    Its two terms are believed to err together, as all of a machine gets slower together; the line
    may tilt about `batch` besides, which steps on other batches will show.

    >>> timed(Device("laptop", 0.25, 0.25, 64), batch=3).at(3)
    1.0
    """
    return _together(device.overhead_s, device.per_sample_s, batch)


def observe(believed: Line, batch: int, step_s: float) -> Line:
    """What is believed after one step on `batch` samples was measured to take `step_s`.

    A jump of |log(measured / predicted)| > 0.5 is trusted more than noise: a device that slows
    threefold is known to 10 % after two steps. It scales both terms alike, as does noise until a
    second batch size was seen. Measure computing, not waiting for others.

    >>> laptop = timed(Device("laptop", 0.25, 0.25, 64), batch=3)
    >>> observe(laptop, batch=3, step_s=1.5).at(3)
    1.1
    """
    if batch < 1 or not (math.isfinite(step_s) and step_s > 0):
        raise JobError(
            f"expected a finite time above 0 s of a step on 1 sample or more, found {step_s} s "
            f"on {batch}; leave this measurement out"
        )
    predicted_s = believed.at(batch)
    if is_jump(step_s, predicted_s):
        return leap(believed, batch, predicted_s + WEIGHT_OF_A_JUMP * (step_s - predicted_s))
    return _possible(believed.seen(batch, step_s, noise=predicted_s), batch)


def leap(believed: Line, batch: int, step_s: float) -> Line:
    """What is believed once a step is known to take `step_s` now: the machine as a whole changed.

    >>> leap(timed(Device("laptop", 0.25, 0.25, 64), batch=3), batch=3, step_s=4.0).at(7)
    8.0
    """
    factor = step_s / believed.at(batch)
    return _together(factor * believed.a, factor * believed.c, batch)


def is_jump(measured_s: float, predicted_s: float) -> bool:
    """Whether a time differs too much from what was expected to be noise."""
    return abs(math.log(measured_s / predicted_s)) > JUMP_LOG_RATIO


def _together(a: float, c: float, batch: int) -> Line:
    """A line whose terms err together, and which may tilt about `batch`."""
    tilt = TILT * (a + c * batch) ** 2
    aa, cc = FORGETS * a * a + tilt, FORGETS * c * c + tilt / batch**2
    return Line(a, c, aa, cc, FORGETS * a * c - tilt / batch)


def as_believed(device: Device, line: Line) -> Device:
    """The device with the times of its line."""
    return replace(device, overhead_s=line.a, per_sample_s=line.c)


def _possible(line: Line, batch: int) -> Line:
    """No step without samples takes less than no time, and no sample none: the same at `batch`."""
    least_s = 1e-3 * line.at(batch) / batch
    if line.a < 0:
        return replace(line, a=0.0, c=line.at(batch) / batch)
    if line.c < least_s:
        return replace(line, a=line.at(batch) - least_s * batch, c=least_s)
    return line
