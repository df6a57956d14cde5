"""Unequal hosts on one machine, by which measurements are made and checked.

>>> Host("slow", cores=0.25, mbit=10)
Host(name='slow', cores=0.25, mbit=10)
"""

from benchmarks.testbed.figures import BedOff, Figure, check, measure, table
from benchmarks.testbed.hosts import Bed, Host, sweep, testbed
from benchmarks.testbed.links import BedError, Traffic, why_unshaped

__all__ = [
    "Bed",
    "BedError",
    "BedOff",
    "Figure",
    "Host",
    "Traffic",
    "check",
    "measure",
    "sweep",
    "table",
    "testbed",
    "why_unshaped",
]
