"""Words that scale a delta by the moment, and one that holds a walk near its anchor.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from coterie.errors import StrategyError
from coterie.sync.pieces import Kind, Memory, Piece, Stand, is_number

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx


@dataclass(frozen=True, repr=False)
class Even(Piece):
    """Count a delta as if all members had walked equally many steps: delta · mean / own steps.

    Wang et al. 2020, Tackling the Objective Inconsistency Problem (FedNova), for a local optimizer
    without momentum: with momentum the paper divides by the 1-norm of its accumulation instead.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> Even().update(torch.tensor([4.0]), None, Ctx(num_steps=8, mean_steps=6.0))[0]
    tensor([3.])
    """

    kind: ClassVar[Kind] = "map"
    stands: ClassVar[Stand] = "before"

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta times mean_steps / num_steps, as a new vector."""
        # Who took no step brings a delta of zeros, which no factor changes.
        return delta_N * (ctx.mean_steps / max(ctx.num_steps, 1)), memory

    def bound(self, norm: float | None) -> None:
        """Unknown: a member of few steps grows by a factor that others decide. Clip after it."""
        return


@dataclass(frozen=True, repr=False)
class Discount(Piece):
    """Believe an old delta less: times (1 + staleness)^−base.

    Xie et al. 2019, Asynchronous Federated Optimization (FedAsync), the polynomial form. Its
    staleness is the updates that landed since the delta's anchor was read.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> Discount(0.5).update(torch.tensor([4.0]), None, Ctx(staleness=3))[0]
    tensor([2.])
    """

    base: float = 0.5
    kind: ClassVar[Kind] = "map"
    stands: ClassVar[Stand] = "after"

    def __post_init__(self) -> None:
        if not (is_number(self.base) and self.base > 0):
            raise StrategyError(
                f"expected a finite exponent above zero, found {self}; "
                "write for example Discount(0.5), or leave it out"
            )

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta times (1 + staleness)^−base, as a new vector."""
        return delta_N * (1 + ctx.staleness) ** -self.base, memory


@dataclass(frozen=True, repr=False)
class Prox(Piece):
    """Hold a walk near its anchor: each local gradient gets mu·(here − anchor) added.

    Li et al. 2020, Federated Optimization in Heterogeneous Networks (FedProx): the pull of the
    penalty mu/2·‖here − anchor‖². It happens within the walk, so the delta stays as it is; whoever
    walks reads `mu`. The paper tries 0.001, 0.01, 0.1 and 1.

    >>> Prox(0.1).mu
    0.1
    """

    mu: float
    kind: ClassVar[Kind] = "local"

    def __post_init__(self) -> None:
        if not (is_number(self.mu) and self.mu > 0):
            raise StrategyError(
                f"expected a finite pull above zero, found {self}; "
                "write for example Prox(0.01), or leave it out"
            )

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The walked delta as it is."""
        return delta_N, memory
