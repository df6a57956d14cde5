"""What is heard of vectors changes weights and members only on good grounds, and is on record."""

from __future__ import annotations

import math

import pytest

from coterie.coordinator.compensate import FIRST_WAIT_S, compensate, listen, shunned
from coterie.coordinator.noise import LEAST_REPORTS
from coterie.coordinator.replan import advice_of, tell_noise
from coterie.transport import messages as say

ENDLESS = {"epochs": 1e4}


def feed(p, num, **lengths):
    """Reports of members whose vectors are so long, all in one direction."""
    for _ in range(num):
        for name, length in lengths.items():
            norms = (length**2, 1.0, length, 8.0, 1 / len(lengths))
            listen(p.run, name, say.Report(**REPORT, norms=norms))


REPORT = {
    "term": 1, "first_round": 1, "last_round": 1, "cohort": ("a", "b", "c"), "num_samples": 8,
    "num_steps": 1, "loss": 1.0, "compute_s": 0.1, "exchange_s": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_figures_that_cannot_be_are_not_listened_to(play, bad):
    p = play(until=ENDLESS).until_training()
    listen(p.run, "a", say.Report(**REPORT, norms=(bad, 1.0, 1.0, 8.0, 0.5)))
    listen(p.run, "a", say.Report(**REPORT))
    assert p.run.standings == {}


def test_one_that_deviates_is_left_out_told_why_and_each_time_for_twice_as_long(play):
    p = play(until=ENDLESS).until_training()
    feed(p, 3, a=1.0, b=1.0, c=40.0)
    assert compensate(p.run) == "c deviated from the others"
    assert shunned(p.run) == {"c"}
    p.run.now_s += FIRST_WAIT_S + 1
    assert compensate(p.run) == "c is tried again"
    assert (shunned(p.run), p.run.trust) == (set(), {"c": 0.25})
    feed(p, 3, a=1.0, b=1.0, c=40.0)
    compensate(p.run)
    assert p.run.exiles["c"].wait_s == 2 * FIRST_WAIT_S


def test_one_that_cannot_be_done_without_counts_for_little_instead(play):
    p = play(until=ENDLESS).until_training()
    for name, member in p.run.members.items():
        assert member.device is not None, name
    p.run.job = p.run.job.model_copy(update={"batch": 1 << 50})
    feed(p, 3, a=1.0, b=1.0, c=40.0)
    assert compensate(p.run) == ""
    assert p.run.trust == {"c": 1 / 16}
    feed(p, 40, a=1.0, b=1.0, c=1.0)
    assert compensate(p.run) == ""
    assert p.run.trust == {}


def test_what_gradients_say_of_the_batch_is_told_once_and_again_when_it_has_changed(play):
    p = play(until=ENDLESS).until_training()
    before = len(p.run.log)

    def hear(own):
        for _ in range(LEAST_REPORTS):
            listen(p.run, "a", say.Report(**REPORT, norms=(own, 1.5, 1.5, 8.0, 0.25)))
            tell_noise(p.run)
        return [fields for kind, fields in p.run.log[before:] if kind == "noise"]

    (told,) = hear(3.0)
    assert told["scale"] == pytest.approx(16.0)
    assert told["batch"] == 32
    assert str(advice_of(p.run)) == told["text"]
    assert len(hear(3.0)) == 1
    assert len(hear(5.0)) > 1
