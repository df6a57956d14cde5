"""The bandit: no regret beyond its budget, no trial of what cannot win, forgetting in time."""

from __future__ import annotations

import math
import random

from coterie.coordinator.bandit import HALF_LIFE_S, MODEL_ERROR, Bandit
from coterie.world import Option


def option(name: str, goodput_per_s: float) -> Option:
    return Option(name, {"a": 8}, 1.0, 0.0, goodput_per_s, 1.0, 1.0)


def test_what_cannot_be_better_is_never_tried():
    best = option("best", 100.0)
    assert (
        Bandit().worth_trying([option("far", 100.0 * math.exp(-2 * MODEL_ERROR))], best, 0) is None
    )
    near = option("near", 100.0 * math.exp(-0.5 * MODEL_ERROR))
    assert Bandit().worth_trying([near], best, 0) == near


def test_what_was_tried_and_found_worse_is_not_tried_again_until_it_is_forgotten():
    bandit, best, near = Bandit(), option("best", 100.0), option("near", 99.0)
    bandit.tried("near", achieved=80.0, predicted=99.0, now_s=0.0)
    assert bandit.worth_trying([near], best, now_s=1.0) is None
    assert bandit.worth_trying([near], best, now_s=8 * HALF_LIFE_S) == near


def found(seed: int) -> float:
    """What the bandit settles on, of six that the model cannot tell, against the best of them."""
    generator = random.Random(seed)
    options = [option(f"s{k}", generator.uniform(90, 110)) for k in range(6)]
    true = {o.strategy: o.goodput_per_s * generator.lognormvariate(0, 0.15) for o in options}
    bandit, best = Bandit(), max(options, key=lambda o: o.goodput_per_s)
    for trial in range(25):
        now_s = 10.0 * trial
        rival = bandit.worth_trying(options, best, now_s)
        for tried in filter(None, (best, rival)):
            seen = true[tried.strategy] * generator.lognormvariate(0, 0.03)
            bandit.tried(tried.strategy, seen, tried.goodput_per_s, now_s)
        best = max(options, key=lambda o: o.goodput_per_s * bandit.factor(o.strategy, now_s))
    return true[best.strategy] / max(true.values())


def test_near_the_best_of_some_that_the_model_cannot_tell_is_found_in_a_few_trials():
    ratios = [found(seed) for seed in range(40)]
    assert sum(ratios) / 40 >= 0.96
    assert min(ratios) >= 0.8


def test_a_model_that_proves_right_needs_fewer_trials():
    bandit = Bandit()
    for k in range(20):
        bandit.tried(f"s{k}", achieved=101.0, predicted=100.0, now_s=0.0)
    assert bandit.error < 0.05
    assert bandit.worth_trying([option("near", 90.0)], option("best", 100.0), 0.0) is None
