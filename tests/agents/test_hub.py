"""The server of the star road: it closes rounds, and believes nothing that it is sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.agents import effects as do
from coterie.agents.hub import Hub
from coterie.agents.state import pack_state, unpack_state
from coterie.transport import messages as say

STAR = "chain(Reduce(road='star'))"


class Served:
    """A server that is told things, and what it says."""

    def __init__(self, sentence: str = STAR) -> None:
        self.hub, self.told, self.posted = Hub(), [], []
        self.life, self.sentence, self.over = self.hub.live(), sentence, False
        self.go(None)
        self.term(1)

    def go(self, said: Any) -> None:
        effect = self.life.send(said)
        while not isinstance(effect, do.Next):
            if isinstance(effect, do.Tell):
                self.told.append(effect.message)
            elif isinstance(effect, do.Post):
                self.posted.append((effect.to, unpack_state(effect.data)))
            effect = self.life.send(None)

    def term(self, number: int, *members: str) -> None:
        names = members or ("a", "b")
        self.go(say.Term(number=number, members=names, store="", names=("w",), shapes=((2,),)))

    def block(self, first: int = 1, num_rounds: int = 2, **shares: int) -> None:
        shares = shares or {"a": 2, "b": 1}
        stop = num_rounds * sum(shares.values())
        self.go(
            say.Block(
                term=self.hub.term.number,
                first_round=first,
                data_epoch=0,
                spans=((0, stop),),
                shares=shares,
                every=1,
                strategy=self.sentence,
            )
        )

    def bring(self, name: str, number: int, values: Any, weight: float = 1.0, **said: Any) -> None:
        packet = {"kind": "bring", "term": self.hub.term.number, "round": number}
        packet |= {"weight": weight, "payload": torch.tensor(values), **said}
        self.go((name, pack_state(packet)))

    @property
    def offences(self) -> list[Any]:
        return [message for message in self.told if isinstance(message, say.Offence)]


def test_a_round_is_closed_when_all_are_there_and_told_to_all() -> None:
    served = Served()
    served.block()
    served.bring("b", 1, [3.0, 0.0], weight=1.0)
    assert served.posted == []
    served.bring("a", 1, [0.0, 3.0], weight=2.0)
    assert [to for to, _ in served.posted] == ["a", "b"]
    for _, outcome in served.posted:
        assert outcome["payload"].tolist() == [1.0, 2.0]
        assert outcome["weights"] == {"a": 2.0, "b": 1.0}


def test_a_quorum_closes_a_round_and_who_comes_later_is_not_heard() -> None:
    served = Served("chain(Reduce(road='star', quorum=1))")
    served.block()
    served.bring("a", 1, [1.0, 1.0])
    served.bring("b", 1, [9.0, 9.0])
    assert [outcome["weights"] for _, outcome in served.posted] == [{"a": 1.0}] * 2


def test_what_was_closed_and_reached_nobody_is_brought_again_in_the_next_term() -> None:
    served = Served()
    served.block()
    served.bring("a", 1, [1.0, 1.0])
    served.bring("b", 1, [3.0, 3.0])
    served.posted.clear()
    served.term(2, "a")
    served.bring("a", 1, [1.0, 1.0])
    ((to, outcome),) = served.posted
    assert (to, outcome["term"], outcome["payload"].tolist()) == ("a", 2, [1.0, 1.0])


def test_a_round_that_members_skip_holds_nobody_up() -> None:
    served = Served()
    served.block()
    for name in "ab":
        served.bring(name, 2, [1.0, 1.0])
    assert [outcome["round"] for _, outcome in served.posted] == [2, 2]


def test_what_comes_before_its_block_or_its_term_waits_for_it() -> None:
    served = Served()
    served.bring("a", 1, [1.0, 1.0])
    served.bring("b", 1, [1.0, 1.0], term=2)
    served.block()
    assert served.posted == []
    served.term(2)
    served.bring("a", 1, [1.0, 1.0])
    assert [to for to, _ in served.posted] == ["a", "b"]


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], [1.0, float("nan")]])
def test_what_cannot_be_counted_is_told_and_left_out(values: list[float]) -> None:
    served = Served()
    served.block()
    served.bring("a", 1, [1.0, 1.0])
    served.bring("b", 1, values)
    (offence,) = served.offences
    assert offence.member == "b"
    assert [outcome["weights"] for _, outcome in served.posted] == [{"a": 1.0}] * 2


def test_no_packet_at_all_is_told() -> None:
    served = Served()
    served.block()
    served.go(("b", b"garbage"))
    assert [offence.member for offence in served.offences] == ["b"]


def test_a_stranger_is_neither_heard_nor_waited_for() -> None:
    served = Served()
    served.block()
    served.bring("mallory", 1, [9.0, 9.0], weight=1e6)
    served.bring("a", 1, [1.0, 1.0])
    assert served.posted == []
    served.bring("b", 1, [1.0, 1.0])
    assert [outcome["weights"] for _, outcome in served.posted] == [{"a": 1.0, "b": 1.0}] * 2


def test_where_nobody_can_be_counted_all_are_told_why() -> None:
    served = Served()
    served.block()
    for name in "ab":
        served.bring(name, 1, [0.0, 0.0], weight=0.0)
    assert all("found none" in outcome["refused"] for _, outcome in served.posted)
