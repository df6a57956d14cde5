"""What is prepared looks like what it stands for, and what cannot be shared is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from coterie.agents.loop import Loop
from coterie.agents.me import Alone
from coterie.agents.prepared import Schedule, Shares, Stepper, Things, fetched
from coterie.errors import JobError
from coterie.tasks.passes import Streamed as Numbered
from coterie.tasks.passes import Transformed

PAIRS = TensorDataset(torch.eye(6), torch.arange(6))


class Streamed(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class Columns:
    """As a Hugging Face dataset: numbered rows that are mappings, many at a time by column."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.eye(6)[index], "label": index}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def things(data: Any = PAIRS, **loading: Any) -> tuple[nn.Module, Any, DataLoader[Any]]:
    model = nn.Linear(6, 6)
    given = {"batch_size": 2, **loading}
    return model, torch.optim.SGD(model.parameters(), lr=1.0), DataLoader(data, **given)


def looped() -> tuple[Loop, torch.optim.Optimizer]:
    model, optimizer, _ = things()
    return Loop(model, optimizer, batch=2), optimizer


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (DataLoader(TensorDataset(torch.ones(0))), "to hold samples, found an empty dataset"),
        (DataLoader(Numbered(Streamed()), shuffle=True), "found a stream that the loader shuffles"),
        (DataLoader(Streamed(), batch_size=None), "batch_size and shuffle alone"),
        (DataLoader(PAIRS, sampler=WeightedRandomSampler([1.0] * 6, 6)), "WeightedRandomSampler"),
        (DataLoader(PAIRS, sampler=DistributedSampler(PAIRS, 2, 0)), "DistributedSampler"),
        (DataLoader(PAIRS, batch_sampler=[[0, 1], [2]]), "found list"),
        (DataLoader(PAIRS, batch_size=None), "batch_size and shuffle alone"),
    ],
)
def test_data_that_agents_cannot_share_is_refused(loader: Any, words: str) -> None:
    model, optimizer, _ = things()
    with pytest.raises(JobError, match=words):
        Things(model, optimizer, loader).checked()


def test_schedulers_that_agents_would_not_agree_on_are_refused() -> None:
    model, optimizer, loader = things()
    with pytest.raises(JobError, match="found ReduceLROnPlateau"):
        Things(model, optimizer, loader, ReduceLROnPlateau(optimizer)).checked()
    StepLR(optimizer, 1)
    with pytest.raises(JobError, match="found a scheduler that was not prepared"):
        Things(model, optimizer, loader).checked()


@pytest.mark.parametrize("extra", [nn.Linear(1, 1), torch.ones(1), DataLoader(PAIRS)])
def test_two_of_a_kind_and_other_things_are_refused(extra: Any) -> None:
    with pytest.raises(JobError, match=r"expected a model, its optimizers, .* found Linear, SGD"):
        Things.of((*things(), extra))


def test_a_compiled_model_has_the_parameters_of_the_one_it_was_made_of() -> None:
    model, optimizer, loader = things()
    assert Things(torch.compile(model), optimizer, loader).whole is model  # type: ignore[arg-type]


def test_rows_of_columns_are_collated_as_the_loader_does() -> None:
    batch = fetched(DataLoader(Columns(), batch_size=2), [3, 1])  # type: ignore[arg-type]
    assert batch["label"].tolist() == [3, 1]
    assert batch["x"].shape == (2, 6)


def test_a_loader_of_shares_has_the_steps_and_the_names_of_the_whole() -> None:
    loop, _ = looped()
    loader = things(batch_size=4)[2]
    shares = Shares(loader, loop, loop.turns.first, "cpu")
    assert len(shares) == 2
    assert shares.dataset is PAIRS


def test_a_prepared_optimizer_is_one_to_whoever_asks() -> None:
    loop, optimizer = looped()
    stepper = Stepper(optimizer, loop)
    StepLR(stepper, 1, 0.5).step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert stepper.param_groups is optimizer.param_groups
    state = stepper.state_dict()
    state["param_groups"][0]["lr"] = 0.25
    stepper.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == stepper.param_groups[0]["lr"] == 0.25
    called = []
    stepper.register_step_pre_hook(lambda *_: called.append(1))
    optimizer.step()
    assert called == [1]


def test_a_schedule_that_healed_goes_on_where_the_other_stood() -> None:
    loop, optimizer = looped()
    ahead = Schedule(StepLR(optimizer, 1, 0.5), loop)
    loop.is_in_pass = True
    for _ in range(3):
        ahead.step()
        ahead.call()
    other_loop, other = looped()
    behind = Schedule(StepLR(other, 1, 0.5), other_loop)
    behind.load_state_dict(ahead.state_dict())
    other.load_state_dict(optimizer.state_dict())
    behind.step()
    ahead.step()
    assert behind.inner.get_last_lr() == ahead.inner.get_last_lr() == [0.5**4]


def test_a_stream_is_shared_by_its_samples_numbers() -> None:
    model, optimizer, _ = things()
    streamed = Things(model, optimizer, DataLoader(Streamed(), batch_size=2)).checked()
    loop, _ = looped()
    shares = Shares(streamed.loader, loop, loop.turns.first, "cpu", streamed.samples)
    assert len(shares) == 2
    assert fetched(streamed.loader, [2, 3 + 0], streamed.samples).tolist() == [2, 0]


def test_alone_a_dataset_that_differs_from_pass_to_pass_is_told_each() -> None:
    noisy = Transformed(torch.zeros(4, 1), lambda value: value + torch.rand(1))
    loader = Alone().prepare(*things()[:2], DataLoader(noisy, batch_size=4))[2]
    (first,), (second,) = loader, loader
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.stack([noisy[i - 4] for i in range(4)]))  # of the pass before
