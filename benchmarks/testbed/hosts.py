"""N unequal hosts on one machine, for as long as a `with` block lasts.

    with testbed([Host("fast"), Host("slow", cores=0.25, mbit=10)]) as bed:
        program = bed.run("slow", [sys.executable, "agent.py", bed.address])

Each bed owns a slot: a number in the names of all it makes, held by a socket that the kernel frees
when owner and watcher are both gone. So beds stand side by side, and what a dead owner left can
be told from what is alive.
"""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import IO, Any

from benchmarks.testbed import leftovers
from benchmarks.testbed.figures import SECONDS, TOLERANCE, Figure, check
from benchmarks.testbed.links import (
    MAX_HOSTS,
    NUM_SLOTS,
    BedError,
    Links,
    LoopbackLinks,
    NamespaceLinks,
    Traffic,
    address,
    is_free,
    subnet,
    why_unshaped,
)
from benchmarks.testbed.shares import Share, group_parents, make_shares
from coterie.engines.throttle import can_throttle

Target = int | IO[Any] | None


@dataclass(frozen=True)
class Host:
    """One machine of a bed: its share of a core and the rate of its link; None is no limit.

    The rate holds for each direction by itself. Raises BedError for what cannot be.

    >>> Host("slow", cores=0.25, mbit=10)
    Host(name='slow', cores=0.25, mbit=10)
    """

    name: str
    cores: float | None = None
    mbit: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.name):
            raise BedError(
                f"expected a name of letters, digits, _ and -, found {self.name!r}; choose another"
            )
        for what, value in (("cores", self.cores), ("mbit", self.mbit)):
            if value is not None and not 0 < value < math.inf:
                raise BedError(f"expected {what} above 0, found {value}; give None for no limit")


class Bed:
    """Hosts that stand; made by `testbed`.

    `address` is the bridge's: unshaped, where the program that owns the bed can be reached. Names
    that no host has raise KeyError; what the machine cannot do raises BedError.
    """

    def __init__(self, name: str, hosts: Sequence[Host], links: Links, enforced: bool) -> None:
        self.name = name
        self.hosts = {host.name: host for host in hosts}
        self.links = links
        self.address = address(links.subnet, None)
        self._enforced = enforced
        self._shares: dict[str, Share] = {}
        self._running: list[subprocess.Popen[str]] = []

    @property
    def reservations(self) -> tuple[str, ...]:
        """What is not enforced here, in words; empty where everything is."""
        links = f"links are unshaped: {self.links.unshaped}"
        shares = "shares are kept by the programs themselves: no control groups can be written"
        said = ((self.links.unshaped, links), (not self._enforced, shares))
        return tuple(words for holds, words in said if holds)

    def build(self) -> None:
        """Make what the hosts consist of."""
        self._shares = make_shares(
            self.name, {host.name: host.cores for host in self.hosts.values()}, self._enforced
        )
        self.links.build({host.name: host.mbit for host in self.hosts.values()})

    def address_of(self, host: str) -> str:
        """The address of a host."""
        return address(self.links.subnet, list(self.hosts).index(self.hosts[host].name))

    def run(
        self,
        host: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdout: Target = None,
        stdin: Target = subprocess.DEVNULL,
        stderr: Target = None,
    ) -> subprocess.Popen[str]:
        """Start a program on a host, slowed and connected as the host is from its first moment.

        It has one thread of OpenMP and meets over the host's link, unless `env` says otherwise.
        It is in a session of its own and ends with the bed at the latest.
        """
        share = self._shares[host]
        known = {
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": self.links.device,
            "RES_OPTIONS": "timeout:1 attempts:1",  # no name server is in reach, and torch asks
            leftovers.MARK: self.name,
        }
        program = subprocess.Popen(
            [*share.enter(), *self.links.enter(host), *argv],
            env={**os.environ, **known, **share.environment(), **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        share.started(program.pid)
        self._running.append(program)
        return program

    def change(self, host: str, *, mbit: float | None = None, cores: float | None = None) -> None:
        """Another rate or share from now on, for running programs too; None leaves it as it is."""
        old = self.hosts[host]
        new = Host(host, old.cores if cores is None else cores, old.mbit if mbit is None else mbit)
        if mbit is not None:
            self.links.shape(host, mbit)
        if cores is not None:
            self._shares[host].change(cores)
        self.hosts[host] = new

    def cut(self, host: str) -> None:
        """Take a host's link down: silence, with no word to either side."""
        self._switch(host, "down")

    def mend(self, host: str) -> None:
        """Take a host's link up again, with its rate."""
        self._switch(host, "up")

    def bytes(self) -> dict[str, Traffic]:
        """Bytes sent and received by each host since it was made, as the interfaces count."""
        return self.links.traffic()

    def cpu_seconds(self, host: str) -> float:
        """CPU-seconds that a host's programs have used, those that ended included."""
        return self._shares[host].cpu_seconds()

    def throttled(self, host: str) -> int:
        """Periods in which the kernel stopped a host because its share was used up."""
        return self._shares[host].num_throttled()

    def check(self, tolerance: float = TOLERANCE, seconds: float = SECONDS) -> tuple[Figure, ...]:
        """Measure every link and share; raises BedOff where one is off by more than `tolerance`.

        To be asked before a measurement; takes about four times `seconds`.
        """
        return check(self, tolerance, seconds)

    def await_end(self, timeout_s: float = leftovers.PATIENCE_S) -> None:
        """Reap the programs, once they have been ended."""
        for program in self._running:
            program.wait(timeout_s)

    def _switch(self, host: str, state: str) -> None:
        self.links.switch(self.hosts[host].name, state)


@contextmanager
def testbed(hosts: Sequence[Host]) -> Iterator[Bed]:
    """Hosts that stand while the block runs, and nothing of them after it, however it ends.

    Without root they are programs on the loopback: `Bed.reservations` says what is not enforced.
    Raises BedError, and JobError for cores that this machine does not grant.
    """
    names = [host.name for host in hosts]
    if not 0 < len(set(names)) == len(names) <= MAX_HOSTS:
        raise BedError(f"expected 1 to {MAX_HOSTS} hosts with names of their own, found {names}")
    sweep()
    why = why_unshaped()
    slot, name = claim(shaped=why is None)
    with slot:
        watcher = _Watcher(name, slot)
        links: Links = LoopbackLinks(name, why) if why else NamespaceLinks(name, names)
        bed = Bed(name, hosts, links, enforced=can_throttle())
        try:
            bed.build()
            yield bed
        finally:
            watcher.remove_bed()
            bed.await_end()


def sweep() -> tuple[str, ...]:
    """Remove the beds of dead owners; returns their names. Those of living owners stand."""
    parents = group_parents()
    removed = []
    for bed in sorted(leftovers.beds(parents)):
        left = leftovers.find(bed, parents)
        if os.geteuid() != 0 and (left.links or left.namespaces or left.groups):
            continue  # only root can remove what root has made
        slot = _hold(bed)
        if slot is not None:
            with slot:
                leftovers.remove(bed, parents)
            removed.append(bed)
    return tuple(removed)


def claim(shaped: bool) -> tuple[socket.socket, str]:
    """A slot that nobody has and whose addresses lead nowhere yet; the bed's name. BedError."""
    routes = _routes() if shaped else []
    for number in range(NUM_SLOTS):
        if is_free(subnet(number, shaped), routes):
            bed = f"{leftovers.BED}{number}"
            slot = _hold(bed)
            if slot is not None:
                return slot, bed
    raise BedError(
        f"expected one of {NUM_SLOTS} subnets of {IPv4Network('198.18.0.0/16')} to be free, "
        "found none; close other beds"
    )


def _hold(bed: str) -> socket.socket | None:
    """The socket that stands for a bed's life; None where another holds it. No file is left."""
    slot = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        slot.bind(f"\0coterie-testbed/{bed}")
    except OSError:
        slot.close()
        return None
    return slot


class _Watcher:
    """A process of its own that removes the bed when this one asks for it, or has died.

    It holds the slot too: no new bed takes the name while the old one is being removed.
    """

    def __init__(self, bed: str, slot: socket.socket) -> None:
        self._bed = bed
        words = [sys.executable, "-I", "-S", leftovers.__file__, bed, str(os.getpid())]
        self._process = subprocess.Popen(
            [*words, *map(str, group_parents())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[slot.fileno()],
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise BedError("expected the watcher to start, found it dead; see its words above")

    def remove_bed(self) -> None:
        """Have the bed removed; where the watcher could not, do it here. Raises TimeoutError."""
        self._process.communicate()
        if self._process.returncode != 0:
            leftovers.remove(self._bed, group_parents())


def _routes() -> list[str]:
    words = ["ip", "-4", "route", "show", "table", "all"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    found = [re.search(r"(?:^|\s)(default|\d[\d./]+)", line) for line in listed.splitlines()]
    return [match[1] for match in found if match]
