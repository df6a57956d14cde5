from __future__ import annotations

import pytest

from benchmarks.testbed.figures import BedOff, Figure, table
from benchmarks.testbed.hosts import Host


def figure(up: float = 9.6, down: float = 9.6, cores: float = 0.25) -> Figure:
    return Figure(Host("slow", cores=0.25, mbit=10), up, down, cores)


def test_what_is_kept_has_no_fault() -> None:
    assert figure().faults() == ()


@pytest.mark.parametrize(
    ("off", "what"),
    [
        (figure(up=8.0), "up"),
        (figure(down=12.0), "down"),
        (figure(cores=0.2), "cores"),
        (figure(cores=0.3), "cores"),
    ],
)
def test_too_little_and_too_much_are_faults(off: Figure, what: str) -> None:
    (fault,) = off.faults(tolerance=0.15)
    assert fault.endswith(what)
    assert off.faults(tolerance=0.5) == ()
    assert "| NO |" in table([off])


def test_no_limit_is_kept_by_anything() -> None:
    assert Figure(Host("fast"), up_mbit=0.1, down_mbit=1e5, cores=0.01).faults() == ()


def test_a_refusal_carries_its_figures() -> None:
    refusal = BedOff(["slow: 5 of 10 Mbit/s down"], [figure()], 0.15)
    assert refusal.figures == (figure(),)
    assert "15%" in str(refusal)
    assert "5 of 10" in str(refusal)
