"""The server of the star road: it closes rounds, and believes nothing that it is sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.agents import effects as do
from coterie.agents.hub import Hub
from coterie.agents.state import pack_state, unpack_state
from coterie.sync.reading import parse
from coterie.transport import messages as say
from coterie.types import Ctx

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
        apart = "Push" in self.sentence
        known = {"names": ("w",), "shapes": ((2,),), "apart": apart}
        self.go(say.Term(number=number, members=names, store="", **known))

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


# Pushes that nobody waits for


PUSHED = "chain(Every(1), Push(max_staleness=2), Outer(1.0))"


class Apart(Served):
    """A server that members push to one by one."""

    def __init__(self, sentence: str = PUSHED) -> None:
        super().__init__(sentence)
        self.block(1, 1, a=1)
        self.block(2, 1, b=1)

    def hand_in(self, name: str, values: Any, version: int = -1, **answered: Any) -> None:
        held = {"version": version, "vector": torch.tensor(values), "answered": answered}
        self.go((name, pack_state({"kind": "pull", "term": 1, "round": 0, **held})))

    def push(self, name: str, number: int, values: Any, base: int = 0, heard: int = 0) -> None:
        packet = {"kind": "push", "term": 1, "round": number, "base": base, "heard": heard}
        packet |= {"weight": 1.0, "num_steps": 1, "payload": self.packed(values)}
        self.go((name, pack_state(packet)))

    def packed(self, values: Any) -> Any:
        codec, values = parse(self.sentence).downlink, torch.tensor(values)
        return codec.encode(values, Ctx(round=1)) if codec else values

    @property
    def anchor(self) -> list[float]:
        assert self.hub.anchor_N is not None
        return self.hub.anchor_N.tolist()

    def cohorts(self) -> list[Any]:
        return [(m.last_round, m.cohort) for m in self.told if isinstance(m, say.Report)]


def test_it_goes_on_from_the_freshest_anchor_once_all_have_handed_in_theirs() -> None:
    served = Apart()
    served.hand_in("a", [1.0, 1.0], version=0)
    assert served.posted == []
    served.hand_in("b", [5.0, 5.0], version=2, b=[[2, True]])
    assert [(to, said["version"]) for to, said in served.posted] == [("a", 2), ("b", 2)]
    assert [said["payload"].tolist() for _, said in served.posted] == [[5.0, 5.0]] * 2
    assert served.cohorts() == [(2, ("b",))]  # the one before it may not have been heard to say so
    assert [type(message) for message in served.told] == [say.Report, say.Settled]


def test_one_that_dies_before_it_hands_in_its_anchor_is_not_waited_for() -> None:
    served = Apart()
    served.hand_in("a", [1.0, 1.0], version=1)
    served.term(2, "a")
    assert [to for to, _ in served.posted] == ["a"]


def test_an_anchor_that_comes_before_the_first_term_waits_for_those_of_its_members() -> None:
    """A coordinator died as well: one member heard of this server, and not yet of a new term."""
    served = Apart()
    served.hub.term = say.Term(number=0, members=(), store="")
    served.hand_in("a", [1.0, 1.0])
    assert (served.told, served.posted) == ([], [])
    served.term(3, "a", "b")
    served.hand_in("b", [1.0, 1.0])
    assert [to for to, _ in served.posted] == ["a", "b"]
    assert served.offences == []


def test_a_push_that_the_anchor_handed_in_holds_already_is_answered_and_not_counted_again() -> None:
    served = Apart()
    served.hand_in("a", [1.0, 1.0], version=0)
    served.hand_in("b", [5.0, 5.0], version=2, a=[[1, True]])  # a itself was never told so
    served.posted.clear()
    served.push("a", 1, [1.0, 1.0])
    ((to, answer),) = served.posted
    assert (to, answer["round"], answer["accepted"]) == ("a", 1, True)
    assert served.anchor == [5.0, 5.0]
    served.push("b", 2, [1.0, 1.0])
    assert served.anchor == [4.0, 4.0]


def test_a_push_that_is_said_again_counts_once_and_is_answered_as_before() -> None:
    served = Apart("chain(Every(1), Int8(4), Push(max_staleness=2), Outer(1.0))")
    served.hand_in("a", [0.0, 0.0])
    served.hand_in("b", [0.0, 0.0])
    served.push("a", 1, [1.0, 1.0], heard=1)
    served.push("a", 1, [1.0, 1.0], heard=1)
    first, again = (said for _, said in served.posted[-2:])
    assert first["accepted"] == again["accepted"] is True
    assert not first["payload"].is_floating_point()  # how far it moved
    assert again["payload"].is_floating_point()  # where it is: who knows what a has heard
    assert served.cohorts() == [(1, ("a",))]
    served.push("a", 0, [1.0, 1.0])
    assert served.anchor == pytest.approx([-1.0, -1.0], abs=0.02)
    assert len(served.posted) == 4


@pytest.mark.parametrize(
    "held",
    [
        {"vector": torch.ones(3), "version": 0, "answered": {}},
        {"vector": torch.tensor([1.0, float("nan")]), "version": 0, "answered": {}},
        {"vector": torch.ones(2), "version": 99, "answered": {}},  # more than rounds given out
        {"vector": [1.0, 1.0], "version": 0, "answered": {}},
    ],
)
def test_what_can_be_no_anchor_is_told_and_another_is_taken(held: dict[str, Any]) -> None:
    served = Apart()
    served.go(("b", pack_state({"kind": "pull", "term": 1, "round": 0, **held})))
    served.hand_in("a", [1.0, 1.0])
    assert [offence.member for offence in served.offences] == ["b"]
    assert served.anchor == [1.0, 1.0]
    assert [to for to, _ in served.posted] == ["b", "a"]


def test_a_coordinator_that_comes_after_another_is_told_which_pushes_count() -> None:
    served = Apart()
    served.hub.hello = hello = say.Hello(
        name="hub", pid=1, cores=1.0, memory_bytes=1, device="cpu", store="here"
    )
    for name in "ab":
        served.hand_in(name, [0.0, 0.0])
    served.push("a", 1, [1.0, 1.0])
    served.told.clear()
    served.go(say.Who())
    assert served.told[0] == hello
    assert served.cohorts() == [(1, ("a",))]


def test_what_a_member_brings_late_does_not_count_once_it_was_left_out() -> None:
    served = Apart()
    for name in "ab":
        served.hand_in(name, [0.0, 0.0])
    served.term(2, "a")
    served.term(3, "a", "b")
    served.push("b", 2, [9.0, 9.0])  # others learn it by now
    assert (served.anchor, served.cohorts()) == ([0.0, 0.0], [(2, ())])
    served.push("a", 1, [1.0, 1.0])
    assert served.anchor == [-1.0, -1.0]


def test_nobody_brings_what_another_was_to_learn() -> None:
    served = Apart()
    for name in "ab":
        served.hand_in(name, [0.0, 0.0])
    served.push("b", 1, [9.0, 9.0])
    assert [offence.member for offence in served.offences] == ["b"]
    assert (served.anchor, served.cohorts()) == ([0.0, 0.0], [])


@pytest.mark.parametrize("kind", ["pull", "push", "bring"])
def test_a_packet_with_nothing_in_it_is_told_and_does_no_harm(kind: str) -> None:
    served = Apart(STAR if kind == "bring" else PUSHED)
    served.go(("b", pack_state({"kind": kind, "term": 1, "round": 1})))
    served.go(("b", pack_state({"kind": kind, "term": 1, "round": "first"})))
    served.go(("b", pack_state({"kind": kind, "term": None, "round": 1})))
    assert {offence.member for offence in served.offences} <= {"b"}
    assert served.posted == []


# What is told beside what is shared


def test_what_is_told_beside_is_summed_of_those_who_are_heard_in_whatever_order() -> None:
    beside = {"a": torch.tensor([0.1, 1.0]), "b": torch.tensor([0.7, 2.0])}
    for order in ("ab", "ba"):
        served = Served()
        served.block()
        for name in order:
            served.bring(name, 1, [1.0, 1.0], beside=beside[name])
        for _, outcome in served.posted:
            assert torch.equal(outcome["beside"], beside["a"] + beside["b"])
    served = Served("chain(Reduce(road='star', quorum=1))")
    served.block()
    served.bring("b", 1, [1.0, 1.0], beside=beside["b"])
    served.bring("a", 1, [1.0, 1.0], beside=beside["a"])
    assert all(torch.equal(outcome["beside"], beside["b"]) for _, outcome in served.posted)


@pytest.mark.parametrize(
    "beside",
    [
        torch.tensor([1.0, torch.nan]),
        torch.ones(2, 2),
        torch.tensor([1, 2]),
        "words",
        torch.ones(3),
    ],
)
def test_who_tells_something_else_beside_is_not_heard(beside: Any) -> None:
    served = Served()
    served.block()
    served.bring("a", 1, [1.0, 1.0], beside=torch.tensor([1.0, 2.0]))
    served.bring("b", 1, [9.0, 9.0], beside=beside)
    assert [offence.member for offence in served.offences] == ["b"]
    for _, outcome in served.posted:
        assert outcome["weights"] == {"a": 1.0}
        assert outcome["beside"].tolist() == [1.0, 2.0]
