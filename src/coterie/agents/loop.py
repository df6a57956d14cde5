"""The user's own loop: which samples it is handed, and what becomes of the gradients it leaves.

The worker's side is what a `Learner` asks of it (`Own`); the user's side is called by what was
prepared: the loader asks for batches, and the optimizer hands their gradient in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.agents.turns import Hand, LoopEnded, Order, Over, Pass, Turns
from coterie.errors import NotFinite, TrainingError
from coterie.transport.messages import Ended, Wire

Start = Callable[[], Order]


def cut(indices: Sequence[int], num: int) -> tuple[Sequence[int], ...]:
    """The samples of a step in so many batches, as even as they can be.

    Of fewer samples than batches, each batch has them all: the mean gradient is the same.

    >>> cut([7, 8, 9], 2), cut([7], 2)
    (([7, 8], [9]), ([7], [7]))
    """
    if len(indices) < num:
        return (indices,) * num
    least, more = divmod(len(indices), num)
    stops = [least * at + min(at, more) for at in range(num + 1)]
    return tuple(indices[a:b] for a, b in pairwise(stops))


class Loop:
    """One loop of the user's, on one agent; of its two sides one runs at a time.

    `batch` samples of all agents make a batch of the loader's, `accumulate` of them a step.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, batch: int, accumulate: int = 1
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.accumulate, self.batch = accumulate, batch * accumulate
        self.turns = Turns()
        self.passes = 0  # over the data, that the loop has begun
        self.is_in_pass = False
        self.max_norm = math.inf  # that the gradient is clipped to before a step
        self.loss = math.nan  # of the batch under way, if the loop tells it
        self._order: Order | None = None
        self._num_handed = 0  # of the parts of the order
        self._dropped = False  # whether its gradient was thrown away

    # -- the worker's side ------------------------------------------------------------------------

    @property
    def is_one_pass(self) -> bool:
        """Whether a batch makes a step."""
        return self.accumulate == 1

    def descend(self, indices: Sequence[int], data_epoch: int) -> float:
        """Have the loop leave the mean gradient on these samples; the loss, NaN if not told."""
        return float(self.turns.ask(Hand(data_epoch, cut(indices, self.accumulate))))

    def begins(self, data_epoch: int) -> bool:
        """End all earlier passes; whether the loop begins this one."""
        return bool(self.turns.ask(Pass(data_epoch)))

    def finish(self) -> None:
        """Clip the gradient that is stepped on, if the loop asked for that."""
        if math.isfinite(self.max_norm):
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)

    # -- the user's side --------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be learned."""
        return isinstance(self._order, Over)

    @property
    def order(self) -> Order | None:
        """What is asked of it now."""
        return self._order

    @property
    def has_begun(self) -> bool:
        """Whether a first pass was begun."""
        return self._order is not None

    def begin(self, start: Start) -> int:
        """Start the worker, if that was not done; how many passes the others have behind them."""
        if self._order is None:
            self._order = start()
        return 0 if isinstance(self._order, Over) else self._order.data_epoch

    def begin_pass(self, start: Start) -> None:
        """Begin a pass over the data."""
        self.passes, self.is_in_pass = self.passes + 1, True
        self.begin(start)

    def next(self) -> Sequence[int] | None:
        """The samples of the next batch, or None at the end of the pass.

        Raises TrainingError where the batches of a step are all there and no step was made.
        """
        self._expect_step()
        while True:
            match self._order:
                case Pass(data_epoch) if data_epoch < self.passes:
                    self._order = self.turns.answer(True)
                case Hand(data_epoch, parts) if data_epoch < self.passes:
                    return self._hand(parts)
                case Over(error) if error is not None:
                    raise error
                case _:
                    return None

    def step(self) -> None:
        """Hand in the gradient, once all batches of the step were there, and wait for the step."""
        if self.is_over:
            return
        if not isinstance(self._order, Hand) or not self._num_handed:
            raise TrainingError(
                "expected optimizer.step() after a batch of the prepared loader, found none since "
                "the last step; step once for each batch, inside the loop over the loader"
            )
        if self._num_handed < len(self._order.parts):
            return
        sizes = [len(part) for part in self._order.parts]
        self._scale(sizes[-1] * len(sizes) / sum(sizes))
        loss, self.loss = self.loss, math.nan
        self._hand_in(loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients; those of batches that were not stepped on drop their batches."""
        if isinstance(self._order, Hand) and self._num_handed and self._gradients():
            if self._num_handed < len(self._order.parts):
                return  # more batches are to come for the same step
            self._dropped = True
        self.optimizer.zero_grad(set_to_none)

    def end(self, tell: Callable[[Wire], None]) -> None:
        """The loop is over: whatever is still asked of it, it learns nothing more."""
        if not self.is_over:
            tell(Ended())
        while not self.turns.finished:
            match self._order:
                case Hand():
                    self._hand_in(LoopEnded("the loop has ended"))
                case _:
                    self._order = self.turns.answer(False)

    def _hand(self, parts: tuple[Sequence[int], ...]) -> Sequence[int]:
        at = self._num_handed
        if at:  # parts of other sizes count for as much as they are large
            self._scale(len(parts[at - 1]) / len(parts[at]))
        self._num_handed += 1
        return parts[at]

    def _hand_in(self, answer: float | Exception) -> None:
        self._num_handed, self._dropped = 0, False
        self._order = self.turns.answer(answer)

    def _expect_step(self) -> None:
        if not isinstance(self._order, Hand) or self._num_handed < len(self._order.parts):
            return
        found = self._gradients()
        if self._dropped or not found or not all(bool(g.isfinite().all()) for g in found):
            self._hand_in(NotFinite("expected a step on a batch, found that the loop dropped it"))
            return
        raise TrainingError(
            f"expected optimizer.step() after {self.accumulate} of the loader's batches, found "
            "another one asked for first; step after each, or say how many make a step with "
            "me.prepare(..., accumulate=K)"
        )

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def _scale(self, factor: float) -> None:
        if factor != 1.0 and (found := self._gradients()):
            torch._foreach_mul_(found, factor)
