"""What each layer of a model costs, where it is a chain: measured on a copy, for a planner of cuts.

A layer is a module with something to learn, with whatever runs after it and learns nothing. It is
run as the stage of a pipeline would be, so that what is measured is what would be done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.agents import effects as do
from coterie.agents.learner import Learner
from coterie.agents.stages import Stage
from coterie.tasks.base import StagedTask

LEAST_BYTES = 4 << 20  # of parameters: a smaller model is sooner sent whole
MOST_LAYERS = 24  # more are taken several at a time
NUM_PASSES = 3

Figures = tuple[str, float, int, float, float]  # of a world's `Layer`


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Where layers begin, as far as the model's containers tell; at most 24.

    >>> body = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> layer_names(nn.ModuleDict({"body": body, "head": nn.Linear(2, 1)}))
    ('body.0', 'body.2', 'head')
    """
    names = tuple(_blocks(model, ""))
    num = min(MOST_LAYERS, len(names))
    return tuple(names[i * len(names) // num] for i in range(num))


def measure_layers(learner: Learner, indices: Sequence[int]) -> do.Life[tuple[Figures, ...]]:
    """Name, seconds, bytes of parameters, kept and sent, of each layer and a sample.

    Nothing for a model that is no chain, that is small, or that would learn something else in a
    pipeline. The learner must be a scratch copy: gradients are left in it.
    """
    names = layer_names(learner.model)
    stages = yield do.Compute(lambda: _stages(learner, names, indices), (len(indices),))
    if not stages:
        return ()
    held_bytes: list[int] = []
    sent_bytes: list[int] = []
    taken: list[list[float]] = []
    for _ in range(NUM_PASSES):
        held_bytes, sent_bytes, seconds = yield from _pass(learner, stages, indices)
        taken.append(seconds)
    parameters = dict(learner.model.named_parameters())
    return tuple(
        (
            name,
            median(each[at] for each in taken) / len(indices),
            sum(_num_bytes(parameters[key]) for key in stages[at].names),
            held_bytes[at] / len(indices),
            sent_bytes[at] / len(indices),
        )
        for at, name in enumerate(names)
    )


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child, f"{prefix}{name}.")
        elif any(p.requires_grad for p in child.parameters()):
            yield prefix + name


def _stages(learner: Learner, names: tuple[str, ...], indices: Sequence[int]) -> tuple[Stage, ...]:
    """The model in its layers, which have run once and are warm; none where they do not."""
    large = sum(map(_num_bytes, learner.model.parameters())) >= LEAST_BYTES
    if not large or len(names) < 2 or not _learns_alike(learner):
        return ()
    try:
        stages = learner.stages(names[1:])
        rehearsal = _pass(learner, stages, indices)
        answer: Any = None
        while True:
            effect = rehearsal.send(answer)
            answer = effect.run() if isinstance(effect, do.Compute) else 0.0
    except StopIteration:
        return stages
    except Exception:  # whatever keeps a user's model from running so, it can be learned whole
        return ()


def _learns_alike(learner: Learner) -> bool:
    """Whether a pipeline would learn what the whole model learns.

    Not where the task computes its loss in a way of its own, the optimizer asks for it again, or
    a norm looks at its batch, of which it would see parts.
    """
    return (
        isinstance(learner.task, StagedTask)
        and learner.task.in_stages
        and not learner.needs_closure
        and not any(isinstance(each, _BatchNorm) for each in learner.model.modules())
    )


def _pass(
    learner: Learner, stages: Sequence[Stage], indices: Sequence[int]
) -> do.Life[tuple[list[int], list[int], list[float]]]:
    """One batch through all stages and back: bytes kept and sent, and seconds, of each."""
    inputs, targets = learner.task.fetch(indices).data
    arrived: list[tuple[Any, ...]] = [(inputs,)]
    left: list[tuple[Any, ...]] = []
    kept_bytes: list[int] = []
    seconds = [0.0] * len(stages)
    for at, stage in enumerate(stages):
        began_s = yield do.Now()
        made, num_bytes = yield do.Compute(
            lambda stage=stage, given=arrived[-1]: _forward(learner, stage, given),  # type: ignore[misc]
            (len(indices),),
        )
        seconds[at] += (yield do.Now()) - began_s
        kept_bytes.append(num_bytes)
        left.append(made if isinstance(made, tuple) else (made,))
        arrived.append(tuple(_leaf(value) for value in left[-1]))
    loss = learner.criterion(left[-1][0], targets)
    left[-1] = (loss,)
    gradients: tuple[Any, ...] = (torch.ones_like(loss),)
    for at in reversed(range(len(stages))):
        began_s = yield do.Now()
        yield do.Compute(
            lambda out=left[at], back=gradients: _backward(out, back),  # type: ignore[misc]
            (len(indices),),
        )
        seconds[at] += (yield do.Now()) - began_s
        gradients = tuple(getattr(value, "grad", None) for value in arrived[at])
    sent_bytes = [sum(map(_num_bytes, values)) for values in left]
    return kept_bytes, sent_bytes, seconds


def _forward(learner: Learner, stage: Stage, given: tuple[Any, ...]) -> tuple[Any, int]:
    """What a stage makes, and the bytes that it keeps for the way back, parameters left out."""
    own = {parameter.data_ptr() for parameter in stage.module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = _num_bytes(tensor)
        return tensor

    # A leaf may not be changed in place, which is how many a stage begins.
    inputs = [v.clone() if isinstance(v, Tensor) and v.requires_grad else v for v in given]
    with learner.draws, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = stage.module(*inputs)
    _settle(made)
    return made, sum(kept.values())


def _backward(made: tuple[Any, ...], gradients: tuple[Any, ...]) -> None:
    pairs = [
        (value, torch.zeros_like(value) if gradient is None else gradient)
        for value, gradient in zip(made, gradients, strict=True)
        if isinstance(value, Tensor) and value.requires_grad
    ]
    torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])
    _settle(gradients)


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().requires_grad_(value.requires_grad)


def _settle(values: Any) -> None:
    """Wait for an accelerator, whose clock is not ours."""
    first = values[0] if isinstance(values, tuple) else values
    if isinstance(first, Tensor) and first.device.type != "cpu":
        torch.accelerator.synchronize(first.device)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
