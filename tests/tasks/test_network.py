"""Trunks with more than one way, and the heads that choose among them."""

from __future__ import annotations

import torch
from torch import nn

from coterie.tasks.network import CrossStitch, Experts, Gated, Network, Picked, Remembered

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def test_one_expert_is_a_plain_trunk() -> None:
    expert, tower = nn.Linear(4, 3), nn.Linear(3, 2)
    network = Network(Experts([expert]), {"a": Gated(4, 1, tower)}, {})
    torch.testing.assert_close(network(X)["a"], tower(expert(X)))
    names = [name for name, _ in network.named_parameters()]
    assert {n.split(".")[0] for n in names if "gate" in n} == {"heads"}  # gates are private


def test_a_gate_of_zeros_takes_the_mean_of_experts() -> None:
    experts, head = [nn.Linear(4, 3), nn.Linear(4, 3)], Gated(4, 2, nn.Identity())
    nn.init.zeros_(head.gate.weight)
    nn.init.zeros_(head.gate.bias)
    mean = (experts[0](X) + experts[1](X)) / 2
    torch.testing.assert_close(head(Experts(experts)(X)), mean)


def test_columns_that_are_not_stitched_are_models_of_their_own() -> None:
    trunk = CrossStitch(2, [lambda: nn.Linear(4, 3), nn.ReLU, lambda: nn.Linear(3, 3)], own=1.0)
    for column in range(2):
        plain = nn.Sequential(*[layers[column] for layers in trunk.columns])
        torch.testing.assert_close(Picked(column, nn.Identity())(trunk(X)), plain(X))


def test_a_stitch_lets_one_task_s_loss_reach_the_other_s_column() -> None:
    trunk = CrossStitch(2, [lambda: nn.Linear(4, 3)])
    trunk(X)[:, 0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trunk.columns.parameters())
    assert trunk.stitches[0].tolist()[0][0] > trunk.stitches[0].tolist()[0][1]


def test_what_is_learned_is_not_overwritten_by_what_is_remembered() -> None:
    memory = {"s": nn.Parameter(torch.zeros(2)), "seen": torch.zeros(2)}
    remembered = Remembered(memory)
    remembered.write({"s": torch.ones(2), "seen": torch.ones(2)})
    assert remembered.s.tolist() == [0, 0]
    assert remembered.state_dict()["seen"].tolist() == [1, 1]
