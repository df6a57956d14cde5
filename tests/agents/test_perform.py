"""Effects carried out for real: they become calls, and what they come to is told to the worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents import effects as do
from coterie.agents.learner import Learner, Setup
from coterie.agents.perform import Meanwhile, Performer, ask, drive
from coterie.agents.worker import Worker
from coterie.errors import Torn, TrainingError
from coterie.tasks.supervised import Supervised
from coterie.transport import messages as say
from coterie.transport.control import Inbox

DEADLINE_S = 20.0  # bounds a test that hangs; none waits for it otherwise


class Client:
    """A control channel of which both ends are here."""

    def __init__(self, *orders: say.Wire) -> None:
        self.inbox = Inbox()
        self.told: list[Any] = []
        for order in orders:
            self.inbox.put(order)

    def tell(self, message: say.Wire) -> None:
        self.told.append(message)


class Sums:
    """Sums of one member alone, which may break off."""

    def __init__(self, road: Alone) -> None:
        self.road, self.parts = road, []

    def add(self, part: Tensor) -> None:
        self.parts.append(part)

    def finish(self) -> list[Tensor]:
        for part in self.parts[:1]:
            self.road.total(part)
        return self.parts


class Alone:
    """A group of one, whose first totals may break off."""

    def __init__(self, client: Client, num_torn: int = 0) -> None:
        self.client, self.num_torn, self.cut = client, num_torn, False
        self.ring = self.current = self

    def form(self, term: say.Term) -> None:
        self.cut = False

    def gather(self, vector_N: Tensor, among: tuple[str, ...] = ()) -> list[Tensor]:
        return [vector_N]

    def totals(self) -> Sums:
        return Sums(self)

    def total(self, vector_N: Tensor, among: tuple[str, ...] = ()) -> Tensor:
        if self.num_torn:
            self.num_torn -= 1
            self.client.inbox.put(term(2, at_once=True))
            self.client.inbox.put(say.Stop(reason="done"))
            raise Torn("cut")
        return vector_N


def term(number: int, at_once: bool = False) -> say.Term:
    return say.Term(number=number, members=("a",), store="", at_once=at_once)


BLOCK = say.Block(
    term=1,
    first_round=1,
    data_epoch=0,
    spans=((0, 8),),
    shares={"a": 4},
    every=1,
    strategy="chain(Reduce())",
)


def worker(inputs: Tensor) -> Worker:
    pairs = TensorDataset(inputs, torch.zeros(8, dtype=torch.long))
    task = Supervised("t", lambda: nn.Linear(3, 2), pairs, pairs)
    return Worker("a", Learner(Setup(task, lambda p: torch.optim.SGD(p, lr=0.1))))


def lived(mine: Worker, client: Client, num_torn: int = 0, rest_s: Any = lambda _: 0.0) -> str:
    roads: Any = Alone(client, num_torn)
    there: Any = client
    return drive(mine.live(), Performer("a", there, roads, rest_s))


def test_orders_are_carried_out_until_told_to_stop() -> None:
    client, mine = Client(term(1), BLOCK, say.Stop(reason="done")), worker(torch.ones(8, 3))
    assert lived(mine, client) == "done"
    assert mine.round == 2
    assert isinstance(client.told[0], say.Settled)
    reports = [message for message in client.told if isinstance(message, say.Report)]
    assert sum(report.num_samples for report in reports) == 8
    assert isinstance(client.told[-1], say.Bye)


def test_a_torn_meeting_is_the_workers_to_mend() -> None:
    client, mine = Client(term(1), BLOCK), worker(torch.ones(8, 3))
    assert lived(mine, client, num_torn=1) == "done"
    assert mine.round == 1
    assert say.TornRound(term=1) in client.told


def test_what_nobody_can_bring_is_told_to_the_coordinator() -> None:
    client, mine = Client(term(1), BLOCK), worker(torch.full((8, 3), float("nan")))
    assert "expected a finite loss" in lived(mine, client)
    assert any(isinstance(message, say.Declined) for message in client.told)
    assert isinstance(client.told[-1], say.Failed)


def test_a_throttle_rests_after_every_computation() -> None:
    worked_s: list[float] = []
    client, mine = Client(term(1), BLOCK, say.Stop(reason="done")), worker(torch.ones(8, 3))
    lived(mine, client, rest_s=lambda seconds: worked_s.append(seconds) or 0.0)
    assert len(worked_s) == 2
    assert all(seconds > 0 for seconds in worked_s)


def test_a_stream_whose_sum_broke_off_keeps_its_value() -> None:
    client: Any = Client()
    perform = Performer("a", client, Alone(client, num_torn=1), lambda _: 0.0)  # type: ignore[arg-type]
    value, whole, waited_s = perform(do.Stream(lambda emit: emit(torch.ones(2)) or 7, ()))
    assert (value, whole) == (7, False)
    assert waited_s >= 0


def test_what_is_told_meanwhile_holds_nobody_up() -> None:
    client: Any = Client()
    perform = Performer("a", client, Alone(client), lambda _: 0.0)  # type: ignore[arg-type]
    may_go_on, told = threading.Event(), threading.Event()

    def make() -> Any:
        yield say.Bye()
        may_go_on.wait(DEADLINE_S)
        yield say.Beat()
        told.set()

    assert perform(do.TellMeanwhile(make)) is None
    perform(do.Tell(say.Who()))
    may_go_on.set()
    assert told.wait(DEADLINE_S)
    assert sorted(message.kind for message in client.told) == ["beat", "bye", "who"]


def test_what_cannot_be_made_meanwhile_is_told_as_a_failure() -> None:
    client: Any = Client()
    perform = Performer("a", client, Alone(client), lambda _: 0.0)  # type: ignore[arg-type]
    told = threading.Event()
    client.tell = lambda message: (client.told.append(message), told.set())
    perform(do.TellMeanwhile(lambda: 1 / 0))  # type: ignore[arg-type,return-value]
    assert told.wait(DEADLINE_S)
    assert client.told == [say.Failed(reason="a: division by zero")]


def talk(num: int) -> Any:
    total = 0.0
    for _ in range(num):
        total += (yield do.Total(torch.ones(1))).item()
    return total


def test_a_meeting_goes_on_meanwhile() -> None:
    client: Any = Client()
    roads: Any = Alone(client)
    assert Meanwhile(talk(3), roads, client.inbox).finish() == 3.0


def test_news_breaks_off_a_meeting_that_goes_on_meanwhile() -> None:
    client: Any = Client(term(2, at_once=True))
    roads: Any = Alone(client)
    silent = threading.Event()
    roads.total = lambda *_: silent.wait() and torch.ones(1)
    with pytest.raises(Torn, match="a new membership"):
        Meanwhile(talk(1), roads, client.inbox).finish()
    silent.set()


def test_what_fails_in_a_meeting_meanwhile_is_raised_where_it_is_waited_for() -> None:
    client: Any = Client()
    roads: Any = Alone(client)
    roads.total = lambda *_: 1 / 0
    with pytest.raises(TrainingError, match="a meeting failed: division by zero"):
        Meanwhile(talk(1), roads, client.inbox).finish()


def test_each_ask_is_a_call_of_the_road() -> None:
    heard: list[Any] = []

    class Road:
        def __getattr__(self, name: str) -> Any:
            return lambda *given: heard.append((name, *given))

    road: Any = Road()
    for effect in (
        do.Total("v", ("a",)),  # type: ignore[arg-type]
        do.Gather("v"),  # type: ignore[arg-type]
        do.Shuffle("p"),  # type: ignore[arg-type]
        do.Swap("b", "c", "v"),  # type: ignore[arg-type]
        do.Give("b", "v"),  # type: ignore[arg-type]
        do.Take("b", "v"),  # type: ignore[arg-type]
    ):
        ask(road, effect)
    assert heard == [
        ("total", "v", ("a",)),
        ("gather", "v", ()),
        ("shuffle", "p", ()),
        ("swap", "b", "c", "v"),
        ("send", "b", "v"),
        ("receive", "b", "v"),
    ]
