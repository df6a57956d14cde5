"""Whatever is believed of a world, there is a decision or a sentence that says what is wrong."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.coordinator.decide import decide
from coterie.errors import JobError
from coterie.types import Layout
from coterie.world import Device, Link, World

SMALL = Layout(("w",), ((100, 100),))

odd = st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-300, 1e300])
odd_worlds = st.builds(
    lambda devices, links, batch, num_train: World(
        tuple(Device(f"d{i}", *device) for i, device in enumerate(devices)),
        tuple(Link(f"d{a}", f"d{b}", *pace) for a, b, pace in links),
        batch,
        num_train,
    ),
    st.lists(
        st.tuples(
            st.floats(0, 1) | odd,
            st.floats(1e-6, 1) | odd,
            st.integers(-1, 64),
            st.floats(0, 1) | odd,
        ),
        max_size=4,
    ),
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 4),
            st.tuples(st.floats(0, 1) | odd, st.floats(1, 1e9) | odd),
        ),
        max_size=6,
    ),
    st.integers(-1, 100),
    st.integers(-1, 1000),
)


@given(odd_worlds, st.dictionaries(st.sampled_from(["d0", "d1"]), st.integers(-1, 10**6)))
@settings(max_examples=150, deadline=None)
def test_an_odd_world_is_decided_or_refused_in_a_sentence(world, spare_bytes):
    found = ""
    try:
        decision = decide(world, SMALL, 1, "start", spare_bytes=spare_bytes)
    except JobError as error:
        found = str(error)
    if found:
        assert found.startswith("expected")
        assert "found" in found
    else:
        assert sum(decision.chosen.shares.values()) == world.batch
        assert decision.chosen.goodput_per_s > 0
