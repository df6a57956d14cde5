"""The network of a test bed: a namespace for each host, a cable to a bridge, a rate on both ends.

The token bucket `tbf` only caps the rate and queues: it adds no delay and no loss, so a bed says
nothing about distance. Where namespaces cannot be had the hosts are addresses of the loopback, and
nothing is shaped, cut or counted there: what would need it raises BedError.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

from benchmarks.testbed.leftovers import NAMESPACES, counters
from coterie.errors import CoterieError

NUM_SLOTS = 256
MAX_HOSTS = 250
DEVICE = "eth0"  # what a host calls its end of the cable
TIMER_HZ = 250
MIN_BURST_BYTES = 16 * 1024
QUEUE_MS = 50


class BedError(CoterieError):
    """A test bed that is not as it was asked to be."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that a host has sent and received, headers included.

    >>> Traffic(5, 7) - Traffic(1, 2)
    Traffic(sent_bytes=4, received_bytes=5)
    """

    sent_bytes: int
    received_bytes: int

    def __sub__(self, before: Traffic) -> Traffic:
        return Traffic(
            self.sent_bytes - before.sent_bytes, self.received_bytes - before.received_bytes
        )


class Links(Protocol):
    """How the hosts of one bed reach one another."""

    device: str
    unshaped: str | None  # why the rates are not enforced; None where they are
    subnet: IPv4Network

    def build(self, mbit_by_host: Mapping[str, float | None]) -> None:
        """Make the network."""
        ...

    def enter(self, host: str) -> list[str]:
        """The words before a command that make it run on `host`."""
        ...

    def shape(self, host: str, mbit: float) -> None:
        """Cap both directions of a host's link."""
        ...

    def switch(self, host: str, state: str) -> None:
        """Take a host's link "down" or "up"."""
        ...

    def traffic(self) -> dict[str, Traffic]:
        """What went over each host's link since it was made."""
        ...


class NamespaceLinks:
    """Links of the kernel, for root.

    A link is cut on the bridge's side: the host keeps its address and routes and hears nothing, as
    when a cable is pulled somewhere on the way.
    """

    device = DEVICE
    unshaped: str | None = None

    def __init__(self, bed: str, hosts: Sequence[str]) -> None:
        self.bed = bed
        self.subnet = subnet(slot_of(bed), shaped=True)
        self._hosts = tuple(hosts)
        self._port = {host: f"{bed}h{i}" for i, host in enumerate(hosts, start=1)}

    def build(self, mbit_by_host: Mapping[str, float | None]) -> None:
        """Make the bridge, then each host's namespace and cable. Raises BedError."""
        bridge = address(self.subnet, None)
        batch(["ip"], bridge_commands(self.bed, self.subnet))
        for host in self._hosts:
            space, port = self._space(host), self._port[host]
            batch(["ip"], [f"netns add {space}"])
            batch(["ip"], cable_commands(port, space, self.bed))
            here = address(self.subnet, self._hosts.index(host))
            batch(["ip", "-n", space], host_commands(here, bridge, self.subnet.prefixlen))
            mbit = mbit_by_host[host]
            if mbit is not None:
                self.shape(host, mbit)

    def enter(self, host: str) -> list[str]:
        """`nsenter`, not `ip netns exec`: that one hides the control groups from the program."""
        return ["nsenter", f"--net={NAMESPACES / self._space(host)}"]

    def shape(self, host: str, mbit: float) -> None:
        """Cap both directions; takes effect at once. Raises BedError."""
        batch(["tc"], [tbf_command(self._port[host], mbit)])
        batch(["tc", "-n", self._space(host)], [tbf_command(DEVICE, mbit)])

    def switch(self, host: str, state: str) -> None:
        """Take a link "down" or "up"; rates and counts outlive it. Raises BedError."""
        batch(["ip"], [f"link set dev {self._port[host]} {state}"])

    def traffic(self) -> dict[str, Traffic]:
        """Counted at the bridge, behind both token buckets: what is queued does not count."""
        seen = counters(Path("/proc/net/dev").read_text())
        return {host: Traffic(*seen[port]) for host, port in self._port.items()}

    def _space(self, host: str) -> str:
        return f"{self.bed}-{host}"


class LoopbackLinks:
    """Addresses of the loopback: nothing here is shaped, and it says so."""

    device = "lo"

    def __init__(self, bed: str, why: str) -> None:
        self.unshaped: str | None = why
        self.subnet = subnet(slot_of(bed), shaped=False)

    def build(self, mbit_by_host: Mapping[str, float | None]) -> None:
        """Nothing to make: Linux answers on all of 127.0.0.0/8."""

    def enter(self, host: str) -> list[str]:
        """Nothing to enter."""
        return []

    def shape(self, host: str, mbit: float) -> None:
        """Raises BedError."""
        raise self._refusal("a rate")

    def switch(self, host: str, state: str) -> None:
        """Raises BedError."""
        raise self._refusal(f"a link to take {state}")

    def traffic(self) -> dict[str, Traffic]:
        """Raises BedError."""
        raise self._refusal("counted bytes")

    def _refusal(self, wanted: str) -> BedError:
        return BedError(
            f"expected {wanted}, found hosts on the loopback ({self.unshaped}); "
            "run as root, with iproute2 and util-linux"
        )


def why_unshaped() -> str | None:
    """Why links cannot be shaped here; None where they can. Tried out, and gone when this returns.

    >>> why_unshaped() is None or len(why_unshaped()) > 0
    True
    """
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("ip", "tc", "nsenter", "unshare") if not shutil.which(tool)]
    if missing:
        return f"no {', '.join(missing)}"
    trial = (
        "ip link add name near type veth peer name far && ip link add name middle type bridge && "
        + f"tc {tbf_command('near', 1.0)}"
    )
    words = ["unshare", "--net", "sh", "-c", trial]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return None
    return tried.stderr.strip() or f"the kernel refused, code {tried.returncode}"


def batch(tool: Sequence[str], commands: Iterable[str]) -> None:
    """Have `ip` or `tc` do some commands, one a line. Raises BedError with the tool's own words."""
    text = "\n".join(commands) + "\n"
    words = [*tool, "-batch", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise BedError(
            f"expected `{' '.join(tool)}` to do {text.strip()!r}, found {said!r}; "
            "`python -m benchmarks.testbed sweep` removes what dead owners left"
        )


def bridge_commands(bed: str, net: IPv4Network) -> list[str]:
    """What makes the bridge; its hardware address is fixed, or it would change with each cable.

    >>> bridge_commands("cotbed3", subnet(3, shaped=True))[2]
    'addr add 198.18.3.254/24 dev cotbed3'
    """
    slot = slot_of(bed)
    return [
        f"link add name {bed} address 02:c0:7e:{slot >> 8:02x}:{slot & 255:02x}:fe "
        "type bridge mcast_snooping 0",
        f"link set dev {bed} addrgenmode none",
        f"addr add {address(net, None)}/{net.prefixlen} dev {bed}",
        f"link set dev {bed} up",
    ]


def cable_commands(port: str, space: str, bridge: str) -> list[str]:
    """What lays the cable from the bridge to a namespace; silent, for no IPv6 chatter is counted.

    >>> cable_commands("cotbed3h1", "cotbed3-slow", "cotbed3")[0]
    'link add name cotbed3h1 type veth peer name eth0 netns cotbed3-slow'
    """
    return [
        f"link add name {port} type veth peer name {DEVICE} netns {space}",
        f"link set dev {port} addrgenmode none master {bridge} up",
    ]


def host_commands(here: str, bridge: str, prefix: int) -> list[str]:
    """What a host does inside its namespace.

    >>> host_commands("198.18.3.1", "198.18.3.254", 24)[1]
    'addr add 198.18.3.1/24 dev eth0'
    """
    return [
        f"link set dev {DEVICE} addrgenmode none",
        f"addr add {here}/{prefix} dev {DEVICE}",
        f"link set dev {DEVICE} up",
        "link set dev lo up",
        f"route add default via {bridge}",
    ]


def tbf_command(device: str, mbit: float) -> str:
    """The arguments of `tc` that cap what leaves `device`.

    >>> tbf_command("eth0", 10)
    'qdisc replace dev eth0 root tbf rate 10000000bit burst 16384b latency 50ms'
    """
    burst = f"burst {burst_bytes(mbit)}b latency {QUEUE_MS}ms"
    return f"qdisc replace dev {device} root tbf rate {round(mbit * 1e6)}bit {burst}"


def burst_bytes(mbit: float) -> int:
    """The size of the bucket: twice what a tick of the kernel's slowest clock lets through.

    >>> burst_bytes(10), burst_bytes(1000)
    (16384, 1000000)
    """
    return max(MIN_BURST_BYTES, round(2 * mbit * 1e6 / 8 / TIMER_HZ))


def slot_of(bed: str) -> int:
    """The number in a bed's name.

    >>> slot_of("cotbed12")
    12
    """
    return int(bed.lstrip("abcdefghijklmnopqrstuvwxyz"))


def subnet(slot: int, shaped: bool) -> IPv4Network:
    """The addresses of a bed: of the range kept for measurements (RFC 2544), or of the loopback.

    >>> subnet(3, shaped=True), subnet(3, shaped=False)
    (IPv4Network('198.18.3.0/24'), IPv4Network('127.18.3.0/24'))
    """
    return IPv4Network(f"{'198' if shaped else '127'}.18.{slot}.0/24")


def address(net: IPv4Network, index: int | None) -> str:
    """The address of the host with this index; of the bridge for None.

    >>> address(subnet(3, shaped=True), 0), address(subnet(3, shaped=True), None)
    ('198.18.3.1', '198.18.3.254')
    """
    return str(net[254 if index is None else index + 1])


def is_free(net: IPv4Network, routes: Iterable[str]) -> bool:
    """Whether no route but the default one leads into a network, as `ip route` prints them.

    >>> is_free(subnet(3, shaped=True), ["default", "10.0.0.0/8", "198.18.4.0/24"])
    True
    >>> is_free(subnet(3, shaped=True), ["198.18.0.0/15"])
    False
    """
    known = (IPv4Network(route) for route in routes if route[0].isdecimal())
    return not any(net.overlaps(other) for other in known if other.prefixlen)
