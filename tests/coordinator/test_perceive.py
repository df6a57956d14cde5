"""What members report: believed after a few reports, a change at once, noise hardly ever."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from coterie.coordinator.perceive import MIN_REPORTS, fold, has_jumped, learn_road
from coterie.coordinator.shares import exact_shares, step_s
from coterie.sync.exchanges import RING_SHARE
from coterie.transport import messages as say
from coterie.types import Layout
from tests.coordinator.conftest import BATCH

ENDLESS = {"epochs": 1e4}


def test_what_members_report_is_believed_after_a_few_reports(play):
    p = play(until=ENDLESS).until_training()
    believed = p.run.members["a"].device
    run = p.run
    for _ in range(MIN_REPORTS - 1):
        feed(p, "a", step_s=0.012)
    fold(run)
    assert run.members["a"].device == believed
    feed(p, "a", step_s=0.012)
    fold(run)
    assert believed.step_s(8) < run.members["a"].device.step_s(8) < 0.012
    assert "a" not in run.paces


def test_a_change_is_believed_at_once_where_some_reports_in_a_row_agree(play):
    p = play(until=ENDLESS).until_training()
    for seconds in (0.1, 0.01, 0.1):
        feed(p, "a", seconds)
    assert not has_jumped(p.run)
    feed(p, "a", 0.1)
    assert has_jumped(p.run)
    fold(p.run)
    assert p.run.members["a"].device.step_s(8) == pytest.approx(0.1)


def test_a_machine_that_grants_half_is_believed_half_as_fast_until_its_steps_say_otherwise(play):
    p = play(until=ENDLESS).until_training()
    before_s = p.run.members["a"].device.step_s(8)
    for cores in (2.0, 1.96):  # that is no other grant
        feed(p, "a", step_s=before_s, cores=cores)
    assert not has_jumped(p.run)
    feed(p, "a", step_s=before_s, cores=1.0)
    assert has_jumped(p.run)
    assert p.run.members["a"].device.step_s(8) == pytest.approx(2 * before_s)
    fold(p.run)
    for _ in range(2):  # more cores than it had used
        feed(p, "a", step_s=before_s, cores=1.0)
    fold(p.run)
    assert p.run.members["a"].device.step_s(8) == pytest.approx(before_s)


@pytest.mark.parametrize("cores", [0.0, -1.0, math.inf, math.nan])
def test_what_no_machine_grants_is_not_believed(play, cores):
    p = play(until=ENDLESS).until_training()
    believed = p.run.members["a"].device
    for told in (1.0, cores):
        feed(p, "a", step_s=0.01, cores=told)
    assert p.run.members["a"].device == believed


def test_the_last_steps_of_one_report_show_a_change_that_its_mean_hides(play):
    p = play(until=ENDLESS).until_training()
    step_s = p.run.members["a"].device.step_s(8)
    feed(p, "a", 1.2 * step_s, stretches=((8, 1, 3 * step_s), (8, 1, 3.1 * step_s)))
    assert has_jumped(p.run)
    fold(p.run)
    assert p.run.members["a"].device.step_s(8) == pytest.approx(3.05 * step_s)


def test_in_a_pipeline_no_pace_is_a_members_own(play):
    p = play(until=ENDLESS, strategy="pipeline(2, ('1',), ('b', 'a'))").until_training()
    believed = p.run.members["a"].device
    for _ in range(2 * MIN_REPORTS):
        feed(p, "a", step_s=0.1)
    fold(p.run)
    assert not has_jumped(p.run)
    assert p.run.members["a"].device == believed


@pytest.mark.parametrize(("factor", "jumps"), [(3.0, True), (1.0, False)])
def test_a_stage_that_takes_longer_than_it_did_is_put_down_to_its_device(play, factor, jumps):
    layers = tuple((str(at), 1.0, 1_000, 100, 100) for at in range(4))
    p = play(until=ENDLESS, strategy="pipeline(2, ('1',), ('b', 'a'))")
    p.chain = layers
    p.until_training()
    believed_s = p.run.members["a"].device.step_s(BATCH)
    stage_s = 2 * 0.75 * p.run.members["a"].device.step_s(BATCH)  # layers are known roughly
    for seconds in (5 * stage_s, stage_s, stage_s, *3 * [factor * stage_s]):
        feed(p, "a", step_s=9.0, stretches=((BATCH, 1, seconds),))
    assert has_jumped(p.run) == jumps
    fold(p.run)
    assert p.run.members["a"].device.step_s(BATCH) == pytest.approx(factor * believed_s, rel=0.01)


def feed(p, name, step_s, meeting_s=0.0, batch=8, **words):
    p.say(
        name,
        say.Report(
            term=1,
            first_round=10_000,
            last_round=10_000,
            cohort=("a", "b", "c"),
            num_samples=batch,
            num_steps=1,
            loss=1.0,
            compute_s=step_s,
            exchange_s=meeting_s,
            **words,
        ),
    )


def test_a_meeting_is_learned_from_whoever_comes_last_and_does_not_drift(play):
    p = play(until=ENDLESS).until_training()
    priced_s = p.run.plan.exchange_s
    for _ in range(12):
        for _ in range(MIN_REPORTS):
            for name, waits_s in (("a", 0.9), ("b", 0.4), ("c", 0.03)):
                feed(p, name, step_s=0.02, meeting_s=waits_s)
        fold(p.run)
    assert p.run.meeting_s == pytest.approx(0.03 - priced_s, rel=1e-2)


def test_a_meeting_learned_against_one_plan_is_not_learned_again_against_the_next(play):
    p = play(until=ENDLESS)
    p.pace_s = 0.01
    p.until_training()
    p.meeting_s = 0.02
    p.until_true(lambda: len(p.of("pace")) > 24)
    assert p.run.meeting_s == pytest.approx(0.02, rel=0.1)
    learned_s = p.run.meeting_s
    p.kill("c")  # decides anew, with the meeting as it is known by now
    p.until_true(lambda: len(p.of("pace")) > 48)
    assert p.run.plan.exchange_s > 0.018
    assert p.run.meeting_s == pytest.approx(learned_s, rel=0.1)


def test_a_meeting_that_is_cheaper_than_its_price_costs_nothing_extra(play):
    p = play(until=ENDLESS).until_training()
    p.run.layout = Layout(("w",), ((1_000, 1_000),))
    p.run.links = {k: replace(v, bytes_per_s=1e6) for k, v in p.run.links.items()}
    for _ in range(MIN_REPORTS):
        for name in "abc":
            feed(p, name, step_s=0.02, meeting_s=0.01)
    fold(p.run)
    assert p.run.meeting_s == 0.0


# Roads: a constant, and what bytes take


def road(play, megabytes: float, bytes_per_s: float = 1e6, strategy: str = "local-sgd(4)"):
    """A run of three members whose exchanges move so many megabytes over each link."""
    p = play(until=ENDLESS, strategy=strategy).until_training()
    p.run.links = {k: replace(v, bytes_per_s=bytes_per_s) for k, v in p.run.links.items()}
    p.run.layout = Layout(("w",), ((int(megabytes * 1e6) // 4,),))
    return p


def price_s(p, megabytes: float) -> float:
    """What a ring of three takes for it, at the bandwidth believed."""
    (bytes_per_s,) = {link.bytes_per_s for link in p.run.world.links}
    return 4 / 3 * megabytes * 1e6 / (RING_SHARE * bytes_per_s)


def test_exchanges_of_two_sizes_tell_bytes_from_what_each_costs(play):
    p = road(play, 0.05)
    for _ in range(60):
        for megabytes in (0.05, 0.01):
            p.run.layout = Layout(("w",), ((int(megabytes * 1e6) // 4,),))
            learn_road(p.run, 0.05 + 3.0 * 4 / 3 * megabytes)
    assert p.run.meeting_s == pytest.approx(0.05, rel=0.1)
    assert price_s(p, 1.0) == pytest.approx(4.0, rel=0.05)


def test_long_exchanges_that_get_longer_are_put_down_to_their_bytes(play):
    p = road(play, 1.0)
    for _ in range(3):
        learn_road(p.run, 10 * 4 / 3)
    assert price_s(p, 1.0) == pytest.approx(10 * 4 / 3, rel=0.1)
    assert p.run.meeting_s < 0.1


def test_meetings_that_take_much_longer_twice_in_a_row_are_another_road(play):
    p = road(play, 1.0)
    usual_s = p.run.members["a"].device.step_s(8)
    for seconds in (4 / 3, 13.0):
        for _ in range(2):
            for name, waits_s in (("a", 0.9), ("b", 0.4), ("c", 0.0)):
                feed(p, name, step_s=usual_s, meeting_s=seconds + waits_s)
        if seconds < 2:
            learn_road(p.run, seconds)
            assert not has_jumped(p.run)
    assert has_jumped(p.run)
    p.run.probe_links_s = 0.0
    fold(p.run)
    assert p.run.doubts_links


def test_short_exchanges_that_get_longer_are_put_down_to_meeting_at_all(play):
    p = road(play, 1e-3)
    for _ in range(10):
        learn_road(p.run, 0.05)
    assert p.run.meeting_s == pytest.approx(0.05, rel=0.1)


def test_what_is_summed_while_others_compute_is_no_faster_road(play):
    p = road(play, 1.0, strategy="all-reduce")
    for _ in range(20):
        learn_road(p.run, 0.1)
    assert p.run.road.c == 1.0


# Devices: the closed loop of reports, beliefs and shares


NOISE: dict[str, Callable[[random.Random], float]] = {
    "a few per cent": lambda r: r.lognormvariate(0.0, 0.05),
    "a loaded machine": lambda r: r.lognormvariate(0.0, 0.12),
    "one in twenty takes far longer": lambda r: r.uniform(1.7, 5) if r.random() < 0.05 else 1.0,
    "a quota in whole periods": lambda r: 1 + 0.2 * math.floor(r.uniform(0.0, 2.0)),
    "now and then collecting garbage": lambda r: 1 + (r.random() < 0.1) * r.expovariate(2.0),
}


def stationary(play, noise: Callable[[random.Random], float], num_rounds: int, slow_at: int = -1):
    """Rounds of 0.6 s of three unequal members; the fastest is slowed threefold at some round.

    The shares after each round.
    """
    generator = random.Random(11)
    p = play(until={"steps": 1e9}, batch=448)
    p.num_train = 448_000
    p.per_sample_s = {"a": 0.002, "b": 0.004, "c": 0.008}
    p.until_training()
    shares = []
    walk_s = p._walk_s

    def noisy(name, leases):
        seconds = walk_s(name, leases)
        key = (p.run.ledger.committed, name)
        return seconds * factor.setdefault(key, noise(generator)) if seconds else 0.0

    factor: dict[tuple[int, str], float] = {}
    p._walk_s = noisy
    for number in range(num_rounds):
        if number == slow_at:
            p.per_sample_s["a"] *= 3
        done = p.run.ledger.committed
        p.until_true(lambda done=done: p.run.ledger.committed > done)
        shares.append(dict(p.run.plan.shares))
    return p, shares


@pytest.mark.parametrize("kind", NOISE)
def test_shares_change_at_most_twice_in_a_hundred_stationary_rounds(play, kind):
    _, shares = stationary(play, NOISE[kind], num_rounds=300)
    changes = sum(before != after for before, after in pairwise(shares))
    assert changes <= 6


def test_shares_are_near_the_new_optimum_five_rounds_after_a_threefold_slowdown(play):
    p, shares = stationary(play, NOISE["a few per cent"], num_rounds=40, slow_at=30)
    devices = p.run.world.devices
    true = [replace(d, overhead_s=0.002, per_sample_s=p.per_sample_s[d.name]) for d in devices]
    best_s = step_s(exact_shares(448, true), true)
    assert step_s(shares[35], true) <= 1.1 * best_s
    assert step_s(shares[29], true) > 1.5 * best_s


# Failures


def test_a_member_that_was_lost_is_believed_to_fail_more_often_than_one_that_was_not(play):
    p = play(until=ENDLESS).until_training()
    before = p.run.world.device("b").failures_per_s
    for _ in range(3):
        p.wait(2.0)
        p.kill("c")
        p.until_true(lambda: not p.run.torn)
        p.enter("c").until_true(lambda: "c" in p.run.term.members)
    watched_s = p.run.at_work_s["c"]
    world = p.run.world
    assert world.device("c").failures_per_s == pytest.approx(4 / (86_400 + watched_s))
    assert world.device("b").failures_per_s <= before == pytest.approx(1 / 86_400, rel=1e-3)
    assert p.run.at_work_s["b"] > watched_s
