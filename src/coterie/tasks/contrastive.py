"""Learning what two views of a sample have in common, and no two samples do: SimCLR.

Legend of shape suffixes: B samples of a batch, V = 2B views, E features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.errors import JobError
from coterie.specs import TEST_LOSS
from coterie.tasks.measures import alignment, linear_probe, uniformity
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
from coterie.tasks.views import by_shape
from coterie.types import Batch

View = Callable[[Tensor], Tensor]


def nt_xent(features_VE: Tensor, temperature: float, group: int | None = None) -> Tensor:
    """The normalised, temperature-scaled cross entropy of views, the two of a sample side by side.

    Each view is to be told from all others by its partner (Sohn 2016; Chen et al. 2020). With
    `group`, from those of its own `group` consecutive samples alone: the mean over a batch is then
    the mean over parts of it, wherever all parts are whole groups.

    >>> alike = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> round(nt_xent(alike, temperature=0.1).item(), 6)
    9.1e-05
    """
    unit_VE = F.normalize(features_VE, dim=1)
    together = 2 * group if group else max(1, len(unit_VE))
    parts = [_told_apart(part, temperature) for part in torch.split(unit_VE, together)]
    return torch.stack(parts).sum() / len(unit_VE)


def _told_apart(unit_VE: Tensor, temperature: float) -> Tensor:
    """The sum over views of one group."""
    num = len(unit_VE)
    likeness_VV = unit_VE @ unit_VE.T / temperature
    itself = torch.eye(num, dtype=torch.bool, device=unit_VE.device)
    partner_V = torch.arange(num, device=unit_VE.device) ^ 1
    return F.cross_entropy(likeness_VV.masked_fill(itself, -torch.inf), partner_V, reduction="sum")


class Beside(nn.Module):
    """The views of a batch, (B, 2, ...), one beside the other, (2B, ...).

    >>> Beside()(torch.zeros(3, 2, 5)).shape
    torch.Size([6, 5])
    """

    def forward(self, views: Tensor) -> Tensor:
        """Learns nothing: a model begins with it so that a sample stays one row until then."""
        return views.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Contrastive(Sourced):
    """An encoder that is to find two views of a sample alike, and unlike those of all others.

    `model` makes the encoder, whose features are what is wanted; `head`, a projection on which the
    loss alone looks. `views` changes a batch of samples at random and keeps its shape; by default
    as suits the samples' shape. `train` and `test` hold tensors, or tuples that begin with one.
    With `labelled`, samples of (input, label), the score is the accuracy of a linear probe that is
    taught on those and asked about `test`, which then is labelled too.

    >>> samples = torch.randn(8, 4)
    >>> task = Contrastive("tiny", lambda: nn.Linear(4, 2), samples, samples)
    >>> sorted(task.score(task.build()))
    ['alignment', 'test_loss', 'uniformity']
    """

    kind: ClassVar[str] = "contrastive"
    name: str
    model: Model
    train: Samples
    test: Samples
    views: View = by_shape
    head: Model | None = None
    temperature: float = 0.5
    group: int | None = None
    labelled: Samples | None = None
    collate: Collate | None = None
    learned: Source = field(init=False, repr=False)
    held_out: Source = field(init=False, repr=False)
    known: Source | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.temperature <= 0 or (self.group is not None and self.group < 2):
            raise JobError(
                "expected a temperature above 0 and groups of two samples or more, found "
                f"temperature {self.temperature:g} and group {self.group}; mend them"
            )
        self._lay(
            learned=Source.of("train", self.train, self.collate),
            held_out=Source.of("test", self.test, self.collate),
            known=Source.given("labelled", self.labelled, self.collate),
        )

    @property
    def in_stages(self) -> bool:
        """Never just the same: a sample would be told from those of its micro-batch alone."""
        return False

    def build(self) -> nn.Module:
        """The encoder as `encoder`, the projection as `head`, fresh or copied."""
        head = nn.Identity() if self.head is None else built("head", self.head)
        encoder = built("model", self.model)
        return nn.Sequential(OrderedDict(views=Beside(), encoder=encoder, head=head))

    def fetch(self, indices: Sequence[int]) -> Batch:
        """Two views, drawn now, of each of the training samples at `indices`: (B, 2, ...)."""
        return self._viewed(self.learned.inputs(indices))

    def criterion(self, features_VE: Tensor, _: Tensor) -> Tensor:
        """The mean over all views of a batch."""
        return nt_xent(features_VE.flatten(1), self.temperature, self.group)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over all views of the batch, on whatever device the model is."""
        views, nothing = batch.data
        return self.criterion(model(views.to(device_of(model))), nothing)

    def embed(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The encoder's features of samples, (B, ...) to (B, E), on the CPU."""
        encoder = model.get_submodule("encoder")
        with evaluating(model):
            features: Tensor = encoder(inputs.to(device_of(model)))
            return features.flatten(1).cpu()

    def score(self, model: nn.Module) -> dict[str, float]:
        """The accuracy of a probe where labels are given; else how views and samples lie."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same views each time: what changes is the model
            features = list(self._projected(model))
        sizes = [len(a) for a, _, _ in features]
        total = sum(sizes)

        def mean(values: Iterator[float]) -> float:
            return sum(v * n for v, n in zip(values, sizes, strict=True)) / total

        loss = {TEST_LOSS: mean(loss for _, _, loss in features)}
        if self.known is not None:
            taught, asked = self._embedded(model, self.known), self._embedded(model, self.held_out)
            return {"accuracy": linear_probe(taught, asked), **loss}
        return {
            "alignment": mean(alignment(a, b) for a, b, _ in features),
            "uniformity": mean(uniformity(a) for a, _, _ in features),
            **loss,
        }

    def _projected(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Both views of held-out samples as the loss sees them, and that loss."""
        with evaluating(model):
            for inputs in self.held_out.each():
                views, _ = self._viewed(inputs).data
                features_VE = model(views.to(device_of(model))).flatten(1).cpu()
                loss = nt_xent(features_VE, self.temperature, self.group)
                yield features_VE[0::2], features_VE[1::2], loss.item()

    def _embedded(self, model: nn.Module, samples: Source) -> tuple[Tensor, Tensor]:
        pairs = [(self.embed(model, inputs), labels) for inputs, labels in samples.labelled()]
        features, labels = zip(*pairs, strict=True)
        return torch.cat(features), torch.cat(labels)

    def _viewed(self, inputs: Tensor) -> Batch:
        both = self.views(inputs), self.views(inputs)
        for view in both:
            if view.shape != inputs.shape:
                raise JobError(
                    f"expected views shaped as the samples, {tuple(inputs.shape)}, found "
                    f"{tuple(view.shape)}; keep the shape in views"
                )
        return Batch((torch.stack(both, 1), inputs.new_zeros(len(inputs))), len(inputs))
