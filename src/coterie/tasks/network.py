"""One model of several tasks: a shared trunk, private heads, and what their balance remembers.

A trunk is any module whose first dimension is that of the samples; cross-stitch units and mixtures
of experts are trunks that hold more than one way, and heads that choose among them.
Legend of shape suffixes: B samples, E experts, M tasks, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coterie.tasks.weighing import Memory


class Remembered(nn.Module):
    """What a balance remembers: parameters that are learned, and buffers that are not."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        for name, value in memory.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)
        self.names = tuple(memory)
        self.last: Any = None  # the last batch and its losses; not part of what is saved

    def read(self) -> Memory:
        """All that is remembered, by name."""
        return {name: getattr(self, name) for name in self.names}

    def write(self, memory: Memory) -> None:
        """Remember something else; what is learned is left to the optimizer."""
        for name in self.names:
            kept = getattr(self, name)
            if not isinstance(kept, nn.Parameter) and memory[name] is not kept:
                kept.copy_(memory[name].detach())


class Network(nn.Module):
    """A trunk with a head for each task; its parameters are trunk.*, heads.TASK.*, balance.*.

    >>> network = Network(nn.Linear(4, 3), {"digit": nn.Linear(3, 10)}, {})
    >>> network(torch.zeros(2, 4))["digit"].shape
    torch.Size([2, 10])
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module], memory: Memory) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(heads))
        self.balance = Remembered(memory)

    def forward(self, inputs: Any) -> dict[str, Any]:
        """The predictions of every task for the same inputs."""
        features = self.trunk(inputs)
        return {name: head(features) for name, head in self.heads.items()}

    def alone(self, name: str) -> nn.Module:
        """The trunk and one head as a model of one task; it shares their parameters."""
        return nn.Sequential(self.trunk, self.heads[name])


class Experts(nn.Module):
    """A trunk of E experts: the (B, E, D) outputs of all, with the inputs, for gates to weigh.

    Ma et al. 2018, Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts (MMoE). Each task's head is `Gated`.

    >>> experts = Experts([nn.Linear(4, 3), nn.Linear(4, 3)])
    >>> experts(torch.zeros(5, 4))[0].shape
    torch.Size([5, 2, 3])
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of all experts, and the inputs themselves."""
        return torch.stack([expert(inputs) for expert in self.experts], 1), inputs


class Gated(nn.Module):
    """A head on `Experts`: a mean of theirs, weighed by the task's own gate, and a tower on it.

    >>> head = Gated(4, 2, nn.Linear(3, 10))
    >>> head(Experts([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.zeros(5, 4))).shape
    torch.Size([5, 10])
    """

    def __init__(self, num_inputs: int, num_experts: int, tower: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(num_inputs, num_experts)
        self.tower = tower

    def forward(self, told: tuple[Tensor, Tensor]) -> Any:
        """The tower's predictions."""
        outputs_BED, inputs = told
        share_BE = self.gate(inputs.flatten(1)).softmax(1)
        return self.tower((share_BE[:, :, None] * outputs_BED).sum(1))


class CrossStitch(nn.Module):
    """A trunk of one column of layers for each of M tasks, mixed after every layer.

    Misra et al. 2016, Cross-Stitch Networks for Multi-task Learning: a learned (M, M) matrix mixes
    the columns' activations, and begins at `own` on its diagonal. Each task's head is `Picked`.
    `layers` make a fresh layer each time they are called.

    >>> trunk = CrossStitch(2, [lambda: nn.Linear(4, 3), lambda: nn.Linear(3, 3)])
    >>> trunk(torch.zeros(5, 4)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self, num_tasks: int, layers: Sequence[Callable[[], nn.Module]], own: float = 0.9
    ) -> None:
        super().__init__()
        self.columns = nn.ModuleList(
            nn.ModuleList(layer() for _ in range(num_tasks)) for layer in layers
        )
        others = (1 - own) / max(1, num_tasks - 1)
        mix_MM = torch.full((num_tasks, num_tasks), others).fill_diagonal_(own)
        self.stitches = nn.ParameterList(mix_MM.clone() for _ in layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """The activations of all columns after the last mixing, (B, M, ...)."""
        columns = [inputs] * len(self.stitches[0])
        for layers, mix_MM in zip(self.columns, self.stitches, strict=True):
            assert isinstance(layers, nn.ModuleList)
            made = torch.stack([layer(x) for layer, x in zip(layers, columns, strict=True)])
            columns = list(torch.einsum("ij,j...->i...", mix_MM, made))
        return torch.stack(columns, 1)


class Picked(nn.Module):
    """A head on one column of `CrossStitch`.

    >>> Picked(1, nn.Linear(3, 10))(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 10])
    """

    def __init__(self, column: int, tower: nn.Module) -> None:
        super().__init__()
        self.column = column
        self.tower = tower

    def forward(self, columns_BM: Tensor) -> Any:
        """The tower's predictions."""
        return self.tower(columns_BM[:, self.column])
