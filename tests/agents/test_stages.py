"""Stages run one after another are the model, own its very parameters, or are refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.agents.stages import Stage, split
from coterie.errors import JobError


def named() -> nn.Module:
    """A body of layers and a head: what a sentence's "body.2" is about."""
    body = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)
    )
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(5, 3)))


class Block(nn.Module):
    """Branches on its data, as no tracer can follow; it is one call to a split."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, value: Tensor) -> Tensor:
        if value.sum() > 1e6:
            return value
        self.seen += 1
        out: Tensor = value + self.layer(value)
        return out


class Skips(nn.Module):
    """A forward of its own: an option, a view by the batch, a value that skips two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.blocks = nn.ModuleList(Block(4) for _ in range(3))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor, scale: float | None = None) -> Tensor:
        value = inputs * self.scale
        if scale is not None:
            value = value * scale
        first = value
        for block in self.blocks:
            value = block(value)
        both = torch.cat([first, self.dropout(value)], 1).view(-1, 8)
        out: Tensor = self.head(both)
        return out


def run(stages: Sequence[Stage], inputs: Any) -> Any:
    flowing: Any = (inputs,)
    for stage in stages:
        flowing = stage.module(*flowing)
    return flowing


BODY = ["body.2", "body.3", "body.4", "head"]
BLOCKS = ["blocks.0", "blocks.1", "blocks.2", "head"]
CASES = [
    *[(named, cuts) for n in (0, 1, 2) for cuts in combinations(BODY, n)],
    *[(Skips, cuts) for n in (1, 2, 3, 4) for cuts in combinations(BLOCKS, n)],
]
CASES.remove((named, ("body.3", "body.4")))  # the Tanh between them has nothing to learn


@pytest.mark.parametrize(("make", "cuts"), CASES)
def test_the_stages_are_the_model(make: Callable[[], nn.Module], cuts: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    stages = split(model, cuts, torch.ones(2, 4))
    assert len(stages) == len(cuts) + 1
    for size in (1, 2, 5):  # not only the size of the example
        inputs = torch.randn(size, 4)
        assert torch.equal(run(stages, inputs.clone()), model(inputs.clone()))
    assert sorted(n for s in stages for n in s.names) == sorted(dict(model.named_parameters()))
    assert sorted(n for s in stages for n in s.buffers) == sorted(dict(model.named_buffers()))
    for stage, begins in zip(stages[1:], cuts, strict=True):
        later = [name for name in stage.names if name.startswith(f"{begins}.")]
        assert later or begins == "body.3"


@pytest.mark.parametrize(("make", "cut"), [(named, "body.4"), (Skips, "blocks.1")])
def test_the_parameters_are_the_models_own(make: Callable[[], nn.Module], cut: str) -> None:
    model = make()
    mine = dict(model.named_parameters())
    for stage in split(model, [cut], torch.ones(2, 4)):
        theirs = dict(stage.module.named_parameters())
        assert sorted(theirs) == sorted(stage.names)
        assert all(theirs[name] is mine[name] for name in stage.names)


def test_a_split_leaves_the_model_and_the_random_state_as_they_were() -> None:
    model = Skips()
    before, keys = torch.get_rng_state(), list(model.state_dict())
    split(model, ["blocks.1"], torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(block.seen == 0 for block in model.blocks)
    assert list(model.state_dict()) == keys


def test_the_mode_of_the_model_is_the_stages() -> None:
    model = Skips()
    stages = split(model, ["head"], torch.ones(2, 4))
    inputs = torch.ones(64, 4)
    model.train()
    assert not torch.equal(run(stages, inputs), run(stages, inputs))
    model.eval()
    assert torch.equal(run(stages, inputs), run(stages, inputs))


def test_frozen_parameters_belong_to_no_one() -> None:
    model = named()
    model.body[0].bias.requires_grad_(False)
    first, second = split(model, ["head"], torch.ones(2, 4))
    assert "body.0.bias" not in first.names
    assert second.names == ("head.weight", "head.bias")


def test_inputs_may_be_a_nest() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(2, 2)

        def forward(self, given: dict[str, Tensor]) -> Tensor:
            out: Tensor = self.right(self.left(given["x"]) + given["y"])
            return out

    given = {"x": torch.ones(3, 4), "y": torch.ones(3, 2)}
    model = Two()
    assert torch.equal(run(split(model, ["right"], given), given), model(given))


# -- what is refused --------------------------------------------------------------------------

PROPOSED = "cut at some of body.2, body.4, head"


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        (["body.7"], f"found 'body.7'; {PROPOSED}$"),
        ([""], f"found ''; {PROPOSED}$"),
        (["body.4", "body.2"], "found body.4, body.2; write body.2, body.4$"),
        (["body.2", "body.2"], f"different cuts, found body.2, body.2; {PROPOSED}$"),
        (["body"], f"no trainable parameter in stage 1 of 2; {PROPOSED}$"),
        (["body.3", "body.4"], f"no trainable parameter in stage 2 of 3; {PROPOSED}$"),
        (["body", "body.2"], f"'body', which is not called, or holds a cut; {PROPOSED}$"),
    ],
)
def test_a_bad_cut_is_refused_with_better_ones(cuts: list[str], said: str) -> None:
    with pytest.raises(JobError, match=said):
        split(named(), cuts, torch.ones(2, 4))


def test_many_places_to_cut_are_named_in_part() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(30)])
    with pytest.raises(JobError, match=r"some of 1, 2, 3, .*, 12, \.\.\.$"):
        split(model, ["nowhere"], torch.ones(1, 2))


def test_a_model_of_one_layer_has_no_place_to_cut() -> None:
    with pytest.raises(JobError, match="this model has no place to cut"):
        split(nn.Sequential(nn.Linear(2, 2)), ["1"], torch.ones(1, 2))


def test_tied_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.raises(JobError, match=r"found 0\.weight shared by stages 1 and 2"):
        split(model, ["1"], torch.ones(1, 3))


def test_weights_tied_within_a_stage_are_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[1].weight
    stages = split(model, ["1"], torch.ones(1, 3))
    assert stages[1].names == ("1.weight", "1.bias", "2.bias")


def test_a_module_that_runs_twice_begins_no_stage() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(nn.Linear(3, 3), layer, nn.ReLU(), layer)
    with pytest.raises(JobError, match="found '1', which is called 2 times"):
        split(model, ["1"], torch.ones(1, 3))


class Odd(nn.Module):
    def __init__(self, between: Callable[[Any], Any]) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between

    def forward(self, value: Tensor) -> Any:
        value = self.left(value)
        more = self.between(value)
        return self.right(value) * more


def test_a_forward_that_branches_around_the_cuts_is_refused() -> None:
    model = Odd(lambda value: 2.0 if value.sum() > 0 else 1.0)
    with pytest.raises(JobError, match="can be followed down to the cuts right, found: TraceError"):
        split(model, ["right"], torch.ones(1, 4))


def test_a_number_does_not_cross_between_stages() -> None:
    model = Odd(lambda value: value.size(0))
    with pytest.raises(JobError, match="expected tensors between stages 1 and 2, found a int"):
        split(model, ["right"], torch.ones(1, 4))


def test_a_stage_that_cannot_run_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 3))
    with pytest.raises(JobError, match=r"expected stage 2 of 2 to run .* RuntimeError: mat1"):
        split(model, ["1"], torch.ones(1, 4))


def test_the_gradient_through_the_stages_is_the_models() -> None:
    torch.manual_seed(0)
    model, inputs, classes = (
        Skips().double().eval(),
        torch.randn(5, 4).double(),
        torch.arange(5) % 3,
    )
    F.cross_entropy(model(inputs), classes).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    stages = split(model, ["blocks.1", "head"], inputs[:1])
    F.cross_entropy(run(stages, inputs), classes).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-12)
