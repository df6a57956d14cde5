"""Progress: priors of members and shares, and their correction by losses, no further than noise."""

from __future__ import annotations

import math
import random

import pytest

from coterie.coordinator.model import predict
from coterie.coordinator.prices import sentence_of
from coterie.coordinator.progress import Progress, Stretch
from coterie.sync import recipes
from coterie.types import Layout
from coterie.world import Device, Learned, Link, World

LAYOUT = Layout(("w",), ((1_000,),))
A, B = Device("a", 0.0, 0.01, 512), Device("b", 0.0, 0.01, 512)
WORLD = World((A, B), (Link("a", "b", 1e-3, 1e7),), batch=64, num_train=6_400)
WALK = recipes.local_sgd(8)
TRUE = {"walks": 0.6, "gradients": 1.0}


def learning(true, turns, num_reports, noise=0.02, seed=0):
    """A run that takes up walks, believed to keep 0.8, and gradients in turn; what is learned."""
    draw, progress, useful = random.Random(seed), Progress(), 20_000.0
    progress.useful = useful
    for turn in range(turns):
        kind, prior = (("walks", 0.8), ("gradients", 1.0))[turn % 2]
        progress.turn(Stretch(kind, kind, prior))
        level = 0.2 if kind == "walks" else 0.0  # of weights that are not averaged yet
        for _ in range(num_reports):
            useful += 200 * true[kind]
            loss = 8 - 0.5 * math.log(useful) + level + draw.gauss(0, noise)
            progress.saw(loss, 200)
    progress.turn(Stretch("end", "end", 1.0))
    return {each.kind: each for each in progress.learned}


def test_what_keeps_less_than_believed_is_found_out_by_how_losses_fall():
    first, later = learning(TRUE, 2, 150), learning(TRUE, 12, 150)
    assert 0.75 < later["walks"].factor < first["walks"].factor < 1.0
    assert later["walks"].factor < 0.87
    assert later["walks"].doubt < first["walks"].doubt < 0.1


def test_what_loses_nothing_by_its_prior_is_what_others_are_measured_by():
    assert "gradients" not in learning(TRUE, 6, 150)


@pytest.mark.parametrize("seed", range(5))
def test_where_a_prior_is_right_it_stays(seed):
    known = learning({"walks": 0.8, "gradients": 1.0}, 6, 150, seed=seed)
    assert known["walks"].factor == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_a_few_noisy_reports_move_no_belief(seed):
    known = learning(TRUE, 2, 12, noise=0.2, seed=seed)
    assert "walks" not in known or abs(known["walks"].factor - 1) < 0.02


def test_who_learns_most_of_a_batch_misses_little_of_what_others_find():
    def kept(a, b):
        return predict(WORLD, LAYOUT, WALK, {"a": a, "b": b}).efficiency

    assert kept(32, 32) < kept(48, 16) < kept(60, 4) < kept(64, 0) == 1.0


def test_what_was_learned_counts_for_walks_of_any_length_and_for_no_other_sentence():
    sentence = sentence_of(WALK, LAYOUT)
    world = World(
        *(WORLD.devices, WORLD.links, 64, 6_400), learned=(Learned(sentence.kind, 0.5, 0.0, 99),)
    )
    for strategy, factor in ((WALK, 0.5), (recipes.local_sgd(16), 0.5)):
        kept = predict(world, LAYOUT, strategy, {"a": 32, "b": 32}).efficiency
        assert kept == pytest.approx(factor * strategy.prior.kept(2.0))
    other = recipes.all_reduce_int8()
    shares = {"a": 32, "b": 32}
    assert predict(world, LAYOUT, other, shares) == predict(WORLD, LAYOUT, other, shares)


def test_pacing_costs_nothing_among_equals_and_progress_where_slow_members_stay_near():
    paced, alike = recipes.dylu(8), {"a": 32, "b": 32}
    assert (
        predict(WORLD, LAYOUT, paced, alike).efficiency
        == predict(WORLD, LAYOUT, WALK, alike).efficiency
    )
    skewed = {"a": 48, "b": 16}
    assert (
        predict(WORLD, LAYOUT, paced, skewed).efficiency
        < 0.95 * predict(WORLD, LAYOUT, WALK, skewed).efficiency
    )
