"""Which task hurts which: on tasks made to help, to hurt and to leave in peace."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from coterie.tasks import MultiTask, Supervised, Table
from coterie.tasks.interference import interference

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
TABLE = Table(
    INPUTS,
    {"up": INPUTS[:, :1], "again": 2 * INPUTS[:, :1], "down": -INPUTS[:, :1], "far": INPUTS[:, 3:]},
)


def one() -> nn.Module:
    """A head that every task has alike, so that the trunk alone can please or fail them."""
    head = nn.Linear(1, 1, bias=False)
    nn.init.ones_(head.weight)
    return head


def trunk() -> nn.Module:
    layer = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.weight[:, 1], 0.1)
    return layer


def test_kin_help_opposites_hurt_and_the_model_is_left_as_it_was() -> None:
    tasks = [Supervised(name, one, TABLE, TABLE, loss=F.mse_loss) for name in TABLE.answers]
    multi = MultiTask("four", trunk, tasks)
    model = multi.build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = interference(multi, model, torch.Generator().manual_seed(1), size=64)
    up, again, down, far = range(4)
    assert found.cosine[up][again] > 0.9
    assert found.cosine[up][down] < -0.9
    assert abs(found.cosine[up][far]) < 0.5
    assert found.gain[up][again] > 0 > found.gain[up][down]
    assert min(found.gain[i][i] for i in range(4)) > 0
    assert next(found.lines()).split()[1] == "hurts"
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
