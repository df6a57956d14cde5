"""Outer optimizers: how an agreed delta of a walk moves the anchor.

Legend of shape suffixes: N values of the delta.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from coterie.errors import StrategyError
from coterie.sync.pieces import Kind, Memory, Piece, Stand, is_count, is_number

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx, Layout

LONG_WALK_STEPS = 64
LIGHT_MOMENTUM, HEAVY_KEEPS, LIGHT_REGAINS = 0.5, 0.9, 0.4  # priors; see below


@dataclass(frozen=True, repr=False)
class Outer(Piece):
    """SGD on deltas, with momentum and Nesterov's look-ahead: new = anchor − update.

    Douillard et al. 2023, DiLoCo; the update rule is that of `torch.optim.SGD`, so
    `Outer(1.0)` is the average of the walked weights.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> update_N, momentum_N = Outer(0.5, 0.9).update(torch.ones(2), torch.ones(2), Ctx())
    >>> update_N, momentum_N
    (tensor([0.9500, 0.9500]), tensor([1.9000, 1.9000]))
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    kind: ClassVar[Kind] = "map"
    stands: ClassVar[Stand] = "after"
    optimizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (is_number(self.lr) and self.lr > 0):
            raise StrategyError(
                f"expected a learning rate above zero, found {self}; "
                "write Outer(1.0) for the plain average"
            )
        if not (is_number(self.momentum) and 0 <= self.momentum < 1):
            raise StrategyError(
                f"expected a momentum from 0 up to but not 1, found {self}; "
                "write for example Outer(0.7, 0.9)"
            )
        if not isinstance(self.nesterov, bool) or (self.nesterov and not self.momentum):
            raise StrategyError(
                f"expected nesterov=True or False, and True only with a momentum, found {self}; "
                "write for example Outer(0.7, 0.9, nesterov=True)"
            )

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """The momentum of shape (N,), or None without one."""
        return like.new_zeros(layout.size) if self.momentum else None

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """m ← momentum·m + delta; the update is lr·m, with Nesterov lr·(delta + momentum·m)."""
        if not self.momentum:
            return delta_N * self.lr, memory
        momentum_N = cast("Tensor", memory) * self.momentum + delta_N
        ahead_N = delta_N + momentum_N * self.momentum if self.nesterov else momentum_N
        return ahead_N * self.lr, momentum_N

    def bound(self, norm: float | None) -> float | None:
        """lr·norm, and the geometric series 1/(1 − momentum) of it."""
        return None if norm is None else self.lr * norm / (1 - self.momentum)

    def keeps(self) -> float:
        """A tenth is lost with a momentum above 0.5: a prior.

        In runs of 150 to 300 steps DiLoCo's 0.9 took 1.0 to 1.2 times the steps of the plain
        average after walks of 16 and of 32: it is worth something once there were many rounds.
        """
        return 1.0 if self.momentum <= LIGHT_MOMENTUM else HEAVY_KEEPS

    def regains(self, num_steps: int) -> float:
        """What Nesterov wins back of a walk's loss: half after more than 64 steps, a prior.

        DiLoCo's claim is the quality of synchronous training at hundreds of steps (Douillard et
        al. 2023); independent runs at small scale confirm only a part of it. A light momentum of
        0.5 won back a quarter to all of it after walks of 8 to 32 steps on three tasks.
        """
        if not self.nesterov:
            return 0.0
        if self.momentum > LIGHT_MOMENTUM:
            return 0.5 if num_steps > LONG_WALK_STEPS else 0.0
        return LIGHT_REGAINS if num_steps <= LONG_WALK_STEPS else 0.0


@dataclass(frozen=True, repr=False)
class _Adaptive(Piece):
    """A momentum, and a second moment by which each value's step is divided."""

    lr: float
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-3
    kind: ClassVar[Kind] = "map"
    stands: ClassVar[Stand] = "after"
    optimizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not all(is_number(value) and value > 0 for value in (self.lr, self.eps)):
            raise StrategyError(
                f"expected a learning rate and an eps above zero, found {self}; "
                f"write for example {name}(0.01)"
            )
        if not all(is_number(value) and 0 <= value < 1 for value in (self.b1, self.b2)):
            raise StrategyError(
                f"expected b1 and b2 from 0 up to but not 1, found {self}; "
                f"write for example {name}(0.01, 0.9, 0.99)"
            )

    @abc.abstractmethod
    def second(self, delta_N: Tensor, second_N: Tensor) -> Tensor:
        """The second moment after a delta, as a new vector."""

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """The momentum at zero and the second moment at eps², each of shape (N,)."""
        return like.new_zeros(layout.size), like.new_full((layout.size,), self.eps**2)

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """m ← b1·m + (1 − b1)·delta; v by its own rule; the update is lr·m / (√v + eps)."""
        momentum_N, second_N = cast("tuple[Tensor, Tensor]", memory)
        momentum_N = momentum_N * self.b1 + delta_N * (1 - self.b1)
        second_N = self.second(delta_N, second_N)
        return momentum_N * self.lr / (second_N.sqrt() + self.eps), (momentum_N, second_N)

    def bound(self, norm: float | None) -> float | None:
        """lr·norm / eps: m is no longer than the longest delta, and v may come to nothing."""
        return None if norm is None else self.lr * norm / self.eps


@dataclass(frozen=True, repr=False)
class OuterAdam(_Adaptive):
    """Adam on deltas, without bias correction: v ← b2·v + (1 − b2)·delta².

    Reddi et al. 2021, Adaptive Federated Optimization (FedAdam). Its eps is large because deltas
    are, and v starts at eps² as in the paper.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> still = (torch.zeros(1), torch.zeros(1))
    >>> OuterAdam(0.01, b1=0.5, b2=0.75, eps=1.0).update(torch.tensor([6.0]), still, Ctx())
    (tensor([0.0075]), (tensor([3.]), tensor([9.])))
    """

    def second(self, delta_N: Tensor, second_N: Tensor) -> Tensor:
        """b2·v + (1 − b2)·delta²."""
        return second_N * self.b2 + delta_N.square() * (1 - self.b2)


@dataclass(frozen=True, repr=False)
class OuterYogi(_Adaptive):
    """Adam whose second moment moves by delta² at most: v ← v − (1 − b2)·delta²·sign(v − delta²).

    Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization; on deltas Reddi et al. 2021
    (FedYogi). After one large delta the steps do not grow back faster than small ones allow.

    >>> import torch
    >>> from coterie.types import Ctx
    >>> still = (torch.zeros(1), torch.tensor([16.0]))
    >>> OuterYogi(0.01, b1=0.5, b2=0.75).update(torch.tensor([2.0]), still, Ctx())[1]
    (tensor([1.]), tensor([15.]))
    """

    def second(self, delta_N: Tensor, second_N: Tensor) -> Tensor:
        """v − (1 − b2)·delta²·sign(v − delta²): towards delta², and never below zero."""
        square_N = delta_N.square()
        return second_N - square_N * (second_N - square_N).sign() * (1 - self.b2)


@dataclass(frozen=True, repr=False)
class DelayedNesterov(Piece):
    """Nesterov for deltas that come one by one: a momentum renewed at every `every`-th alone.

    Liu et al. 2024, Asynchronous Local-SGD Training for Language Modeling, Algorithm 3 with c = 0:
    in between, each delta moves the anchor by its share of a plain step, because a momentum that
    hears old deltas at every arrival runs away. With every=1 it is Nesterov's rule.

    >>> import torch
    >>> from coterie.types import Ctx, Layout
    >>> outer, memory = DelayedNesterov(1.0, 0.5, every=2), None
    >>> memory = outer.init(Layout(("w",), ((1,),)), torch.zeros(1))
    >>> update_N, memory = outer.update(torch.tensor([2.0]), memory, Ctx())
    >>> update_N, outer.update(torch.tensor([4.0]), memory, Ctx())[0]
    (tensor([1.]), tensor([3.5000]))
    """

    lr: float
    momentum: float = 0.9
    every: int = 4
    kind: ClassVar[Kind] = "map"
    stands: ClassVar[Stand] = "after"
    optimizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (is_number(self.lr) and self.lr > 0):
            raise StrategyError(
                f"expected a learning rate above zero, found {self}; "
                "write for example DelayedNesterov(0.7)"
            )
        if not (is_number(self.momentum) and 0 <= self.momentum < 1):
            raise StrategyError(
                f"expected a momentum from 0 up to but not 1, found {self}; "
                "write for example DelayedNesterov(0.7, 0.9)"
            )
        if not is_count(self.every):
            raise StrategyError(
                f"expected a whole number of arrivals, at least one, found {self}; "
                "write for example DelayedNesterov(0.7, every=4), about as many as members"
            )

    def init(self, layout: Layout, like: Tensor) -> Memory:
        """The momentum and the sum of deltas, each of shape (N,), and how many were added up."""
        return like.new_zeros(layout.size), like.new_zeros(layout.size), like.new_zeros(())

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """lr·delta/every; at every `every`-th, m ← momentum·m + mean delta and lr·momentum·m."""
        momentum_N, sum_N, count = cast("tuple[Tensor, Tensor, Tensor]", memory)
        sum_N, count = sum_N + delta_N, count + 1
        update_N = delta_N * (self.lr / self.every)
        if int(count) < self.every:
            return update_N, (momentum_N, sum_N, count)
        momentum_N = momentum_N * self.momentum + sum_N / self.every
        update_N.add_(momentum_N, alpha=self.lr * self.momentum)
        return update_N, (momentum_N, sum_N.new_zeros(sum_N.shape), count.new_zeros(()))

    def bound(self, norm: float | None) -> float | None:
        """lr·norm·(1/every + momentum/(1 − momentum)), of the arrival that renews the momentum."""
        if norm is None:
            return None
        return self.lr * norm * (1 / self.every + self.momentum / (1 - self.momentum))

    def regains(self, num_steps: int) -> float:
        """As much as `Outer` with Nesterov: per update the paper finds no loss against it."""
        return 0.5 if self.momentum and num_steps > LONG_WALK_STEPS else 0.0
