from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from coterie.agents.learner import Learner
from coterie.agents.loop import Loop
from coterie.agents.prepared import Things
from coterie.agents.rehearsal import setup_of

PAIRS = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)


class Outputs(nn.Module):
    """As a Hugging Face model: called by name, it answers with a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(x), "mask": x > 0}


class Odd(nn.Linear):
    """Called in a way that nobody can guess."""

    def forward(self, x: Tensor, *, wanted: int) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def rows(_: Any) -> dict[str, Tensor]:
    return {"x": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("model", "collate"), [(nn.Linear(3, 2), None), (Outputs(), rows), (Odd(3, 2), None)]
)
def test_a_copy_learns_something_and_leaves_the_model_as_it_is(
    model: nn.Module, collate: Any
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    things = Things(model, optimizer, DataLoader(PAIRS, batch_size=4, collate_fn=collate))
    loop = Loop(model, optimizer, batch=4)
    drawn = torch.random.get_rng_state()
    learner = Learner(setup_of("t", things, loop, seed=0))
    assert learner.model is model
    assert learner.optimizer is optimizer
    before_N = learner.vector()
    scratch = learner.scratch()
    scratch.step([0, 1])
    assert not torch.equal(scratch.vector(), before_N)
    assert torch.equal(learner.vector(), before_N)
    assert all(p.grad is None for p in model.parameters())
    assert learner.ready().batch == 4
    assert drawn.shape == torch.random.get_rng_state().shape
