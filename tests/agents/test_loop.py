"""A script's own loop on two members in memory: what it learns is what it learns alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import DataLoader

from coterie.agents.learner import Learner
from coterie.agents.loop import Loop, cut
from coterie.agents.prepared import Schedule, Scheduler, Shares, Stepper, Things, fetched
from coterie.agents.rehearsal import setup_of
from coterie.agents.stream import Stream
from coterie.errors import TrainingError
from coterie.sync import fragments
from coterie.transport import messages as say


@dataclass
class Mine:
    """What a script holds, on one of two agents or alone."""

    model: nn.Module
    optimizer: Any
    loader: Any
    scheduler: Any = None
    clip: Callable[[float], Any] = lambda norm: None
    num: int = 0  # samples that were seen


Script = Callable[[Mine], None]


class Alone:
    """The same batches that all agents see together, one step after the other."""

    def __init__(self, pairs: Any, batch: int, num_passes: int) -> None:
        self.loader = DataLoader(pairs, batch_size=batch)
        self.left = iter(range(num_passes))

    def __iter__(self) -> Iterator[Any]:
        indices = Stream(40, 0).indices(next(self.left), [(0, 40)])
        size = cast(int, self.loader.batch_size)
        return (fetched(self.loader, indices[a : a + size]) for a in range(0, 40, size))


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


class Company:
    """Members whose loops run in threads of their own, in turn with the workers that feed them."""

    def __init__(self, stage: Any, script: Script, accumulate: int = 1, scheduled: bool = False):
        self.stage, self.script, self.accumulate = stage, script, accumulate
        self.scheduled, self.errors = scheduled, dict[str, Exception]()
        self.mine: dict[str, Mine] = {}
        self.loops: dict[str, Loop] = {}
        self.schedules: dict[str, Schedule] = {}
        self.group = stage.group("a", "b", setup=self.setup)
        for name, schedule in self.schedules.items():
            self.group.workers[name].learner.scheduler = cast(LRScheduler, schedule)
        for name in self.loops:
            threading.Thread(target=self.live, args=(name,), daemon=True).start()
        self.group.tell(stage.term(1, "a", "b"))

    def setup(self, name: str) -> Any:
        model = net()
        optimizer, loader = sgd(model), DataLoader(self.stage.pairs, 8 // self.accumulate)
        assert loader.batch_size is not None
        loop = Loop(model, optimizer, loader.batch_size, self.accumulate)
        mine = Mine(model, Stepper(optimizer, loop), Shares(loader, loop, loop.turns.first, "cpu"))
        if self.scheduled:
            self.schedules[name] = Schedule(StepLR(optimizer, 2, 0.5), loop)
            mine.scheduler = Scheduler(self.schedules[name])
        mine.clip = lambda norm: setattr(loop, "max_norm", norm)
        self.loops[name], self.mine[name] = loop, mine
        return setup_of("t", Things(model, optimizer, loader), loop, seed=0)

    def live(self, name: str) -> None:
        try:
            self.script(self.mine[name])
        except TrainingError as error:
            self.errors[name] = error
        self.loops[name].end(self.group.told[name].append)

    def workers(self) -> list[Any]:
        return list(self.group.workers.values())

    def turn(self, data_epoch: int) -> None:
        self.group.tell(say.Turn(term=1, data_epoch=data_epoch))

    def learn(self, num_passes: int = 1, **given: Any) -> list[Tensor]:
        for data_epoch in range(num_passes):
            self.turn(data_epoch)
            first = 5 * data_epoch + 1
            spans = {"spans": ((0, 40),), "data_epoch": data_epoch, **given}
            self.group.tell(self.stage.block(1, first, 40, **spans))
        self.turn(num_passes)
        return cast(list[Tensor], self.group.vectors())


def alone(script: Script, pairs: Any, num_passes: int = 1, scheduled: bool = False) -> Tensor:
    model = net()
    optimizer = sgd(model)
    mine = Mine(model, optimizer, Alone(pairs, 8, num_passes))
    mine.scheduler = StepLR(optimizer, 2, 0.5) if scheduled else None
    mine.clip = lambda norm: nn.utils.clip_grad_norm_(model.parameters(), norm)
    script(mine)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def loss_of(mine: Mine, batch: Any) -> Tensor:
    inputs, targets = batch
    mine.num += len(inputs)
    return F.cross_entropy(mine.model(inputs.double()), targets + (inputs[:, 0] > 0))


def plain(mine: Mine) -> None:
    for batch in mine.loader:
        loss_of(mine, batch).backward()
        mine.optimizer.step()
        mine.optimizer.zero_grad()


def zero_first(mine: Mine) -> None:
    for batch in mine.loader:
        mine.optimizer.zero_grad()
        loss_of(mine, batch).backward()
        mine.optimizer.step()


def by_closure(mine: Mine) -> None:
    for batch in mine.loader:

        def closure(batch: Any = batch) -> Tensor:
            mine.optimizer.zero_grad()
            loss = loss_of(mine, batch)
            loss.backward()
            return loss

        assert mine.optimizer.step(closure).item() > 0


def clipped(mine: Mine) -> None:
    for batch in mine.loader:
        loss_of(mine, batch).backward()
        mine.clip(0.05)
        mine.optimizer.step()
        mine.optimizer.zero_grad()


def scaled(mine: Mine) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for batch in mine.loader:
        with torch.autocast("cpu", enabled=False):
            loss = loss_of(mine, batch)
        scaler.scale(loss).backward()
        scaler.step(mine.optimizer)
        scaler.update()
        mine.optimizer.zero_grad()


@pytest.fixture(params=[1, 1 << 22], autouse=True)
def bucket_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of a gradient: many, so that most are handed out before the loop steps, or one."""
    monkeypatch.setattr(fragments, "BUCKET_BYTES", request.param)
    return cast(int, request.param)


@pytest.mark.parametrize("script", [plain, zero_first, by_closure, clipped, scaled])
def test_two_members_learn_what_one_machine_learns(stage: Any, script: Script) -> None:
    company = Company(stage, script)
    wanted = alone(script, stage.pairs)
    for vector in company.learn():
        assert torch.allclose(vector, wanted, rtol=1e-12, atol=1e-14)
    assert [mine.num for mine in company.mine.values()] == [25, 15]  # each sample once


def torch_clipped(mine: Mine) -> None:
    for batch in mine.loader:
        loss_of(mine, batch).backward()
        nn.utils.clip_grad_norm_(mine.model.parameters(), 0.05)
        mine.optimizer.step()
        mine.optimizer.zero_grad()


def clamped_unseen(mine: Mine) -> None:
    for batch in mine.loader:
        loss_of(mine, batch).backward()
        for parameter in mine.model.parameters():
            assert parameter.grad is not None
            parameter.grad.data.clamp_(-0.01, 0.01)  # no version of autograd's counts this
        mine.optimizer.step()
        mine.optimizer.zero_grad()


def twice_backward(mine: Mine) -> None:
    for batch in mine.loader:
        loss_of(mine, batch).backward()
        sum(p.square().sum() for p in mine.model.parameters()).backward()  # type: ignore[union-attr]
        mine.optimizer.step()
        mine.optimizer.zero_grad()


def replaced(mine: Mine) -> None:
    for batch in mine.loader:
        loss_of(mine, batch).backward()
        for parameter in mine.model[0].parameters():  # type: ignore[index]
            parameter.grad = None  # frozen by hand
        mine.optimizer.step()
        mine.optimizer.zero_grad()


@pytest.mark.parametrize(
    ("script", "restates"),
    [
        (plain, False),
        (zero_first, False),
        (clipped, False),
        (scaled, True),
        (torch_clipped, True),
        (clamped_unseen, True),
        (twice_backward, True),
        (replaced, True),
    ],
)
def test_gradients_handed_out_as_they_come_are_those_that_the_loop_leaves(
    stage: Any, bucket_bytes: int, script: Script, restates: bool
) -> None:
    streamed, whole = Company(stage, script), Company(stage, script)
    agreed = streamed.learn()
    assert torch.equal(agreed[0], agreed[1])
    for vector_N in whole.learn(hands_out=False):
        assert (vector_N - agreed[0]).abs().max() < 1e-12
    told = [report.restates for report in streamed.group.of("a", say.Report)]
    assert any(told) == (restates and bucket_bytes == 1)
    assert not any(report.restates for report in whole.group.of("a", say.Report))


def test_batches_of_one_step_count_by_their_samples(stage: Any) -> None:
    def accumulating(mine: Mine) -> None:
        for number, batch in enumerate(mine.loader, start=1):
            (loss_of(mine, batch) / 2).backward()
            if number % 2 == 0:
                mine.optimizer.step()
                mine.optimizer.zero_grad()

    wanted = alone(plain, stage.pairs)
    for vector in Company(stage, accumulating, accumulate=2).learn():  # of 5 samples: 3 and 2
        assert torch.allclose(vector, wanted, rtol=1e-12, atol=1e-14)


def test_a_step_before_its_batches_are_there_is_passed_over(stage: Any) -> None:
    def eager(mine: Mine) -> None:
        for batch in mine.loader:
            (loss_of(mine, batch) / 2).backward()
            mine.optimizer.step()
            mine.optimizer.zero_grad()

    wanted = alone(plain, stage.pairs)
    for vector in Company(stage, eager, accumulate=2).learn():
        assert torch.allclose(vector, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("is_of_every_step", [True, False])
def test_a_schedule_goes_by_what_all_have_stepped(stage: Any, is_of_every_step: bool) -> None:
    def scheduled(mine: Mine) -> None:
        for _ in range(4):
            for batch in mine.loader:
                loss_of(mine, batch).backward()
                mine.optimizer.step()
                mine.optimizer.zero_grad()
                if is_of_every_step:
                    mine.scheduler.step()
            if not is_of_every_step:
                mine.scheduler.step()

    wanted = alone(scheduled, stage.pairs, 4, scheduled=True)
    company = Company(stage, scheduled, scheduled=True)
    for vector in company.learn(4):
        assert torch.allclose(vector, wanted, rtol=1e-12, atol=1e-14)
    assert company.mine["a"].scheduler.get_last_lr() == [0.2 / (2**10 if is_of_every_step else 4)]


@pytest.mark.parametrize(
    ("sentence", "every"),
    [
        ("chain(ErrorFeedback(Int8()), Reduce())", 1),
        ("chain(Every(2), Reduce(), Outer(1.0))", 2),
        ("chain(Every(2, overlap=1), Reduce(), Outer(1.0))", 2),
    ],
)
def test_members_meet_as_the_sentence_says(stage: Any, sentence: str, every: int) -> None:
    company = Company(stage, plain)
    company.learn(strategy=sentence, every=every)
    first, second = (worker.agreed_vector() for worker in company.group.workers.values())
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.cat([p.detach().reshape(-1) for p in net().parameters()]))
    assert company.mine["a"].num + company.mine["b"].num == 40


def test_a_member_without_samples_in_a_round_keeps_to_the_schedule(stage: Any) -> None:
    def scheduled(mine: Mine) -> None:
        for _ in range(2):
            for batch in mine.loader:
                loss_of(mine, batch).backward()
                mine.optimizer.step()
                mine.scheduler.step()

    company = Company(stage, scheduled, scheduled=True)
    company.turn(0)
    company.group.tell(stage.block(1, 1, 9))  # of the second round's only sample b has none
    company.group.tell(stage.block(1, 3, 40, spans=((9, 40),)))
    first, second = company.group.vectors()
    assert torch.equal(first, second)
    rates = [worker.learner.optimizer.param_groups[0]["lr"] for worker in company.workers()]
    assert rates[0] == rates[1] == 0.2 / 2**3


def test_a_batch_that_is_dropped_is_declined_and_the_others_go_on(stage: Any) -> None:
    def picky(mine: Mine) -> None:
        for number, batch in enumerate(mine.loader):
            loss = loss_of(mine, batch)
            if number == 1 and len(batch[0]) == 5:  # a scaler that found infinite values
                loss.backward()
                mine.optimizer.zero_grad()
                continue
            loss.backward()
            mine.optimizer.step()

    company = Company(stage, picky)
    first, second = company.learn()
    assert torch.equal(first, second)
    (declined,) = company.group.of("a", say.Declined)
    assert declined.round == 2
    assert not company.group.of("b", say.Declined)


def test_a_batch_that_was_not_stepped_on_is_refused_in_a_sentence(stage: Any) -> None:
    def forgetful(mine: Mine) -> None:
        for batch in mine.loader:
            loss_of(mine, batch).backward()

    company = Company(stage, forgetful)
    company.turn(0)
    company.group.tell(stage.block(1, 1, 8))
    with pytest.raises(TrainingError, match=r"expected optimizer.step\(\) after 1 of .*=K"):
        raise company.errors["a"]
    assert company.group.of("a", say.Ended)


def test_a_loop_that_ends_within_a_pass_takes_no_further_batch(stage: Any) -> None:
    def brief(mine: Mine) -> None:
        for number, batch in enumerate(mine.loader, start=1):
            loss_of(mine, batch).backward()
            mine.optimizer.step()
            if number == 2:
                return

    company = Company(stage, brief)
    company.turn(0)
    company.group.tell(stage.block(1, 1, 40))
    for name in ("a", "b"):
        assert len(company.group.of(name, say.Ended)) == 1
        assert company.group.of(name, say.TornRound)
    company.group.tell(stage.term(2, "a", "b", at_once=True))
    assert {told.round for told in company.group.of("a", say.Settled)[-1:]} == {2}
    assert company.mine["a"].num + company.mine["b"].num == 16


def test_the_next_pass_begins_once_the_loop_says_so(stage: Any) -> None:
    passes: list[int] = []

    def counting(mine: Mine) -> None:
        for number in range(2):
            before = mine.num
            plain(mine)
            passes.append(mine.num - before)
            assert number < 2

    company = Company(stage, counting)
    company.learn(2)
    told = [m for m in company.group.told["a"] if isinstance(m, say.Begun | say.Ended)]
    assert told == [say.Begun(data_epoch=0), say.Begun(data_epoch=1), say.Ended(), say.Ended()]
    assert sorted(passes) == [15, 15, 25, 25]


def test_a_torn_meeting_is_held_again_with_the_gradient_that_was_handed_in(stage: Any) -> None:
    company = Company(stage, plain)
    company.turn(0)
    company.group.deaf.add("a")  # it meets, and does not hear what came of it
    company.group.tell(stage.block(1, 1, 8))
    assert company.mine["a"].num == 5
    company.group.deaf.clear()
    company.group.tear("a")
    company.group.tell(stage.term(2, "a", "b", at_once=True))
    first, second = company.group.vectors()
    assert torch.equal(first, second)
    assert (company.mine["a"].num, company.mine["b"].num) == (5, 3)  # computed once


def test_a_member_that_heals_finds_other_values_in_its_own_model(stage: Any) -> None:
    company = Company(stage, plain)
    model = company.mine["b"].model
    kept = [p.data_ptr() for p in model.parameters()]
    learner: Learner = company.group.workers["b"].learner
    learner.place(torch.zeros(learner.layout.size, dtype=torch.float64))
    company.group.tell(stage.term(2, "a", "b"))
    first, second = company.group.vectors()
    assert torch.equal(first, second)
    assert [p.data_ptr() for p in model.parameters()] == kept
    assert bool(second.any())


@given(st.lists(st.integers(), min_size=1, max_size=30), st.integers(1, 8))
def test_parts_are_even_and_hold_every_sample(indices: list[int], num: int) -> None:
    parts = cut(indices, num)
    assert len(parts) == num
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if len(indices) >= num:
        assert [i for part in parts for i in part] == indices
    else:
        assert all(part == indices for part in parts)
