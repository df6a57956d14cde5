"""What a member tells is what it did, and nothing twice."""

from __future__ import annotations

import torch

from coterie.agents.tally import Contribution, Tally


def did(number: int, num_samples: int, loss: float) -> Contribution:
    nothing = torch.zeros(1)
    loss_sum = loss * num_samples
    return Contribution(number, num_samples, 1, loss_sum, 0.5, nothing, nothing, (), None)


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
