"""Learning to reconstruct samples; what is reconstructed badly is unlike what was learned.

Legend of shape suffixes: B samples of a batch, S samples held out, A anomalies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coterie.errors import JobError
from coterie.specs import NEGATIVE_LOSS, TEST_LOSS
from coterie.tasks.measures import auroc
from coterie.tasks.samples import (
    Collate,
    Model,
    Samples,
    Source,
    Sourced,
    built,
    device_of,
    evaluating,
)
from coterie.types import Batch

Error = Callable[[Any, Tensor], Tensor]


def squared_error(outputs: Tensor, inputs: Tensor) -> Tensor:
    """The mean squared difference of each sample, (B, ...) and (B, ...) to (B,).

    >>> squared_error(torch.zeros(2, 2), torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    tensor([1., 2.])
    """
    if outputs.shape != inputs.shape:
        raise JobError(
            f"expected outputs shaped as the inputs, {tuple(inputs.shape)}, found "
            f"{tuple(outputs.shape)}; mend the model, or give an error of its own"
        )
    return (outputs - inputs).square().flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class Autoencoder(Sourced):
    """A model that is to return what it is given, through something narrower.

    `train` and `test` hold tensors, or tuples that begin with one. `error` says how badly each
    sample is reconstructed, (outputs, inputs) to (B,): its mean is the loss, and it tells
    anomalies. With an `error` of its own a variational model fits too: whatever the model returns
    is handed to it. `anomalies` are samples unlike the others, for the score alone.

    >>> samples = torch.eye(4)
    >>> task = Autoencoder("eye", lambda: nn.Linear(4, 4), samples, samples)
    >>> task.anomaly(task.build(), samples[:3]).shape
    torch.Size([3])
    """

    kind: ClassVar[str] = "autoencoder"
    name: str
    model: Model
    train: Samples
    test: Samples
    anomalies: Samples | None = None
    error: Error = squared_error
    collate: Collate | None = None
    learned: Source = field(init=False, repr=False)
    held_out: Source = field(init=False, repr=False)
    odd: Source | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._lay(
            learned=Source.of("train", self.train, self.collate),
            held_out=Source.of("test", self.test, self.collate),
            odd=Source.given("anomalies", self.anomalies, self.collate),
        )

    @property
    def in_stages(self) -> bool:
        """Whether a pipeline would learn the same: not where the loss is made in an own way."""
        return type(self).loss is Autoencoder.loss

    def build(self) -> nn.Module:
        """A fresh model: made anew, or a deep copy of the module given."""
        return built("model", self.model)

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`, as inputs and as what is to come of them."""
        inputs = self.learned.inputs(indices)
        return Batch((inputs, inputs), len(indices))

    def criterion(self, outputs: Any, inputs: Tensor) -> Tensor:
        """The mean error of a batch."""
        errors_B = self.error(outputs, inputs)
        if not isinstance(errors_B, Tensor) or errors_B.shape != inputs.shape[:1]:
            found = tuple(errors_B.shape) if isinstance(errors_B, Tensor) else type(errors_B)
            raise JobError(
                f"expected an error for each of {len(inputs)} samples, found {found}; "
                "return one value a sample, not their mean"
            )
        return errors_B.mean()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean error over the batch, on whatever device the model is."""
        inputs = batch.data[0].to(device_of(model))
        return self.criterion(model(inputs), inputs)

    def anomaly(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """How unlike what was learned each sample is, (B, ...) to (B,): its error, on the CPU."""
        with evaluating(model):
            moved = inputs.to(device_of(model))
            return self.error(model(moved), moved).cpu()

    def score(self, model: nn.Module) -> dict[str, float]:
        """The held-out error, negated; with anomalies, how well their errors tell them apart."""
        errors_S = self._errors(model, self.held_out)
        loss = errors_S.mean().item()
        scores = {NEGATIVE_LOSS: -loss, TEST_LOSS: loss}
        if self.odd is None:
            return scores
        return {"auroc": auroc(errors_S, self._errors(model, self.odd)), **scores}

    def _errors(self, model: nn.Module, samples: Source) -> Tensor:
        return torch.cat([self.anomaly(model, inputs).double() for inputs in samples.each()])
