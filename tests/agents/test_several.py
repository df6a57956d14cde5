"""Several optimizers on one backward pass are one; on passes of their own they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from coterie.agents.loop import Loop
from coterie.agents.prepared import Things, steppers
from coterie.agents.several import Several, Together, parts_of
from coterie.errors import JobError, TrainingError


def ends() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    parts: list[torch.optim.Optimizer] = [
        torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9),
        torch.optim.AdamW(model[1].parameters(), lr=0.01),
    ]
    return model, parts


def loss_of(model: nn.Module) -> Tensor:
    return (model(torch.ones(4, 2, dtype=torch.float64)) ** 2).mean()


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_as_one_they_step_as_each_by_itself() -> None:
    one, other = ends(), ends()
    several = Several(one[1])
    for _ in range(3):
        for model, optimizers in ((one[0], [several]), (other[0], other[1])):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss_of(model).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert torch.equal(vector(one[0]), vector(other[0]))
    fresh = Several(ends()[1])
    fresh.load_state_dict(several.state_dict())
    assert str(fresh.state_dict()) == str(several.state_dict())
    several.state.clear()
    assert not any(part.state for part in parts_of(several))


def test_states_of_others_and_parameters_in_two_of_them_are_refused() -> None:
    model, parts = ends()
    with pytest.raises(ValueError, match="0 states for 2 optimizers"):
        Several(parts).load_state_dict({"parts": []})
    with pytest.raises(JobError, match="found one that is in two of them"):
        Several([*parts, torch.optim.SGD(model.parameters())])


class Loops:
    """A loop that only notes what it is handed."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.handed = model, list[list[Tensor]]()
        self.order: object = "batch 0"

    def step(self) -> None:
        self.handed.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])


def prepared() -> tuple[nn.Module, Any, list[Any]]:
    model, parts = ends()
    loop: Any = Loops(model)
    things = Things.of((model, *parts, DataLoader([1.0, 2.0])))
    stands_for = steppers(things, loop)
    return model, loop, [stands_for[id(part)] for part in parts]


def apart(model: nn.Module, first: Any, second: Any) -> None:
    first.zero_grad()
    second.zero_grad()
    loss_of(model).backward()
    first.step()
    second.step()


def interleaved(model: nn.Module, first: Any, second: Any) -> None:
    loss_of(model).backward()
    first.step()
    first.zero_grad()  # of what is still to be stepped on
    second.step()
    second.zero_grad()


def scaled(model: nn.Module, first: Any, second: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for optimizer in (first, second):
        optimizer.zero_grad()
    scaler.scale(loss_of(model)).backward()
    scaler.step(first)
    scaler.step(second)


@pytest.mark.parametrize("script", [apart, interleaved, scaled])
def test_the_step_is_the_group_s_once_all_were_told(script: Callable[..., None]) -> None:
    model, loop, (first, second) = prepared()
    for _ in range(2):
        script(model, first, second)
    assert [len(gradients) for gradients in loop.handed] == [4, 4]
    fresh, _ = ends()
    loss_of(fresh).backward()
    for handed in loop.handed:
        assert all(torch.equal(a, p.grad) for a, p in zip(handed, fresh.parameters(), strict=True))


def alternating(model: nn.Module, first: Any, second: Any) -> None:
    for optimizer in (first, second):  # as a GAN: each on a backward pass of its own
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def twice(model: nn.Module, first: Any, second: Any) -> None:
    loss_of(model).backward()
    first.step()
    first.step()


@pytest.mark.parametrize("script", [alternating, twice])
def test_a_loop_that_steps_them_one_by_one_is_refused(script: Callable[..., None]) -> None:
    model, loop, (first, second) = prepared()
    with pytest.raises(TrainingError, match=r"after one backward pass, .* as that of a GAN"):
        script(model, first, second)
    assert not loop.handed


def test_a_batch_that_a_scaler_drops_half_way_is_forgotten() -> None:
    model, loop, (first, second) = prepared()
    loss_of(model).backward()
    first.step()  # the other one's gradient was not finite
    loop.order = "batch 1"
    apart(model, first, second)
    assert len(loop.handed) == 1


def test_closures_are_refused() -> None:
    _, _, (first, _) = prepared()
    with pytest.raises(TrainingError, match="without closures where there are several"):
        first.step(lambda: 0.0)


def test_each_looks_like_what_it_stands_for() -> None:
    model, parts = ends()
    loop = Loop(model, Several(parts), batch=1)
    together = Together(model, loop, len(parts))
    assert not together.told
    stands_for = steppers(Things(model, Several(parts), DataLoader([1.0])), loop)
    first = stands_for[id(parts[0])]
    assert first.param_groups[0]["momentum"] == 0.9
    assert isinstance(first, torch.optim.Optimizer)
    assert str(first.state_dict()) == str(parts[0].state_dict())
