"""Offloading is the convex optimum, light or heavy the load, and says what it cannot do."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.optimize import minimize

from coterie.coordinator.offload import Place, expected_s, linked_places, no_load_s, offload
from coterie.errors import JobError
from coterie.world import Link

NUM_CLUSTERS = 300


def cluster(seed: int) -> tuple[list[Place], float]:
    generator = random.Random(seed)
    places = [
        Place(f"p{i}", 10 ** generator.uniform(0, 3), 10 ** generator.uniform(-4, 0))
        for i in range(generator.randint(2, 8))
    ]
    return places, generator.uniform(0.05, 0.97) * sum(p.served_per_s for p in places)


def convex_optimum(places: list[Place], asked_per_s: float) -> float:
    """E[T] as SLSQP finds it, begun in proportion to speed and at the parts under test."""
    mu = np.array([place.served_per_s for place in places])
    c = np.array([place.moving_s for place in places])

    def mean_s(parts):
        return float(np.sum(parts * (1 / (mu - asked_per_s * parts) + c)))

    def slope(parts):
        return mu / (mu - asked_per_s * parts) ** 2 + c

    found = minimize(
        mean_s,
        mu / mu.sum(),
        jac=slope,
        method="SLSQP",
        bounds=[(0, min(1, 0.999999 * m / asked_per_s)) for m in mu],
        constraints={"type": "eq", "fun": lambda parts: parts.sum() - 1},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return min(mean_s(found.x), mean_s(mu / mu.sum()))


def test_no_parts_are_better_than_ours():
    ratios = []
    for seed in range(NUM_CLUSTERS):
        places, asked_per_s = cluster(seed)
        ours = offload(places, asked_per_s)
        assert sum(ours.parts.values()) == pytest.approx(1.0)
        assert ours.expected_s == pytest.approx(expected_s(places, ours.parts, asked_per_s))
        ratios.append(ours.expected_s / convex_optimum(places, asked_per_s))
    assert max(ratios) <= 1 + 1e-6
    assert np.median(ratios) >= 1 - 1e-6


@pytest.mark.parametrize("left", [1e-3, 1e-6, 1e-9, 1e-12])
def test_near_saturation_what_is_free_is_shared_by_the_square_roots_of_speeds(left):
    # ν is then so large that c and 1/μ vanish beside it: freeᵢ ∝ √μᵢ.
    places = [Place("a", 1.0), Place("b", 4.0, 0.5), Place("c", 9.0)]
    ours = offload(places, 14.0 - left)
    left = 14.0 - (14.0 - left)
    exact = sum(mu / 14 / (left * math.sqrt(mu) / 6) for mu in (1, 4, 9))
    assert ours.expected_s == pytest.approx(exact, rel=max(1e-9, 3 * left))


@pytest.mark.parametrize("asked_per_s", [1e-3, 1e-9, 1e-15, 1e-200])
def test_while_hardly_anything_is_asked_one_place_is_best_and_both_forms_agree(asked_per_s):
    ours = offload([Place("near", 5.0), Place("far", 50.0, 0.3)], asked_per_s)
    assert ours.parts == {"near": 1.0, "far": 0.0}
    assert ours.expected_s == pytest.approx(ours.no_load_s, rel=1e-3)
    assert ours.no_load_s == 0.2


def test_equal_places_share_equally():
    parts = offload([Place("a", 3.0), Place("b", 3.0), Place("c", 3.0)], 6.0).parts
    assert list(parts.values()) == pytest.approx([1 / 3] * 3)


def test_places_alike_may_be_said_once():
    apart = [Place("a", 3.0, 0.1), *(Place(f"b{i}", 2.0, 0.2) for i in range(5))]
    together = [Place("a", 3.0, 0.1), Place("b", 2.0, 0.2, num=5)]
    ours, theirs = offload(together, 11.0), offload(apart, 11.0)
    assert ours.expected_s == pytest.approx(theirs.expected_s)
    assert ours.parts["b"] == pytest.approx(5 * theirs.parts["b0"])
    assert expected_s(together, ours.parts, 11.0) == pytest.approx(ours.expected_s)
    with pytest.raises(JobError, match="fewer than the 13 requests"):
        offload(together, 13.0)


def test_the_linear_form_is_the_sum_of_the_source():
    links = [Link("a", "b", 0.1, 1e6), Link("a", "c", 0.2, 1e6), Link("b", "c", 0.4, 1e6)]
    places = linked_places({"a": 10, "b": 20, "c": 40}, links, 0)
    parts = {"a": 0.5, "b": 0.25, "c": 0.25}
    by_hand = 0.5 * (0.1 + 0.1 + 0.2) + 0.25 * (0.05 + 0.1 + 0.4) + 0.25 * (0.025 + 0.2 + 0.4)
    assert no_load_s(places, parts) == pytest.approx(by_hand)


def test_a_place_out_of_reach_is_asked_for_nothing():
    places = [Place("here", 2.0), Place("cut off", 1e6, math.inf)]
    assert offload(places, 1.0).parts == {"here": 1.0, "cut off": 0.0}
    with pytest.raises(JobError, match="fewer than the 2 requests"):
        offload(places, 2.0)


@pytest.mark.parametrize(
    ("places", "asked_per_s", "sentence"),
    [
        ([], 1.0, "at least one place"),
        ([Place("a", 1.0), Place("b", 2.0)], 3.0, "fewer than the 3 requests .* found 3; add"),
        ([Place("a", 0.0)], 0.1, "'a' to serve .* above 0, found 0.0"),
        ([Place("a", math.nan)], 0.1, "found nan"),
        ([Place("a", 1.0, -0.1)], 0.1, "'a' to be reached in 0 s or more"),
        ([Place("a", 1.0, math.inf)], 0.1, "fewer than the 0 requests"),
        ([Place("a", 1.0)], -1.0, "0 requests a second or more, found -1.0"),
        ([Place("a", 1.0), Place("a", 1.0)], 0.1, "found a twice"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(places, asked_per_s, sentence):
    with pytest.raises(JobError, match=sentence):
        offload(places, asked_per_s)


def test_a_missing_link_is_named():
    with pytest.raises(JobError, match="link between a and c, found none"):
        linked_places({"a": 1, "b": 1, "c": 1}, [Link("a", "b", 0, 1), Link("b", "c", 0, 1)], 8)
