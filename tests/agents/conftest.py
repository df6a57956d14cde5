"""Members on a stage: orders come from a test, meetings happen in memory, and all in lockstep."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents import effects as do
from coterie.agents.learner import Learner, Setup
from coterie.agents.worker import Worker
from coterie.engines.strands import call_of
from coterie.errors import CoterieError, Torn
from coterie.tasks.supervised import Supervised
from coterie.transport import messages as say
from coterie.transport.memory import MemoryTransport

GENERATOR = torch.Generator().manual_seed(0)
PAIRS = TensorDataset(torch.randn(40, 3, generator=GENERATOR), torch.zeros(40, dtype=torch.long))


class Aside:
    """A meeting that a member holds while it goes on."""

    def __init__(self, talk: Any) -> None:
        self.talk, self.value, self.over, self.waits = talk, None, False, False


class Group:
    """Workers driven in lockstep; whoever waits for the road is answered once all are there."""

    def __init__(
        self, *names: str, lr: float = 0.1, setup: Callable[[str], Setup] | None = None
    ) -> None:
        task = Supervised("t", lambda: nn.Linear(3, 2), PAIRS, PAIRS)
        made = Setup(task, lambda parameters: torch.optim.Adam(parameters, lr=lr))
        setups = {name: setup(name) if setup else made for name in names}
        self.workers = {name: Worker(name, Learner(setups[name])) for name in names}
        self.lives = {name: worker.live() for name, worker in self.workers.items()}
        self.orders: dict[str, deque[Any]] = {name: deque() for name in names}
        self.told: dict[str, list[Any]] = {name: [] for name in names}
        self.waiting: dict[str, Any] = {}  # by member: the effect that it waits on
        self.on_road: dict[str, Callable[[Any], None]] = {}  # who hears what a meeting comes to
        self.hub, self.now_s, self.terms = MemoryTransport(), 0.0, dict.fromkeys(names, 0)
        self.posted: list[tuple[str, bytes]] = []
        self.mail: dict[str, deque[bytes]] = {name: deque() for name in names}
        self.cut: set[str] = set()  # whose road is broken until they form a group anew
        self.deaf: set[str] = set()  # a meeting completes, but these do not hear its outcome
        for name in names:
            self.resume(name, None)

    def tell(self, message: say.Wire, *names: str) -> None:
        """An order to these, or to all that live; whoever waits for one carries it out."""
        for name in names or tuple(self.lives):
            self.orders[name].append(message)
        for name in names or tuple(self.lives):
            if isinstance(self.waiting.get(name), do.Hear):
                self.resume(name, self.orders[name].popleft())

    def tear(self, *names: str) -> None:
        """The meetings of these break off, and no other begins on the same road."""
        self.cut.update(names)
        for name in names:
            self.hub.withdraw(name)
            self.on_road.pop(name, lambda cut, name=name: self.resume(name, cut))(Torn("cut"))

    def deliver(self, name: str, data: bytes) -> None:
        """Mail of the star road arrives."""
        self.mail[name].append(data)
        if isinstance(self.waiting.get(name), do.Fetch):
            self.resume(name, ("hub", self.mail[name].popleft()))

    def resume(self, name: str, answer: Any) -> None:
        """Carry a life on until it waits for others."""
        life = self.lives[name]
        self.waiting.pop(name, None)
        while True:
            self.now_s += 0.001
            try:
                failed = isinstance(answer, CoterieError)
                effect = life.throw(answer) if failed else life.send(answer)
            except StopIteration:
                del self.lives[name]
                return
            done, answer = self.at_once(name, effect)
            if not done:
                return

    def at_once(self, name: str, effect: Any) -> tuple[bool, Any]:
        """Whether an effect is answered without others, and by what."""
        match effect:
            case do.Now():
                return True, self.now_s
            case do.Tell(message):
                self.told[name].append(message)
                return True, None
            case do.TellMeanwhile(make):
                self.told[name] += make()
                return True, None
            case do.Compute(run, _):
                return True, attempt(run)
            case do.Await(run):
                return True, run()
            case do.Hear() if self.orders[name]:
                return True, self.orders[name].popleft()
            case do.Post(to, _, data):
                self.posted.append((to, data))
                return True, None
            case do.Fetch(_, wait) if self.mail[name] or not wait:
                return True, ("hub", self.mail[name].popleft()) if self.mail[name] else None
            case do.Begin(talk):
                aside = Aside(talk)
                self.go_on_aside(name, aside, None)
                return True, aside
            case do.Finish(handle) if handle.over:
                return True, handle.value
            case do.Leave():
                self.hub.withdraw(name)
                self.on_road.pop(name, None)
                return True, None
        self.waiting[name] = effect
        self.wait_for_others(name, effect)
        return False, None

    def wait_for_others(self, name: str, effect: Any) -> None:
        match effect:
            case do.Hear() | do.Fetch():
                return
            case do.Finish(handle):
                handle.waits = True
            case do.Stream(run, _):
                parts: list[Tensor] = []
                value = attempt(lambda: run(parts.append))
                self.meet(
                    name,
                    do.Total(torch.cat(parts)),
                    lambda total: self.resume(name, summed(value, parts, total)),
                )
            case _:
                self.meet(name, effect, lambda result: self.resume(name, result))

    def go_on_aside(self, name: str, aside: Aside, answer: Any) -> None:
        try:
            failed = isinstance(answer, CoterieError)
            ask = aside.talk.throw(answer) if failed else aside.talk.send(answer)
        except StopIteration as end:
            aside.value, aside.over = end.value, True
        except CoterieError as error:
            aside.value, aside.over = error, True
        else:
            self.meet(name, ask, lambda result: self.go_on_aside(name, aside, result))
        if aside.over and aside.waits:
            self.resume(name, aside.value)

    def meet(self, name: str, effect: Any, hear: Callable[[Any], None]) -> None:
        if isinstance(effect, do.Form):
            self.cut.discard(name)
            self.terms[name] = effect.term.number
            self.hub.enter(effect.term.number, effect.term.members)
        if name in self.cut:
            hear(Torn("cut"))
            return
        self.on_road[name] = hear
        results = self.hub.offer(name, call_of(name, self.terms[name], effect))
        for member, result in (results or {}).items():
            if member not in self.deaf:
                self.on_road.pop(member)(result)

    def of(self, name: str, kind: type) -> list[Any]:
        """What a member told, of a kind."""
        return [message for message in self.told[name] if isinstance(message, kind)]

    def vectors(self) -> list[Tensor]:
        """Where the living are."""
        return [self.workers[name].learner.vector() for name in self.lives]

    @classmethod
    def of_two(cls) -> Group:
        """a and b, in their first term."""
        group = cls("a", "b")
        group.tell(term(1, "a", "b"))
        return group


def attempt(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except CoterieError as error:
        return error


def summed(value: Any, parts: list[Tensor], total: Any) -> Any:
    """What a stream of parts came to, given what their sum did."""
    if isinstance(value, CoterieError):
        return value
    if isinstance(total, CoterieError):
        return value, False, 0.0
    for part, sum_P in zip(parts, total.split([p.numel() for p in parts]), strict=True):
        part.copy_(sum_P)
    return value, True, 0.0


def term(number: int, *members: str, at_once: bool = False, **given: Any) -> say.Term:
    return say.Term(number=number, members=members, store="", at_once=at_once, **given)


def block(number: int, first: int, stop: int, **given: Any) -> say.Block:
    """Rounds of eight samples, five of a and three of b, up to a position."""
    fields: dict[str, Any] = {
        "term": number,
        "first_round": first,
        "data_epoch": 0,
        "spans": ((8 * (first - 1), stop),),
        "shares": {"a": 5, "b": 3},
        "every": 1,
        "strategy": "chain(Reduce())",
        **given,
    }
    return say.Block(**fields)


class Stage:
    """What tests need to play: members, and what they are told."""

    group, two, pairs = Group, staticmethod(Group.of_two), PAIRS
    term, block = staticmethod(term), staticmethod(block)


@pytest.fixture
def stage() -> type[Stage]:
    """`stage.group("a", "b")`, `stage.two()`, `stage.term(...)`, `stage.block(...)`."""
    return Stage


def timed(life: do.Life[Any], seconds: Callable[[tuple[int, ...]], float]) -> Any:
    """Drive a life on a made-up clock."""
    now_s, answer = 0.0, None
    while True:
        try:
            effect = life.send(answer)
        except StopIteration as end:
            return end.value
        answer = now_s
        if isinstance(effect, do.Compute):
            answer = effect.run()
            now_s += seconds(effect.batches)
