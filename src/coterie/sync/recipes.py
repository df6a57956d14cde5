"""Named sentences, and the reading of a sentence from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coterie.sync.chain import Strategy, chain
from coterie.sync.codecs import (
    E3M0,
    Bf16,
    ChunkTopK,
    ErrorFeedback,
    Fp16,
    Int4,
    Int8,
    PowerSGD,
    RandomK,
    Sign,
    Stochastic,
    TopK,
)
from coterie.sync.exchanges import Reduce
from coterie.sync.gossip import Gossip, Pairs
from coterie.sync.laws import CentredClip, Kin, Krum, Mean, Median, MultiKrum, TrimmedMean
from coterie.sync.maps import Discount, Even, Prox
from coterie.sync.outer import DelayedNesterov, Outer, OuterAdam, OuterYogi
from coterie.sync.pieces import Clip, DyLU, Every, Only
from coterie.sync.privacy import Noise
from coterie.sync.server import Push
from coterie.sync.teams import Islands, Pipeline


def all_reduce() -> Strategy:
    """Gradients are averaged every step (Li et al. 2020, PyTorch Distributed).

    >>> all_reduce()
    chain(Reduce())
    """
    return chain(Reduce())


def all_reduce_fp16() -> Strategy:
    """Gradients travel as 16-bit floats (Micikevicius et al. 2018, Mixed Precision Training).

    >>> all_reduce_fp16()
    chain(Fp16(), Reduce())
    """
    return chain(Fp16(), Reduce())


def all_reduce_int8() -> Strategy:
    """Gradients travel in 8 bits with error feedback (Karimireddy et al. 2019).

    >>> all_reduce_int8()
    chain(ErrorFeedback(Int8()), Reduce())
    """
    return chain(ErrorFeedback(Int8()), Reduce())


def power_sgd(rank: int) -> Strategy:
    """Gradients travel as matrices of low rank (Vogels et al. 2019, PowerSGD).

    >>> power_sgd(2)
    chain(ErrorFeedback(PowerSGD()), Reduce())
    """
    return chain(ErrorFeedback(PowerSGD(rank)), Reduce())


def parameter_server(quorum: int = 0) -> Strategy:
    """A server averages gradients, of the first `quorum` members if given (Chen et al. 2016).

    >>> parameter_server(3)
    chain(Reduce(road='star', quorum=3))
    """
    return chain(Reduce(road="star", quorum=quorum))


def asynchronous(h: int, max_staleness: int = 64) -> Strategy:
    """Walks of `h` steps move a server's weights as they come (Xie et al. 2019, FedAsync).

    >>> asynchronous(8)
    chain(DyLU(8), Push(), Discount(), Outer(1.0))
    """
    return chain(DyLU(h), Push(max_staleness=max_staleness), Discount(0.5), Outer(1.0))


def delayed_nesterov(h: int, every: int = 4) -> Strategy:
    """Asynchronous walks, and momentum once in `every` of them (Liu et al. 2024).

    >>> delayed_nesterov(32)
    chain(DyLU(32), Push(), DelayedNesterov(0.7))
    """
    return chain(DyLU(h), Push(), DelayedNesterov(0.7, 0.9, every))


def local_sgd(h: int) -> Strategy:
    """Weights are averaged every `h` steps (McMahan et al. 2017, FedAvg; Stich 2019, Local SGD).

    >>> local_sgd(8)
    chain(Every(8), Reduce(), Outer(1.0))
    """
    return chain(Every(h), Reduce(), Outer(1.0))


def average(h: int) -> Strategy:
    """Models are averaged, each counting the same (Wortsman et al. 2022, Model Soups).

    >>> average(100)
    chain(Every(100), Reduce(weighted=False), Outer(1.0))
    """
    return chain(Every(h), Reduce(weighted=False), Outer(1.0))


def average_by_score(h: int) -> Strategy:
    """Models are averaged, each counting by the likelihood of what it learned from last.

    >>> average_by_score(100)
    chain(Every(100), Reduce(weighted='score'), Outer(1.0))
    """
    return chain(Every(h), Reduce(weighted="score"), Outer(1.0))


def dylu(h: int) -> Strategy:
    """Members of unequal speed walk unequally many equal steps (Liu et al. 2024, DyLU).

    >>> dylu(32)
    chain(DyLU(32), Reduce(), Outer(1.0))
    """
    return chain(DyLU(h), Reduce(), Outer(1.0))


def diloco(h: int) -> Strategy:
    """An outer Nesterov steps on walks of `h` steps (Douillard et al. 2023, DiLoCo).

    >>> diloco(32)
    chain(Every(32), Reduce(), Outer(0.7, 0.9, nesterov=True))
    """
    return chain(Every(h), Reduce(), Outer(0.7, 0.9, nesterov=True))


def diloco_int8(h: int) -> Strategy:
    """DiLoCo whose deltas travel in 8 bits with error feedback (after INTELLECT-1, 2024).

    >>> diloco_int8(32).pack
    ErrorFeedback(Int8())
    """
    return chain(Every(h), ErrorFeedback(Int8()), Reduce(), Outer(0.7, 0.9, nesterov=True))


def sparse_loco(h: int) -> Strategy:
    """The largest values of walks travel by place and rank (after Sarfi et al. 2025, SparseLoCo).

    >>> sparse_loco(32)
    chain(Every(32), ErrorFeedback(ChunkTopK()), Reduce(), Outer(1.0))
    """
    return chain(Every(h), ErrorFeedback(ChunkTopK()), Reduce(), Outer(1.0))


def streaming_diloco(h: int, fragments: int = 4, overlap: int = 1) -> Strategy:
    """Parts of the model meet in turn, in 4 bits, while members walk on (Douillard et al. 2025).

    >>> streaming_diloco(100, 4, 5).walk
    Every(100, fragments=4, overlap=5)
    """
    walk = Every(h, fragments=fragments, overlap=overlap)
    outer = Outer(0.7, 0.9, nesterov=True)
    return chain(walk, ErrorFeedback(E3M0()), Reduce(), outer)


def gossip(h: int, graph: str = "exponential") -> Strategy:
    """Members average with a few neighbours only (Lian et al. 2017; Ying et al. 2021).

    >>> gossip(4, "ring")
    chain(Every(4), Gossip('ring'), Outer(1.0))
    """
    return chain(Every(h), Gossip(graph), Outer(1.0))


def noloco(h: int) -> Strategy:
    """Outer Nesterov steps on the mean with one random peer (Kolehmainen et al. 2025, NoLoCo).

    >>> noloco(32)
    chain(Every(32), Pairs(), Outer(0.7, 0.5, nesterov=True))
    """
    return chain(Every(h), Pairs(), Outer(0.7, 0.5, nesterov=True))


def fed_prox(h: int, mu: float = 0.01) -> Strategy:
    """FedAvg whose walks are drawn back to where they began (Li et al. 2020, FedProx).

    >>> fed_prox(8)
    chain(Every(8), Prox(0.01), Reduce(), Outer(1.0))
    """
    return chain(Every(h), Prox(mu), Reduce(), Outer(1.0))


def fed_nova(h: int) -> Strategy:
    """FedAvg that counts a walk by its direction, not by its steps (Wang et al. 2020, FedNova).

    >>> fed_nova(8)
    chain(DyLU(8), Even(), Reduce(), Outer(1.0))
    """
    return chain(DyLU(h), Even(), Reduce(), Outer(1.0))


def fed_adam(h: int, lr: float = 0.01) -> Strategy:
    """An outer Adam steps on averaged walks (Reddi et al. 2021, Adaptive Federated Optimization).

    >>> fed_adam(8)
    chain(Every(8), Reduce(), OuterAdam(0.01))
    """
    return chain(Every(h), Reduce(), OuterAdam(lr))


def fed_yogi(h: int, lr: float = 0.01) -> Strategy:
    """An outer Yogi steps on averaged walks (Reddi et al. 2021).

    >>> fed_yogi(8)
    chain(Every(8), Reduce(), OuterYogi(0.01))
    """
    return chain(Every(h), Reduce(), OuterYogi(lr))


def robust(h: int, trim: int = 1) -> Strategy:
    """Of each value the extremes are dropped, then averaged (Yin et al. 2018).

    >>> robust(8, 2)
    chain(Every(8), Reduce(TrimmedMean(2)), Outer(1.0))
    """
    return chain(Every(h), Reduce(TrimmedMean(trim)), Outer(1.0))


def median(h: int) -> Strategy:
    """Of each value the middle one is kept (Yin et al. 2018).

    >>> median(8)
    chain(Every(8), Reduce(Median()), Outer(1.0))
    """
    return chain(Every(h), Reduce(Median()), Outer(1.0))


def krum(h: int, faulty: int = 1) -> Strategy:
    """The one walk nearest to the others is taken for all (Blanchard et al. 2017).

    >>> krum(8, 2)
    chain(Every(8), Reduce(Krum(2)), Outer(1.0))
    """
    return chain(Every(h), Reduce(Krum(faulty)), Outer(1.0))


def multi_krum(h: int, faulty: int = 1) -> Strategy:
    """The walks nearest to the others are averaged (Blanchard et al. 2017).

    >>> multi_krum(8, 2)
    chain(Every(8), Reduce(MultiKrum(2)), Outer(1.0))
    """
    return chain(Every(h), Reduce(MultiKrum(faulty)), Outer(1.0))


def centred_clip(h: int) -> Strategy:
    """No walk pulls the centre further than the median distance (Karimireddy et al. 2021).

    >>> centred_clip(8)
    chain(Every(8), Reduce(CentredClip()), Outer(1.0))
    """
    return chain(Every(h), Reduce(CentredClip()), Outer(1.0))


def kin(h: int) -> Strategy:
    """Members are heard as far as they agree with the others.

    >>> kin(8)
    chain(Every(8), Reduce(Kin()), Outer(1.0))
    """
    return chain(Every(h), Reduce(Kin()), Outer(1.0))


def tiers(h: int, islands: int | tuple[tuple[str, ...], ...]) -> Strategy:
    """Gradients are averaged inside islands, walks of `h` steps between them (Lin et al. 2020).

    >>> tiers(32, 2).team
    Islands(2)
    """
    outer = Outer(0.7, 0.9, nesterov=True)
    return chain(Every(h), Islands(islands), ErrorFeedback(Int8()), Reduce(), outer)


def pipeline(h: int, cuts: tuple[str, ...], crew: tuple[str, ...] = ()) -> Strategy:
    """Members hold a stage of the model each; pipelines meet as replicas (Huang et al. 2019).

    `crew` names members in the order of their stages; who is not named follows by name.

    >>> pipeline(8, ("2",))
    chain(Every(8), Pipeline(('2',)), Reduce(), Outer(1.0))
    >>> pipeline(8, ("2",), ("b", "a"))
    chain(Every(8), Pipeline(('2',), crew=('b', 'a')), Reduce(), Outer(1.0))
    """
    return chain(Every(h), Pipeline(cuts, crew=crew), Reduce(), Outer(1.0))


def private(h: int, norm: float, multiplier: float) -> Strategy:
    """A server veils the mean of clipped walks (McMahan et al. 2018, DP-FedAvg).

    >>> private(8, 1.0, 1.1).noise
    Noise(1.1)
    """
    mean = Reduce(weighted=False, road="star")
    return chain(Every(h), Clip(norm), mean, Noise(multiplier), Outer(1.0))


_RECIPES: tuple[Callable[..., Strategy], ...] = (
    all_reduce,
    all_reduce_fp16,
    all_reduce_int8,
    power_sgd,
    parameter_server,
    asynchronous,
    delayed_nesterov,
    local_sgd,
    average,
    average_by_score,
    dylu,
    diloco,
    diloco_int8,
    sparse_loco,
    streaming_diloco,
    gossip,
    noloco,
    fed_prox,
    fed_nova,
    fed_adam,
    fed_yogi,
    robust,
    median,
    krum,
    multi_krum,
    centred_clip,
    kin,
    tiers,
    pipeline,
    private,
)
RECIPES: Mapping[str, Callable[..., Strategy]] = {
    recipe.__name__.replace("_", "-"): recipe for recipe in _RECIPES
}
_LAWS = (Mean, Median, TrimmedMean, Krum, MultiKrum, CentredClip, Kin)
_CODECS = (Fp16, Bf16, Int8, Int4, E3M0, Stochastic, Sign, TopK, ChunkTopK, RandomK, PowerSGD)
_WALKS = (Every, DyLU, Prox, Islands, Pipeline)
_MAPS = (Clip, Only, Even, Noise, Discount, Outer, OuterAdam, OuterYogi, DelayedNesterov)
_EXCHANGES = (Reduce, Gossip, Pairs, Push)
WORDS: Mapping[str, Callable[..., object]] = {
    word.__name__: word
    for word in (chain, *_WALKS, *_MAPS, *_CODECS, ErrorFeedback, *_EXCHANGES, *_LAWS)
}
