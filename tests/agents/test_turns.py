from __future__ import annotations

import pytest

from coterie.agents.turns import Hand, LoopEnded, Over, Turns


def test_of_two_threads_one_runs_at_a_time_and_each_hears_the_other() -> None:
    turns, order = Turns(), []

    def life() -> None:
        for number in range(3):
            order.append(("asked", number))
            assert turns.ask(Hand(number, ([number],))) == 10 * number

    asked = turns.begin(life)
    for number in range(3):
        assert asked == Hand(number, ([number],))
        order.append(("answered", number))
        asked = turns.answer(10 * number)
    assert asked == Over()
    assert turns.finished
    assert order == [(word, n) for n in range(3) for word in ("asked", "answered")]


def test_an_answer_that_is_an_error_is_raised_where_it_was_asked_for() -> None:
    turns, heard = Turns(), []

    def life() -> None:
        with pytest.raises(LoopEnded):
            turns.ask(Hand(0, ([0],)))
        heard.append("raised")

    turns.begin(life)
    assert turns.answer(LoopEnded("the loop has ended")) == Over()
    assert heard == ["raised"]


def test_a_worker_that_fails_tells_the_loop_that_waits_for_it() -> None:
    def life() -> None:
        raise ZeroDivisionError

    asked = Turns().begin(life)
    assert isinstance(asked, Over)
    assert isinstance(asked.error, ZeroDivisionError)
