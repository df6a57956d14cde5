"""How property tests behave everywhere: the same examples each time, and no assert on the clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("coterie", deadline=None, derandomize=True)
settings.load_profile("coterie")
