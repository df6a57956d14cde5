from __future__ import annotations

import pytest

from coterie.errors import JobError
from coterie.world import Device, Link, Option, World

A, B, C = (Device(name, 0.01, 0.001, 64) for name in "abc")
AB, BC = Link("a", "b", 0.001, 1e6), Link("b", "c", 0.002, 1e6)
WORLD = World((A, B, C), (AB, BC), batch=32, num_train=100)


def test_a_world_of_some_members_keeps_the_links_among_them() -> None:
    assert WORLD.only(("a", "b")) == World((A, B), (AB,), 32, 100)
    assert WORLD.only(("a", "c")).links == ()


def test_an_unknown_device_is_refused_with_the_names_that_are_known() -> None:
    with pytest.raises(JobError, match=r"\(a, b, c\), found 'z'"):
        WORLD.device("z")


def test_no_samples_take_no_time() -> None:
    assert A.step_s(0) == 0.0
    assert A.step_s(10) == pytest.approx(0.02)


def test_goodput_is_what_is_learned_for_good() -> None:
    option = Option("x", {"a": 8}, 2.0, 0.5, 16.0, efficiency=0.5, survival=0.25)
    assert option.throughput_per_s == 8.0
    assert option.goodput_per_s == 1.0
