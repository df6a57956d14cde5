"""A test bed measures itself: what its links and shares come to, beside what was asked for.

Links are measured by TCP transfers between each host and the bridge, all hosts at once, first up,
then down; the payload of a perfect stream is 4.4 % below the rate, for headers count too. Each host
also has to reach its neighbour. Shares are measured by a busy loop on every host, all at once: a
bed that promises more cores than the machine has is found out.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.testbed import probe
from benchmarks.testbed.links import BedError

if TYPE_CHECKING:
    from benchmarks.testbed.hosts import Bed, Host

TOLERANCE = 0.15
SECONDS = 1.0

Programs = dict[str, "subprocess.Popen[str]"]


@dataclass(frozen=True)
class Figure:
    """What one host was asked to be and what it came to: Mbit/s of payload, cores.

    >>> from benchmarks.testbed.hosts import Host
    >>> Figure(Host("slow", cores=0.25, mbit=10), up_mbit=9.5, down_mbit=5.0, cores=0.25).faults()
    ('slow: 5 of 10 Mbit/s down',)
    """

    host: Host
    up_mbit: float
    down_mbit: float
    cores: float

    def faults(self, tolerance: float = TOLERANCE) -> tuple[str, ...]:
        """What is off by more than a fraction of what was asked for, in words."""
        pairs = (
            (self.host.mbit, self.up_mbit, "Mbit/s up"),
            (self.host.mbit, self.down_mbit, "Mbit/s down"),
            (self.host.cores, self.cores, "cores"),
        )
        return tuple(
            f"{self.host.name}: {got:.3g} of {asked:g} {what}"
            for asked, got, what in pairs
            if asked is not None and abs(got / asked - 1) > tolerance
        )


class BedOff(BedError):
    """A bed that does not keep what it promises; `figures` are what was measured."""

    def __init__(self, faults: Sequence[str], figures: Sequence[Figure], tolerance: float) -> None:
        super().__init__(
            f"expected a test bed within {tolerance:.0%} of what was asked for, found "
            f"{'; '.join(faults)}; ask for less, or free the machine"
        )
        self.figures = tuple(figures)


def check(bed: Bed, tolerance: float = TOLERANCE, seconds: float = SECONDS) -> tuple[Figure, ...]:
    """Measure a bed; takes about 3.6 s for `seconds` of 1. Raises BedOff when a figure is off."""
    figures = measure(bed, seconds)
    faults = [fault for figure in figures for fault in figure.faults(tolerance)]
    if faults:
        raise BedOff([*bed.reservations, *faults], figures, tolerance)
    return figures


def measure(bed: Bed, seconds: float = SECONDS) -> tuple[Figure, ...]:
    """What each host comes to, without judging. Raises BedError where a host is not in reach."""
    rates, cores = measure_links(bed, seconds), measure_shares(bed, seconds)
    return tuple(Figure(host, *rates[name], cores=cores[name]) for name, host in bed.hosts.items())


def measure_shares(bed: Bed, seconds: float = SECONDS) -> dict[str, float]:
    """CPU-seconds per second that each host gets while all of them are busy."""
    with _probes(bed, {name: ["spin", str(seconds)] for name in bed.hosts}) as programs:
        for program in programs.values():
            _tell(program, "")
        return {name: float(_last_word(program)) for name, program in programs.items()}


def measure_links(bed: Bed, seconds: float = SECONDS) -> dict[str, tuple[float, float]]:
    """Mbit/s of payload (up, down) of each host, while all of them transfer."""
    names = list(bed.hosts)
    addresses = {bed.address_of(name): name for name in names}
    num_connections = 2 * len(names)
    with socket.create_server((bed.address, 0), backlog=num_connections) as server:
        server.settimeout(probe.PATIENCE_S + 2 * (seconds + probe.WARM_UP_S))
        port = str(server.getsockname()[1])
        words = {
            name: ["transfer", here, bed.address, port, str(seconds)]
            for here, name in addresses.items()
        }
        with _probes(bed, words) as programs:
            for name, neighbour in zip(names, [*names[1:], names[0]], strict=True):
                _tell(programs[name], bed.address_of(neighbour))
            up = _serve(server, num_connections, seconds)
            for program in programs.values():
                _tell(program, "")
            down = {name: float(_last_word(program)) for name, program in programs.items()}
    return {name: (up[here], down[name]) for here, name in addresses.items()}


def table(figures: Sequence[Figure], tolerance: float = TOLERANCE) -> str:
    """The figures as a table to read.

    >>> from benchmarks.testbed.hosts import Host
    >>> print(table([Figure(Host("a", mbit=10), 9.5, 9.6, 1.0)]).splitlines()[2])
    | a | 10 | 9.5 | 9.6 | - | 1 | yes |
    """
    head = ["| host | Mbit/s | up | down | cores | got | kept |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(figure, tolerance) for figure in figures)])


def _row(figure: Figure, tolerance: float) -> str:
    host = figure.host
    asked = ["-" if value is None else f"{value:g}" for value in (host.mbit, host.cores)]
    got = [f"{value:.3g}" for value in (figure.up_mbit, figure.down_mbit, figure.cores)]
    kept = "NO" if figure.faults(tolerance) else "yes"
    return f"| {host.name} | {asked[0]} | {got[0]} | {got[1]} | {asked[1]} | {got[2]} | {kept} |"


def _serve(server: socket.socket, num_connections: int, seconds: float) -> dict[str, float]:
    """Answer each host's two connections; Mbit/s received by its address."""
    up_mbit: dict[str, float] = {}

    def answer(connection: socket.socket, peer: str) -> None:
        with connection:
            connection.settimeout(probe.PATIENCE_S)
            if connection.recv(1) == b"\0":
                up_mbit[peer] = probe.receive(connection, seconds)
            else:
                probe.send(connection)

    with ThreadPoolExecutor(num_connections) as pool:
        answers = []
        for _ in range(num_connections):
            try:
                connection, (peer, _) = server.accept()
            except TimeoutError as silence:
                raise BedError(
                    "expected every host to reach its neighbour and the bridge, found one that "
                    "does not; look for a firewall that drops what is forwarded or comes in"
                ) from silence
            answers.append(pool.submit(answer, connection, peer))
    for answered in answers:
        answered.result()
    return up_mbit


@contextmanager
def _probes(bed: Bed, words: dict[str, list[str]]) -> Iterator[Programs]:
    """The probe on several hosts, ready to be told; ended in any case."""
    python = [sys.executable, "-I", "-S", probe.__file__]
    pipe = subprocess.PIPE
    programs: Programs = {}
    try:
        for name, given in words.items():
            programs[name] = bed.run(name, [*python, *given], stdin=pipe, stdout=pipe)
        for name, program in programs.items():
            assert program.stdout is not None
            if program.stdout.readline() != "ready\n":
                raise BedError(f"expected the probe to start on {name}, found it dead")
        yield programs
    finally:
        for program in programs.values():
            program.kill()
            program.communicate()


def _tell(program: subprocess.Popen[str], line: str) -> None:
    assert program.stdin is not None
    program.stdin.write(line + "\n")
    program.stdin.flush()


def _last_word(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise BedError("expected the probe to tell what it measured, found it dead")
    return line
