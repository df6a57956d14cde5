"""Modules with steps of their own, as Lightning has them; Lightning itself in tests/libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset

from coterie.errors import JobError
from coterie.specs import LightningSpec
from coterie.tasks.kinds import checked, from_spec
from coterie.tasks.lightning import Lightning, configured, scheduled


class LightningModule(nn.Module):
    """What modules inherit that do not say otherwise."""

    def log(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a trainer is asked")

    log_dict = log

    def on_train_start(self) -> None: ...

    def on_validation_epoch_end(self) -> None: ...

    def validation_step(self) -> None: ...


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        inputs, labels = batch
        loss = F.cross_entropy(self.inner(inputs), labels)
        self.log("train_loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels = batch
        scores = self.inner(inputs)
        right = (scores.argmax(dim=1) == labels).float().mean()
        self.log_dict({"val_loss": F.cross_entropy(scores, labels), "val_acc": right})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


class Scheduled(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        schedule = {"scheduler": StepLR(optimizer, 1, 0.1), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Two(Net):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([p], lr=0.1) for p in self.parameters()]


class Hooked(Net):
    def on_train_start(self) -> None: ...


class Manual(Net):
    automatic_optimization = False


class WithEnd(Net):
    def on_validation_epoch_end(self) -> None:
        self.log("seen", 7.0)


class Silent(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


INPUTS = torch.randn(700, 2, generator=torch.Generator().manual_seed(0))
PAIRS = TensorDataset(INPUTS, INPUTS.argmax(dim=1))


def train_set() -> TensorDataset:
    return PAIRS


def task(model: Callable[[], nn.Module] = Net, **changes: Any) -> Lightning:
    return Lightning(**{"name": "l", "model": model, "train": PAIRS, "test": PAIRS, **changes})


TWO = task(Two).build()  # alive as long as its parameters are asked about


def learn(one: Lightning, model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    one.loss(model, one.fetch(range(100))).backward()
    optimizer.step()


def test_its_step_is_descended_by_its_optimizer() -> None:
    one = checked(task())
    torch.manual_seed(0)
    model, plain = one.build(), Net()
    plain.load_state_dict(model.state_dict())
    learn(one, model, configured(list(model.parameters())))
    plain.log = lambda *_: None
    plain.training_step(one.fetch(range(100)).data, 0)["loss"].backward()
    plain.configure_optimizers().step()
    assert all(map(torch.equal, model.parameters(), plain.parameters()))


def test_scores_are_means_over_all_that_is_held_out() -> None:
    one = task(metrics=["val_acc"])
    model = one.build()
    scores = model.inner(INPUTS)
    told = one.score(model)
    assert told["val_acc"] == pytest.approx((scores.argmax(dim=1) == PAIRS[:][1]).float().mean())
    assert told["test_loss"] == pytest.approx(F.cross_entropy(scores, PAIRS[:][1]).item())
    assert model.training
    assert task(WithEnd, metrics=["seen"]).score(WithEnd())["seen"] == 7.0


def test_a_schedule_is_asked_for_or_refused() -> None:
    one = task(Scheduled)
    model = one.build()
    optimizer = configured(list(model.parameters()))
    with pytest.raises(JobError, match="the schedule that configure_optimizers returns"):
        learn(one, model, optimizer)
    with pytest.raises(JobError, match="of every epoch, found 1 × step"):
        scheduled(optimizer)
    schedule = functools.partial(scheduled, every="step")(optimizer)
    learn(one, model, optimizer)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: task(Hooked).build(), "training_step alone, found on_train_start in Hooked"),
        (lambda: task(Manual).build(), "automatic_optimization = False"),
        (lambda: task(lambda: nn.Linear(2, 2)).build(), "with training_step, found Linear"),
        (lambda: configured(list(TWO.parameters())), "one optimizer, found 2"),
        (lambda: configured([nn.Parameter(torch.ones(1))]), "parameters of a Lightning task"),
        (lambda: scheduled(torch.optim.SGD(Net().parameters())), "configured with a schedule"),
        (lambda: task(metrics=["f1"]).score(Net()), "to log f1, found val_loss, val_acc"),
        (lambda: task(Silent).score(Silent()), "to return its loss or to log it as val_loss"),
    ],
)
def test_what_needs_a_trainer_is_refused(ask: Callable[[], Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        ask()


def test_a_job_file_can_name_it() -> None:
    here = f"{__name__}:"
    spec = LightningSpec(model=f"{here}Net", train=f"{here}train_set", test=f"{here}train_set")
    assert spec.scores == ()
    assert from_spec("l", spec, ".").num_train == 700
