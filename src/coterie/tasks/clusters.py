"""Learning which samples belong together, by centres that travel as any parameters do.

Legend of shape suffixes: B samples of a batch, S samples to begin from, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.errors import JobError
from coterie.specs import NEGATIVE_LOSS, TEST_LOSS
from coterie.tasks.measures import adjusted_mutual_information
from coterie.tasks.samples import (
    Collate,
    Samples,
    Source,
    Sourced,
    device_of,
    evaluating,
)
from coterie.types import Batch

MOST_SEEDED = 4096  # samples looked at for where to begin
DEAD = 0.02  # of what a centre stands for on average: below, it is of more use elsewhere
LOG_STEP = 1 / 16  # first variances are powers of exp(this): equal wherever they are computed


@runtime_checkable
class Grouping(Protocol):
    """What `Clusters` asks of a model beside being a module."""

    def energy(self, inputs: Tensor) -> Tensor:
        """What each sample costs, (B, ...) to (B,); its mean is the loss."""

    def assign(self, inputs: Tensor) -> Tensor:
        """The cluster of each sample, (B, ...) to (B,)."""


def spread_out(samples_SD: Tensor, num: int) -> Tensor:
    """`num` of the samples, each drawn far from those before: k-means++ (Arthur and
    Vassilvitskii 2007), the best of a few draws each time, as they propose.

    Drawn by torch's own generator and measured in float64, so that members that are seeded alike
    begin alike.

    >>> spread_out(torch.tensor([[0.0], [0.0], [9.0]]), 2).sort(0).values
    tensor([[0.],
            [9.]])
    """
    if len(samples_SD) < num or num < 1:
        raise JobError(
            f"expected at least one cluster and a sample for each, found {num} for "
            f"{len(samples_SD)} samples; ask for fewer, or give more samples"
        )
    wide_SD = samples_SD.double()
    chosen = [int(torch.randint(len(wide_SD), ()))]
    nearest_S = (wide_SD - wide_SD[chosen[0]]).square().sum(1)
    num_tries = 2 + num.bit_length()
    while len(chosen) < num:
        drawn_T = torch.rand(num_tries, dtype=torch.float64) * nearest_S.sum()
        tries_T = torch.searchsorted(nearest_S.cumsum(0), drawn_T, right=True)
        tries_T = tries_T.clamp(max=len(wide_SD) - 1)
        after_TS = torch.cdist(wide_SD[tries_T], wide_SD).square().minimum(nearest_S)
        best = int(after_TS.sum(1).argmin())
        chosen.append(int(tries_T[best]))
        nearest_S = after_TS[best]
    return samples_SD[torch.tensor(chosen)]


class KMeans(nn.Module):
    """Centres, each for the samples that are nearest to it: half their squared distance is learned.

    `counts` says for how many batches' samples each centre stands: its gradient is minus the part
    of the batch that is nearest, so that it is summed up over members by whatever sums gradients.
    `PerCentre` steps by it; other optimizers may be used too.

    >>> kmeans = KMeans(torch.tensor([[0.0], [0.2], [9.0]]), num=2)
    >>> bool(kmeans.assign(torch.tensor([[0.1]])) != kmeans.assign(torch.tensor([[8.0]])))
    True
    """

    def __init__(self, samples: Tensor, num: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(spread_out(samples.flatten(1), num))
        self.counts = nn.Parameter(self.centres.detach().new_full((num,), 1 / num))

    def forward(self, inputs: Tensor) -> Tensor:
        """Minus half the squared distance to each centre, (B, ...) to (B, K)."""
        x_BD, c_KD = inputs.flatten(1), self.centres
        squares = x_BD.square().sum(1, keepdim=True) + c_KD.square().sum(1)
        return x_BD @ c_KD.T - squares / 2

    def energy(self, inputs: Tensor) -> Tensor:
        """Half the squared distance to the nearest centre, (B, ...) to (B,)."""
        nearest_BK = F.one_hot(self.assign(inputs), len(self.counts)).to(self.centres)
        apart_BD = inputs.flatten(1) - nearest_BK @ self.centres
        counted_B = nearest_BK @ (self.counts - self.counts.detach())  # 0, and yet it has a slope
        return apart_BD.square().sum(1) / 2 - counted_B

    def assign(self, inputs: Tensor) -> Tensor:
        """The nearest centre of each sample, (B, ...) to (B,)."""
        with torch.no_grad():
            nearest_B: Tensor = self(inputs).argmax(1)
            return nearest_B


class PerCentre(Optimizer):
    """Steps each centre of a `KMeans` to the mean of all samples that were nearest to it.

    The rates per centre of Sculley 2010, Web-Scale K-Means: a centre that stands for n batches'
    samples moves by 1/n. A seed counts for its part of one batch. A centre that stands for less
    than 2 % of the average moves next to the one that stands for most, and takes half of it over:
    by a rule without chance, so that members who step on the same gradient do the same.

    >>> kmeans = KMeans(torch.zeros(1, 1), num=1)
    >>> optimizer = PerCentre(kmeans.parameters())
    >>> kmeans.energy(torch.tensor([[3.0], [5.0]])).mean().backward()
    >>> _ = optimizer.step()  # half the seed at 0, half the mean of the batch
    >>> kmeans.centres.item()
    2.0
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1.0) -> None:
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            shapes = [tuple(p.shape) for p in group["params"]]
            if len(shapes) != 2 or len(shapes[0]) != 2 or shapes[0][:1] != shapes[1]:
                raise JobError(
                    f"expected the centres and counts of a KMeans, found parameters of shapes "
                    f"{', '.join(map(str, shapes))}; choose an optimizer of torch.optim"
                )

    rates_fall = True  # a momentum outside, that overshoots early, is not made good later

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Count what the gradient says, and move each centre by its own rate."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            centres_KD, counts_K = group["params"]
            if centres_KD.grad is not None and counts_K.grad is not None:
                counts_K.clamp_(min=1 / len(counts_K)).sub_(counts_K.grad)
                centres_KD.addcdiv_(centres_KD.grad, counts_K[:, None], value=-group["lr"])
                revive(centres_KD, counts_K, centres_KD.grad)
        return loss


def revive(centres_KD: Tensor, counts_K: Tensor, slopes_KD: Tensor) -> None:
    """Move the centre that stands for least, if that is hardly anything, beside the one for most.

    The slope at that one leads to where the batch lay: a step of data's own length, however far
    off the other was.

    >>> centres, counts = torch.tensor([[0.0], [900.0]]), torch.tensor([299.0, 1.0])
    >>> revive(centres, counts, torch.tensor([[-0.5], [0.0]]))
    >>> centres.flatten(), counts
    (tensor([0.0000, 0.5000]), tensor([150., 150.]))
    """
    least, most = int(counts_K.argmin()), int(counts_K.argmax())
    if counts_K[least] < DEAD * counts_K.mean():
        centres_KD[least] = centres_KD[most] - slopes_KD[most]
        counts_K[[least, most]] = (counts_K[least] + counts_K[most]) / 2


class GaussianMixture(nn.Module):
    """Gaussians with a variance for each feature, and weights: minus the log density is learned.

    A variance is `least_variance` + exp of what is learned, so that none collapses on one sample
    or on a feature that never changes. A component that nothing needs is left a small weight: that
    is the mixture's own word, and nothing is moved.

    >>> mixture = GaussianMixture(torch.tensor([[0.0], [0.2], [9.0]]), num=2)
    >>> mixture.energy(torch.tensor([[0.1], [8.0]])).shape
    torch.Size([2])
    """

    def __init__(self, samples: Tensor, num: int, least_variance: float = 1e-3) -> None:
        super().__init__()
        samples_SD = samples.flatten(1)
        means_KD = spread_out(samples_SD, num)
        nearest_S = torch.cdist(samples_SD.double(), means_KD.double()).square().amin(1)
        first = float(nearest_S.mean()) / samples_SD.shape[1] + least_variance
        log_first = (torch.tensor(first).log() / LOG_STEP).round() * LOG_STEP
        self.least_variance = least_variance
        self.means = nn.Parameter(means_KD)
        self.log_variances = nn.Parameter(means_KD.new_full(means_KD.shape, float(log_first)))
        self.logits = nn.Parameter(means_KD.new_zeros(num))

    @property
    def variances(self) -> Tensor:
        """Of each component and feature, (K, D)."""
        return self.least_variance + self.log_variances.exp()

    def forward(self, inputs: Tensor) -> Tensor:
        """The log of each component's weight and density together, (B, ...) to (B, K)."""
        x_BD, v_KD = inputs.flatten(1), self.variances
        centre_D = self.means.detach().mean(0)  # squares of what is near 0 keep their digits
        x_BD, m_KD = x_BD - centre_D, self.means - centre_D
        apart_BK = x_BD.square() @ (1 / v_KD).T - 2 * x_BD @ (m_KD / v_KD).T
        apart_BK = apart_BK + (m_KD.square() / v_KD).sum(1)
        return self.logits.log_softmax(0) - (apart_BK + (2 * torch.pi * v_KD).log().sum(1)) / 2

    def energy(self, inputs: Tensor) -> Tensor:
        """Minus the log density of each sample, in nats, (B, ...) to (B,)."""
        costs_B: Tensor = -self(inputs).logsumexp(1)
        return costs_B

    def assign(self, inputs: Tensor) -> Tensor:
        """The likeliest component of each sample, (B, ...) to (B,)."""
        with torch.no_grad():
            likeliest_B: Tensor = self(inputs).argmax(1)
            return likeliest_B


@dataclass(frozen=True, eq=False)
class Clusters(Sourced):
    """A model that says what each sample costs it, and to which cluster it belongs.

    `model` is called with samples of the training set, stacked, to begin from: `KMeans` or
    `GaussianMixture` with their number of clusters bound, or another `Grouping`. `train` and `test`
    hold tensors, or tuples that begin with one. With `labelled`, samples of (input, label), the
    score tells how far clusters are the labels' classes: `ami`.

    >>> import functools
    >>> samples = torch.randn(20, 3)
    >>> task = Clusters("tiny", functools.partial(KMeans, num=2), samples, samples)
    >>> sorted(task.score(task.build()))
    ['negative_loss', 'test_loss']
    """

    kind: ClassVar[str] = "clusters"
    name: str
    model: Callable[[Tensor], nn.Module]
    train: Samples
    test: Samples
    labelled: Samples | None = None
    collate: Collate | None = None
    learned: Source = field(init=False, repr=False)
    held_out: Source = field(init=False, repr=False)
    known: Source | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._lay(
            learned=Source.of("train", self.train, self.collate),
            held_out=Source.of("test", self.test, self.collate),
            known=Source.given("labelled", self.labelled, self.collate),
        )

    def build(self) -> nn.Module:
        """A model that begins from some of the training samples, drawn by torch's generator."""
        drawn = torch.randperm(self.num_train)[:MOST_SEEDED].tolist()
        model: object = self.model(self.learned.inputs(drawn))
        if isinstance(model, nn.Module) and isinstance(model, Grouping):
            return model
        raise JobError(
            f"expected the model of {self.name} to be a torch.nn.Module with energy and assign, "
            f"found {type(model).__name__}; KMeans and GaussianMixture are"
        )

    def fetch(self, indices: Sequence[int]) -> Batch:
        """The training samples at `indices`."""
        return Batch(self.learned.inputs(indices), len(indices))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What a sample of the batch costs on average, on whatever device the model is."""
        return cast(Grouping, model).energy(batch.data.to(device_of(model))).mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        """What held-out samples cost, negated; with labels, how far clusters agree with them."""
        grouping, device = cast(Grouping, model), device_of(model)
        with evaluating(model):
            costs = [grouping.energy(x.to(device)).double().cpu() for x in self.held_out.each()]
            loss = torch.cat(costs).mean().item()
            scores = {NEGATIVE_LOSS: -loss, TEST_LOSS: loss}
            if self.known is None:
                return scores
            pairs = [(grouping.assign(x.to(device)).cpu(), y) for x, y in self.known.labelled()]
        found, labels = zip(*pairs, strict=True)
        return {"ami": adjusted_mutual_information(torch.cat(found), torch.cat(labels)), **scores}
