"""Others who want the opposite, and one who lies: whom agents listen to, and what it saves.

Legend of shape suffixes: N parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import knowledge_data as data
from benchmarks.knowledge_peers import WHOLE, agents, by_cross_loss, kind
from benchmarks.knowledge_race import Agents, race
from benchmarks.knowledge_sharing import UNGUARDED, Meetings, sharing
from coterie import combine
from coterie.knowledge import Evidence, Fusion, Lesson, Pupil, Rules, Study

Law = Callable[[Sequence[Tensor], Sequence[float]], Tensor]

NUM_OPPOSED = 6  # agents, every other one calls digit d by 9 - d
NUM_DIGITS = 190  # that each learns from
OPPOSED_STEPS = 400
GROUPING_STEP = 30
HOSTILE_STEPS = 250
LIE = 3.0  # times what an honest teacher would say, with the other sign
CLAIM = Evidence(1e9, 1e9)  # samples and utility that the liar speaks of


def camps(seed: int) -> dict[str, data.Split]:
    """Digits dealt to six agents; every other one calls them the other way round."""
    images = data.digits()
    order = np.random.RandomState([seed, 97]).permutation(len(images.train))
    splits = {}
    for number in range(NUM_OPPOSED):
        mine = images.train.some(order[number * NUM_DIGITS : (number + 1) * NUM_DIGITS])
        own = data.Split(
            *(
                replace(each, images_NHW=each.images_NHW.float() / 255)
                for each in (mine, images.test)
            )
        )
        camp = "up" if number % 2 == 0 else "down"
        splits[f"{camp}-{number}"] = (
            own if camp == "up" else own.renamed(np.arange(10)[::-1].copy())
        )
    return splits


def opposed(seed: int, num_steps: int = OPPOSED_STEPS) -> dict[str, Any]:
    """Two camps with opposite answers: alone, all averaged, and kin averaged; with losses."""
    splits = camps(seed)

    kin = sharing(agents(splits, seed), lambda: [WHOLE], begin=GROUPING_STEP, regroup=by_cross_loss)
    arms = {
        "alone": agents(splits, seed),
        "all": sharing(agents(splits, seed), lambda: [WHOLE]),
        "kin": kin,
    }
    found = race(arms, num_steps)
    losses = {
        of: {name: _loss(arm, part) for name, arm in arms.items()}
        for of, part in (("own_losses", "train"), ("losses", "test"))
    }
    return {**found, **losses, "groups": kin.share.groups}


def _loss(arm: Agents, part: str) -> float:
    """The mean over agents of their loss on the images that they learn or are tested on."""
    pairs = zip(arm.scholars, arm.splits, strict=True)
    with torch.no_grad():
        return fmean(float(scholar.loss(*getattr(split, part).parts())) for scholar, split in pairs)


class Liar(Fusion):
    """Parameters that lead away from what was learned, and great claims for them."""

    def teach(self, teacher: Pupil) -> Lesson:
        """An honest lesson, turned round and made longer."""
        honest = super().teach(teacher)
        lie = {name: -LIE * array for name, array in honest.arrays.items()}
        return replace(honest, arrays=lie, evidence=CLAIM)


def unweighted_median(rows: Sequence[Tensor], weight_M: Sequence[float]) -> Tensor:
    """The median of rows that count the same, whatever their teachers claim."""
    return combine.median(rows, [1.0] * len(rows))


class Joined(Meetings):
    """Meetings to which a liar comes, who listens to nobody."""

    def __init__(self, studies: list[Study], liar: Study, **when: Any) -> None:
        super().__init__(studies, **when)
        self.liar = liar

    def written(self) -> dict[str, list[bytes]]:
        """What everybody wrote, and what the liar did."""
        return {**super().written(), self.liar.pupil.name: self.liar.teach()[0]}


def hostile(seed: int, num_steps: int = HOSTILE_STEPS) -> dict[str, Any]:
    """Four who fuse, and a fifth who lies: nobody lies, gates, none, the median of all."""
    five = kind(data.clothes(), "clothes", seed, (5, 2))
    honest = dict(list(five.items())[:4])
    (last,) = list(five.items())[4:]

    def lied_to(rules: Rules, law: Law = combine.mean) -> Agents:
        group = agents(honest, seed)
        liar = agents(dict([last]), seed).scholars[0]
        studies = [Study(each, [Fusion(part="*", law=law)], rules) for each in group.scholars]
        group.share = Joined(studies, Study(liar, [Liar(part="*")]))
        return group

    arms = {
        "nobody lies": sharing(agents(honest, seed), lambda: [WHOLE]),
        "nobody lies, gate": sharing(agents(honest, seed), lambda: [WHOLE], Rules()),
        "gate": lied_to(Rules()),
        "no gate": lied_to(UNGUARDED),
        "no gate, median": lied_to(UNGUARDED, unweighted_median),
        "alone": agents(honest, seed),
    }
    return race(arms, num_steps)
