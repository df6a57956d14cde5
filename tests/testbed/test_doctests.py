from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from benchmarks.testbed import __main__ as command
from benchmarks.testbed import figures, hosts, leftovers, links, shares


@pytest.mark.parametrize("module", [command, hosts, leftovers, links, figures, shares])
def test_examples_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0
