"""The arithmetic of the benchmark of sharing: what was gained, how soon, and who was kin.

A curve is what one arm told as it learned: after so many steps and so many CPU seconds, how each
of its tasks did. Accuracies are parts of one here, and points (hundredths) on the page.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

Groups = Iterable[Iterable[Hashable]]  # members, by group
NEARLY = 0.99  # of the best: the last hundredth of a curve's best is a matter of luck


@dataclass(frozen=True)
class Curve:
    """How one arm learned, looked at every few steps.

    >>> curve = Curve((10, 20, 30), (1.0, 2.0, 3.0), ((0.5, 0.3), (0.7, 0.5), (0.6, 0.5)), 0)
    >>> curve.means(), curve.best(), curve.peak()
    ([0.4, 0.6, 0.55], 0.6, (0.7, 0.5))
    """

    steps: tuple[int, ...]
    cpu_s: tuple[float, ...]  # spent on learning and sharing, not on looking
    accuracies: tuple[tuple[float, ...], ...]  # of each task, each time
    num_bytes: int  # that agents sent and received in all

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Curve:
        """As results keep it.

        >>> Curve.read(Curve((1,), (0.5,), ((0.1,),), 3).write()).num_bytes
        3
        """
        return cls(
            tuple(told["steps"]),
            tuple(told["cpu_s"]),
            tuple(tuple(each) for each in told["accuracies"]),
            told["num_bytes"],
        )

    def write(self) -> dict[str, Any]:
        """What `read` reads."""
        return asdict(self)

    def means(self) -> list[float]:
        """The mean over tasks, each time."""
        return [round(fmean(each), 12) for each in self.accuracies]

    def best(self) -> float:
        """The best of these means: every arm is judged by its best moment."""
        return max(self.means())

    def peak(self) -> tuple[float, ...]:
        """The tasks' accuracies at that moment."""
        return self.accuracies[self.means().index(self.best())]

    def first(self, level: float) -> tuple[int, float] | None:
        """The steps and the CPU seconds after which the mean was as high; None where it never was.

        >>> curve = Curve((10, 20), (1.5, 3.0), ((0.5,), (0.7,)), 0)
        >>> curve.first(0.6), curve.first(0.8)
        ((20, 3.0), None)
        """
        for steps, cpu_s, mean in zip(self.steps, self.cpu_s, self.means(), strict=True):
            if mean >= level:
                return steps, cpu_s
        return None


def tuned(arms: Mapping[str, Curve], way: str = "alone") -> Curve:
    """The best that one way to learn came to, over the rates that were tried.

    >>> low, high = (Curve((1,), (1.0,), ((each,),), 0) for each in (0.4, 0.5))
    >>> tuned({"alone": low, "alone, fast": high, "trunk": high}).best()
    0.5
    """
    tried = [arm for name, arm in arms.items() if name in (way, f"{way}, fast")]
    return max(tried, key=Curve.best)


def gain(ours: Curve, alone: Curve) -> float:
    """Points of accuracy that sharing added, best to best.

    >>> round(gain(Curve((1,), (1.0,), ((0.5,),), 0), Curve((1,), (1.0,), ((0.4,),), 0)), 6)
    10.0
    """
    return 100 * (ours.best() - alone.best())


def worst_gain(ours: Curve, alone: Curve) -> float:
    """The same of the task that gained least.

    >>> two = [Curve((1,), (1.0,), (each,), 0) for each in ((0.5, 0.9), (0.4, 0.95))]
    >>> round(worst_gain(*two), 6)
    -5.0
    """
    return 100 * min(a - b for a, b in zip(ours.peak(), alone.peak(), strict=True))


def sooner(ours: Curve, alone: Curve, part: float = NEARLY) -> tuple[float, float] | None:
    """Time to `part` of the best of learners alone, over their own: in steps, in CPU seconds.

    None where it was never as good.

    >>> alone = Curve((10, 20), (1.0, 2.0), ((0.5,), (0.7,)), 0)
    >>> sooner(Curve((10, 20), (1.5, 3.0), ((0.7,), (0.7,)), 0), alone)
    (0.5, 0.75)
    """
    level = part * alone.best()
    reached, own = ours.first(level), alone.first(level)
    if reached is None or own is None:
        return None
    return reached[0] / own[0], reached[1] / own[1]


def same_groups(found: Groups, true: Groups) -> bool:
    """Whether two ways to group are one, whatever the order.

    >>> same_groups([(3, 2), (0, 1)], [(0, 1), (2, 3)]), same_groups([(0, 1, 2)], [(0, 1), (2,)])
    (True, False)
    """
    return {frozenset(group) for group in found} == {frozenset(group) for group in true}


def pairs_right(found: Groups, true: Groups) -> float:
    """The part of all pairs that are rightly together or rightly apart (Rand 1971).

    >>> pairs_right([(0, 1, 2, 3)], [(0,), (1, 2, 3)])
    0.5
    """

    def groups_of(told: Groups) -> dict[Hashable, int]:
        return {member: number for number, group in enumerate(told) for member in group}

    one, other = groups_of(found), groups_of(true)
    pairs = combinations(other, 2)
    return fmean((one[i] == one[j]) == (other[i] == other[j]) for i, j in pairs)


def largest_gap(likeness: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Groups whose members are linked by a likeness above the largest gap among all of them.

    >>> rows = {"a": {"b": 0.9, "c": 0.1}, "b": {"a": 0.9, "c": 0.1}, "c": {"a": 0.0, "b": 0.1}}
    >>> largest_gap(rows)
    [('a', 'b'), ('c',)]
    """
    pairs = {
        pair: (likeness[pair[0]][pair[1]] + likeness[pair[1]][pair[0]]) / 2
        for pair in combinations(likeness, 2)
    }
    ordered = sorted(pairs.values())
    _, cut = max((after - before, after) for before, after in pairwise(ordered))
    group = {name: {name} for name in likeness}
    for (one, other), value in pairs.items():
        if value >= cut and group[one] is not group[other]:
            joined = group[one] | group[other]
            group.update(dict.fromkeys(joined, joined))
    return sorted({tuple(sorted(each)) for each in group.values()})
