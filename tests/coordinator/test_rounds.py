"""Blocks: long enough to cost nothing, and never a step or an epoch too many."""

from __future__ import annotations

import pytest

from coterie.coordinator.rounds import BLOCK_S, issue, issued_steps
from coterie.sync.reading import parse
from coterie.transport import messages as say


def staged(play, **words):
    """A run about to give out its first block, with large epochs."""
    p = play(2, **words)
    p.num_train = 64_000
    p.enter()
    p.until(say.Block)
    return p


def num_steps(block):
    return sum(max(lease.num_steps for lease in leases.values()) for leases in block.rounds())


def test_a_block_lasts_about_as_long_as_it_should(play):
    p = staged(play)
    block = p.orders_of(say.Block)[0]
    assert len(block.rounds()) * p.run.plan.round_s == pytest.approx(BLOCK_S, rel=0.05)


def test_a_round_longer_than_a_block_is_given_out_alone(play):
    p = play(2)
    p.per_sample_s = {"a": 0.1, "b": 0.1}
    p.enter()
    p.until(say.Block)
    assert len(p.orders_of(say.Block)[0].rounds()) == 1


@pytest.mark.parametrize("strategy", ["all-reduce", "local-sgd(8)"])
@pytest.mark.parametrize("steps", [1.0, 3.0, 8.0, 13.0, 2.5])
def test_what_is_given_out_adds_up_to_the_steps_asked_for(play, strategy, steps):
    p = staged(play, strategy=strategy, until={"steps": steps})
    issue(p.run, p.run.plan.shares)
    assert issued_steps(p.run) == -(-steps // 1)
    first = p.run.ledger.next_round
    assert issue(p.run, p.run.plan.shares) == first == p.run.ledger.next_round


def test_a_block_says_all_that_its_rounds_need(play):
    p = staged(play, strategy="local-sgd(8)")
    block = p.orders_of(say.Block, to="b")[0]
    assert parse(block.strategy) == p.run.strategy
    assert (block.term, block.first_round, block.every) == (1, 1, 8)
    assert block.shares == p.run.plan.shares
    leased = {number: r.leases for number, r in p.run.ledger.issued.items()}
    assert dict(enumerate(block.rounds(), start=1)) == {
        n: leased[n] for n in leased if n <= len(block.rounds())
    }


def test_once_a_loop_changes_what_it_computed_gradients_meet_as_a_whole(play):
    p = play(until={"steps": 1e9}).until_training()
    assert p.orders_of(say.Block)[-1].hands_out
    told = {"cohort": ("a",), "num_samples": 0, "num_steps": 0, "loss": 0.0, "compute_s": 0.0}
    first = {"term": p.run.term.number, "first_round": 0, "last_round": 0, "exchange_s": 0.0}
    p.say("a", say.Report(**told, **first, restates=True))
    num_blocks = len(p.orders_of(say.Block))
    p.until_true(lambda: len(p.orders_of(say.Block)) > num_blocks)
    assert not p.orders_of(say.Block)[-1].hands_out


def test_every_member_of_the_term_is_told_the_same_block(play):
    p = staged(play)
    assert p.orders_of(say.Block, to="a") == p.orders_of(say.Block, to="b")
