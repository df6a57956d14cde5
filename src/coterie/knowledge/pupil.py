"""Who learns from lessons: the little that they ask of a learner.

Legend of shape suffixes: N parameters, B samples of a batch, S held-out samples, D features,
C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from coterie.types import Layout


@dataclass(frozen=True, eq=False)
class Moment:
    """A batch of the pupil's own while it is learned, with what was computed of it already."""

    inputs_B: Tensor
    targets_B: Tensor  # places in the pupil's `classes`
    features_BD: Tensor  # with a gradient


Term = Callable[["Pupil", Moment], Tensor]  # a loss that is added to the pupil's own


class Pupil(Protocol):
    """What currencies need of a learner; each needs a few of these alone.

    Parameters need `layout`, `vector`, `place`; prototypes and hints `features` and `examples`;
    soft labels `predictions`; all need `held_out` to be judged by, and those that become a loss
    need `attend`, `step`, `snapshot` and `restore`.
    """

    @property
    def name(self) -> str:
        """Who it is, as lessons call it."""

    @property
    def task(self) -> str:
        """What it learns."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps so far."""

    @property
    def num_samples(self) -> int:
        """Training samples of its own: the evidence behind what it teaches."""

    @property
    def layout(self) -> Layout:
        """Of its trainable parameters; what may be shared is called `trunk.*`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What each class means to all members, in the order of predictions; () without any."""

    def vector(self) -> Tensor:
        """A copy of the parameters, (N,), on the CPU."""

    def place(self, vector_N: Tensor) -> None:
        """Set the parameters."""

    def features(self, inputs_B: Tensor) -> Tensor:
        """What the trunk makes of inputs, (B, D), with a gradient unless torch's are off."""

    def predictions(self, inputs_B: Tensor) -> Tensor:
        """Logits, (B, C), with a gradient unless torch's are off."""

    def examples(self) -> tuple[Tensor, Tensor]:
        """Its training inputs and the places of their classes; both may be empty."""

    def loss(self, inputs_B: Tensor, targets_B: Tensor) -> Tensor:
        """Its mean loss on samples, with a gradient unless torch's are off."""

    def held_out(self) -> Tensor:
        """Utility on its own held-out samples, (S,), one each, higher is better; () if none."""

    def step(self) -> float:
        """One optimizer step on a batch of its own with all terms attended to; the loss."""

    def attend(self, key: str, term: Term | None) -> None:
        """Add a loss to all steps from now on, in place of the one under this key; None: none."""

    def snapshot(self) -> object:
        """All that `step` changes, as a value: parameters, optimizer, draws, terms."""

    def restore(self, kept: object) -> None:
        """Stand where a snapshot was taken."""
