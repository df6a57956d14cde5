"""What the model of costs cannot know of a sentence, learned from rounds that were tried.

Of each sentence: by which factor its goodput differs from what was predicted, against others, as
the mean and the variance of its logarithm. It begins at 0, as unsure as the model was found to be,
takes in what is tried, and is forgotten again: a discounted bandit (Garivier and Moulines 2011) on
a prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from coterie.world import Option

MODEL_ERROR = 0.15  # of a prediction, until some were compared with what came of them
TRIED_ERROR = 0.05  # of a few rounds
LEARN = 0.2  # of each comparison
HALF_LIFE_S = 600.0  # in which half of what a trial taught is forgotten


@dataclass
class Arm:
    """Of one sentence: the logarithm of achieved over predicted."""

    mean: float = 0.0
    certainty: float = 0.0  # 1/variance of what was tried
    at_s: float = 0.0


@dataclass
class Bandit:
    """What was tried, and what is worth a trial next.

    >>> bandit = Bandit()
    >>> for _ in range(5):
    ...     bandit.tried("chain(Reduce())", achieved=80.0, predicted=100.0, now_s=0.0)
    >>> round(bandit.factor("chain(Reduce())", now_s=0.0), 2), bandit.factor("another", now_s=0.0)
    (0.8, 1.0)
    """

    error: float = MODEL_ERROR  # of predictions, as far as they were compared
    _arms: dict[str, Arm] = field(default_factory=dict)

    def tried(self, sentence: str, achieved: float, predicted: float, now_s: float) -> None:
        """A sentence brought so much, where so much was predicted."""
        ratio = math.log(achieved / predicted)
        arm = self._faded(sentence, now_s)
        if not arm.certainty:  # surprises only count while nothing was known
            self.error += LEARN * (abs(ratio) - self.error)
        certainty = arm.certainty + 1 / TRIED_ERROR**2
        mean = (arm.certainty * arm.mean + ratio / TRIED_ERROR**2) / certainty
        self._arms[sentence] = Arm(mean, certainty, now_s)

    def factor(self, sentence: str, now_s: float) -> float:
        """What to multiply a prediction with: where nothing was tried, with 1."""
        arm = self._faded(sentence, now_s)
        return math.exp(arm.mean * arm.certainty / (arm.certainty + 1 / self._variance))

    def worth_trying(self, options: Iterable[Option], best: Option, now_s: float) -> Option | None:
        """The option that may well be better than the best known: its upper bound is highest."""
        known = self.bound(best, now_s, deviations=0.0)
        bounds = [(self.bound(o, now_s), o) for o in options if o.strategy != best.strategy]
        bound, option = max(bounds, key=lambda pair: pair[0], default=(-math.inf, best))
        return option if bound > known else None

    def bound(self, option: Option, now_s: float, deviations: float = 1.0) -> float:
        """The logarithm of an option's goodput, and so many standard deviations more."""
        certainty = self._faded(option.strategy, now_s).certainty + 1 / self._variance
        expected = math.log(option.goodput_per_s * self.factor(option.strategy, now_s))
        return expected + deviations / math.sqrt(certainty)

    @property
    def _variance(self) -> float:
        return max(TRIED_ERROR, self.error) ** 2

    def _faded(self, sentence: str, now_s: float) -> Arm:
        arm = self._arms.get(sentence, Arm())
        return Arm(arm.mean, arm.certainty * 0.5 ** ((now_s - arm.at_s) / HALF_LIFE_S), now_s)
