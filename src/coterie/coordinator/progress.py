"""What progress sentences keep: believed beforehand, and corrected by what a run's losses say.

Over x = ln(samples · progress kept of each) a loss falls about straight, and as steeply by one
sentence as by another, if each keeps what is believed of it:

ln (slope a / slope b) = error of ln kept a − error of ln kept b

Slopes alone are compared, never levels: members that walk tell the losses of where they walk, which
are higher than that of what they agree on. A comparison counts for as much as the scatter of losses
lets it: one of a few rounds hardly moves a belief.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from coterie.coordinator.parallel import is_whole
from coterie.coordinator.prices import Cohort, Sentence, spread
from coterie.sync.teams import Team
from coterie.world import Learned, World

DOUBT = 0.5  # of what is believed to be lost: so far priors were off from task to task
REMEMBERS = 200  # reports, from which a slope is read
LEAST_REPORTS = 8  # of which a slope says anything
SETTLES = 2  # reports: until a new sentence is under way losses change level
LEAST_ERROR = 0.1  # of a comparison: no line is quite straight
MOST_ERROR = 1.0  # beyond, it says nothing
UNSEEN = Learned("", 1.0, 0.0, 0)


def counted_on(sentence: Sentence, cohort: Cohort) -> float:
    """The progress that a sentence keeps, less what the belief in it may be off by, in (0, 1].

    A promise that nobody has tested is worth less than the same one kept: what loses nothing is
    preferred to what may lose more than believed.
    """
    if is_whole(sentence.team, tuple(cohort.shares)):
        return 1.0
    prior = believed(sentence, cohort)
    known = learned_of(cohort.world, sentence.kind)
    doubt = known.doubt if known.num_reports else doubt_of(prior)
    return min(1.0, prior * known.factor) * math.exp(-doubt)


def believed(sentence: Sentence, cohort: Cohort) -> float:
    """The prior of a sentence for members of these shares; those of a team count as one.

    Paced, slow members walk fewer steps, and what all agree on lies Σ pᵢ² / max pᵢ as far away as
    the fastest has walked: larger batches win about half of that back.
    """
    if not isinstance(sentence.team, Team) or len(cohort.shares) < sentence.least:
        far = cohort.batch / cohort.spread / max(cohort.shares.values())
        kept = sentence.prior.kept(cohort.spread)
        return kept * math.sqrt(far) if sentence.paced else kept
    teams = sentence.team.teams(tuple(cohort.shares))
    return sentence.prior.kept(spread(sum(cohort.shares[n] for n in team) for team in teams))


def doubt_of(prior: float) -> float:
    """How far the logarithm of a prior may be off: not at all where nothing is lost.

    >>> doubt_of(1.0), doubt_of(0.75)
    (0.0, 0.125)
    """
    return DOUBT * (1 - prior)


def learned_of(world: World, kind: str) -> Learned:
    """What was learned of a kind of sentence."""
    return next((each for each in world.learned if each.kind == kind), UNSEEN)


@dataclass(frozen=True)
class Stretch:
    """Losses by one sentence, as the sums that a weighted line through them needs.

    >>> stretch = Stretch("chain(Reduce())", "gradients", prior=0.8)
    >>> for step in range(12):
    ...     stretch = stretch.seen(step / 10, 5.0 - step / 5, weight=1.0)
    >>> round(stretch.slope[0], 6)
    2.0
    """

    written: str
    kind: str
    prior: float  # progress kept, as it was believed beforehand
    num: int = 0
    w: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def seen(self, x: float, loss: float, weight: float) -> Stretch:
        """After one more report, of so many samples; the oldest fade."""
        if self.num < SETTLES:
            return replace(self, num=self.num + 1)
        old = 1 - 1 / REMEMBERS
        terms = (1.0, x, loss, x * x, x * loss, loss * loss)
        before = (self.w, self.x, self.y, self.xx, self.xy, self.yy)
        sums = (old * b + weight * t for b, t in zip(before, terms, strict=True))
        return Stretch(self.written, self.kind, self.prior, self.num + 1, *sums)

    @property
    def slope(self) -> tuple[float, float]:
        """How steeply losses fall, and the variance of that; (0, ∞) where nothing can be said."""
        num = min(self.num - SETTLES, REMEMBERS)
        if num < LEAST_REPORTS:
            return 0.0, math.inf
        xx = self.xx - self.x**2 / self.w
        xy = self.xy - self.x * self.y / self.w
        yy = self.yy - self.y**2 / self.w
        if xx <= 1e-12 * self.xx:
            return 0.0, math.inf
        unexplained = max(0.0, yy - xy * xy / xx)
        return -xy / xx, unexplained / xx / (num - 2)


@dataclass
class Progress:
    """What losses taught of each kind of sentence, and what is being learned.

    >>> progress = Progress()
    >>> progress.turn(Stretch("chain(Reduce())", "gradients", prior=1.0)), progress.learned
    ((), ())
    """

    useful: float = 0.0  # samples so far, by the progress believed of each
    _known: dict[str, Learned] = field(default_factory=dict)
    _before: Stretch | None = None
    _now: Stretch | None = None

    @property
    def learned(self) -> tuple[Learned, ...]:
        """For a World."""
        return tuple(self._known.values())

    def know(self, learned: Iterable[Learned]) -> None:
        """As a coordinator before this one had learned."""
        self._known = {each.kind: each for each in learned}

    def turn(self, begun: Stretch) -> tuple[tuple[Stretch, Learned], ...]:
        """A sentence is under way from now on; what the one before it taught, and of which."""
        if self._now is not None and self._now.written == begun.written:
            return ()
        taught = self._compared()
        if self._now is not None and self._now.slope[0] > 0:
            self._before = self._now
        self._now = begun
        return taught

    def saw(self, loss: float, num_samples: int) -> None:
        """Members told of the loss of so many samples."""
        if self._now is None:
            return
        kind, prior = self._now.kind, self._now.prior
        factor = self._known[kind].factor if kind in self._known else 1.0
        self.useful += num_samples * min(1.0, prior * factor)
        self._now = self._now.seen(math.log(self.useful), loss, num_samples)

    def _compared(self) -> tuple[tuple[Stretch, Learned], ...]:
        before, now = self._before, self._now
        if before is None or now is None or before.kind == now.kind:
            return ()
        slopes = before.slope, now.slope
        if min(slope for slope, _ in slopes) <= 0:
            return ()
        variance = LEAST_ERROR**2 + sum(v / slope**2 for slope, v in slopes)
        if variance > MOST_ERROR**2:
            return ()
        return self._moved(before, now, math.log(now.slope[0] / before.slope[0]), variance)

    def _moved(
        self, before: Stretch, now: Stretch, ratio: float, variance: float
    ) -> tuple[tuple[Stretch, Learned], ...]:
        """Each belief moves as far as it was in doubt (Kalman 1960)."""
        known = [self._belief(stretch) for stretch in (before, now)]
        total = sum(each.doubt**2 for each in known) + variance
        told = []
        for each, stretch, sign in zip(known, (before, now), (-1, 1), strict=True):
            gain = each.doubt**2 / total
            factor = each.factor * math.exp(sign * gain * ratio)
            doubt = each.doubt * math.sqrt(1 - gain)
            if gain > 0:
                learned = Learned(stretch.kind, factor, doubt, each.num_reports + stretch.num)
                self._known[stretch.kind] = learned
                told.append((stretch, learned))
        return tuple(told)

    def _belief(self, stretch: Stretch) -> Learned:
        return self._known.get(stretch.kind) or Learned(
            stretch.kind, 1.0, doubt_of(stretch.prior), 0
        )
