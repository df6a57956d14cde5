"""The books: whatever dies, every sample of an epoch is learned exactly once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coterie.coordinator.ledger import Ledger, Round
from coterie.leases import Part, Span

NUM_TRAIN = 23
MEMBERS = ("a", "b", "c")
cohorts = st.sets(st.sampled_from(MEMBERS), min_size=1)


def positions(spans: Iterable[Span]) -> list[int]:
    return [position for start, stop in spans for position in range(start, stop)]


def owned(done: Round) -> list[int]:
    return [p for lease in done.leases.values() for p in positions(lease.spans)]


class Books(RuleBasedStateMachine):
    """Whatever is given out and brought: what a run's books must say at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(num_train=NUM_TRAIN)
        self.learned: dict[int, Counter[int]] = {}  # by epoch: positions that became final
        self.counted: dict[int, Round] = {}  # rounds as they stood when they became final
        self.finished: list[int] = []
        self.allowed: dict[int, set[str]] = {}  # by round: who may have contributed to it

    @precondition(lambda self: len(self.ledger.issued) < 6)
    @rule(
        shares=st.dictionaries(st.sampled_from(MEMBERS), st.integers(1, 4), min_size=1),
        every=st.integers(1, 3),
        num_rounds=st.integers(1, 3),
    )
    def grant(self, shares: dict[str, int], every: int, num_rounds: int) -> None:
        given = self.ledger.grant(shares, every, num_rounds)
        assert given is not None
        for number in range(given.first_round, given.last_round + 1):
            self.allowed[number] = set(shares)

    def drain(self) -> None:
        final, finished = self.ledger.drain()
        for number, done in final:
            assert number not in self.counted
            self.counted[number] = done
            self.learned.setdefault(done.data_epoch, Counter()).update(owned(done))
        self.finished += finished

    @invariant()
    def every_position_of_an_epoch_has_one_place(self) -> None:
        ledger = self.ledger
        for data_epoch, free in ledger.free.items():
            places = Counter(positions(free)) + self.learned.get(data_epoch, Counter())
            for under_way in (*ledger.issued.values(), *ledger.provisional.values()):
                if under_way.data_epoch == data_epoch:
                    places.update(owned(under_way))
            assert places == Counter(range(NUM_TRAIN))

    @invariant()
    def an_epoch_is_finished_when_each_of_its_samples_was_learned_once(self) -> None:
        whole = {e for e, learned in self.learned.items() if learned == Counter(range(NUM_TRAIN))}
        assert len(self.finished) == len(set(self.finished)) == self.ledger.num_epochs
        assert set(self.finished) == whole
        assert not whole & self.ledger.free.keys()

    @invariant()
    def the_books_can_be_written_and_read_again(self) -> None:
        on_record = json.loads(json.dumps(self.ledger.books()))
        assert Ledger.of(on_record) == self.ledger

    @invariant()
    def only_who_met_in_a_round_owns_a_part_of_it(self) -> None:
        for number, done in {**self.ledger.provisional, **self.counted}.items():
            assert done.leases.keys() <= self.allowed[number]

    @invariant()
    def the_sums_are_those_of_the_rounds(self) -> None:
        committed = [*self.counted.values(), *self.ledger.provisional.values()]
        assert self.ledger.num_samples == sum(done.num_samples for done in committed)
        assert self.ledger.num_steps == sum(done.num_steps for done in committed)
        learned = self.ledger.epochs_done * NUM_TRAIN
        assert learned == pytest.approx(self.ledger.num_samples)

    def teardown(self) -> None:
        """Undisturbed from here on, every epoch that was begun comes to its end."""
        for _ in range(200):
            while self.ledger.issued:
                number = min(self.ledger.issued)
                self.ledger.commit(number, MEMBERS)
                self.drain()
            begun = self.ledger.num_epochs + len(self.ledger.free)
            if not any(self.ledger.free.values()):
                break
            given = self.ledger.grant(dict.fromkeys(MEMBERS, 2), 1, 3, last_epoch=begun)
            assert given is not None
            for number in range(given.first_round, given.last_round + 1):
                self.allowed[number] = set(MEMBERS)
        self.ledger.close()
        self.drain()
        assert not self.ledger.free
        assert sorted(self.finished) == list(range(begun))
        self.an_epoch_is_finished_when_each_of_its_samples_was_learned_once()


class Together(Books):
    """Commits in order, and terms that break: some then hold parts of rounds still to come."""

    @precondition(lambda self: self.ledger.issued)
    @rule(cohort=cohorts)
    def commit(self, cohort: set[str]) -> None:
        number = min(self.ledger.issued)
        self.ledger.commit(number, cohort)
        self.allowed[number] &= cohort
        self.drain()

    @rule(members=cohorts | st.just(set()), heard_last=st.booleans(), ahead=st.integers(0, 3))
    def break_the_term(self, members: set[str], heard_last: bool, ahead: int) -> None:
        ledger = self.ledger
        number = ledger.committed - (ledger.committed in ledger.provisional and not heard_last)
        given = {*ledger.issued, *ledger.provisional}
        ledger.settle(number, number + ahead, members)
        for later in ledger.issued:
            self.allowed[later] &= members
        stands = sorted(n for n in given if number < n <= number + ahead)
        assert sorted(ledger.issued) == (stands if members else [])
        assert ledger.next_round == max(ledger.issued, default=number) + 1
        self.drain()


class Apart(Books):
    """Nobody waits for anybody: commits in any order, refused pushes, and members that die."""

    @precondition(lambda self: self.ledger.issued)
    @rule(cohort=cohorts | st.just(set()), data=st.data())
    def commit(self, cohort: set[str], data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.ledger.issued)))
        self.ledger.commit(number, cohort)
        self.allowed[number] &= cohort
        self.drain()

    @rule(members=cohorts)
    def die(self, members: set[str]) -> None:
        before = dict(self.ledger.issued)
        self.ledger.forget(members)
        for number, held in before.items():
            left = held.leases.keys() - members
            assert (number in self.ledger.issued) == bool(left)
            self.allowed[number] &= left
        self.drain()


TestTogether, TestApart = Together.TestCase, Apart.TestCase
TestTogether.settings = TestApart.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None
)


def test_a_round_that_only_the_dead_had_committed_is_open_again():
    ledger = Ledger(num_train=100)
    ledger.grant({"a": 3, "b": 1}, every=1, num_rounds=2)
    ledger.commit(1, ("a", "b"))
    ledger.commit(2, ("a", "b"))  # said b alone, which then died
    ledger.settle(1, 2, ("a",))
    assert ledger.issued[2].leases.keys() == {"a"}
    assert (ledger.committed, ledger.next_round) == (1, 3)
    assert (ledger.num_samples, ledger.num_steps) == (4, 1)
    assert ledger.free[0] == ((7, 100),)  # what b had of round 2 is free, and what came after


def test_what_survivors_hold_of_the_next_round_stands_and_later_rounds_are_void():
    ledger = Ledger(num_train=100)
    ledger.grant({"a": 3, "b": 1}, every=1, num_rounds=3)
    ledger.settle(0, 1, ("a",))
    assert list(ledger.issued) == [1]
    assert ledger.issued[1].leases.keys() == {"a"}
    assert ledger.free[0] == ((3, 100),)
    assert ledger.grant({"a": 4}, every=1, num_rounds=1).first_round == 2


def test_a_round_is_final_once_a_later_one_is_committed():
    ledger = Ledger(num_train=8)
    ledger.grant({"a": 4}, every=1, num_rounds=2)
    ledger.commit(1, ("a",))
    assert ledger.drain() == ([], [])
    ledger.commit(2, ("a",))
    assert [number for number, _ in ledger.drain()[0]] == [1]
    assert ledger.num_epochs == 0
    ledger.close()
    assert ledger.num_epochs == 1
    assert ledger.drain()[1] == [0]


def test_a_repeated_word_changes_nothing():
    ledger = Ledger(num_train=10)
    ledger.grant({"a": 3, "b": 1}, every=1, num_rounds=2)
    ledger.commit(1, ("a", "b"))
    before = (ledger.num_samples, dict(ledger.free), ledger.committed)
    ledger.commit(1, ("a",))
    assert (ledger.num_samples, ledger.free, ledger.committed) == before


def test_a_block_ends_with_its_epoch_and_the_last_round_is_shorter():
    ledger = Ledger(num_train=10)
    given = ledger.grant({"a": 3, "b": 1}, every=1, num_rounds=5)
    assert (given.first_round, given.last_round, given.spans) == (1, 3, ((0, 10),))
    assert [ledger.issued[n].num_samples for n in (1, 2, 3)] == [4, 4, 2]
    assert ledger.grant({"a": 4}, every=1, num_rounds=1).data_epoch == 1


def test_what_the_dead_left_of_an_epoch_comes_before_the_next_epoch():
    ledger = Ledger(num_train=8)
    ledger.grant({"a": 2, "b": 2}, every=1, num_rounds=2)
    ledger.grant({"a": 2, "b": 2}, every=1, num_rounds=1)  # of the next epoch already
    ledger.commit(1, ("a", "b"))
    ledger.commit(2, ("a",))
    given = ledger.grant({"a": 4}, every=1, num_rounds=1)
    assert (given.data_epoch, given.spans) == (0, ((6, 8),))


def test_no_epoch_is_begun_beyond_the_last():
    ledger = Ledger(num_train=8)
    assert ledger.grant({"a": 8}, every=1, num_rounds=1, last_epoch=1.0) is not None
    assert ledger.grant({"a": 8}, every=1, num_rounds=1, last_epoch=1.0) is None
    assert ledger.grant({"a": 8}, every=1, num_rounds=1, last_epoch=1.5).data_epoch == 1


def test_an_epoch_learned_out_of_order_is_not_begun_again():
    ledger = Ledger(num_train=8, num_epochs=2, free={1: ((4, 8),)})  # 0 and 2 are learned whole
    assert ledger.grant({"a": 4}, every=1, num_rounds=1).data_epoch == 1
    assert ledger.grant({"a": 4}, every=1, num_rounds=1).data_epoch == 3


OWNED = (Part(6, {"a": 1}), Part(10, {"b": 1}))


def test_an_epoch_keeps_its_parts_when_owners_change_and_the_next_one_follows_them() -> None:
    ledger = Ledger(num_train=10)
    given = ledger.grant({"a": 3, "b": 2}, 1, 1, parts=OWNED)
    assert (given.spans, given.parts) == (((0, 3), (6, 8)), OWNED)
    assert {n: k.spans for n, k in ledger.issued[1].leases.items()} == {
        "a": ((0, 3),),
        "b": ((6, 8),),
    }
    ledger.commit(1, ("a",))  # b died: a takes over all that is left
    alone = tuple(Part(part.stop, {"a": 1}) for part in OWNED)
    given = ledger.grant({"a": 10}, 1, 1, parts=alone)
    assert given.parts == alone
    assert ledger.issued[2].leases["a"].num_samples == 7
    assert ledger.grant({"a": 10}, 1, 1, parts=alone).parts == ()  # of the next epoch
    assert ledger.in_parts == {0}
    assert Ledger.of(json.loads(json.dumps(ledger.books()))) == ledger


def test_a_block_in_parts_is_replayed_as_it_was_given_out() -> None:
    ledger, again = Ledger(num_train=10), Ledger(num_train=10)
    given = ledger.grant({"a": 3, "b": 2}, 1, 2, parts=OWNED)
    parts = [{"stop": part.stop, "shares": dict(part.shares)} for part in given.parts]
    told = {"first_round": 1, "data_epoch": 0, "spans": given.spans, "every": 1, "batch": None}
    again.replay({"kind": "block", **told, "shares": {"a": 3, "b": 2}, "parts": parts})
    assert again.books() == ledger.books()


def test_a_round_that_nobody_is_left_to_bring_is_not_asked_about_again() -> None:
    ledger = Ledger(num_train=8)
    ledger.grant({"a": 4}, 1, 2)
    ledger.grant({"a": 4}, 1, 1)
    ledger.commit(1, {"a"})
    ledger.commit(2, {"a"})
    ledger.settle(1, stands=3, members=("b",))  # a alone had the second, and is gone
    for _ in range(2):
        ledger.grant({"b": 4}, 1, 1)
    ledger.commit(4, {"b"})
    ledger.commit(5, {"b"})
    assert ledger.num_epochs == 1
    ledger.settle(5, stands=5, members=("b",))  # its epoch has long ended
    assert ledger.free == {1: ((4, 8),)}
