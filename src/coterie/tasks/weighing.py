"""How much each task's loss counts: λ in Σ λᵢLᵢ, fixed, learned, or by how the tasks come along.

All but `Fixed` and `Uncertainty` keep Σ λᵢ = M, so that a rate tuned for the plain sum serves.
What a weighing remembers lies in the model: `Uncertainty` learns parameters, which travel and are
agreed on like any others; the rest measures, in buffers that each member keeps for itself, as it
does those of batch normalisation. Both are saved with the weights.

Legend of shape suffixes: M tasks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coterie import combine
from coterie.errors import JobError

LAWS = {
    law.__name__: law
    for law in (
        combine.pcgrad,
        combine.upgrad,
        combine.mgda,
        combine.cagrad,
        combine.nash_mtl,
        combine.aligned_mtl,
        combine.imtl_g,
        combine.mean,
    )
}
LEAST = 1e-8  # of a loss whose logarithm or inverse is asked for

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """What a weighing may go by at a step; NaN stands for tasks without samples in the batch."""

    names: tuple[str, ...]  # of the tasks
    loss_M: Tensor  # mean losses of this batch, detached
    slope_M: Callable[[], Tensor]  # how long their gradients are at the trunk's last weights
    change_M: Callable[[], Tensor]  # of the logarithms of the last batch's losses, by the step


@dataclass(frozen=True)
class Weighing(abc.ABC):
    """A way to weigh losses; a frozen value, whose memory the model holds for it."""

    needs_all: ClassVar[bool] = False  # whether it compares the tasks, and has to see them all

    def memory(self, names: tuple[str, ...]) -> Memory:
        """What it remembers at first; what is an nn.Parameter is learned by the optimizer."""
        return {}

    @abc.abstractmethod
    def weigh(self, memory: Memory, moment: Moment) -> tuple[Tensor | Sequence[float], Memory]:
        """λ of each task, (M,), and what to remember from now on."""

    def toll(self, memory: Memory) -> Tensor | float:
        """What is added to the weighed losses."""
        return 0.0


@dataclass(frozen=True)
class Fixed(Weighing):
    """λ as it is written, and one where nothing is.

    >>> Fixed({"digit": 0.5}).memory(("parity",))
    Traceback (most recent call last):
    coterie.errors.JobError: expected weights of parity, found one of digit; ...
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def memory(self, names: tuple[str, ...]) -> Memory:
        """Nothing; JobError for the weight of a task that there is not."""
        if unknown := [name for name in self.weights if name not in names]:
            raise JobError(
                f"expected weights of {', '.join(names)}, found one of {', '.join(unknown)}; "
                "call it as the task is called"
            )
        return {}

    def weigh(self, memory: Memory, moment: Moment) -> tuple[Sequence[float], Memory]:
        """The weights, whatever happens: no tensors, which would round them."""
        return [self.weights.get(name, 1.0) for name in moment.names], memory


@dataclass(frozen=True)
class Uncertainty(Weighing):
    """Σ exp(−sᵢ)·Lᵢ + sᵢ/2, with sᵢ learned: the logarithm of each task's own noise.

    Kendall et al. 2018, Multi-Task Learning Using Uncertainty to Weigh Losses. The s are
    parameters, called balance.log_variance_M.
    """

    def memory(self, names: tuple[str, ...]) -> Memory:
        """All s at zero, so that every λ begins at one."""
        return {"log_variance_M": nn.Parameter(torch.zeros(len(names)))}

    def weigh(self, memory: Memory, moment: Moment) -> tuple[Tensor, Memory]:
        """One over the variance of each task."""
        return (-memory["log_variance_M"]).exp(), memory

    def toll(self, memory: Memory) -> Tensor:
        """Half the sum of s, or all noise would be called infinite."""
        return memory["log_variance_M"].sum() / 2


@dataclass(frozen=True)
class DWA(Weighing):
    """More for losses that fell less lately: λ = M·softmax(r/T), r the ratio of two means.

    Liu et al. 2019, End-to-End Multi-Task Learning with Attention. The paper compares epochs; here
    windows of `every` steps of this member are compared, for members share an epoch.
    """

    needs_all: ClassVar[bool] = True
    temperature: float = 2.0
    every: int = 100  # steps

    def memory(self, names: tuple[str, ...]) -> Memory:
        """No window seen yet."""
        zero_M = torch.zeros(len(names))
        return {
            "sum_M": zero_M,
            "num_M": zero_M.clone(),
            "last_M": torch.full_like(zero_M, torch.nan),
            "ratio_M": torch.ones_like(zero_M),
        }

    def weigh(self, memory: Memory, moment: Moment) -> tuple[Tensor, Memory]:
        """By the ratio of the last window to the one before; one until there are two."""
        weight_M = len(memory["ratio_M"]) * (memory["ratio_M"] / self.temperature).softmax(0)
        sum_M = memory["sum_M"] + moment.loss_M.nan_to_num()
        num_M = memory["num_M"] + ~moment.loss_M.isnan()
        if int(num_M.max()) < self.every:
            return weight_M, {**memory, "sum_M": sum_M, "num_M": num_M}
        last_M = torch.where(num_M > 0, sum_M / num_M, memory["last_M"])
        ratio_M = (last_M / memory["last_M"].clamp(min=LEAST)).nan_to_num(nan=1.0)
        begun = {"sum_M": torch.zeros_like(sum_M), "num_M": torch.zeros_like(num_M)}
        return weight_M, {**begun, "last_M": last_M, "ratio_M": ratio_M}


@dataclass(frozen=True)
class GradNorm(Weighing):
    """λ that lets each task's gradient be as long as all are, times how far it lags behind.

    Chen et al. 2018, GradNorm. The objective Σ|λᵢ‖∇Lᵢ‖ − Ḡ·rᵢ^α| is descended by `rate` at each
    step, in units of Ḡ; r is a loss over its first value, over the mean of these.
    """

    needs_all: ClassVar[bool] = True
    alpha: float = 1.5
    rate: float = 0.025

    def memory(self, names: tuple[str, ...]) -> Memory:
        """Equal weights, and first losses not yet seen."""
        return {"weight_M": torch.ones(len(names)), "first_M": torch.full((len(names),), torch.nan)}

    def weigh(self, memory: Memory, moment: Moment) -> tuple[Tensor, Memory]:
        """The weights so far; those after this step are remembered."""
        weight_M = memory["weight_M"]
        first_M = torch.where(memory["first_M"].isnan(), moment.loss_M, memory["first_M"])
        seen_M = ~moment.loss_M.isnan()
        slope_M = torch.where(seen_M, moment.slope_M(), 0.0)
        behind_M = torch.where(seen_M, moment.loss_M / first_M.clamp(min=LEAST), 0.0)
        num_seen = seen_M.sum().clamp(min=1)
        length_M, behind = weight_M * slope_M, behind_M.sum() / num_seen
        level = (length_M.sum() / num_seen).clamp(min=LEAST)
        wanted_M = level * (behind_M / behind.clamp(min=LEAST)) ** self.alpha
        pull_M = torch.where(seen_M, (length_M - wanted_M).sign() * slope_M / level, 0.0)
        moved_M = (weight_M - self.rate * pull_M).clamp(min=1e-3)
        return weight_M, {
            "weight_M": len(moved_M) * moved_M / moved_M.sum(),
            "first_M": first_M,
        }


@dataclass(frozen=True)
class FAMO(Weighing):
    """More for losses whose logarithms the last step lowered less, from losses alone.

    Liu et al. 2023, FAMO: Fast Adaptive Multitask Optimization: ξ ← ξ − β(δ + γξ), λᵢ ∝ zᵢ/Lᵢ with
    z = softmax(ξ). δ needs the last batch's losses after the step: one forward pass more, as in
    the paper. Losses have to be above zero.
    """

    needs_all: ClassVar[bool] = True
    rate: float = 0.025
    decay: float = 1e-3

    def memory(self, names: tuple[str, ...]) -> Memory:
        """All ξ at zero."""
        return {"logit_M": torch.zeros(len(names))}

    def weigh(self, memory: Memory, moment: Moment) -> tuple[Tensor, Memory]:
        """Shares over losses, once ξ has heard what the last step did."""
        logit_M = memory["logit_M"]
        share_M, fall_M = logit_M.softmax(0), -moment.change_M().nan_to_num()
        delta_M = share_M * (fall_M - share_M @ fall_M)  # the softmax's Jacobian times the fall
        logit_M = logit_M - self.rate * (delta_M + self.decay * logit_M)
        over_M = logit_M.softmax(0) / moment.loss_M.clamp(min=LEAST)
        over_M = over_M.nan_to_num()
        total = over_M.sum().clamp(min=torch.finfo(over_M.dtype).tiny)
        return len(over_M) * over_M / total, {"logit_M": logit_M}


@dataclass(frozen=True)
class Random(Weighing):
    """λ drawn anew at each step: M·softmax of normal numbers.

    Lin et al. 2022, Reasonable Effectiveness of Random Weighting: a baseline that learned weights
    should beat. It draws from the member's own random numbers.
    """

    def memory(self, names: tuple[str, ...]) -> Memory:
        """Only how many there are."""
        return {"one_M": torch.ones(len(names))}

    def weigh(self, memory: Memory, moment: Moment) -> tuple[Tensor, Memory]:
        """M positive numbers whose sum is M."""
        one_M = memory["one_M"]
        return len(one_M) * torch.randn_like(one_M).softmax(0), memory


@dataclass(frozen=True)
class Conflict:
    """A law on the rows of the trunk's gradient, one for each task; heads keep their own.

    `law` is a name of `coterie.combine`; `options` are its arguments beyond rows and weights.

    >>> Conflict("cagrad", {"c": 0.4}).law
    'cagrad'
    """

    law: str = "upgrad"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise JobError(
                f"expected a law of {', '.join(LAWS)}, found {self.law!r}; write one of these"
            )

    def combine(self, rows: Sequence[Tensor]) -> Tensor:
        """The rows as one, times their number, to stand where their sum would."""
        return LAWS[self.law](rows, [1.0] * len(rows), **self.options).mul_(len(rows))


Balance = Weighing | Conflict
WEIGHINGS: dict[str, type[Weighing]] = {
    "equal": Fixed,
    "uncertainty": Uncertainty,
    "dwa": DWA,
    "gradnorm": GradNorm,
    "famo": FAMO,
    "random": Random,
}


def balance_of(said: str | Mapping[str, float] | Balance) -> Balance:
    """A balance by its name, as fixed weights, or as it is.

    >>> balance_of("dwa"), balance_of({"digit": 2.0}), balance_of("pcgrad").law
    (DWA(temperature=2.0, every=100), Fixed(weights={'digit': 2.0}), 'pcgrad')
    """
    if isinstance(said, Weighing | Conflict):
        return said
    if isinstance(said, Mapping):
        return Fixed(dict(said))
    if said in WEIGHINGS:
        return WEIGHINGS[said]()
    if said in LAWS:
        return Conflict(said)
    raise JobError(
        f"expected a balance of {', '.join([*WEIGHINGS, *LAWS])}, found {said!r}; "
        "write one of these, or a weight for each task"
    )
