"""Words of learning: the flat vector's layout, and what travels.

Legend of shape suffixes: N parameters, M members, B samples of a batch. torch is imported for its
types alone: pieces transform the vectors they are given and never make one from nothing, so that
the coordinator can read and price a sentence without loading torch.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coterie.errors import JobError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Where each trainable parameter lies in the flat vector.

    >>> layout = Layout(("trunk.weight", "head.bias"), ((2, 3), (4,)))
    >>> layout.size, layout.select("head.*").names
    (10, ('head.bias',))
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model's trainable parameters, in the order it names them."""
        trainable = [(n, tuple(p.shape)) for n, p in model.named_parameters() if p.requires_grad]
        if not trainable:
            raise JobError(
                "expected a model with trainable parameters, found none; "
                "set requires_grad on at least one"
            )
        return cls(tuple(n for n, _ in trainable), tuple(s for _, s in trainable))

    @property
    def size(self) -> int:
        """Length N of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def digest(self) -> str:
        """A short fingerprint: two models with equal digests can exchange vectors."""
        return hashlib.sha256(json.dumps([self.names, self.shapes]).encode()).hexdigest()[:16]

    def difference(self, other: Layout) -> str:
        """The first parameter in which two models differ, as words that follow; empty if none.

        >>> Layout(("w", "b"), ((2,), (4,))).difference(Layout(("w", "b"), ((2,), (3,))))
        ': b is (4,), elsewhere (3,)'
        """
        mine, theirs = (dict(zip(k.names, k.shapes, strict=True)) for k in (self, other))
        for name in [*mine, *theirs]:
            if mine.get(name) != theirs.get(name):
                return f": {name} is {mine.get(name, 'missing')}, elsewhere " + str(
                    theirs.get(name, "missing")
                )
        return ""

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Each name with its place in the flat vector."""
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + math.prod(shape)
            yield name, slice(start, stop)
            start = stop

    def views(self, vector_N: Tensor) -> dict[str, Tensor]:
        """Each parameter as a shaped view into the vector; writing to it writes the vector."""
        if vector_N.numel() != self.size:
            raise JobError(f"expected a vector of {self.size} values, found {vector_N.numel()}")
        shapes = dict(zip(self.names, self.shapes, strict=True))
        return {name: vector_N[where].view(shapes[name]) for name, where in self.slices()}

    def select(self, pattern: str) -> Layout:
        """The part of this layout whose names match a shell pattern such as `trunk.*`."""
        kept = [i for i, name in enumerate(self.names) if fnmatch.fnmatchcase(name, pattern)]
        if not kept:
            raise JobError(
                f"expected a pattern that matches a parameter, found {pattern!r}; "
                f"the names are {', '.join(self.names)}"
            )
        return Layout(tuple(self.names[i] for i in kept), tuple(self.shapes[i] for i in kept))


@dataclass(frozen=True)
class Message:
    """What one member brings to a meeting: its payload, and the samples that stand behind it."""

    member: str
    payload: Tensor
    weight: float


@dataclass(frozen=True)
class Ctx:
    """What a piece may know of the moment."""

    round: int = 0
    generator: torch.Generator | None = None  # of this member alone, for a piece that draws
    num_steps: int = 1  # optimizer steps behind this member's delta
    mean_steps: float = 1.0  # the same on average over members, weighted as their deltas are
    num_members: int = 1  # who bring a delta
    staleness: int = 0  # updates that landed at the server since this delta's anchor was read


@dataclass(frozen=True)
class Batch:
    """Samples as the loader collated them, and how many there are."""

    data: Any
    size: int
