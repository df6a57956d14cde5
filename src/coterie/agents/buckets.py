"""A gradient handed out in parts while the backward pass still goes on.

Legend: N trainable parameters, P values of one bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError, Torn
from coterie.sync.fragments import buckets
from coterie.types import Layout


class Hands:
    """Hands each bucket out as soon as it and all before it are there: one order on all members."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        told_N: Tensor,
        factor: float,
        parts: Sequence[tuple[int, slice]],
        kept_N: Tensor | None = None,
    ) -> None:
        self._told_N, self._factor, self._kept_N = told_N, factor, kept_N
        views = torch.split(told_N, [p.numel() for p in parameters])
        pairs = zip(parameters, views, strict=True)
        self._pairs = [(p, view.view(p.shape)) for p, view in pairs][::-1]  # the last one first
        self._parts = list(parts)
        self._there: set[int] = set()  # parameters, counted from the last
        self._in_a_row = self._num_told = 0

    def arrived(self, place: int, emit: Callable[[Tensor], None]) -> None:
        """A parameter has its gradient."""
        self._there.add(place)
        while self._in_a_row in self._there:
            self._in_a_row += 1
        self.flush(emit, self._in_a_row)

    def flush(self, emit: Callable[[Tensor], None], num_there: float = math.inf) -> None:
        """Hand out what is there, or all that is left; parameters without a gradient as zeros."""
        while self._parts and self._parts[0][0] <= num_there:
            stop, where = self._parts.pop(0)
            gather(self._pairs[self._num_told : stop])
            self._num_told = stop
            if self._kept_N is not None:
                self._kept_N[where].copy_(self._told_N[where])
            emit(self._told_N[where].mul_(self._factor))

    @property
    def are_changed(self) -> bool:
        """Whether a gradient is not any more what was handed out of it."""
        if self._kept_N is None:
            return False
        stop = self._told_N.numel()
        for parameter, view in self._pairs[: self._num_told]:
            start = stop - view.numel()
            kept = self._kept_N[start:stop].view(view.shape)
            here = parameter.grad
            same = not kept.any() if here is None else torch.equal(here.to(kept), kept)
            if not same and bool(kept.isfinite().all()):  # else all see that anyhow
                return True
            stop = start
        return False

    def spoil(self, emit: Callable[[Tensor], None]) -> None:
        """Hand out NaN in place of all that is left."""
        while self._parts:
            _, where = self._parts.pop(0)
            emit(self._told_N[where].fill_(math.nan))


def gather(pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Copy gradients to their places, zeros where a parameter has none."""
    there = [(view, p.grad) for p, view in pairs if p.grad is not None]
    if there:  # one call for all, into memory that need not be cleared first
        torch._foreach_copy_([view for view, _ in there], [grad for _, grad in there])
    for p, view in pairs:
        if p.grad is None:
            view.zero_()


def stream(
    parameters: Sequence[nn.Parameter],
    layout: Layout,
    backward: Callable[[], float],
    told_N: Tensor,
    factor: float,
    emit: Callable[[Tensor], None],
    kept_N: Tensor | None = None,
) -> tuple[float, bool]:
    """Run a backward pass and hand out factor·gradient in `told_N`; the loss.

    Every bucket is handed out whatever happens, for others wait for it: where the pass fails they
    hold NaN, and the failure is raised behind them. The gradient itself stays in the parameters;
    what they held before is let go. With `kept_N`, memory for one more gradient, it is compared at
    the end with what was handed out: whether it has changed since, and then the last bucket, which
    waits for the end anyhow, holds NaN.
    """
    parts = buckets(layout, told_N.element_size())
    hands = Hands(parameters, told_N, factor, parts, kept_N)
    num_early = parts[-2][0] if len(parts) > 1 else 0  # the last bucket waits for the end anyhow
    hooks = []
    for parameter in parameters:
        parameter.grad = None
    for place, parameter in enumerate(parameters[: -num_early - 1 : -1]):

        def arrived(_: Tensor, place: int = place) -> None:
            hands.arrived(place, emit)

        hook = parameter.register_post_accumulate_grad_hook(arrived)  # type: ignore[no-untyped-call]
        hooks.append(hook)
    try:
        loss = backward()
        if changed := hands.are_changed:
            hands.spoil(emit)
        return loss, changed
    except CoterieError:
        hands.spoil(emit)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        hands.flush(emit)


def forgiving(emit: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """To hand parts out in the midst of a backward pass that is not to hear that a meeting tore.

    Parts that are not handed out for it hold NaN: whoever looks at the whole sees so.
    """
    torn: list[Torn] = []

    def hand_out(part: Tensor) -> None:
        try:
            if not torn:
                emit(part)
                return
        except Torn as error:
            torn.append(error)
        part.fill_(math.nan)

    return hand_out
