"""What a member tells is what it did, and nothing twice."""

from __future__ import annotations

from dataclasses import replace

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


def test_what_packing_takes_is_part_of_the_meeting_and_of_no_step() -> None:
    tally = Tally()
    tally.count(replace(did(1, 4, 1.0), packing_s=0.125), ("a", "b"))
    report = tally.report(term=1)
    assert report is not None
    assert (report.compute_s, report.exchange_s) == (0.5, 0.125)
