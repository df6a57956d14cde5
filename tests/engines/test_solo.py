"""One device is the plain torch loop, and a stopped run goes on as if it never stopped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset

from coterie.agents import checkpoint
from coterie.agents.learner import Setup
from coterie.agents.stream import Stream
from coterie.config import Job, Ref, TaskSpec
from coterie.coordinator.survival import LEAST_S
from coterie.engines.simulated import simulate
from coterie.engines.solo import Solo
from coterie.engines.writer import Writer
from coterie.errors import CheckpointError, TrainingError
from coterie.tasks.supervised import Supervised
from coterie.watch.events import audit, read
from coterie.world import Device, Link, World

NUM_TRAIN, BATCH = 30, 8
INPUTS = torch.randn(NUM_TRAIN, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS.sum(1) > 0).long()
SGD = functools.partial(torch.optim.SGD, lr=0.2, momentum=0.9)
ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(1) == targets).double().mean().item()


def setup(optimizer: Any = ADAM, inputs: Tensor = INPUTS, **options: Any) -> Setup:
    pairs = TensorDataset(inputs, TARGETS[: len(inputs)])
    model = options.pop("model", lambda: nn.Linear(4, 2))
    task = Supervised("t", model, pairs, pairs, metrics={"accuracy": accuracy})
    return Setup(task, optimizer, **options)


def job(until: dict[str, float], **given: Any) -> Job:
    spec = TaskSpec(
        model=Ref(call="m:n"),
        train=Ref(call="m:t"),
        test=Ref(call="m:t"),
        metrics={"accuracy": Ref(call="m:a")},
    )
    optimizer = Ref(call="torch.optim:Adam")
    return Job(name="s", task=spec, optimizer=optimizer, batch=BATCH, until=until, **given)


def solo(run: Path, until: dict[str, float], made: Setup | None = None, **given: Any) -> Solo:
    return Solo(job(until, **given), made or setup(), run, lambda event: None)


def plain_loop(made: Setup, num_epochs: int, end_epoch: Callable[..., None] | None) -> Tensor:
    torch.manual_seed(made.seed)
    model = made.task.build()
    optimizer = made.optimizer(list(model.parameters()))
    scheduler = made.scheduler(optimizer) if made.scheduler else None
    for data_epoch in range(num_epochs):
        order, loss_sum = Stream(NUM_TRAIN, 0).indices(data_epoch, [(0, NUM_TRAIN)]), 0.0
        for start in range(0, NUM_TRAIN, BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(INPUTS[batch]), TARGETS[batch])
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(batch)
        if end_epoch:
            end_epoch(scheduler, loss_sum / NUM_TRAIN)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.2, factor=0.5)


def halving(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.StepLR(optimizer, 1, 0.5)


def wet() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("made", "end_epoch"),
    [
        (setup(SGD), None),
        (setup(ADAM), None),
        (setup(SGD, model=wet), None),
        (setup(SGD, scheduler=halving), lambda scheduler, loss: scheduler.step()),
        (setup(SGD, scheduler=plateau), lambda scheduler, loss: scheduler.step(loss)),
    ],
    ids=["sgd", "adam", "dropout", "schedule", "plateau"],
)
def test_it_is_the_plain_torch_loop_bit_for_bit(
    tmp_path: Path, made: Setup, end_epoch: Callable[..., None] | None
) -> None:
    ran = solo(tmp_path, {"epochs": 5.0}, made)
    ran.train()
    assert torch.equal(ran.learner.vector(), plain_loop(made, 5, end_epoch))


@pytest.mark.parametrize(
    (
        "num_steps",
        "made",
    ),  # an epoch is 4 steps; the loss of a part of one is not that of the whole
    [
        *((num_steps, setup(SGD)) for num_steps in (1.0, 3.0, 4.0, 7.0, 8.0)),
        *((num_steps, setup(SGD, model=wet)) for num_steps in (1.0, 4.0, 7.0)),
        *((num_steps, setup(SGD, scheduler=plateau)) for num_steps in (4.0, 8.0)),
    ],
)
def test_stopped_and_resumed_equals_undisturbed_bit_for_bit(
    tmp_path: Path, num_steps: float, made: Setup
) -> None:
    undisturbed = solo(tmp_path / "whole", {"epochs": 4.0}, made)
    undisturbed.train()
    solo(tmp_path / "part", {"steps": num_steps}, made).train()
    then = solo(tmp_path / "part", {"epochs": 4.0}, made)
    then.restore(checkpoint.load(tmp_path / "part"))
    assert then.train()["steps"] == 16
    assert torch.equal(then.learner.vector(), undisturbed.learner.vector())


def test_every_checkpoint_on_the_way_leads_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one written just after an epoch's last step: that epoch is not learned again."""
    all_written = property(lambda writer: not all(map(Future.result, writer._pending)))
    monkeypatch.setattr(Writer, "busy", all_written)
    ran = solo(tmp_path, {"epochs": 3.0}, checkpoint_every_s=1e-9, keep_checkpoints=100)
    ran.train()
    points = sorted((tmp_path / "checkpoints").iterdir())
    assert len(points) == 12
    for number, point in enumerate(points):
        then = solo(tmp_path / str(number), {"epochs": 3.0})
        then.restore(checkpoint.load(point))
        assert then.train()["steps"] == 12
        assert torch.equal(then.learner.vector(), ran.learner.vector())


def test_a_checkpoint_tells_what_it_cost_and_that_decides_when_the_next_is_due(
    tmp_path: Path,
) -> None:
    ran = solo(tmp_path, {"steps": 2.0})
    assert ran.job.checkpoint_every_s == "auto"
    assert ran.save_every_s(ran.began_s) == LEAST_S  # the first is soon: it tells what saving costs
    ran.train()
    (saved,) = (event for event in read(tmp_path / "events.jsonl") if event["kind"] == "checkpoint")
    assert saved["pause_s"] == ran.save_cost_s > 0
    assert (saved["step"], saved["round"]) == (2, 2)
    assert saved["num_bytes"] > 0
    ran.save_cost_s = 0.05
    assert ran.save_every_s(ran.began_s) == pytest.approx((2 * 0.05 * 86_400) ** 0.5)


@pytest.mark.parametrize(
    ("until", "reached"),
    [
        ({"epochs": 2.0}, "epochs 2 reached 2"),
        ({"epochs": 1.5}, "reached 1.5"),
        ({"steps": 3.0}, "steps 3 reached 3"),
        ({"minutes": 1e-9}, "minutes"),
        ({"accuracy": 0.8}, "reached 0.8"),
        ({"accuracy": 2.0, "steps": 6.0}, "steps 6 reached 6"),
    ],
)
def test_it_ends_at_the_first_limit_reached_and_says_which(
    tmp_path: Path, until: dict[str, float], reached: str
) -> None:
    summary = solo(tmp_path, until).train()
    *_, last = read(tmp_path / "events.jsonl")
    assert last["kind"] == "stopped"
    assert reached in last["reason"]
    assert summary["metrics"].keys() == {"accuracy", "test_loss"}


def test_a_part_of_an_epoch_counts_for_what_it_is_after_a_resume(tmp_path: Path) -> None:
    solo(tmp_path, {"steps": 2.0}).train()  # 16 of 30 samples
    then = solo(tmp_path, {"epochs": 0.6})
    then.restore(checkpoint.load(tmp_path))
    assert then.train()["steps"] == 3


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    solo(tmp_path, {"steps": 2.0}).train()
    broken = INPUTS.clone()
    broken[Stream(NUM_TRAIN, 0).indices(0, [(20, 21)])] = float("nan")
    then = solo(tmp_path, {"epochs": 4.0}, setup(inputs=broken))
    then.restore(checkpoint.load(tmp_path))
    with pytest.raises(
        TrainingError, match="expected a finite loss, found nan at step 3"
    ) as caught:
        then.train()
    assert "step-2" in then.fail(str(caught.value))
    assert checkpoint.load(tmp_path).step == 2
    assert [e["kind"] for e in read(tmp_path / "events.jsonl")][-2:] == ["error", "stopped"]


def test_an_interruption_ends_at_the_next_step_and_is_resumable(tmp_path: Path) -> None:
    ran = solo(tmp_path, {"epochs": 9.0})
    step = ran.learner.step

    def stepped(indices: Any) -> float:
        ran.interrupted = ran.learner.num_steps == 4
        return step(indices)

    ran.learner.step = stepped  # type: ignore[method-assign]
    ran.train()
    assert checkpoint.load(tmp_path).step == 5
    assert read(tmp_path / "events.jsonl")[-1]["reason"] == "interrupted"


def test_the_model_it_leaves_is_one_that_torch_loads(tmp_path: Path) -> None:
    ran = solo(tmp_path, {"steps": 2.0})
    ran.train()
    model = nn.Linear(4, 2)
    model.load_state_dict(
        safetensors.torch.load(checkpoint.load(tmp_path).files["model.safetensors"])
    )
    assert torch.equal(model.weight, dict(ran.learner.model.named_parameters())["weight"])


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (setup(model=lambda: nn.Sequential(nn.Linear(4, 2))), "a checkpoint of another model"),
        (setup(SGD), "optimizer SGD, found that of Adam"),
        (setup(inputs=INPUTS[:20]), "expected the 30 training samples of the checkpoint, found 20"),
    ],
    ids=["model", "optimizer", "dataset"],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, made: Setup, sentence: str) -> None:
    solo(tmp_path, {"steps": 2.0}).train()
    with pytest.raises(CheckpointError, match=sentence):
        solo(tmp_path, {"steps": 4.0}, made).restore(checkpoint.load(tmp_path))


@pytest.mark.parametrize("strategy", ["all-reduce", "diloco-int8(2)"])
def test_a_run_of_many_goes_on_alone_and_no_sample_is_learned_twice(
    tmp_path: Path, strategy: str
) -> None:
    devices = (Device("a", 0.01, 0.01, 99), Device("b", 0.01, 0.02, 99))
    world = World(devices, (Link("a", "b", 1e-5, 1e9),), BATCH, NUM_TRAIN)
    many = simulate(job({"steps": 6.0}, strategy=strategy), setup(), world)
    point = many.checkpoints[-1]
    checkpoint.save(tmp_path, point.step, point.files, dict(point.meta))
    alone = solo(tmp_path, {"epochs": 3.0})
    alone.restore(checkpoint.load(tmp_path))
    assert torch.equal(alone.learner.vector(), many.workers["a"].learner.vector())
    learned = [span for s in alone.open.values() for span in s]
    assert alone.train()["epochs"] == 3
    committed = [e for e in many.events if e["kind"] == "committed"]
    rest = {"kind": "committed", "data_epoch": 1, "leases": {"agent-0": learned}}
    ends = [{"kind": "epoch", "data_epoch": epoch} for epoch in (0, 1)]
    run = {"kind": "run", "num_train": NUM_TRAIN}
    assert audit([run, *committed, rest, *ends]).is_exact
