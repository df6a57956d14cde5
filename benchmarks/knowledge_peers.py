"""Ten classes for every agent: clothes and digits, three images of each, rotated a little.

Agents of one kind are kin: their classes mean the same, and their images differ by an angle. Those
of two kinds have a common output layer whose ten units mean other things.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import knowledge_data as data
from benchmarks.knowledge_race import (
    LEARNING_RATE,
    WIDTH,
    Agents,
    course,
    race,
    rectified_trunk,
)
from benchmarks.knowledge_sharing import UNGUARDED, sharing
from benchmarks.knowledge_sums import largest_gap, pairs_right, same_groups
from coterie.knowledge import Fusion, Linear, Pupil, Rules, Scholar
from coterie.knowledge.affinity import cross_loss
from coterie.knowledge.distill import Labels, Pool
from coterie.knowledge.graph import gathered
from coterie.knowledge.prototypes import Prototypes

NUM_SHOTS, NUM_TEST = 3, 300
NUM_STEPS = 300
FAST = 3e-3  # the other rate of Adam: it was better for those who fuse, with one seed
BATCH = 20  # images a step
ANGLES = (-20.0, -10.0, 0.0, 10.0, 20.0)  # degrees
CHANNELS = (16, 24, 32, 40, 48)  # of networks that differ
POOL_SIZE = 500  # images without labels, that all have
FIRST_TELLING = 60  # step: what features and predictions say before is little
GROUPING_STEP = 30
NUM_KEPT = 2  # images of each class by which gates judge
NUM_UNRELATED = 4  # agents

WHOLE = Fusion(part="*")  # classes mean the same: the head travels too


def kind(
    images: data.Split, name: str, seed: int, num_each: tuple[int, int] = (NUM_SHOTS, 0)
) -> dict[str, data.Split]:
    """An agent's share of these images for each angle: so many of a class to learn and to keep."""
    return {
        f"{name}-{number}": data.own(images, num_each, NUM_TEST, degrees, [seed, number])
        for number, degrees in enumerate(ANGLES)
    }


def agents(
    splits: Mapping[str, data.Split],
    seed: int,
    channels: Sequence[int] = (32,),
    lr: float = LEARNING_RATE,
) -> Agents:
    """An agent for each share of images; those of one width begin at the same weights."""
    method = Linear(WIDTH, data.NUM_CLASSES, BATCH)
    scholars = []
    for number, (name, split) in enumerate(splits.items()):
        trunk = partial(rectified_trunk, channels=channels[number % len(channels)])
        scholars.append(Scholar(name, course(name, split, trunk, method, lr), seed))
    return Agents(scholars, list(splits.values()))


def pool(seed: int) -> Pool:
    """Images of clothes that nobody has labels of."""
    images = data.clothes().train.images_NHW
    drawn = np.random.RandomState([seed, 99]).permutation(len(images))[:POOL_SIZE]
    return Pool(images[torch.as_tensor(drawn)].float() / 255)


def kin(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """One kind, one architecture: alone, and by each of three currencies."""
    splits = kind(data.clothes(), "clothes", seed)
    seen = pool(seed)
    arms = {
        "alone": agents(splits, seed),
        "alone, fast": agents(splits, seed, lr=FAST),
        "fusion, fast": sharing(agents(splits, seed, lr=FAST), lambda: [WHOLE]),
        "prototypes": sharing(agents(splits, seed), lambda: [Prototypes()], begin=FIRST_TELLING),
        "labels": sharing(agents(splits, seed), lambda: [Labels(seen)], begin=FIRST_TELLING),
    }
    return race(arms, num_steps)


def widths(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """One kind, five architectures: alone, by prototypes and by soft labels."""
    splits = kind(data.clothes(), "clothes", seed)
    seen = pool(seed)

    def fresh() -> Agents:
        return agents(splits, seed, CHANNELS)

    arms = {
        "alone": fresh(),
        "prototypes": sharing(fresh(), lambda: [Prototypes()], begin=FIRST_TELLING),
        "labels": sharing(fresh(), lambda: [Labels(seen)], begin=FIRST_TELLING),
    }
    return race(arms, num_steps)


def mixed(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """Two kinds, one output layer: alone, all fused, and fused in groups that are found."""
    splits = two_kinds(seed)
    grouped = sharing(
        agents(splits, seed, lr=FAST), lambda: [WHOLE], begin=GROUPING_STEP, regroup=by_cross_loss
    )
    arms = {
        "alone": agents(splits, seed),
        "alone, fast": agents(splits, seed, lr=FAST),
        "all, fast": sharing(agents(splits, seed, lr=FAST), lambda: [WHOLE]),
        "groups, fast": grouped,
    }
    return {**race(arms, num_steps), "groups": grouped.share.groups}


def two_kinds(seed: int) -> dict[str, data.Split]:
    """Five agents of clothes and five of digits."""
    num_each = (NUM_SHOTS, 0)
    clothes = kind(data.clothes(), "clothes", seed, num_each)
    return clothes | kind(data.digits(), "digits", seed, num_each)


def by_cross_loss(pupils: Sequence[Pupil]) -> Sequence[Collection[str]]:
    """Groups of kin by what one knows of another's samples."""
    return cross_loss(pupils).groups()


def grouping(seed: int) -> dict[str, Any]:
    """Two kinds after thirty steps alone: by cross-loss, and by the cosine of what was learned.

    The cosine is cut at zero, as the product cuts, and where the largest gap lies.
    """
    splits = two_kinds(seed)
    scholars = agents(splits, seed).scholars
    first_N = scholars[0].vector()
    for scholar in scholars:
        for _ in range(GROUPING_STEP):
            scholar.step()
    updates = {scholar.name: scholar.vector() - first_N for scholar in scholars}
    cosine = {
        a: {b: float(torch.cosine_similarity(updates[a], updates[b], dim=0)) for b in updates}
        for a in updates
    }
    rows = {a: {b: (value, 0.0) for b, value in row.items()} for a, row in cosine.items()}
    found = {
        "cross-loss": by_cross_loss(scholars),
        "cosine of updates": gathered("cosine", rows).groups(),
        "cosine of updates, largest gap": largest_gap(cosine),
    }
    true = [[name for name in splits if name.startswith(of)] for of in ("clothes", "digits")]
    ways = {
        way: {"exact": same_groups(groups, true), "pairs": pairs_right(groups, true)}
        for way, groups in found.items()
    }
    return {"ways": ways, "groups": {way: list(groups) for way, groups in found.items()}}


def unrelated(seed: int, num_steps: int = NUM_STEPS) -> dict[str, Any]:
    """Four agents who call the ten classes by other numbers, so that no unit means the same.

    What gates judge by are two more images of each class; one arm alone learns from them too.
    """
    random = np.random.RandomState([seed, 98])
    own = list(kind(data.clothes(), "clothes", seed, (NUM_SHOTS, NUM_KEPT)).items())[:NUM_UNRELATED]
    splits = {name: split.renamed(random.permutation(10)) for name, split in own}
    seen = pool(seed)
    currencies = {"fusion": WHOLE, "prototypes": Prototypes(), "labels": Labels(seen)}
    arms = {"alone": agents(splits, seed), "alone, all images": agents(all_of(splits), seed)}
    for name, currency in currencies.items():
        for guard, rules in (("", UNGUARDED), (", gate", Rules())):
            arms[name + guard] = sharing(
                agents(splits, seed), lambda c=currency: [c], rules, begin=FIRST_TELLING, every=20
            )
    return race(arms, num_steps)


def all_of(splits: Mapping[str, data.Split]) -> dict[str, data.Split]:
    """The same with nothing kept."""
    return {name: split.all_learned() for name, split in splits.items()}
