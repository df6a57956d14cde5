"""What is believed of teachers: it falls with refusals, and can be won back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coterie.knowledge.trust import Record, Trust

TAKEN, REFUSED = Record(taken=1.0), Record(refused=1.0)


def after(trust: Trust, *records: Record) -> Trust:
    for record in records:
        trust = trust.after("eve", record)
    return trust


def test_it_is_a_value_and_of_each_teacher_alone() -> None:
    before = Trust()
    later = after(before, REFUSED)
    assert before.of("eve") == 1.0 > later.of("eve")
    assert later.of("ann") == 1.0


def test_who_is_refused_again_and_again_is_shut_out_and_tried_again_later() -> None:
    shut = after(Trust(), *[REFUSED] * 5)
    assert not shut.hears("eve")
    assert after(shut, *[Record()] * 20).hears("eve")


@given(st.lists(st.sampled_from([TAKEN, REFUSED, Record()])))
def test_it_stays_between_nothing_and_all_and_moves_as_it_should(records: list[Record]) -> None:
    trust = after(Trust(), *records)
    assert 0 < trust.of("eve") <= 1
    assert after(trust, REFUSED).of("eve") <= after(trust, Record()).of("eve")
    assert after(trust, TAKEN).of("eve") >= after(trust, Record()).of("eve")
