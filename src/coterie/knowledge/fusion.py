"""Parameters as a currency: a pupil moves towards the mean of what others hold.

Legend of shape suffixes: N parameters, K of them shared, M lessons and the pupil, P shared ones.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coterie import combine
from coterie.errors import CoterieError, LessonError
from coterie.knowledge.currency import Placed, evidence_of
from coterie.knowledge.lesson import Lesson
from coterie.knowledge.pupil import Pupil
from coterie.types import Layout

Law = Callable[[Sequence[Tensor], Sequence[float]], Tensor]


class Alpha(Protocol):
    """How far to go towards what others hold."""

    def towards(self, mean_N: Tensor, pupil: Pupil) -> Tensor:
        """Where the pupil should stand, (N,), between where it is and `mean_N`."""


@dataclass(frozen=True)
class Fixed:
    """As far for each parameter as the first pattern says that its name matches; else not at all.

    >>> Fixed({"trunk.0.*": 1.0, "*": 0.25}).of("trunk.2.weight")
    0.25
    """

    by_pattern: Mapping[str, float]

    def __post_init__(self) -> None:
        for pattern, alpha in self.by_pattern.items():
            if not 0 <= alpha <= 1:
                raise LessonError(
                    f"expected an alpha of 0 to 1 for {pattern}, found {alpha}; 1 is the mean"
                )

    def of(self, name: str) -> float:
        """The share of the way that a parameter goes."""
        found = (a for p, a in self.by_pattern.items() if fnmatch.fnmatchcase(name, p))
        return next(found, 0.0)

    def towards(self, mean_N: Tensor, pupil: Pupil) -> Tensor:
        """Each parameter's share of its way."""
        here_N = pupil.vector()
        for name, where in pupil.layout.slices():
            here_N[where] += self.of(name) * (mean_N[where] - here_N[where])
        return here_N


@dataclass(frozen=True)
class Learned:
    """As far as serves the pupil's own held-out samples best, layer by layer.

    First one share for all; then each layer by itself, in their order, while the others stay. A
    share is another one only where it gains something. The same samples then judge what they
    chose, so that with few of them a fixed share is the safer one.

    >>> Learned().shares
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """

    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    by_layer: int = 1  # passes over the layers after the first choice; 0 for one share in all

    def towards(self, mean_N: Tensor, pupil: Pupil) -> Tensor:
        """The best of the places that were tried; the pupil is left where it was."""
        here_N = pupil.vector()
        way_N = mean_N - here_N
        share_N = torch.zeros_like(here_N)
        try:
            best = self._choose([slice(None)], share_N, here_N, way_N, pupil)
            layers = [
                layer
                for layer in _layers(pupil.layout)
                if any(bool(way_N[where].any()) for where in layer)
            ]
            for _ in range(self.by_layer):
                for where in layers:
                    best = self._choose(where, best, here_N, way_N, pupil)
        finally:
            pupil.place(here_N)
        return here_N + best * way_N

    def _choose(
        self,
        where: list[slice],
        share_N: Tensor,
        here_N: Tensor,
        way_N: Tensor,
        pupil: Pupil,
    ) -> Tensor:
        best_N, most = share_N, _utility(pupil, here_N + share_N * way_N)
        for share in self.shares:
            tried_N = share_N.clone()
            for part in where:
                tried_N[part] = share
            if (utility := _utility(pupil, here_N + tried_N * way_N)) > most:
                best_N, most = tried_N, utility
        return best_N


@dataclass(frozen=True)
class Fusion:
    """θ ← θ + α(m − θ), with m the law's answer to the pupil and its teachers, on part of θ.

    `alpha` is a number, one for each pattern of names, or `Learned()`. Members that fuse start
    from one initialisation, and heads stay private: what is shared is what matches `part`. The
    law is given samples times trust as weights: `combine.mean`, or a robust one such as
    `combine.median`, or one that settles conflicts.

    >>> Fusion(0.5).name, Fusion({"trunk.0.*": 1.0}).part
    ('parameters', 'trunk.*')
    """

    alpha: float | Mapping[str, float] | Alpha = 1.0
    part: str = "trunk.*"
    law: Law = combine.mean
    name: str = "parameters"
    lasts_steps: int = 0  # one that was heard before is where its teacher no longer stands

    def __post_init__(self) -> None:
        if isinstance(self.alpha, int | float):
            object.__setattr__(self, "alpha", Fixed({"*": float(self.alpha)}))
        elif isinstance(self.alpha, Mapping):
            object.__setattr__(self, "alpha", Fixed(dict(self.alpha)))

    def teach(self, teacher: Pupil) -> Lesson:
        """The teacher's parameters that are shared, each under its name."""
        shared = self._shared(teacher)
        views = teacher.layout.views(teacher.vector().float())
        arrays = {name: views[name] for name in shared.names}
        where, steps = teacher.task, teacher.num_steps
        return Lesson(teacher.name, where, self.name, steps, arrays, evidence_of(teacher))

    def check(self, lesson: Lesson, pupil: Pupil) -> None:
        """Refuse parameters of another shape, naming the first that differs."""
        shared = self._shared(pupil)
        names = tuple(sorted(lesson.arrays))
        theirs = Layout(names, tuple(tuple(lesson.arrays[name].shape) for name in names))
        if differs := shared.difference(theirs):
            raise LessonError(
                f"expected parameters of the shapes that {pupil.name} has, found others from "
                f"{lesson.teacher}{differs}; teach it by prototypes or labels"
            )

    def integrate(
        self, lessons: Sequence[Lesson], weights: Sequence[float], pupil: Pupil
    ) -> Placed:
        """Where the pupil moves."""
        assert not isinstance(self.alpha, float | int | Mapping)
        shared, here_N = self._shared(pupil), pupil.vector()
        own_K = _laid(pupil.layout.views(here_N), shared)
        rows = [own_K, *(_laid(lesson.arrays, shared).to(own_K) for lesson in lessons)]
        counts = [float(pupil.num_samples), *weights]
        try:
            mean_K = self.law(rows, counts if any(counts) else [1.0] * len(rows))
        except CoterieError as error:
            raise LessonError(f"expected rows that can be combined, found: {error}") from error
        mean_N = here_N.clone()
        for name, part in shared.views(mean_K).items():
            pupil.layout.views(mean_N)[name].copy_(part)
        return Placed(self.alpha.towards(mean_N, pupil))

    def _shared(self, pupil: Pupil) -> Layout:
        try:
            return pupil.layout.select(self.part)
        except CoterieError as error:
            raise LessonError(f"{pupil.name}: {error}") from error


def visited_mean(values: Sequence[Tensor], visits: Sequence[Tensor]) -> Tensor:
    """The mean of tables with a weight for each value, plain where nobody was.

    For tables of action values and how often each was learned: Q of a place that one agent knows
    and others do not is that agent's.

    >>> a, b = torch.tensor([4.0, 1.0, 2.0]), torch.tensor([0.0, 3.0, 4.0])
    >>> visited_mean([a, b], [torch.tensor([3.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])])
    tensor([4., 2., 3.])
    """
    values_M, visits_M = torch.stack(list(values)), torch.stack(list(visits))
    total = visits_M.sum(0)
    weighted = (values_M * visits_M).sum(0) / total.clamp(min=1e-12)
    return torch.where(total > 0, weighted, values_M.mean(0))


def _laid(arrays: Mapping[str, Tensor], shared: Layout) -> Tensor:
    return torch.cat([arrays[name].reshape(-1) for name in shared.names])


def _layers(layout: Layout) -> list[list[slice]]:
    """The places of each module's own parameters, in the layout's order."""
    found: dict[str, list[slice]] = {}
    for name, where in layout.slices():
        found.setdefault(name.rpartition(".")[0], []).append(where)
    return list(found.values())


def _utility(pupil: Pupil, vector_N: Tensor) -> float:
    pupil.place(vector_N)
    utility_S = pupil.held_out()
    mean = float(utility_S.mean()) if utility_S.numel() else -math.inf
    return mean if math.isfinite(mean) else -math.inf
