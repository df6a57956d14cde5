"""What a lesson must pass: the pupil's own held-out samples, before and after it.

Legend of shape suffixes: N parameters, S held-out samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from coterie.errors import NotFinite, TrainingError
from coterie.knowledge.currency import Change, Placed
from coterie.knowledge.pupil import Pupil

TEMPERATURES = tuple(2.0 ** (k / 2) for k in range(-4, 5))  # 1/4 to 4


def likelihood(logits_SC: Tensor, targets_S: Tensor) -> Tensor:
    """The log likelihood of each answer, (S,), at the temperature that makes the mean largest.

    Guo et al. 2017, On Calibration of Modern Neural Networks. Who has few samples is too sure of
    itself: whatever makes it less sure looks like a gain in its loss, a stranger's lesson as well.
    Temperatures end at 4, so that who is far too sure is held to be wrong where it is.

    >>> import torch
    >>> logits_SC, targets_S = torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> torch.equal(likelihood(logits_SC, targets_S), likelihood(2 * logits_SC, targets_S))
    True
    """
    told = (F.log_softmax(logits_SC / t, dim=1) for t in TEMPERATURES)
    return max(
        (told_SC.gather(1, targets_S[:, None])[:, 0] for told_SC in told),
        key=lambda told_S: float(told_S.mean()),
    )


@dataclass(frozen=True)
class Verdict:
    """What a change did to held-out utility, with its standard error, and whether it is kept.

    >>> Verdict(0.1, 0.02, "").kept, Verdict(-0.1, 0.02, "it would do harm").kept
    (True, False)
    """

    gain: float
    error: float
    refusal: str  # why it is not kept; empty if it is

    @property
    def kept(self) -> bool:
        """Whether the change stays."""
        return not self.refusal

    @property
    def does_harm(self) -> bool:
        """Whether it would do more harm than chance makes it seem to do.

        >>> Verdict(-0.1, 0.02, "harm").does_harm, Verdict(-0.1, 0.2, "chance").does_harm
        (True, False)
        """
        return bool(self.refusal) and self.gain < -self.error

    @property
    def stands_out(self) -> bool:
        """Whether it would stay as the best of several: chance alone makes one of them look good.

        >>> Verdict(0.1, 0.02, "").stands_out, Verdict(0.1, 0.2, "").stands_out
        (True, False)
        """
        return self.kept and self.gain > self.error


@dataclass(frozen=True)
class Gate:
    """Keeps a change unless held-out utility falls.

    The same samples are scored before and after, and what differs is what counts: it may fall by
    `tolerance` standard errors of the mean difference, or has to rise by so many where that is
    below zero.

    >>> import torch
    >>> before_S = torch.tensor([0.0, 1.0, 2.0])
    >>> Gate().judge(before_S, before_S - 1).refusal
    'held-out utility would change by -1 ± 0 over 3 samples'
    >>> Gate().judge(before_S, before_S + torch.tensor([1.0, 0.0, 0.5])).kept
    True
    """

    tolerance: float = 0.0

    def judge(self, before_S: Tensor, after_S: Tensor) -> Verdict:
        """What the difference between two scores of the same samples says."""
        num = before_S.numel()
        if num == 0:
            return Verdict(0.0, 0.0, "there is no held-out sample to judge it by")
        if not bool(after_S.isfinite().all()):
            return Verdict(-math.inf, 0.0, "held-out utility would not be finite")
        gained_S = after_S.double() - before_S.double()
        gain = float(gained_S.mean())
        error = float(gained_S.std() / math.sqrt(num)) if num > 1 else 0.0
        if gain < -self.tolerance * error:
            why = f"held-out utility would change by {gain:.3g} ± {error:.2g} over {num} samples"
            return Verdict(gain, error, why)
        return Verdict(gain, error, "")

    def keep(self, pupil: Pupil, change: Change) -> Verdict:
        """Have the pupil change, and undo it where the verdict is against it.

        A change that shows only as the pupil walks on is tried on a walk of a few steps, against
        the same walk without it; the pupil goes on from the end of one of the two.
        """
        if isinstance(change, Placed):
            return _placed(pupil, change, self.judge)
        start = pupil.snapshot()
        without_S = walked(pupil, change.shows_after)
        refused = pupil.snapshot()
        pupil.restore(start)
        change.apply(pupil)
        try:
            with_S = walked(pupil, change.shows_after)
        except NotFinite as error:
            verdict = Verdict(-math.inf, 0.0, str(error))
        else:
            verdict = self.judge(without_S, with_S)
        if not verdict.kept:
            pupil.restore(refused)
        return verdict


@dataclass(frozen=True)
class Open:
    """A gate that keeps every change whose scores are finite: for comparison, and among friends.

    >>> import torch
    >>> Open().judge(torch.ones(2), torch.zeros(2)), Open().judge(torch.ones(0), torch.ones(0))
    (Verdict(gain=-1.0, error=0.0, refusal=''), Verdict(gain=0.0, error=0.0, refusal=''))
    """

    def judge(self, before_S: Tensor, after_S: Tensor) -> Verdict:
        """The gain, and no refusal but of what is not finite."""
        verdict = Gate().judge(before_S, after_S)
        return verdict if math.isinf(verdict.gain) else replace(verdict, refusal="")

    def keep(self, pupil: Pupil, change: Change) -> Verdict:
        """Have the pupil change; what shows only later is not tried before."""
        if isinstance(change, Placed):
            return _placed(pupil, change, self.judge)
        change.apply(pupil)
        return Verdict(0.0, 0.0, "")


def _placed(pupil: Pupil, change: Placed, judge: Callable[[Tensor, Tensor], Verdict]) -> Verdict:
    before_S, here_N = pupil.held_out(), pupil.vector()
    change.apply(pupil)
    verdict = judge(before_S, pupil.held_out())
    if not verdict.kept:
        pupil.place(here_N)
    return verdict


def walked(pupil: Pupil, num_steps: int) -> Tensor:
    """Held-out utility after some steps; who has nothing to learn from stands still.

    NotFinite where the pupil breaks on the way.
    """
    for _ in range(num_steps):
        try:
            pupil.step()
        except NotFinite:
            raise
        except TrainingError:  # it has neither samples nor lessons
            break
    return pupil.held_out()
