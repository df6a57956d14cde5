"""Noise that hides what any one member brought.

What is here is the mechanism alone. How much privacy a run has spent, its ε and δ over all rounds,
is for an accountant to say, and there is none here yet. Legend: N values of the delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from coterie.errors import StrategyError
from coterie.sync.pieces import Kind, Memory, Piece, is_count, is_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from coterie.types import Ctx


@dataclass(frozen=True, repr=False)
class Noise(Piece):
    """Add Gaussian noise of `multiplier` times what one member can change.

    McMahan et al. 2018, Learning Differentially Private Recurrent Language Models (DP-FedAvg).
    Before the exchange each member veils its own delta of at most the clip norm C with z·C; after
    an unweighted mean of n deltas one member changes it by at most C/n, so z·C/n is enough. That
    holds for a member that brings zeros instead of its delta, where n is public and the same n
    that the mean divided by; after any other law the change is unknown.

    The clip norm is the chain's to know, `init` cannot: lay `remember(norm, …)` in the memory. The
    generator must be seeded anew from the operating system and nobody else may know its state.
    Noise of floating point still leaks in its lowest bits (Mironov 2012).

    >>> import torch
    >>> Noise(1.1), Noise(2.0).scale(3.0), Noise(2.0).scale(3.0, num_members=4)
    (Noise(1.1), 6.0, 1.5)
    >>> Noise(1.0).add(torch.zeros(3), 0.0, torch.Generator())
    tensor([0., 0., 0.])
    """

    multiplier: float
    kind: ClassVar[Kind] = "map"

    def __post_init__(self) -> None:
        if not (is_number(self.multiplier) and self.multiplier > 0):
            raise StrategyError(
                f"expected a finite multiplier above zero, found {self}; "
                "write for example Noise(1.1), or leave it out"
            )

    def scale(self, norm: float | None, num_members: int = 1) -> float:
        """Standard deviation for deltas of at most `norm`, of one or as a mean of `num_members`.

        Raises StrategyError when the norm is not known, or not finite and above zero.
        """
        if not (is_number(norm) and cast("float", norm) > 0):
            raise StrategyError(
                f"expected a bound on what a member brings before {self}, found {norm}; "
                "write for example Clip(1.0) before it, and nothing between that may lift the norm"
            )
        if not is_count(num_members):
            raise StrategyError(
                f"expected at least one member behind a mean, found {num_members}; "
                "count those whose deltas were added up"
            )
        return self.multiplier * cast("float", norm) / num_members

    def add(self, delta_N: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        """The delta plus N draws of standard deviation `scale`, as a new vector."""
        double = delta_N[:0].double().dtype  # its tail reaches further than that of float32
        noise_N = delta_N.new_empty(delta_N.shape, dtype=double, device=generator.device)
        noise_N.normal_(0.0, scale, generator=generator)
        return (noise_N.to(delta_N.device) + delta_N).to(delta_N.dtype)

    def remember(self, norm: float | None, like: Tensor, *, of_mean: bool) -> Memory:
        """The memory to update with: the bound of a delta, and whether a mean of them arrives.

        Raises StrategyError when the norm is not known, or not finite and above zero.
        """
        self.scale(norm)
        return like.new_tensor([cast("float", norm), of_mean], dtype=like[:0].double().dtype)

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The veiled delta; StrategyError without a remembered norm or without a generator."""
        if memory is None or ctx.generator is None:
            missing = "remembered clip norm" if memory is None else "generator"
            raise StrategyError(
                f"expected {self} to have a {missing}, found none; "
                "build it into a chain after a Clip, and pass a generator of its own"
            )
        norm, of_mean = cast("Tensor", memory).tolist()
        scale = self.scale(norm, ctx.num_members if of_mean else 1)
        return self.add(delta_N, scale, ctx.generator), memory

    def bound(self, norm: float | None) -> None:
        """Unknown: a Gaussian has no largest value."""
        return
