"""Several optimizers that share one backward pass, as where matrices have one of their own.

To the learner they are one. To the script each is itself, and the step is taken once all were told
to: what a backward pass between two of them would change is refused, for nobody has stepped yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.agents.loop import Loop
from coterie.errors import JobError, TrainingError

Seen = list[tuple[int, int]]  # of each gradient, which tensor it is and how often it was written


class Several(Optimizer):
    """Optimizers of different parameters as one that steps them all.

    >>> import torch
    >>> ends = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> both = Several([torch.optim.SGD(end.parameters(), lr=0.1) for end in ends])
    >>> [group["lr"] for group in both.param_groups]
    [0.1, 0.1]
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = tuple(parts)
        for one, other in combinations(self.parts, 2):
            if {id(p) for p in _parameters(one)} & {id(p) for p in _parameters(other)}:
                raise JobError(
                    "expected optimizers of different parameters, found one that is in two of "
                    "them; give each its own"
                )

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """None that all share."""
        return {}

    @property
    def state(self) -> Any:  # type: ignore[override]
        """What all remember, to be cleared."""
        return _States(self.parts)

    def __repr__(self) -> str:
        return f"Several({', '.join(map(repr, self.parts))})"

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step each; what the closure returned."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """What each says, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As each does. Raises ValueError for the state of others."""
        states = state_dict.get("parts", [])
        if len(states) != len(self.parts):
            raise ValueError(f"{len(states)} states for {len(self.parts)} optimizers")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class _States:
    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self._parts = parts

    def clear(self) -> None:
        for part in self._parts:
            part.state.clear()


class Together:
    """Which of several optimizers were told to step, on the batch under way."""

    def __init__(self, model: nn.Module, loop: Loop, num_parts: int) -> None:
        self._model, self._loop, self._num_parts = model, loop, num_parts
        self._seen: Seen = []
        self._order = loop.order  # the batch that those told were told on
        self.told: set[int] = set()
        self._to_forget: list[Callable[[], None]] = []

    def step(self, part: Optimizer) -> None:
        """One was told to step; once all were, the step is the group's."""
        if self._loop.order is not self._order:  # a batch was dropped half-way, as scalers do
            self._order = self._loop.order
            self.told.clear()
        seen = [(id(g), g._version) for g in self._gradients()]
        if id(part) in self.told or (self.told and seen != self._seen):
            raise TrainingError(
                "expected all optimizers to step after one backward pass, found gradients that "
                "changed between their steps; a loop that alternates, as that of a GAN, has to "
                "see each step before the next pass, so let one optimizer and one loss do, or "
                "train it on one device"
            )
        self._seen = seen
        self.told.add(id(part))
        if len(self.told) < self._num_parts:
            return
        self.told.clear()
        self._loop.step()
        while self._to_forget:
            self._to_forget.pop()()

    def later(self, forget: Callable[[], None]) -> None:
        """Forget gradients once all have stepped."""
        self._to_forget.append(forget)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._model.parameters() if p.grad is not None]


class OneStepper(Optimizer):
    """One of several optimizers, as a script's own loop holds it."""

    _step_supports_amp_scaling = False

    def __init__(self, inner: Optimizer, together: Together) -> None:
        self._inner, self._together = inner, together

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return repr(self._inner)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step once the others are told to, too."""
        if closure is not None:
            raise TrainingError(
                "expected optimizers without closures where there are several, found one; compute "
                "the gradient first, then step them all"
            )
        self._together.step(self._inner)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients of its own parameters, if they are not still to be stepped on."""
        if id(self._inner) in self._together.told:
            self._together.later(lambda: self._inner.zero_grad(set_to_none))
        else:
            self._inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As the inner one's."""
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the inner one does."""
        self._inner.load_state_dict(state_dict)


def parts_of(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """Each of several optimizers, or the one that there is.

    >>> import torch
    >>> sgd = torch.optim.SGD(nn.Linear(1, 1).parameters())
    >>> parts_of(Several([sgd])) == parts_of(sgd)
    True
    """
    return optimizer.parts if isinstance(optimizer, Several) else (optimizer,)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
