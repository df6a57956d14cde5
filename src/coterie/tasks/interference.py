"""Which task hurts which on their shared trunk, measured and not supposed.

Legend of shape suffixes: N values of the trunk, M tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie.tasks.multitask import MultiTask
from coterie.tasks.network import Network
from coterie.tasks.samples import device_of, evaluating, to_device


@dataclass(frozen=True)
class Interference:
    """What every two tasks mean to one another; NaN where no batch held samples of both.

    `cosine[i][j]` is that of their gradients on the trunk. `gain[i][j]` is the part of task j's
    loss that a step for task i takes away, below zero where it adds to it.

    >>> found = Interference(("a", "b"), ((1.0, -0.5), (-0.5, 1.0)), ((0.1, -0.02), (0.03, 0.2)))
    >>> print(*found.lines(), sep="\\n")
    a hurts b: a step for a raises b's loss by 2.0 % (cosine -0.50)
    b helps a: a step for b lowers a's loss by 3.0 % (cosine -0.50)
    """

    names: tuple[str, ...]
    cosine: tuple[tuple[float, ...], ...]
    gain: tuple[tuple[float, ...], ...]

    def lines(self) -> Iterator[str]:
        """Every pair in a sentence, the most hurt first."""
        every = range(len(self.names))
        pairs = [(i, j) for i in every for j in every if i != j]
        known = [(i, j) for i, j in pairs if self.gain[i][j] == self.gain[i][j]]
        for i, j in sorted(known, key=lambda pair: self.gain[pair[0]][pair[1]]):
            one, other, gain = self.names[i], self.names[j], self.gain[i][j]
            verb, moves = ("hurts", "raises") if gain < 0 else ("helps", "lowers")
            yield (
                f"{one} {verb} {other}: a step for {one} {moves} {other}'s loss by "
                f"{abs(gain):.1%} (cosine {self.cosine[i][j]:.2f})".replace("%", " %")
            )


def interference(
    task: MultiTask,
    model: nn.Module,
    rng: torch.Generator,
    size: int = 256,
    num_batches: int = 8,
    reach: float = 0.01,
) -> Interference:
    """The mean over batches drawn by `rng` of what tasks do to one another; the model is left so.

    Gradients are compared as by Yu et al. 2020, and looked ahead of as by Fifty et al. 2021,
    Efficiently Identifying Task Groupings (TAG), but on steps of one length for every task:
    `reach` times the trunk's own, or the task of the largest loss would look the most harmful.
    """
    assert isinstance(model, Network)
    trunk = [p for p in model.trunk.parameters() if p.requires_grad]
    cosines, gains = [], []
    with evaluating(model), torch.enable_grad():
        for _ in range(num_batches):
            batch = task.sample(model, rng, size)
            groups = to_device(batch.data, device_of(model))
            told = task.parts(model, groups, batch.size)
            losses = {name: part.loss for name, part in told.items()}
            rows = {name: _flat(loss, trunk) for name, loss in losses.items()}
            gain = {}
            for name, row_N in rows.items():
                with _stepped(trunk, row_N, reach) as moved, torch.no_grad():
                    after = task.parts(model, groups, batch.size) if moved else told
                gain[name] = {n: 1 - float(after[n].loss / losses[n].detach()) for n in losses}
            gains.append(_square(task, gain))
            cosines.append(_square(task, {n: _cosines(rows, row_N) for n, row_N in rows.items()}))
    return Interference(tuple(task.tasks), _mean(cosines), _mean(gains))


class _stepped:
    """The trunk a step along a direction, and afterwards where it was to the bit."""

    def __init__(self, trunk: list[nn.Parameter], row_N: Tensor, reach: float) -> None:
        self.trunk, self.row_N, self.reach = trunk, row_N, reach
        self.before = [p.detach().clone() for p in trunk]

    def __enter__(self) -> bool:
        length = float(self.row_N.norm())
        if not length:
            return False
        size = float(torch.cat([p.reshape(-1) for p in self.before]).norm())
        parts = self.row_N.split_with_sizes([p.numel() for p in self.trunk])
        with torch.no_grad():
            for parameter, part in zip(self.trunk, parts, strict=True):
                parameter.sub_(part.view_as(parameter), alpha=self.reach * size / length)
        return True

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for parameter, before in zip(self.trunk, self.before, strict=True):
                parameter.copy_(before)


def _flat(loss: Tensor, trunk: list[nn.Parameter]) -> Tensor:
    slopes = torch.autograd.grad(loss, trunk, retain_graph=True, materialize_grads=True)
    return torch.cat([slope.reshape(-1) for slope in slopes])


def _cosines(rows: Mapping[str, Tensor], row_N: Tensor) -> dict[str, float]:
    return {n: float(torch.cosine_similarity(row_N, other, dim=0)) for n, other in rows.items()}


def _square(task: MultiTask, found: Mapping[str, Mapping[str, float]]) -> Tensor:
    nan = float("nan")
    return torch.tensor(
        [[found.get(i, {}).get(j, nan) for j in task.tasks] for i in task.tasks],
        dtype=torch.float64,
    )


def _mean(squares: list[Tensor]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, torch.stack(squares).nanmean(0).tolist()))
