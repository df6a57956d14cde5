"""A model cut into stages that run one after another, each on a machine of its own.

The forward pass is read by torch.fx only as deep as the cuts lie; whatever holds no cut stays one
opaque call, so that it may branch as it likes, and a stage works at any size of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from coterie.errors import JobError

NUM_NAMED = 12  # cuts that an error proposes


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage: a module that is called with what the stage before it returned.

    `names` are its trainable parameters, as the model names them; the parameters and `buffers` are
    the model's own, not copies. All but the last return a tuple of tensors.
    """

    module: nn.Module
    names: tuple[str, ...]
    buffers: tuple[str, ...]


def split(model: nn.Module, cuts: Sequence[str], example: Any) -> tuple[Stage, ...]:
    """The len(cuts) + 1 stages of a model; each cut names the module that begins a later stage.

    `example` is a micro-batch of inputs, on which the stages are proven. Raises JobError for cuts
    that are missing, out of order, or that leave a stage nothing to learn, for a parameter that
    two stages share, and for anything but tensors between stages. Stages as in GPipe (2019); a
    BatchNorm sees one micro-batch at a time, as there.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [stage.names for stage in split(model, ["2"], torch.ones(1, 4))]
    [('0.weight', '0.bias'), ('2.weight', '2.bias')]
    """
    stages = tuple(_stage(model, module) for module in _modules(model, cuts))
    _check_owners(model, cuts, stages)
    _rehearse(stages, example)
    return stages


def _modules(model: nn.Module, cuts: Sequence[str]) -> list[nn.Module]:
    if not cuts:
        return [model]
    graph = _read(model, cuts)
    parts = _parts(graph, _homes(graph, model, cuts), len(cuts) + 1)
    return [fx.GraphModule(model, part) for part in parts]


class _Whole(nn.Module):
    """The model called with one argument, whatever else its forward could take."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        return self.model(inputs)


PREFIX = "model."  # of the names inside _Whole


class _Tracer(fx.Tracer):
    """Looks into a module only if a cut lies within."""

    def __init__(self, cuts: Sequence[str]) -> None:
        super().__init__()
        self._cuts = [PREFIX + cut for cut in cuts]

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(cut.startswith(f"{name}.") for cut in self._cuts)


def _read(model: nn.Module, cuts: Sequence[str]) -> fx.Graph:
    known = dict(model.named_modules())
    if len(set(cuts)) < len(cuts):
        raise JobError(f"expected different cuts, found {', '.join(cuts)}; {_proposal(model)}")
    for cut in cuts:
        if not cut or cut not in known:
            raise JobError(
                f"expected cuts at modules of the model, found {cut!r}; {_proposal(model)}"
            )
    try:
        return _Tracer(cuts).trace(_Whole(model))
    except Exception as error:  # the user's forward may fail in any way on a stand-in for data
        raise JobError(
            f"expected a forward pass that can be followed down to the cuts {', '.join(cuts)}, "
            f"found: {_line(error)}; cut an nn.Sequential, or move what branches into a submodule"
        ) from error


def _homes(graph: fx.Graph, model: nn.Module, cuts: Sequence[str]) -> dict[fx.Node, int]:
    """The stage in which each operation runs."""
    calls = [_bare(node.target) for node in graph.nodes if node.op == "call_module"]
    for cut in cuts:
        if (times := calls.count(cut)) != 1:
            raise JobError(
                f"expected a cut at a module that runs once as a whole, found {cut!r}, which is "
                f"{'called ' + str(times) + ' times' if times else 'not called, or holds a cut'}; "
                f"{_proposal(model)}"
            )
    if list(cuts) != (ordered := sorted(cuts, key=calls.index)):
        raise JobError(
            f"expected cuts in the order in which they run, found {', '.join(cuts)}; "
            f"write {', '.join(ordered)}"
        )
    home, stage = {}, 0
    for node in graph.nodes:
        stage += node.op == "call_module" and _bare(node.target) in cuts
        home[node] = stage
    return home


def _parts(graph: fx.Graph, home: dict[fx.Node, int], num_stages: int) -> list[fx.Graph]:
    """A graph for each stage, through which what a later one needs is handed on."""
    until = {node: max((home[user] for user in node.users), default=-1) for node in graph.nodes}
    parts = []
    for stage in range(num_stages):
        part = fx.Graph()
        known = {n: part.placeholder(n.name) for n in home if home[n] < stage <= until[n]}
        for node in (n for n in home if home[n] == stage and n.op != "output"):
            known[node] = part.node_copy(node, known.__getitem__)
            if node.op in ("call_module", "get_attr"):
                known[node].target = _bare(node.target)
        if stage == num_stages - 1:
            part.output(fx.node.map_arg(graph.output_node().args[0], known.__getitem__))
        else:
            part.output(tuple(known[n] for n in home if home[n] <= stage < until[n]))
        parts.append(part)
    return parts


def _stage(model: nn.Module, module: nn.Module) -> Stage:
    mine = {id(value) for value in (*module.parameters(), *module.buffers())}
    return Stage(
        module,
        tuple(n for n, p in model.named_parameters() if p.requires_grad and id(p) in mine),
        tuple(name for name, buffer in model.named_buffers() if id(buffer) in mine),
    )


def _check_owners(model: nn.Module, cuts: Sequence[str], stages: Sequence[Stage]) -> None:
    owner: dict[str, int] = {}
    for index, stage in enumerate(stages):
        if not stage.names:
            raise JobError(
                f"expected every stage of cuts {', '.join(cuts)} to learn, found no trainable "
                f"parameter in stage {index + 1} of {len(stages)}; {_proposal(model)}"
            )
        for name in stage.names:
            if name in owner:
                raise JobError(
                    f"expected each parameter in one stage, found {name} shared by stages "
                    f"{owner[name] + 1} and {index + 1}; cut so that one stage holds all its uses"
                )
            owner[name] = index


def _rehearse(stages: Sequence[Stage], example: Any) -> None:
    """Run copies of the stages, so that neither the buffers nor the random state move."""
    flowing: Any = (example,)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for index, stage in enumerate(stages):
            try:
                flowing = copy.deepcopy(stage.module)(*flowing)
            except Exception as error:
                raise JobError(
                    f"expected stage {index + 1} of {len(stages)} to run on the first micro-batch, "
                    f"found: {_line(error)}; mend the model or the cuts"
                ) from error
            if index == len(stages) - 1:
                return
            for value in flowing:
                if not isinstance(value, Tensor):
                    raise JobError(
                        f"expected tensors between stages {index + 1} and {index + 2}, found a "
                        f"{type(value).__name__}; cut where tensors alone are handed on"
                    )


def _proposal(model: nn.Module) -> str:
    """Modules with something to learn, and something to learn before them."""
    first = next((id(p) for p in model.parameters() if p.requires_grad), None)
    names = []
    for name, module in model.named_modules():
        learned = {id(p) for p in module.parameters() if p.requires_grad}
        if name and learned and first not in learned:
            names.append(name)
    if not names:
        return "this model has no place to cut"
    more = ", ..." if len(names) > NUM_NAMED else ""
    return f"cut at some of {', '.join(names[:NUM_NAMED])}{more}"


def _bare(target: Any) -> str:
    return str(target).removeprefix(PREFIX)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.160}"
