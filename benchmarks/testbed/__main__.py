"""`python -m benchmarks.testbed check` builds a bed and measures it; `sweep` removes leftovers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks.testbed.figures import SECONDS, TOLERANCE, measure, table
from benchmarks.testbed.hosts import Host, sweep, testbed
from coterie.errors import CoterieError


def hosts_of(num: int, mbit: Sequence[float] | None, cores: Sequence[float] | None) -> list[Host]:
    """Hosts h1, h2, ...; rates and shares are dealt round.

    >>> [(host.name, host.mbit, host.cores) for host in hosts_of(3, [10, 5], None)]
    [('h1', 10, None), ('h2', 5, None), ('h3', 10, None)]
    """
    return [
        Host(
            f"h{i + 1}",
            cores[i % len(cores)] if cores else None,
            mbit[i % len(mbit)] if mbit else None,
        )
        for i in range(num)
    ]


def words() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sweep", help="remove the beds of dead owners")
    check = commands.add_parser("check", help="build a bed, measure it, print a table")
    check.add_argument("--hosts", type=int, default=4)
    check.add_argument("--mbit", type=float, nargs="+", help="dealt round; none: not limited")
    check.add_argument("--cores", type=float, nargs="+", help="dealt round; none: not limited")
    check.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    check.add_argument("--tolerance", type=float, default=TOLERANCE)
    return parser


def main() -> int:
    """Do what the command line says; 0 where all is well, 1 where a bed is off, 2 where none is."""
    said = words().parse_args()
    try:
        if said.command == "sweep":
            removed = sweep()
            print(f"removed {', '.join(removed)}" if removed else "nothing was left behind")
            return 0
        with testbed(hosts_of(said.hosts, said.mbit, said.cores)) as bed:
            figures = measure(bed, said.seconds)
    except (CoterieError, TimeoutError) as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(table(figures, said.tolerance))
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores", *bed.reservations, sep="; ")
    off = any(figure.faults(said.tolerance) for figure in figures)
    return int(off or bool(bed.reservations))


if __name__ == "__main__":
    sys.exit(main())
