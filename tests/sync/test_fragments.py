"""Cutting a vector into parts of whole parameters, and putting them back.

Legend of shape suffixes: N values of the whole vector, K of a part.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.sync.fragments import places, put, split, take
from coterie.types import Layout

LAYOUT = Layout(("a", "b", "c", "d"), ((4,), (3, 2), (), (5,)))
layouts = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(
    lambda sizes: Layout(tuple(f"p{i}" for i in range(len(sizes))), tuple((n,) for n in sizes))
)


@given(layouts, st.integers(1, 5))
def test_every_parameter_is_in_one_part_in_the_layouts_order(layout: Layout, num: int) -> None:
    parts = split(layout, num)
    assert len(parts) == num
    assert sorted(name for part in parts for name in part.names) == sorted(layout.names)
    for part in parts:
        assert [name for name in layout.names if name in part.names] == list(part.names)


@given(layouts, st.integers(1, 5))
def test_parts_differ_by_one_parameter_at_most(layout: Layout, num: int) -> None:
    sizes = [part.size for part in split(layout, num)]
    assert max(sizes) - min(sizes) <= max(shape[0] for shape in layout.shapes)


@given(layouts, st.integers(1, 5))
def test_what_is_taken_apart_can_be_put_together(layout: Layout, num: int) -> None:
    whole_N = torch.arange(float(layout.size))
    rebuilt_N = torch.full_like(whole_N, -1.0)
    for part in split(layout, num):
        rebuilt_N = put(rebuilt_N, take(whole_N, layout, part), layout, part)
    assert torch.equal(rebuilt_N, whole_N)


def test_putting_writes_to_no_one_elses_vector() -> None:
    whole_N, part = torch.zeros(LAYOUT.size), split(LAYOUT, 2)[0]
    put(whole_N, torch.ones(part.size), LAYOUT, part)
    assert not whole_N.any()


def test_the_whole_is_taken_as_it_is() -> None:
    whole_N = torch.zeros(LAYOUT.size)
    assert split(LAYOUT, 1) == (LAYOUT,)
    assert take(whole_N, LAYOUT, LAYOUT) is whole_N


def test_neighbours_travel_as_one_run() -> None:
    part = Layout(("b", "c"), ((3, 2), ()))
    assert places(LAYOUT, part) == ((slice(4, 11), slice(0, 7)),)
    apart = Layout(("a", "c"), ((4,), ()))
    assert len(places(LAYOUT, apart)) == 2


def test_more_parts_than_parameters_leave_some_empty() -> None:
    parts = split(Layout(("a",), ((3,),)), 2)
    assert [part.size for part in parts] == [3, 0]


@pytest.mark.parametrize("num", [2, 3])
def test_all_members_cut_alike(num: int) -> None:
    again = Layout(LAYOUT.names, LAYOUT.shapes)
    assert split(LAYOUT, num) == split(again, num)
