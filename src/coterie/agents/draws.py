"""Random numbers of one learner: dropout and the like, apart from all else in its process."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Draws:
    """A state of torch's generators, in force within a `with` block; it begins as they stand.

    >>> torch.manual_seed(0) and None
    >>> mine = Draws("cpu")
    >>> with mine:
    ...     drawn = torch.rand(1)
    >>> torch.equal(torch.rand(1), drawn)  # the process draws what it would have drawn
    True
    """

    def __init__(self, device: str) -> None:
        self._generators = [torch.default_generator]
        if torch.device(device).type == "cuda":
            index = torch.device(device).index
            index = torch.cuda.current_device() if index is None else index
            self._generators.append(torch.cuda.default_generators[index])
        self._states = [generator.get_state() for generator in self._generators]
        self._outer: list[Tensor] = []

    def __enter__(self) -> None:
        self._outer = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)

    def __exit__(self, *_: object) -> None:
        self._states = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._outer, strict=True):
            generator.set_state(state)

    def seed(self, *words: object) -> None:
        """Begin anew, from a state that these words name and no others do."""
        digest = hashlib.sha256(repr(words).encode()).digest()
        number = int.from_bytes(digest[:7], "big")
        self._states = [
            torch.Generator(generator.device).manual_seed(number).get_state()
            for generator in self._generators
        ]

    def state(self) -> list[Tensor]:
        """Where it stands: a value that no later draw changes."""
        return [state.clone() for state in self._states]

    def restore(self, states: Sequence[Tensor]) -> None:
        """Stand where another stood, as far as both draw on the same kinds of device."""
        kept = self._states[len(states) :]
        self._states = [state.clone() for state in states[: len(self._states)]] + kept


@contextlib.contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Have torch compute the same from the same, or refuse to, if that is wanted.

    >>> with repeatable(True):
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
