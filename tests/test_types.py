"""The flat vector's layout, and what travels."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from coterie.errors import JobError
from coterie.types import Ctx, Layout, Message

LAYOUT = Layout(("trunk.weight", "trunk.bias", "head.weight"), ((2, 3), (2,), ()))


def test_layout_of_a_model_names_its_trainable_parameters_in_order() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    layout = Layout.of(model)
    assert layout.names == ("0.weight", "1.weight", "1.bias")
    assert layout.shapes == ((2, 3), (1, 2), (1,))


def test_layout_refuses_a_model_with_nothing_to_train() -> None:
    with pytest.raises(JobError, match="found none"):
        Layout.of(nn.Linear(2, 1).requires_grad_(False))


def test_slices_tile_the_vector() -> None:
    places = [where for _, where in LAYOUT.slices()]
    assert [(place.start, place.stop) for place in places] == [(0, 6), (6, 8), (8, 9)]
    assert LAYOUT.size == 9


def test_views_write_through_to_the_vector() -> None:
    vector_N = torch.zeros(9)
    LAYOUT.views(vector_N)["trunk.bias"].fill_(1.0)
    assert vector_N.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0]


def test_views_have_the_parameters_shapes() -> None:
    views = LAYOUT.views(torch.arange(9.0))
    assert {name: tuple(view.shape) for name, view in views.items()} == dict(
        zip(LAYOUT.names, LAYOUT.shapes, strict=True)
    )


def test_views_refuse_a_vector_of_another_length() -> None:
    with pytest.raises(JobError, match="9 values, found 8"):
        LAYOUT.views(torch.zeros(8))


def test_select_keeps_names_and_shapes_together() -> None:
    assert LAYOUT.select("*.weight") == Layout(("trunk.weight", "head.weight"), ((2, 3), ()))


def test_select_of_a_typo_lists_the_names() -> None:
    with pytest.raises(JobError, match=r"'trunc\.\*'.*trunk\.weight, trunk\.bias, head\.weight"):
        LAYOUT.select("trunc.*")


@pytest.mark.parametrize(
    "other",
    [
        Layout(("trunk.weight", "trunk.bias", "head.bias"), LAYOUT.shapes),
        Layout(LAYOUT.names, ((3, 2), (2,), ())),
        Layout(LAYOUT.names[:2], LAYOUT.shapes[:2]),
    ],
)
def test_digest_tells_layouts_apart(other: Layout) -> None:
    assert other.digest != LAYOUT.digest


def test_digest_is_that_of_an_equal_layout() -> None:
    assert Layout(LAYOUT.names, LAYOUT.shapes).digest == LAYOUT.digest


@pytest.mark.parametrize("value", [LAYOUT, Message("a", torch.zeros(1), 1.0), Ctx()])
def test_words_are_frozen(value: object) -> None:
    name = next(iter(vars(value)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
