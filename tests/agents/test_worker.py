"""A worker's life, order by order, without a coordinator: what it tells, holds and heals."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.agents import effects as do
from coterie.agents.learner import Learner, Setup
from coterie.agents.stream import Stream
from coterie.agents.worker import Worker
from coterie.errors import Torn, TrainingError
from coterie.tasks.supervised import Supervised
from coterie.transport import messages as say
from coterie.transport.memory import Call, MemoryTransport

PAIRS = TensorDataset(torch.randn(40, 3), torch.zeros(40, dtype=torch.long))


class Group:
    """Workers driven in lockstep; orders come from the test, meetings happen in memory."""

    def __init__(self, *names: str) -> None:
        task = Supervised("t", lambda: nn.Linear(3, 2), PAIRS, PAIRS)
        made = Setup(task, lambda parameters: torch.optim.Adam(parameters, lr=0.1))
        self.workers = {name: Worker(name, Learner(made)) for name in names}
        self.lives = {name: worker.live() for name, worker in self.workers.items()}
        self.orders: dict[str, deque[Any]] = {name: deque() for name in names}
        self.told: dict[str, list[Any]] = {name: [] for name in names}
        self.waiting: dict[str, do.Effect] = {}
        self.hub, self.now_s, self.terms = MemoryTransport(), 0.0, dict.fromkeys(names, 0)
        self.deaf: set[str] = set()  # a meeting completes, but these do not hear its outcome
        for name in names:
            self.resume(name, None)

    def tell(self, message: say.Wire, *names: str) -> None:
        for name in names or tuple(self.lives):
            self.orders[name].append(message)
        for name in names or tuple(self.lives):
            if isinstance(self.waiting.get(name), do.Hear):
                self.resume(name, self.orders[name].popleft())

    def tear(self, *names: str) -> None:
        for name in names:
            self.hub.withdraw(name)
            self.resume(name, Torn("cut"))

    def resume(self, name: str, answer: Any) -> None:
        life = self.lives[name]
        self.waiting.pop(name, None)
        while True:
            self.now_s += 0.001
            try:
                throw = isinstance(answer, Exception)
                effect = life.throw(answer) if throw else life.send(answer)
            except StopIteration:
                del self.lives[name]
                return
            match effect:
                case do.Now():
                    answer = self.now_s
                case do.Tell(message):
                    self.told[name].append(message)
                    answer = None
                case do.Compute(run, _):
                    try:
                        answer = run()
                    except TrainingError as error:
                        answer = error
                case do.Hear() if self.orders[name]:
                    answer = self.orders[name].popleft()
                case _:
                    self.waiting[name] = effect
                    self.meet(name, effect)
                    return

    def meet(self, name: str, effect: do.Effect) -> None:
        if isinstance(effect, do.Hear):
            return
        if isinstance(effect, do.Form):
            self.terms[name] = effect.term.number
            self.hub.enter(effect.term.number, effect.term.members)
        results = self.hub.offer(name, self.call(name, effect))
        for member, result in (results or {}).items():
            if member not in self.deaf:
                self.resume(member, result)

    def call(self, name: str, effect: do.Effect) -> Call:
        match effect:
            case do.Give(peer, vector_N):
                return Call(self.terms[name], f"pass:{name}:{peer}", vector_N)
            case do.Take(peer, into_N):
                return Call(self.terms[name], f"pass:{peer}:{name}", into_N)
        op = type(effect).__name__.lower()
        return Call(self.terms[name], op, getattr(effect, "vector_N", None))

    def of(self, name: str, kind: type) -> list[Any]:
        return [message for message in self.told[name] if isinstance(message, kind)]

    def vectors(self) -> list[Tensor]:
        return [self.workers[name].learner.vector() for name in self.lives]


def term(number: int, *members: str, at_once: bool = False) -> say.Term:
    return say.Term(number=number, members=members, store="", at_once=at_once)


def block(number: int, first: int, stop: int, **given: Any) -> say.Block:
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


def two() -> Group:
    group = Group("a", "b")
    group.tell(term(1, "a", "b"))
    return group


def test_a_block_is_learned_together_and_told() -> None:
    group = two()
    group.tell(block(1, 1, 24))
    assert [m.round for m in group.of("b", say.Settled)] == [0]
    (report,) = group.of("b", say.Report)
    assert (report.first_round, report.last_round, report.cohort) == (1, 3, ("a", "b"))
    assert (report.num_samples, report.num_steps) == (9, 3)
    assert torch.equal(*group.vectors())


def test_orders_of_an_earlier_term_are_void() -> None:
    group = two()
    group.tell(term(2, "a", "b"))
    group.tell(say.Evaluate(term=1))
    group.tell(say.Save(term=1, ticket=0, whole=True))
    group.tell(term(1, "a", "b"))
    assert group.of("a", say.Scores) == group.of("a", say.State) == []
    group.tell(say.Evaluate(term=2), "a")
    assert len(group.of("a", say.Scores)) == 1


def test_a_torn_round_is_retried_with_the_same_contribution() -> None:
    """b dies before it has contributed: a goes on with what it had computed already."""
    group = two()
    group.tell(block(1, 1, 16), "a")
    held = group.workers["a"]._contribution
    group.tear("a")
    assert [m.term for m in group.of("a", say.TornRound)] == [1]
    assert group.workers["a"]._contribution is held
    group.tell(term(2, "a", at_once=True), "a")
    (report,) = group.of("a", say.Report)
    # The second round of the broken term is void: only the one after the settled round counts.
    assert (report.first_round, report.last_round, report.cohort) == (1, 1, ("a",))
    alone = Group("a")
    lease = block(1, 1, 16).rounds()[0]["a"]
    (batch,) = Stream(40, 0).batches(0, lease)
    alone.workers["a"].learner.step(batch)
    assert torch.equal(group.vectors()[0], alone.vectors()[0])


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "diloco-int8(2)"])
def test_a_member_that_missed_an_outcome_is_given_it_and_does_not_heal(strategy: str) -> None:
    group = two()
    every = 2 if "diloco" in strategy else 1
    group.deaf = {"b"}
    group.tell(block(1, 1, 8 * every, strategy=strategy, every=every))
    assert [worker.round for worker in group.workers.values()] == [1, 0]
    num_steps = group.workers["b"].learner.num_steps
    group.deaf = set()
    group.tear("b")
    group.tell(term(2, "a", "b", at_once=True))
    assert [m.healed for m in group.of("b", say.Settled)] == [False, False]
    assert [worker.round for worker in group.workers.values()] == [1, 1]
    assert group.workers["b"].learner.num_steps == num_steps + (every == 1)
    assert torch.equal(*group.vectors())
    # Told with whom it was learned, so that nobody's samples are learned again.
    assert {m.cohort for m in group.of("b", say.Report)} <= {("a", "b")}


@pytest.mark.parametrize("strategy", ["chain(Reduce())", "diloco(1)"])
def test_a_newcomer_takes_over_all_that_is_agreed(strategy: str) -> None:
    group = Group("a", "b", "c")
    group.tell(term(1, "a", "b"), "a", "b")
    group.tell(block(1, 1, 24, strategy=strategy))
    group.tell(term(2, "a", "b", "c"))
    assert [m.healed for m in group.of("c", say.Settled)] == [True]
    assert [m.healed for m in group.of("b", say.Settled)] == [False, False]
    group.tell(block(2, 4, 40, strategy=strategy, shares={"a": 3, "b": 3, "c": 2}))
    first, second, third = group.vectors()
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_skipped_round_has_no_outcome_to_give() -> None:
    """Only the dead c had work in round 2: a has skipped it, b is torn before it could."""
    group = Group("a", "b", "c")
    group.tell(term(1, "a", "b", "c"))
    group.tell(block(1, 1, 8, shares={"a": 4, "b": 4, "c": 1}))
    only_c = block(1, 2, 9, spans=((8, 9),), shares={"a": 1, "b": 1, "c": 100})
    assert [m for m, lease in only_c.rounds()[0].items() if lease.num_samples] == ["c"]
    group.tell(only_c, "a", "b")
    del group.lives["c"]
    group.tear("a", "b")
    group.deaf = {"b"}  # a alone hears that the second group has settled
    group.tell(term(2, "a", "b", at_once=True))
    while group.workers["a"].round < 2 and isinstance(group.waiting.get("b"), do.Form):
        group.resume("b", None)
    assert [group.workers[name].round for name in "ab"] == [2, 1]
    group.deaf = set()
    group.tear("b")
    group.tell(term(3, "a", "b", at_once=True))
    assert [group.workers[name].round for name in "ab"] == [2, 2]
    assert torch.equal(*group.vectors())


def test_a_member_that_is_left_out_drops_what_it_held() -> None:
    group = two()
    group.tell(block(1, 1, 16), "b")
    group.tear("b")
    group.tell(term(2, "a", at_once=True), "b")
    assert group.workers["b"]._contribution is None
    assert group.of("b", say.Report) == []
    assert isinstance(group.waiting["b"], do.Hear)


def test_what_comes_in_while_it_waits_for_a_term_is_done_afterwards() -> None:
    group = two()
    group.tell(block(1, 1, 8), "a")
    group.tear("a")
    group.tell(say.Evaluate(term=2), "a")
    assert group.of("a", say.Scores) == []
    group.tell(term(2, "a", at_once=True), "a")
    assert [m.round for m in group.of("a", say.Scores)] == [1]


def test_a_saved_member_is_adopted_bit_for_bit() -> None:
    group = two()
    group.tell(block(1, 1, 24, strategy="all-reduce-int8"))
    group.tell(say.Save(term=1, ticket=3, whole=True))
    assembly = say.Assembly()
    for piece in group.of("b", say.State):
        assembly.add(piece)
    assert sorted(assembly.files) == ["model.safetensors", "state/b.safetensors"]
    taken, again = group.workers["b"].snapshot(), Group("b").workers["b"]
    again.adopt(taken)
    assert again.snapshot().to_bytes() == taken.to_bytes()


def test_a_peer_inherits_what_is_agreed_and_not_the_residual() -> None:
    group = two()
    group.tell(block(1, 1, 24, strategy="diloco-int8(1)"))
    taken, peer = group.workers["b"].snapshot(), Group("c").workers["c"]
    peer.inherit(taken)
    _, residual, _, momentum = peer.snapshot().memory
    assert not residual.any()
    assert torch.equal(momentum, taken.memory[3])
    assert taken.memory[1].any()


def test_a_stop_is_answered_with_a_goodbye() -> None:
    group = two()
    life = group.lives["a"]
    group.tell(say.Stop(reason="done"), "a")
    assert isinstance(group.told["a"][-1], say.Bye)
    assert "a" not in group.lives
    assert next(life, "ended") == "ended"


def test_a_stop_at_once_ends_a_broken_round() -> None:
    group = two()
    group.tell(block(1, 1, 8), "a")
    group.tear("a")
    group.tell(say.Stop(reason="failed", at_once=True), "a")
    assert isinstance(group.told["a"][-1], say.Bye)


def test_a_loss_that_is_not_finite_is_told_as_the_end() -> None:
    group = two()
    for worker in group.workers.values():
        worker.learner.place(worker.learner.vector() * float("nan"))
    group.tell(block(1, 1, 8), "a")
    (failed,) = group.of("a", say.Failed)
    assert failed.reason.startswith("a: expected a finite loss, found nan at step 1")
