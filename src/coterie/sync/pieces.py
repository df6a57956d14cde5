"""The words of a sentence: what a piece is, and those that map a member's own delta.

Pieces transform the vectors they are given and never make one from nothing: torch is imported for
its types alone, so that a sentence can be read, checked and priced without loading it.
Legend of shape suffixes: N values of the delta, K of them that a pattern selects.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast

from coterie.errors import StrategyError

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Layout

Kind = Literal["local", "map", "pack", "exchange"]
Stand = Literal["before", "after", "either"]  # on which side of the exchange a map makes sense
Memory: TypeAlias = "Tensor | tuple[Memory, ...] | None"  # a value: passed, returned, never hidden

TINY = 2.0**-126  # smallest normal float32: dividing by it keeps a vector of zeros at zero
LOSS_OF_WALKING, LOSS_PER_DOUBLING = 0.15, 0.02  # priors; see Every.keeps
LOSS_OF_LONG, FLAT_DOUBLINGS, LOSS_OF_OVERLAP = 0.05, 5, 0.6


@dataclass(frozen=True, repr=False)
class Piece(abc.ABC):
    """One word of a sentence: vector in, vector out, memory passed in and handed back.

    A leaf is a frozen dataclass, so that it compares, travels and prints as it is written.
    `update` may reuse its input's storage but never writes to its input nor to its memory.

    >>> Every(8), Every(8) == Every(8)
    (Every(8), True)
    """

    kind: ClassVar[Kind]
    stands: ClassVar[Stand] = "either"
    optimizes: ClassVar[bool] = False  # whether it is an outer optimizer: one that lands a walk

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """Fresh memory for vectors of `layout`, of the dtype and on the device of `like`."""
        return None

    @abc.abstractmethod
    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """Transform a delta: what comes out of this piece, and what it remembers next."""

    def bound(self, norm: float | None) -> float | None:
        """Largest L2 norm that can come out when at most `norm` goes in; None is unknown."""
        return norm

    def narrow(self, layout: Layout) -> Layout:
        """The layout of what comes out, given the layout of what goes in."""
        return layout

    def keeps(self) -> float:
        """Prior of the progress per sample kept against plain synchronous steps, in (0, 1]."""
        return 1.0

    def regains(self, num_steps: int) -> float:
        """Prior of the share of a walk's loss of progress that this piece wins back, in [0, 1]."""
        return 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(as_written(self))})"


def as_written(piece: Any) -> list[str]:
    """A piece's arguments as a person writes them: defaults left out, switches by name.

    >>> as_written(Every(100, fragments=4))
    ['100', 'fragments=4']
    """
    words: list[str] = []
    by_name = False
    for each in fields(piece):
        value = getattr(piece, each.name)
        if (type(value), value) == (type(each.default), each.default):
            by_name = True  # a later argument has lost its place
        elif by_name or isinstance(value, bool) or each.kw_only:
            words.append(f"{each.name}={value!r}")
        else:
            words.append(repr(value))
    return words


def fold(
    pieces: Sequence[Piece], vector: Tensor, memory: tuple[Memory, ...], ctx: Ctx
) -> tuple[Tensor, tuple[Memory, ...]]:
    """Pass a vector through the pieces, left to right, each with its own memory."""
    kept = []
    for piece, own in zip(pieces, memory, strict=True):
        vector, own_next = piece.update(vector, own, ctx)
        kept.append(own_next)
    return vector, tuple(kept)


def is_number(value: object) -> bool:
    """Whether a literal is a finite number (a switch is not one).

    >>> is_number(0.7), is_number(True), is_number(float("nan"))
    (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    """Whether a literal is a whole number of at least one.

    >>> is_count(1), is_count(0), is_count(2.0)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class Prior:
    """What progress per sample a sentence is believed to keep against plain synchronous steps.

    kept = rest · (w + (1 − w) · regained)        w = 1 / (1 + loss · ln n / ln 3)

    Walks are short of one another's gradients: of one member alone none is missing, and whoever
    learns most of a batch misses little. So n counts members by their parts of it, 1 / Σ pᵢ².

    >>> walk = Prior(loss=0.25, regained=0.0, rest=1.0)
    >>> walk.kept(1.0), walk.kept(3.0)
    (1.0, 0.8)
    """

    loss: float  # by walking, of three members of equal share
    regained: float  # of it, by an outer optimizer
    rest: float  # kept by all that is no walk

    def kept(self, num_members: float = 3.0) -> float:
        """In (0, 1]."""
        walk = 1 / (1 + self.loss * max(0.0, math.log(num_members, 3)))
        return self.rest * (walk + (1 - walk) * self.regained)


@dataclass(frozen=True, repr=False)
class Every(Piece):
    """Walk `num_steps` optimizer steps alone, then meet with `anchor − here` as the delta.

    McMahan et al. 2017, Communication-Efficient Learning (FedAvg); Stich 2019, Local SGD. With
    `fragments`, a part of the parameters meets every num_steps / fragments steps, one part after
    the other. With `overlap`, a meeting goes on while its members walk that many steps more, and
    what was agreed is mixed with where they are by then: `mix` of the member's own, the rest of
    the agreed (Douillard et al. 2025, Streaming DiLoCo).

    >>> Every(100).keeps() < Every(10).keeps() < Every(1).keeps()
    True
    >>> Every(100, fragments=4, overlap=5).meets_every
    25
    """

    num_steps: int
    fragments: int = field(default=1, kw_only=True)
    overlap: int = field(default=0, kw_only=True)
    mix: float = field(default=0.5, kw_only=True)
    kind: ClassVar[Kind] = "local"
    paced: ClassVar[bool] = False  # whether members take steps in number, not in size, by speed

    def __post_init__(self) -> None:
        if not is_count(self.num_steps):
            raise StrategyError(
                f"expected a walk of a whole number of steps, at least one, found {self}; "
                "write Every(1), or leave it out so that gradients travel"
            )
        if not is_count(self.fragments) or self.num_steps % self.fragments:
            raise StrategyError(
                f"expected a number of fragments that divides the walk, found {self}; "
                "write for example Every(100, fragments=4)"
            )
        if not (is_count(self.overlap + 1) and self.overlap < self.meets_every):
            raise StrategyError(
                f"expected an overlap of 0 up to {self.meets_every - 1} steps, for a meeting ends "
                f"before the next begins, found {self}; write a smaller overlap"
            )
        if not (is_number(self.mix) and 0 <= self.mix < 1):
            raise StrategyError(
                f"expected a mix from 0 up to but not 1, found {self}; write for example mix=0.5"
            )

    @property
    def meets_every(self) -> int:
        """Optimizer steps between two meetings."""
        return self.num_steps // self.fragments

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The walked delta as it is: walking is done by the member's own optimizer."""
        return delta_N, memory

    def keeps(self) -> float:
        """1 / (1 + loss) / (1 + 0.6·overlap/h), of three members: a prior.

        What lands late lands on other weights: no outer optimizer wins that back.
        """
        return self.lands() / (1 + self.loss)

    @property
    def loss(self) -> float:
        """0.15 + 0.02·log2 h + 0.05·log2 (h/32) if h > 32: what walking costs three members.

        Read from steps to a held-out loss (docs/deciding.md): walks of 2 to 32 steps took 1.15 to
        1.3 times those of gradients, hardly more the longer they were. Beyond, reported losses
        rise with log h, +2.8 % at 25 and +9.4 % at 500 (ft-diloco, 51 M parameters), and a higher
        loss costs several times as much in samples.
        """
        doublings = math.log2(self.num_steps)
        long = LOSS_OF_LONG * max(0.0, doublings - FLAT_DOUBLINGS)
        return LOSS_OF_WALKING + LOSS_PER_DOUBLING * doublings + long

    def lands(self) -> float:
        """What is kept where a meeting's outcome lands so many steps later."""
        return 1 / (1 + LOSS_OF_OVERLAP * self.overlap / self.num_steps)


@dataclass(frozen=True, repr=False)
class DyLU(Every):
    """Walk `num_steps` steps if fastest, fewer in proportion if slower, all with equal batches.

    Dynamic local updates (Liu et al. 2024, Asynchronous Local-SGD Training for Language Modeling):
    everybody is done at about the same time. `Every` gives slow members smaller batches instead.

    >>> DyLU(32), DyLU(32).paced
    (DyLU(32), True)
    """

    paced: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class Clip(Piece):
    """Scale a delta down to an L2 norm of at most `norm`, keeping its direction.

    Pascanu et al. 2013, On the Difficulty of Training Recurrent Neural Networks.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> Clip(1.0).update(torch.tensor([0.0, 4.0]), None, Ctx())[0]
    tensor([0., 1.])
    """

    norm: float
    kind: ClassVar[Kind] = "map"

    def __post_init__(self) -> None:
        if not (is_number(self.norm) and self.norm > 0):
            raise StrategyError(
                f"expected a finite norm above zero, found {self}; write for example Clip(1.0)"
            )

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta times min(1, norm / its own norm), as a new vector; NaN stays NaN."""
        # Squares of float32 values overflow above 1e19, so the norm is taken of unit-size values.
        peak = delta_N.abs().amax().clamp_min(TINY)
        scale = self.norm / peak / (delta_N / peak).norm()
        return delta_N * scale.clamp_max(1.0), memory

    def bound(self, norm: float | None) -> float:
        """The smaller of what goes in and the clip."""
        return self.norm if norm is None else min(norm, self.norm)


@dataclass(frozen=True, repr=False)
class Only(Piece):
    """Share the parameters whose names match a shell pattern; the others stay a member's own.

    Collins et al. 2021, Exploiting Shared Representations (FedRep). The memory is the mask of the
    selected values. A pattern that matches nothing is a JobError of `init` and `narrow`.

    >>> import torch
    >>> from coterie.types import Ctx, Layout
    >>> layout, delta_N = Layout(("trunk", "head"), ((2,), (1,))), torch.tensor([1.0, 2.0, 3.0])
    >>> Only("trunk").update(delta_N, Only("trunk").init(layout, delta_N), Ctx())[0]
    tensor([1., 2.])
    """

    pattern: str
    kind: ClassVar[Kind] = "map"
    stands: ClassVar[Stand] = "before"

    def __post_init__(self) -> None:
        if not (isinstance(self.pattern, str) and self.pattern):
            raise StrategyError(
                f"expected a pattern of parameter names, found {self}; "
                'write for example Only("trunk.*")'
            )

    def init(self, layout: Layout, like: Tensor) -> Tensor:
        """The mask of the selected values, of shape (N,) and dtype bool."""
        kept = frozenset(layout.select(self.pattern).names)
        mask_N = like.new_zeros(layout.size).bool()
        for name, where in layout.slices():
            mask_N[where] = name in kept
        return mask_N

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The selected K of N values, as a new vector."""
        return delta_N[cast("Tensor", memory)], memory

    def narrow(self, layout: Layout) -> Layout:
        """The part of the layout that is shared."""
        return layout.select(self.pattern)


def norm_before(pieces: Sequence[Piece]) -> float | None:
    """The largest L2 norm that can come out of these pieces; None where it is unknown.

    >>> norm_before([Every(8), Clip(2.0)]), norm_before([Every(8)])
    (2.0, None)
    """
    norm: float | None = None
    for piece in pieces:
        norm = piece.bound(norm)
    return norm
