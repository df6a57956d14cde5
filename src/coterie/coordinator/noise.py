"""How noisy gradients are, and so what another batch would bring: advice, for the batch is given.

Of a member's gradient on b samples and the agreed one on B, |gᵢ|² and |g|² are known:

|G|² = (B·|g|² − b·|gᵢ|²) / (B − b)         S = (|gᵢ|² − |g|²) / (1/b − 1/B)         φ = S / |G|²

Unbiased for each member whatever its share (McCandlish et al. 2018, An Empirical Model of
Large-Batch Training); means of S and |G|² over members and time are taken before they are divided.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coterie.coordinator.model import predict, shares_for
from coterie.errors import CoterieError
from coterie.types import Layout
from coterie.world import World

if TYPE_CHECKING:
    from coterie.sync.chain import Strategy

LEARN = 0.02  # of each report: a single one says next to nothing
LEAST_REPORTS = 30  # before it is spoken of
NUM_BATCHES = 50
WORTH_SAYING = 1.05
WIDEST = 64  # times the batch, or a 64th of it: beyond, the formula is a guess


@dataclass(frozen=True)
class Norms:
    """How a member's own vector lies to the agreed one, on how many samples it stands."""

    own: float  # squared length
    agreed: float  # squared length
    product: float
    num_own: float  # samples
    part: float  # of the weight of all


@dataclass(frozen=True)
class Noise:
    """What reports say of the gradient: its true squared length, and the noise of one sample.

    >>> noise = Noise().seen(Norms(own=3.0, agreed=1.5, product=1.5, num_own=8, part=0.25))
    >>> noise.signal, noise.variance, noise.scale
    (1.0, 16.0, 16.0)
    """

    signal: float = 0.0  # |G|²
    variance: float = 0.0  # S, the trace of one sample's covariance
    num_seen: int = 0

    def seen(self, norms: Norms) -> Noise:
        """After one more report; where one member brought everything, it says nothing."""
        if not (norms.num_own > 0 and 0 < norms.part < 1):
            return self
        b, whole = norms.num_own, norms.num_own / norms.part
        signal = (whole * norms.agreed - b * norms.own) / (whole - b)
        variance = (norms.own - norms.agreed) / (1 / b - 1 / whole)
        part = max(LEARN, 1 / (1 + self.num_seen))
        return Noise(
            self.signal + part * (signal - self.signal),
            self.variance + part * (variance - self.variance),
            self.num_seen + 1,
        )

    @property
    def scale(self) -> float | None:
        """φ in samples: the batch at which noise is as large as the gradient; None if unknown."""
        known = self.signal > 0 and self.variance > 0
        return self.variance / self.signal if known else None


@dataclass(frozen=True)
class Advice:
    """What another batch would bring; nobody changes it but who asked for the run."""

    scale: float  # φ, samples
    batch: int  # in force
    best: int
    gain: float  # goodput of the best against that in force

    def __str__(self) -> str:
        """In a sentence.

        >>> print(Advice(scale=730.4, batch=64, best=512, gain=1.62))
        Gradient noise is as large as the gradient at a batch of 730 samples: a batch of 512 would \
reach 1.62 times the goodput of 64, if the learning rate goes with it.
        """
        lead = f"Gradient noise is as large as the gradient at a batch of {self.scale:,.0f} samples"
        if self.gain < WORTH_SAYING:
            return f"{lead}: no other batch would reach much more than {self.batch:,}."
        return (
            f"{lead}: a batch of {self.best:,} would reach {self.gain:.2f} times the goodput of "
            f"{self.batch:,}, if the learning rate goes with it."
        )


def advise(noise: Noise, world: World, layout: Layout, strategy: Strategy) -> Advice | None:
    """What to say of the batch, once enough was reported."""
    scale = noise.scale
    if scale is None or noise.num_seen < LEAST_REPORTS:
        return None
    found = best_batch(world, layout, strategy, scale)
    return None if found is None else Advice(scale, world.batch, *found)


def best_batch(
    world: World, layout: Layout, strategy: Strategy, scale: float
) -> tuple[int, float] | None:
    """The batch of highest goodput on these devices, and how many times that of the batch in force.

    goodput(B) = throughput(B) · (φ + B₀) / (φ + B), each B with its own exact shares (Qiao et al.
    2021). It takes for granted that the learning rate follows the batch.
    """
    room = sum(device.max_batch for device in world.devices)
    most = min(room, world.num_train, WIDEST * world.batch)
    least = min(max(1, len(world.devices), world.batch // WIDEST), most)
    steps = ((most / least) ** (k / (NUM_BATCHES - 1)) for k in range(NUM_BATCHES))
    sizes = {round(least * step) for step in steps} | {world.batch}

    def goodput_per_s(batch: int) -> float:
        other = replace(world, batch=batch)
        option = predict(other, layout, strategy, shares_for(strategy, other))
        return option.throughput_per_s * (scale + world.batch) / (scale + batch)

    try:
        scores = {batch: goodput_per_s(batch) for batch in sorted(sizes)}
    except CoterieError:
        return None
    best = max(scores, key=scores.__getitem__)
    return best, scores[best] / scores[world.batch]
