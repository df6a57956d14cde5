"""What a member tells is what it did, and nothing twice."""

from __future__ import annotations

import torch

from coterie.agents.tally import Contribution, Tally
from coterie.leases import Lease
from coterie.types import Ctx


def did(number: int, num_samples: int, loss: float) -> Contribution:
    nothing, leases = torch.zeros(1), {"a": Lease(((0, num_samples),), max(1, num_samples))}
    loss_sum, weight, ctx = loss * num_samples, float(num_samples), Ctx(round=number)
    return Contribution(
        number, num_samples, 1, loss_sum, 0.5, weight, nothing, nothing, (), ctx, leases
    )


def test_a_report_adds_rounds_and_weighs_the_loss_by_samples() -> None:
    tally = Tally(exchange_s=0.25)
    tally.count(did(4, 10, 1.0), ("a", "b"))
    tally.count(did(5, 30, 2.0), ("a", "b"))
    report = tally.report(term=7)
    assert report is not None
    assert (report.term, report.first_round, report.last_round) == (7, 4, 5)
    assert (report.num_samples, report.num_steps, report.loss) == (40, 2, 1.75)
    assert (report.compute_s, report.exchange_s, report.cohort) == (1.0, 0.25, ("a", "b"))


def test_a_round_without_samples_has_no_loss_to_tell() -> None:
    tally = Tally()
    tally.count(did(1, 0, 0.0), ("a",))
    report = tally.report(term=1)
    assert report is not None
    assert report.loss == 0.0


def test_the_weights_of_a_cohort_are_the_samples_of_its_leases() -> None:
    mine = did(1, 7, 0.0)
    assert mine.weights(("a",)) == {"a": 7.0}
    assert mine.weights(()) == {}


def test_a_skipped_round_is_told_as_done_with_nothing_in_it() -> None:
    tally = Tally()
    tally.skip(3, ("a", "b"))
    tally.count(did(4, 2, 1.0), ("a",))
    report = tally.report(term=1)
    assert report is not None
    assert (report.first_round, report.last_round) == (3, 4)
    assert (report.num_samples, report.cohort) == (2, ("a",))


def test_the_last_steps_are_told_apart_from_those_before_a_change() -> None:
    tally = Tally(since_s=0.0)
    tally.count(did(1, 32, 0.0), ("a",))
    for number in range(1, 17):
        tally.time(8, 1, 0.03, number / 32)
    for number in (1, 2):
        tally.time(8, 1, 0.3, 0.5 + 0.3 * number)
    report = tally.report(term=1)
    assert report is not None
    assert report.stretches == ((8, 1, 0.3), (8, 1, 0.3))


def test_a_last_stretch_that_is_too_short_to_tell_much_is_told_with_the_one_before() -> None:
    tally = Tally(since_s=0.0)
    tally.count(did(1, 32, 0.0), ("a",))
    for seconds, now_s in ((0.5, 0.5), (0.5, 1.0), (0.25, 1.0625)):
        tally.time(8, 1, seconds, now_s)
    report = tally.report(term=1)
    assert report is not None
    assert report.stretches == ((8, 1, 0.5), (16, 2, 0.75))
