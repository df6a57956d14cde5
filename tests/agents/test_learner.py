"""A learner is the plain torch loop, whole or in halves: gradient here, step there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset

from coterie.agents.learner import Learner, Setup
from coterie.agents.state import pack_state, unpack_state
from coterie.errors import CheckpointError, TrainingError
from coterie.tasks.supervised import Supervised

INPUTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(5))
TARGETS = (INPUTS.sum(1) > 0).long()
PAIRS = TensorDataset(INPUTS, TARGETS)
BATCHES = [[0, 1, 2, 3], [7, 5, 4], [9, 11, 10, 8, 20], [1, 3]]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def setup(optimizer: Callable[..., optim.Optimizer], **options: Any) -> Setup:
    model = options.pop("model", net)
    return Setup(Supervised("t", model, PAIRS, PAIRS), optimizer, **options)


def loop(
    made: Setup, num_epochs: int = 1, end_epoch: Any = None, end_step: Any = None
) -> nn.Module:
    """What a reader of the torch tutorials would write."""
    torch.manual_seed(made.seed)
    model = made.task.build()
    optimizer = made.optimizer(list(model.parameters()))
    scheduler = made.scheduler(optimizer) if made.scheduler else None
    for _ in range(num_epochs):
        losses = []
        for batch in BATCHES:

            def closure(batch: list[int] = batch) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(INPUTS[batch]), TARGETS[batch])
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())  # type: ignore[arg-type, union-attr]
            if end_step:
                end_step(scheduler)
        if end_epoch:
            end_epoch(scheduler, sum(losses) / len(losses))
    return model


OPTIMIZERS = {
    "SGD": functools.partial(optim.SGD, lr=0.1),
    "Nesterov": functools.partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": functools.partial(optim.Adam, lr=0.05),
    "AdamW": functools.partial(optim.AdamW, lr=0.05, weight_decay=0.1),
    "RMSprop": functools.partial(optim.RMSprop, lr=0.01),
    "Adagrad": functools.partial(optim.Adagrad, lr=0.1),
    "Rprop": functools.partial(optim.Rprop, lr=0.01),
    "NAdam": functools.partial(optim.NAdam, lr=0.01),
}
CLOSURES = {
    "LBFGS": functools.partial(optim.LBFGS, lr=0.1, max_iter=4),
    "LBFGS-wolfe": functools.partial(optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"),
}


def same(learner: Learner, model: nn.Module) -> bool:
    theirs = model.state_dict()
    return all(torch.equal(mine, theirs[name]) for name, mine in learner.weights().items())


@pytest.mark.parametrize("name", [*OPTIMIZERS, *CLOSURES])
def test_a_step_is_that_of_the_plain_torch_loop(name: str) -> None:
    made = setup({**OPTIMIZERS, **CLOSURES}[name])
    learner = Learner(made)
    for batch in BATCHES:
        learner.step(batch)
    assert same(learner, loop(made))
    assert learner.num_steps == len(BATCHES)
    assert learner.needs_closure == (name in CLOSURES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradient_then_apply_is_a_step(name: str) -> None:
    whole, halves = Learner(setup(OPTIMIZERS[name])), Learner(setup(OPTIMIZERS[name]))
    for batch in BATCHES:
        loss = whole.step(batch)
        told, gradient_N = halves.gradient(batch)
        halves.apply(gradient_N)
        assert told == loss
    assert torch.equal(whole.vector(), halves.vector())
    assert same(halves, whole.model)


SCHEDULERS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=20),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 7),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_per_step_is_that_of_the_plain_loop(name: str) -> None:
    made = setup(OPTIMIZERS["Nesterov"], scheduler=SCHEDULERS[name], scheduler_every="step")
    learner = Learner(made)
    for data_epoch in range(2):
        learner.end_epoch(data_epoch, None)
        for batch in BATCHES:
            learner.step(batch)
    assert same(learner, loop(made, 2, end_step=lambda scheduler: scheduler.step()))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedule_per_epoch_is_that_of_the_plain_loop(name: str) -> None:
    made = setup(OPTIMIZERS["Nesterov"], scheduler=SCHEDULERS[name])
    learner = Learner(made)
    for data_epoch in range(3):
        learner.end_epoch(data_epoch, 1.0)
        for batch in BATCHES:
            learner.step(batch)
    assert same(learner, loop(made, 3, end_epoch=lambda scheduler, loss: scheduler.step()))


def test_reduce_on_plateau_reads_the_loss_of_the_epoch_before() -> None:
    def plateau(optimizer: optim.Optimizer) -> Any:
        return lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, factor=0.5)

    made = setup(OPTIMIZERS["SGD"], scheduler=plateau)
    learner, epoch_loss = Learner(made), None
    rates = []
    for data_epoch in range(4):
        learner.end_epoch(data_epoch, epoch_loss)
        rates.append(learner.optimizer.param_groups[0]["lr"])
        losses = [learner.step(batch) for batch in BATCHES]
        epoch_loss = sum(losses) / len(losses)
    assert same(learner, loop(made, 4, end_epoch=lambda scheduler, loss: scheduler.step(loss)))
    assert rates[0] > rates[-1]


def test_epochs_that_were_skipped_move_the_schedule_once_each() -> None:
    learner = Learner(setup(OPTIMIZERS["SGD"], scheduler=SCHEDULERS["StepLR"]))
    learner.optimizer.step()
    learner.end_epoch(3, None)
    learner.end_epoch(2, None)  # what is left of an earlier epoch does not turn it back
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_equal_seeds_start_from_equal_weights() -> None:
    a, b, other = (Learner(setup(OPTIMIZERS["SGD"], seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(a.vector(), b.vector())
    assert not torch.equal(a.vector(), other.vector())


def test_place_is_the_inverse_of_vector() -> None:
    learner = Learner(setup(OPTIMIZERS["SGD"]))
    wanted_N = torch.arange(float(learner.layout.size))
    learner.place(wanted_N)
    assert torch.equal(learner.vector(), wanted_N)


def test_what_is_frozen_neither_travels_nor_moves() -> None:
    def model() -> nn.Module:
        made = net()
        made[0].requires_grad_(False)  # type: ignore[index]
        return made

    learner = Learner(setup(OPTIMIZERS["SGD"], model=model))
    before = learner.weights()
    _, gradient_N = learner.gradient(BATCHES[0])
    learner.apply(gradient_N)
    after = learner.weights()
    assert gradient_N.numel() == learner.layout.size < sum(w.numel() for w in before.values())
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])


def test_float64_parameters_travel_in_float64() -> None:
    learner = Learner(setup(OPTIMIZERS["SGD"], model=lambda: nn.Linear(3, 2)))
    assert learner.vector().dtype == learner.gradient([0])[1].dtype == torch.float32
    learner.model.double()
    assert learner.vector().dtype == torch.float64


def test_a_scratch_copy_leaves_weights_and_random_state_untouched() -> None:
    learner = Learner(setup(OPTIMIZERS["Adam"]))
    learner.step(BATCHES[0])
    before, random_before = learner.weights(), torch.get_rng_state()
    scratch = learner.scratch()
    scratch.step(BATCHES[1])
    assert torch.equal(torch.get_rng_state(), random_before)
    assert same(learner, learner.model)
    assert all(torch.equal(before[name], value) for name, value in learner.weights().items())
    assert not torch.equal(scratch.vector(), learner.vector())


@pytest.mark.parametrize("name", [*OPTIMIZERS, *CLOSURES])
def test_a_restored_learner_goes_on_as_if_undisturbed(name: str) -> None:
    optimizer = {**OPTIMIZERS, **CLOSURES}[name]
    made = setup(optimizer, scheduler=SCHEDULERS["OneCycleLR"], scheduler_every="step")
    if name in ("Adagrad", "Rprop", *CLOSURES):
        made = setup(optimizer)  # no momentum to cycle
    first, second = Learner(made), Learner(made)
    for batch in BATCHES[:2]:
        first.step(batch)
    second.restore(first.weights(), unpack_state(pack_state(first.private())))
    for batch in BATCHES[2:]:
        first.step(batch)
        second.step(batch)
    assert same(second, first.model)
    assert second.num_steps == first.num_steps


def test_another_model_is_refused_by_its_first_difference() -> None:
    first = Learner(setup(OPTIMIZERS["SGD"]))
    other = Learner(setup(OPTIMIZERS["SGD"], model=lambda: nn.Sequential(nn.Linear(3, 2))))
    with pytest.raises(
        CheckpointError, match=r"expected 0.weight of shape \(2, 3\), found \(4, 3\)"
    ):
        other.restore(first.weights(), first.private())


@pytest.mark.parametrize(("written", "read"), [("SGD", "Adam"), ("Adam", "SGD"), ("Adam", "AdamW")])
def test_another_optimizer_is_refused_before_anything_changed(written: str, read: str) -> None:
    first, other = Learner(setup(OPTIMIZERS[written])), Learner(setup(OPTIMIZERS[read], seed=9))
    first.step(BATCHES[0])
    before_N = other.vector()
    with pytest.raises(CheckpointError, match=f"optimizer {read}, found that of {written}; resume"):
        other.restore(first.weights(), first.private())
    assert torch.equal(other.vector(), before_N)


def test_a_loss_that_is_not_finite_ends_it_before_the_step() -> None:
    learner = Learner(setup(OPTIMIZERS["SGD"]))
    learner.place(learner.vector() * float("nan"))
    for act in (learner.step, learner.gradient):
        with pytest.raises(TrainingError, match="found nan at step 1; lower the learning rate"):
            act(BATCHES[0])
    assert learner.num_steps == 0
