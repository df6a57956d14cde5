from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.testbed.links import (
    MAX_HOSTS,
    NUM_SLOTS,
    TIMER_HZ,
    BedError,
    LoopbackLinks,
    Traffic,
    address,
    batch,
    bridge_commands,
    burst_bytes,
    cable_commands,
    is_free,
    subnet,
    tbf_command,
)

slots = st.integers(0, NUM_SLOTS - 1)


@given(st.floats(0.01, 1e5))
def test_a_bucket_holds_what_a_tick_lets_through_and_a_frame(mbit: float) -> None:
    assert burst_bytes(mbit) >= mbit * 1e6 / 8 / TIMER_HZ
    assert burst_bytes(mbit) >= 1514


def test_rates_are_written_in_whole_bits() -> None:
    assert "rate 1500000bit" in tbf_command("eth0", 1.5)


@given(slots, slots, st.booleans())
def test_beds_share_no_address(one: int, other: int, shaped: bool) -> None:
    assert subnet(one, shaped).overlaps(subnet(other, shaped)) == (one == other)


@given(slots)
def test_hosts_and_bridge_have_addresses_of_their_own(slot: int) -> None:
    net = subnet(slot, shaped=True)
    given_out = [address(net, None), *(address(net, i) for i in range(MAX_HOSTS))]
    assert len(set(given_out)) == MAX_HOSTS + 1
    assert all(IPv4Network(one).subnet_of(net) for one in given_out)
    assert str(net.broadcast_address) not in given_out


def test_a_subnet_into_which_a_route_leads_is_not_taken() -> None:
    net = subnet(7, shaped=True)
    assert is_free(net, ["default", "0.0.0.0/0", "10.0.0.0/8", "198.18.8.0/24"])
    assert not is_free(net, ["default", "198.18.7.254"])
    assert not is_free(net, ["198.0.0.0/8"])


def test_names_of_links_fit_into_the_kernel() -> None:
    bed, port = f"cotbed{NUM_SLOTS - 1}", f"cotbed{NUM_SLOTS - 1}h{MAX_HOSTS}"
    assert max(map(len, (bed, port))) <= 15
    assert bed in bridge_commands(bed, subnet(NUM_SLOTS - 1, shaped=True))[0]
    assert f"master {bed}" in cable_commands(port, "space", bed)[1]


def test_traffic_is_counted_from_a_moment_on() -> None:
    assert Traffic(10, 20) - Traffic(4, 5) == Traffic(6, 15)


def test_the_loopback_pretends_nothing() -> None:
    links = LoopbackLinks("cotbed3", why="not root")
    for attempt in (
        lambda: links.shape("a", 10),
        lambda: links.switch("a", "down"),
        links.traffic,
    ):
        with pytest.raises(BedError, match="not root"):
            attempt()


def test_a_tool_that_refuses_is_quoted() -> None:
    with pytest.raises(BedError, match="no such place"):
        batch(["sh", "-c", "echo no such place >&2; exit 1", "tool"], ["link"])
