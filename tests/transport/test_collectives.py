"""Collectives by mail: what they come to, whoever is first. Mail is handed over in memory here.

Legend of shape suffixes: N values of a vector, M members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from coterie.errors import Torn, TrainingError
from coterie.transport.collectives import Collectives
from coterie.transport.control import Inbox
from coterie.transport.messages import Term

NAMES = ("ann", "bob", "cid")
DEADLINE_S = 30.0  # bounds a test that hangs; none waits for it otherwise
ROWS_MN = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
NEWS = Term(number=9, members=("ann",), store="", at_once=True)


class ByHand(Collectives):
    """A road on which mail is there as soon as it is posted."""

    def __init__(self, me: str, others: dict[str, ByHand]) -> None:
        self.bell = Inbox()
        super().__init__(me, self.bell)
        self._others = others
        self.posted: list[tuple[str, str, int]] = []

    def post(self, to: str, channel: str, data: Any) -> None:
        self.posted.append((to, channel, len(data)))
        other = self._others[to]
        with other._lock:
            other._incoming.deliver(self.me, channel, bytes(data))
        other.bell.ring()


Each = Callable[[Callable[[ByHand, int], Any]], list[Any]]


@pytest.fixture
def roads() -> Iterator[dict[str, ByHand]]:
    made: dict[str, ByHand] = {}
    made.update({name: ByHand(name, made) for name in NAMES})
    yield made
    for road in made.values():
        for end in (road._bell, road._ringer):
            end.close()


@pytest.fixture
def each(roads: dict[str, ByHand]) -> Iterator[Each]:
    """What an act comes to on every member of a term at once."""
    with ThreadPoolExecutor(len(NAMES)) as crew:

        def act_on_all(act: Callable[[ByHand, int], Any]) -> list[Any]:
            begun = [crew.submit(act, road, rank) for rank, road in enumerate(roads.values())]
            return [future.result(DEADLINE_S) for future in begun]

        act_on_all(lambda road, _: road.form(1, NAMES, DEADLINE_S))
        yield act_on_all


def test_a_total_is_the_sum_in_the_order_of_the_term(each: Each) -> None:
    wanted_N = ROWS_MN[0] + ROWS_MN[1] + ROWS_MN[2]
    for total_N in each(lambda road, rank: road.total(ROWS_MN[rank].clone())):
        assert torch.equal(total_N, wanted_N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_a_gather_is_every_row_in_the_order_of_the_term(each: Each, dtype: torch.dtype) -> None:
    rows = [(100 * row_N.abs()).to(dtype) for row_N in ROWS_MN]
    for heard in each(lambda road, rank: road.gather(rows[rank])):
        assert [(r.dtype, r.tolist()) for r in heard] == [(dtype, r.tolist()) for r in rows]


def test_some_meet_among_themselves_while_others_do_not(each: Each) -> None:
    some = ("ann", "cid")

    def act(road: ByHand, rank: int) -> Any:
        return road.total(ROWS_MN[rank], some) if road.me in some else None

    ann, bob, cid = each(act)
    assert bob is None
    assert torch.equal(ann, ROWS_MN[0] + ROWS_MN[2])
    assert torch.equal(ann, cid)


def test_a_shuffle_gives_part_j_to_the_jth_member(each: Each) -> None:
    """Parts for one member are as long, whoever sends them; those for others may be longer."""
    parts = [[torch.full((to + 1,), 10.0 * rank + to) for to in range(3)] for rank in range(3)]
    for to, heard in enumerate(each(lambda road, rank: road.shuffle(parts[rank]))):
        assert [part.tolist() for part in heard] == [[10.0 * r + to] * (to + 1) for r in range(3)]


def test_a_swap_goes_round_the_circle(each: Each) -> None:
    def act(road: ByHand, rank: int) -> Any:
        return road.swap(NAMES[(rank + 1) % 3], NAMES[rank - 1], ROWS_MN[rank])

    for rank, heard_N in enumerate(each(act)):
        assert torch.equal(heard_N, ROWS_MN[rank - 1])


def test_one_may_run_ahead_of_the_others(roads: dict[str, ByHand], each: Each) -> None:
    """Mail is numbered: what comes early waits for the call that it belongs to."""
    ann, bob = roads["ann"], roads["bob"]
    for value in range(5):
        ann.send("bob", torch.tensor([float(value)]))
    taken = [bob.receive("ann", torch.zeros(1)).item() for _ in range(5)]
    assert taken == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_only_the_bytes_of_the_vector_travel(roads: dict[str, ByHand], each: Each) -> None:
    roads["ann"].posted.clear()
    each(lambda road, rank: road.gather(ROWS_MN[rank]))
    carried = [(to, num_bytes) for to, _, num_bytes in roads["ann"].posted]
    assert carried == [(name, ROWS_MN[0].nbytes) for name in NAMES]


def test_a_vector_of_another_length_is_refused(roads: dict[str, ByHand], each: Each) -> None:
    roads["ann"].send("bob", torch.ones(3))
    with pytest.raises(TrainingError, match="expected 8 bytes from ann, found 12"):
        roads["bob"].receive("ann", torch.zeros(2))


def test_mail_of_a_term_before_is_not_taken_for_this_ones(
    roads: dict[str, ByHand], each: Each
) -> None:
    roads["ann"].send("bob", torch.tensor([7.0]))  # nobody receives it in term 1
    each(lambda road, _: road.form(2, NAMES, DEADLINE_S))
    roads["ann"].send("bob", torch.tensor([8.0]))
    assert roads["bob"].receive("ann", torch.zeros(1)).item() == 8.0


def test_whoever_names_other_members_is_not_met(roads: dict[str, ByHand]) -> None:
    rolls = {"ann": ("ann", "bob"), "bob": ("bob", "ann")}
    with ThreadPoolExecutor(2) as crew:
        begun = [crew.submit(roads[n].form, 1, roll, DEADLINE_S) for n, roll in rolls.items()]
        for future in begun:
            with pytest.raises(Torn, match="has other members in term 1"):
                future.result(DEADLINE_S)


def test_without_a_term_nothing_meets(roads: dict[str, ByHand]) -> None:
    with pytest.raises(Torn, match="no group"):
        roads["ann"].total(torch.ones(1))


def test_news_breaks_off_the_wait_for_a_member(roads: dict[str, ByHand], each: Each) -> None:
    roads["ann"].bell.put(NEWS)
    with pytest.raises(Torn, match="a new membership"):
        roads["ann"].gather(torch.ones(1))
