"""A pipeline's gradient is the whole model's, whatever the sizes, and it breaks off, never hangs.

Most members here are threads of one process, each with a road of its own: sockets and groups are
real. Run as a program, this file is one member in a process of its own.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coterie.errors import JobError, Torn
from coterie.transport import pipeline as pipeline_module
from coterie.transport.control import Inbox
from coterie.transport.messages import Beat, Term
from coterie.transport.pipeline import PipelineTransport, order

DEADLINE_S = 60.0  # bounds a test that hangs; none waits for it otherwise
HERE = "127.0.0.1"
NEWS = Term(number=9, members=("ann",), store="", at_once=True)
CUTS = {1: (), 2: (3,), 3: (1, 3)}  # where the layers of `whole` are cut, unequally


class Watched(Inbox):
    """An inbox that tells when its owner waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        self.waiting.set()
        return super().wait(done, timeout_s)


class Peer:
    """A member: its road, its inbox and the thread it lives in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inbox = Watched()
        self.road = PipelineTransport(HERE, self.inbox)
        self._thread = ThreadPoolExecutor(1)

    def begin(self, act: Callable[..., Any], *args: Any) -> Future[Any]:
        self.inbox.waiting.clear()
        return self._thread.submit(act, *args)

    def begin_and_wait(self, act: Callable[..., Any], *args: Any) -> Future[Any]:
        begun = self.begin(act, *args)
        assert self.inbox.waiting.wait(DEADLINE_S)
        return begun

    def close(self) -> None:
        self.inbox.put(NEWS)  # ends whatever a failed test left waiting
        self._thread.shutdown()
        self.road.leave()


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    served = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    yield f"{HERE}:{served.port}"
    del served  # it serves as long as it lives


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made = [Peer(name) for name in ("ann", "bob", "cy", "dan")]
    yield made
    for peer in made:
        peer.close()


NUMBERS = iter(range(1, 1000))  # terms: the tests share one store


def begin_form(team: Sequence[Peer], store: str, number: int) -> list[Future[Any]]:
    names = tuple(peer.name for peer in team)
    return [p.begin(p.road.form, number, names, p.name, store) for p in team]


def results(begun: Sequence[Future[Any]]) -> list[Any]:
    return [future.result(DEADLINE_S) for future in begun]


def form(team: Sequence[Peer], store: str) -> None:
    results(begin_form(team, store, next(NUMBERS)))


def whole(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 9), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 6), nn.Linear(6, 3)
    ).to(dtype)


def stages_of(model: nn.Sequential, num_stages: int) -> list[nn.Sequential]:
    edges = [0, *CUTS[num_stages], len(model)]
    return [model[start:stop] for start, stop in pairwise(edges)]


class Pairs(NamedTuple):
    inputs: Any
    targets: Any


def pairs(size: int, dtype: torch.dtype = torch.float64) -> Pairs:
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return Pairs(inputs.to(dtype), torch.arange(size) % 3)


def walk(
    team: Sequence[Peer], stages: Sequence[nn.Module], batch: Pairs, micro: int, loss: Any
) -> list[Any]:
    last = len(team) - 1
    return results(
        [
            peer.begin(
                peer.road.gradient,
                stage,
                batch.inputs if index == 0 else None,
                batch.targets if index == last else None,
                loss,
                micro,
            )
            for index, (peer, stage) in enumerate(zip(team, stages, strict=True))
        ]
    )


def check_equal(
    team: Sequence[Peer],
    model: nn.Module,
    stages: Sequence[nn.Module],
    batch: Pairs,
    *,
    micro: int = 3,
    loss: Any = F.cross_entropy,
    tolerance: float = 1e-12,
) -> None:
    """The team's loss and gradients are those of the whole model on the whole batch."""
    alone = copy.deepcopy(model)
    alone.zero_grad()
    expected = loss(alone(batch.inputs), batch.targets)
    expected.backward()
    *nothing, value = walk(team, stages, batch, micro, loss)
    assert nothing == [None] * (len(team) - 1)
    assert value == pytest.approx(expected.item(), abs=tolerance)
    for (name, mine), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=tolerance)


# -- what it computes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("num_stages", CUTS)
def test_the_gradient_is_the_whole_models_at_every_size_of_batch(
    peers: list[Peer], store: str, num_stages: int, dtype: torch.dtype, tolerance: float
) -> None:
    team, model = peers[:num_stages], whole(dtype)
    form(team, store)
    for size, micro in ((8, 4), (7, 4), (5, 4), (4, 4), (2, 4), (1, 4), (6, 1), (13, 3)):
        stages, batch = stages_of(model, num_stages), pairs(size, dtype)
        check_equal(team, model, stages, batch, micro=micro, tolerance=tolerance)


def test_a_stage_alone_waits_for_nobody_and_two_for_each_other(
    peers: list[Peer], store: str
) -> None:
    for num_stages in (1, 2):
        team = peers[:num_stages]
        form(team, store)
        stages = stages_of(whole(), num_stages) if num_stages > 1 else [whole()]
        walk(team, stages, pairs(8), 4, F.cross_entropy)
        assert [peer.road.waited_s > 0 for peer in team] == [num_stages > 1] * num_stages


def test_the_shape_of_a_sample_may_change_from_batch_to_batch(
    peers: list[Peer], store: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Conv1d(3, 2, 1)).double()
    form(peers[:2], store)
    for length in (5, 9, 4):
        values = torch.randn(4, 2, length, dtype=torch.float64)
        batch = Pairs(values, values.flip(2))
        check_equal(peers[:2], model, [model[:1], model[1:]], batch, loss=F.mse_loss)


def test_a_stage_may_begin_in_place(peers: list[Peer], store: str) -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    model = nn.Sequential(*layers).double()
    form(peers[:2], store)
    check_equal(peers[:2], model, [model[:1], model[1:]], pairs(5))


class Begin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        strided = self.far(given["x"]).t().contiguous().t()
        return given["mask"], self.near(given["x"]), strided, given["x"]


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, mask: Tensor, near: Tensor, far: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return mask, self.layer(near).relu() + far, far, x


class End(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, mask: Tensor, near: Tensor, far: Tensor, x: Tensor) -> Tensor:
        return near * mask[:, None] + far + self.layer(x)


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Begin(), Middle(), End()])

    def forward(self, given: Any) -> Tensor:
        begin, middle, end = self.stages
        out: Tensor = end(*middle(*begin(given)))
        return out


def nested_loss(predictions: Tensor, targets: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
    classes, more = targets
    return (F.cross_entropy(predictions, classes, reduction="none") * more["weight"]).mean()


def test_several_values_cross_and_some_pass_a_stage_by(peers: list[Peer], store: str) -> None:
    torch.manual_seed(0)
    model = Skips().double()
    inputs, classes = pairs(7)
    batch = Pairs(
        {"x": inputs, "mask": torch.arange(7) % 2 == 0},
        (classes, {"weight": torch.linspace(0, 1, 7, dtype=torch.float64)}),
    )
    form(peers[:3], store)
    check_equal(peers[:3], model, list(model.stages), batch, loss=nested_loss)


def test_an_older_gradient_is_forgotten_and_frozen_weights_get_none(
    peers: list[Peer], store: str
) -> None:
    model = whole()
    model[1].requires_grad_(False)
    form(peers[:2], store)
    for size in (5, 6):
        walk(peers[:2], stages_of(model, 2), pairs(size), 2, F.cross_entropy)
    again = copy.deepcopy(model)
    again.zero_grad()
    F.cross_entropy(again(pairs(6).inputs), pairs(6).targets).backward()
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


def test_two_teams_work_side_by_side_in_one_term(peers: list[Peer], store: str) -> None:
    number, teams = next(NUMBERS), (peers[:2], peers[:1:-1])
    results([f for team in teams for f in begin_form(team, store, number)])
    with ThreadPoolExecutor(2) as at_once:
        models = [whole(), whole()]
        checks = [
            at_once.submit(check_equal, team, model, stages_of(model, 2), pairs(size))
            for team, model, size in zip(teams, models, (8, 5), strict=True)
        ]
    assert [check.result() for check in checks] == [None, None]


@pytest.mark.parametrize("num_micro", [1, 2, 5])
@pytest.mark.parametrize("num_stages", [1, 2, 4])
def test_each_stage_keeps_no_more_than_it_must(num_stages: int, num_micro: int) -> None:
    for index in range(num_stages):
        passes = order(index, num_stages, num_micro)
        assert [n for forward, n in passes if forward] == list(range(num_micro))
        assert [n for forward, n in passes if not forward] == list(range(num_micro))
        kept = most = 0
        for forward, number in passes:
            assert forward or passes.index((True, number)) < passes.index((False, number))
            kept += 1 if forward else -1
            most = max(most, kept)
        assert most == min(num_stages - index, num_micro)


# -- what breaks it off -----------------------------------------------------------------------


def test_without_a_pipeline_there_is_no_gradient(peers: list[Peer], store: str) -> None:
    form(peers[:1], store)
    peers[0].road.leave()
    with pytest.raises(Torn, match="there is no pipeline"):
        peers[0].road.gradient(whole(), *pairs(3), F.cross_entropy, 2)


def test_news_breaks_off_the_wait_for_a_stage_that_never_comes(
    peers: list[Peer], store: str
) -> None:
    ann, bob, cy, _ = peers
    number = next(NUMBERS)
    begun = [
        peer.begin_and_wait(peer.road.form, number, ("ann", "bob", "cy"), peer.name, store)
        for peer in (ann, bob)
    ]
    for peer, waits in zip((ann, bob), begun, strict=True):
        peer.inbox.put(NEWS)
        with pytest.raises(Torn, match=f"the pipeline of term {number} was not formed"):
            waits.result(DEADLINE_S)
        assert peer.inbox.get(0) == NEWS
    form([ann, cy], store)  # although the abandoned calls still wait
    model = whole()
    check_equal([ann, cy], model, stages_of(model, 2), pairs(5))
    cy.road.form(number, ("ann", "bob", "cy"), "cy", store)  # ends what was abandoned


def test_a_stage_that_never_comes_is_given_up(
    peers: list[Peer], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "TIMEOUT_S", 0.02)
    with pytest.raises(Torn, match="the pipeline of term 500 was not formed"):
        peers[0].road.form(500, ("ann", "bob"), "ann", store)


@pytest.mark.parametrize("index", [0, 1])
def test_news_breaks_off_a_batch_with_a_silent_stage(
    peers: list[Peer], store: str, index: int
) -> None:
    team, model = peers[:2], whole()
    form(team, store)
    peer, stage = team[index], stages_of(model, 2)[index]
    begun = peer.begin_and_wait(peer.road.gradient, stage, *pairs(6), F.cross_entropy, 3)
    peer.inbox.put(Beat())  # news that can wait
    peer.inbox.put(NEWS)
    with pytest.raises(Torn, match="a new membership broke off the batch"):
        begun.result(DEADLINE_S)
    with pytest.raises(Torn, match="there is no pipeline"):
        peer.road.gradient(stage, *pairs(6), F.cross_entropy, 3)
    assert [peer.inbox.get(0), peer.inbox.get(0)] == [Beat(), NEWS]
    form(team, store)
    check_equal(team, model, stages_of(model, 2), pairs(7))


def test_a_stage_that_fails_tears_the_others_and_says_why(peers: list[Peer], store: str) -> None:
    team, model = peers[:3], whole()
    form(team, store)

    def fail(predictions: Tensor, targets: Tensor) -> Tensor:
        raise RuntimeError("a loss of the user's")

    ann, bob, cy = [
        peer.begin(peer.road.gradient, stage, *pairs(6), fail, 3)
        for peer, stage in zip(team, stages_of(model, 3), strict=True)
    ]
    with pytest.raises(RuntimeError, match="a loss of the user's"):
        cy.result(DEADLINE_S)
    for others in (ann, bob):
        with pytest.raises(Torn, match="a member left the pipeline"):
            others.result(DEADLINE_S)


class Returns(nn.Module):
    def __init__(self, *values: Any) -> None:
        super().__init__()
        self.values = values

    def forward(self, _: Tensor) -> tuple[Any, ...]:
        return self.values


@pytest.mark.parametrize(
    ("values", "found"),
    [((3,), "found int"), ((torch.ones(1, dtype=torch.complex64),), "found torch.complex64")],
)
def test_what_cannot_cross_is_refused(
    peers: list[Peer], store: str, values: tuple[Any, ...], found: str
) -> None:
    number = next(NUMBERS)
    results(begin_form(peers[:2], store, number))
    with pytest.raises(JobError, match=found):
        peers[0].road.gradient(Returns(*values), *pairs(2), F.cross_entropy, 1)


def test_too_much_to_announce_is_refused(peers: list[Peer], store: str) -> None:
    form(peers[:2], store)
    stage = Returns(*[torch.ones(1)] * 40)
    with pytest.raises(JobError, match=r"found 40, whose shapes take 162 numbers of 128"):
        peers[0].road.gradient(stage, *pairs(2), F.cross_entropy, 1)


@pytest.mark.parametrize("inputs", [None, torch.tensor(1.0), [], torch.ones(0, 4)])
def test_a_batch_without_samples_is_refused(peers: list[Peer], store: str, inputs: Any) -> None:
    form(peers[:1], store)
    with pytest.raises(JobError, match="expected tensors with samples along their first axis"):
        peers[0].road.gradient(whole(), inputs, None, F.cross_entropy, 2)


# -- members in processes of their own --------------------------------------------------------


class Killed(nn.Module):
    """The second micro-batch that it sees is its process's last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, value: Tensor) -> Tensor:
        self.seen += 1
        if self.seen == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return value


@contextmanager
def members(orders: Sequence[dict[str, Any]]) -> Iterator[list[subprocess.Popen[str]]]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    made = [
        subprocess.Popen([sys.executable, __file__, json.dumps(order)], env=env, text=True)
        for order in orders
    ]
    try:
        yield made
    finally:
        for process in made:
            process.kill()
            process.wait()


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[int]:
    return [process.wait(DEADLINE_S) for process in processes]


@pytest.mark.processes
@pytest.mark.slow
def test_two_teams_of_processes_compute_what_the_whole_model_does(
    store: str, tmp_path: Path
) -> None:
    number, teams = next(NUMBERS), {("ann", "bob"): 7, ("cy", "dan"): 9}
    orders = [
        {"number": number, "team": team, "me": me, "store": store, "size": size}
        | {"into": str(tmp_path / me)}
        for team, size in teams.items()
        for me in team
    ]
    with members(orders) as processes:
        assert finish(processes) == [0] * 4
    for team, size in teams.items():
        model = whole()
        F.cross_entropy(model(pairs(size).inputs), pairs(size).targets).backward()
        found = {k: v for me in team for k, v in load_file(tmp_path / me).items()}
        for index, parameter in enumerate(model.parameters()):
            torch.testing.assert_close(found[str(index)], parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.processes
@pytest.mark.slow
def test_the_death_of_a_member_tears_the_batch_and_another_takes_its_place(
    peers: list[Peer], store: str, tmp_path: Path
) -> None:
    ann, model = peers[0], whole()
    team, numbers = ("ann", "bob"), (next(NUMBERS), next(NUMBERS))
    orders = [
        {"number": number, "team": team, "me": "bob", "store": store, "size": 8}
        | {"into": str(tmp_path / str(number)), "dies": number == numbers[0]}
        for number in numbers
    ]
    stage, inputs = stages_of(model, 2)[0], pairs(8).inputs
    with members(orders) as (first, second):
        ann.road.form(numbers[0], team, "ann", store)
        with pytest.raises(Torn, match="a member left the pipeline"):
            ann.road.gradient(stage, inputs, None, F.cross_entropy, 4)
        ann.road.form(numbers[1], team, "ann", store)
        assert ann.road.gradient(stage, inputs, None, F.cross_entropy, 4) is None
        assert finish([first, second]) == [-signal.SIGKILL, 0]
    alone = whole()
    F.cross_entropy(alone(inputs), pairs(8).targets).backward()
    for mine, theirs in zip(stage.parameters(), alone.parameters(), strict=False):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    team, model = tuple(order["team"]), whole()
    index = team.index(order["me"])
    stage = stages_of(model, len(team))[index]
    if order.get("dies"):
        stage.append(Killed())
    road = PipelineTransport(HERE, Inbox())
    road.form(order["number"], team, order["me"], order["store"])
    inputs, targets = pairs(order["size"])
    first, last = index == 0, index == len(team) - 1
    road.gradient(stage, inputs if first else None, targets if last else None, F.cross_entropy, 4)
    grads = {str(i): p.grad for i, p in enumerate(model.parameters()) if p.grad is not None}
    save_file(grads, order["into"])
    sys.stdout.flush()
    os._exit(0)  # a destructor may wait for peers


if __name__ == "__main__":
    main()
