"""Sentences against simpler ones, and against plain torch.optim, where the two must agree.

Legend of shape suffixes: N parameters, M members, B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from coterie.sync.chain import Landing, Memories, Strategy, chain
from coterie.sync.codecs import ErrorFeedback, Fp16, Int8, TopK
from coterie.sync.exchanges import Reduce
from coterie.sync.fragments import put
from coterie.sync.gossip import Neighbourly
from coterie.sync.laws import Krum, Law, Mean, Median, MultiKrum, TrimmedMean
from coterie.sync.maps import Discount, Even
from coterie.sync.outer import DelayedNesterov, Outer
from coterie.sync.pieces import Clip, DyLU, Every, Only
from coterie.sync.privacy import Noise
from coterie.sync.recipes import (
    all_reduce,
    asynchronous,
    average,
    delayed_nesterov,
    diloco,
    fed_nova,
    fed_prox,
    gossip,
    local_sgd,
    parameter_server,
    tiers,
)
from coterie.sync.server import Push
from coterie.types import Ctx, Layout, Message

Samples = tuple[Tensor, Tensor]
Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

NUM_STEPS = 20
NESTEROV = Outer(0.7, 0.9, nesterov=True)
NESTEROV_OF_4 = chain(Every(4), Reduce(), NESTEROV)


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def samples(num: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 5, generator=generator, dtype=torch.float64)
    return x, x.sin().sum(1, keepdim=True)


def shards(batch: Samples, shares: Sequence[int]) -> list[Samples]:
    x, y = batch
    return list(zip(torch.split(x, list(shares)), torch.split(y, list(shares)), strict=True))


def gradient(model: nn.Module, batch: Samples) -> Tensor:
    x, y = batch
    loss = nn.functional.mse_loss(model(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, gradient_N: Tensor) -> None:
    views = Layout.of(model).views(gradient_N)
    for name, parameter in model.named_parameters():
        parameter.grad = views[name].clone()
    optimizer.step()


def weights(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


@dataclass
class Member:
    """One member of the group in memory: its replica, its optimizer, its memory."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    memory: Memories

    def delta(self, strategy: Strategy, walk: Sequence[Samples]) -> Tensor:
        if not strategy.walks:
            return gradient(self.model, walk[0])
        anchor_N = weights(self.model)
        for batch in walk:
            pull_N = strategy.pull * (weights(self.model) - anchor_N)
            step(self.model, self.optimizer, gradient(self.model, batch) + pull_N)
        delta_N = anchor_N - weights(self.model)
        vector_to_parameters(anchor_N, self.model.parameters())
        return delta_N

    def land(self, strategy: Strategy, update_N: Tensor) -> None:
        if strategy.walks:
            vector_to_parameters(weights(self.model) - update_N, self.model.parameters())
        else:
            step(self.model, self.optimizer, update_N)


def meet(
    strategy: Strategy,
    members: Sequence[Member],
    walks: Sequence[Sequence[Samples]],
    number: int = 1,
) -> None:
    """One round: walk, prepare, meet, land; a member weighs as many samples as it learned."""
    layout = Layout.of(members[0].model)
    learned = [sum(len(x) for x, _ in walk) for walk in walks]
    mean_steps = sum(w * len(walk) for w, walk in zip(learned, walks, strict=True)) / sum(learned)
    generator = torch.Generator().manual_seed(number)
    mine, messages, moments = [], [], []
    for member, walk, weight in zip(members, walks, learned, strict=True):
        ctx = Ctx(number, generator, len(walk), mean_steps, len(members))
        anchor_N, delta_N = weights(member.model), member.delta(strategy, walk)
        payload, member.memory = strategy.prepare(delta_N, anchor_N, member.memory, layout, ctx)
        size = strategy.exchange.shown(strategy.shared(layout, number)).size
        row_K = strategy.open(payload, delta_N.new_zeros(size), ctx)
        messages.append(Message(member.name, row_K, weight))
        mine.append(Landing(delta_N, anchor_N, payload))
        moments.append(ctx)
    exchange = strategy.exchange
    in_round = isinstance(exchange, Neighbourly)
    agreed = exchange.meet_in(messages, number) if in_round else exchange.meet(messages)  # type: ignore[attr-defined]
    for member, agreed_K, landing, ctx in zip(members, agreed, mine, moments, strict=True):
        told_K = strategy.veil(agreed_K, len(members), generator.manual_seed(number))
        update_F, member.memory = strategy.land(told_K, landing, member.memory, layout, ctx)
        part, update_N = strategy.part(layout, number), torch.zeros_like(landing.delta_N)
        member.land(strategy, update_F if part == layout else put(update_N, update_F, layout, part))


def group_of(strategy: Strategy, optimizer: Optimizers, num_members: int) -> list[Member]:
    members = []
    for i in range(num_members):
        model = model_of()
        memory = strategy.init(Layout.of(model), weights(model))
        members.append(Member(f"m{i}", model, optimizer(model.parameters()), memory))
    return members


def train(strategy: Strategy, optimizer: Optimizers, shares: Sequence[int]) -> list[Member]:
    """NUM_STEPS steps on batches of sum(shares) samples; every member of a walk sees its shards."""
    members = group_of(strategy, optimizer, len(shares))
    batches = [shards(samples(sum(shares), seed), shares) for seed in range(NUM_STEPS)]
    for number, start in enumerate(range(0, NUM_STEPS, strategy.every), start=1):
        walked = batches[start : start + strategy.every]
        meet(strategy, members, list(zip(*walked, strict=True)), number)
    return members


def ends(strategy: Strategy, optimizer: Optimizers, shares: Sequence[int]) -> list[Tensor]:
    """Where all members stand after training."""
    return [weights(member.model) for member in train(strategy, optimizer, shares)]


def assert_same(
    left: Strategy, right: Strategy, shares: Sequence[int] = (8, 4, 4), slack: float = 1e-12
) -> None:
    """That two sentences lead to the same model, on every member."""
    pairs = zip(ends(left, adam, shares), ends(right, adam, shares), strict=True)
    assert max(farthest(left_N, right_N) for left_N, right_N in pairs) <= slack


def alone(optimizer: Optimizers, num: int) -> Tensor:
    """Plain torch.optim on the whole batches."""
    model = model_of()
    plain = optimizer(model.parameters())
    for seed in range(NUM_STEPS):
        step(model, plain, gradient(model, samples(num, seed)))
    return weights(model)


def farthest(left_N: Tensor, right_N: Tensor) -> float:
    return float((left_N - right_N).abs().max())


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def agreed_gradient(strategy: Strategy, shares: Sequence[int]) -> Tensor:
    model, batch = model_of(), samples(sum(shares), 0)
    rows = [gradient(model, shard) for shard in shards(batch, shares)]
    messages = [
        Message(f"m{i}", row_N, share)
        for i, (row_N, share) in enumerate(zip(rows, shares, strict=True))
    ]
    return strategy.exchange.meet(messages)[0]


def test_unequal_shards_give_the_gradient_of_the_whole_batch() -> None:
    whole_N = gradient(model_of(), samples(120, 0))
    assert farthest(agreed_gradient(chain(Reduce()), (60, 40, 20)), whole_N) <= 1e-12


def test_without_weights_unequal_shards_do_not() -> None:
    whole_N = gradient(model_of(), samples(120, 0))
    unweighted = chain(Reduce(weighted=False))
    assert farthest(agreed_gradient(unweighted, (60, 40, 20)), whole_N) > 1e-3


@pytest.mark.parametrize("optimizer", [adam, momentum])
@pytest.mark.parametrize("shares", [(8, 8, 8, 8), (16, 12, 4)])
def test_all_reduce_is_one_machine_on_the_whole_batch(
    optimizer: Optimizers, shares: Sequence[int]
) -> None:
    plain_N = alone(optimizer, sum(shares))
    for member in train(all_reduce(), optimizer, shares):
        assert farthest(weights(member.model), plain_N) <= 1e-12


@pytest.mark.parametrize("strategy", [all_reduce(), local_sgd(1), local_sgd(4)], ids=repr)
def test_alone_every_plain_sentence_is_plain_torch(strategy: Strategy) -> None:
    (member,) = train(strategy, adam, (16,))
    assert farthest(weights(member.model), alone(adam, 16)) <= 1e-12


def test_outer_one_averages_the_walked_weights() -> None:
    strategy, shares = local_sgd(5), (12, 8, 4)
    walks = list(zip(*(shards(samples(24, seed), shares) for seed in range(5)), strict=True))
    walked_MN = []
    for walk in walks:
        model = model_of()
        optimizer = adam(model.parameters())
        for batch in walk:
            step(model, optimizer, gradient(model, batch))
        walked_MN.append(weights(model))
    average_N = sum(w / 24 * row_N for w, row_N in zip(shares, walked_MN, strict=True))
    members = group_of(strategy, adam, 3)
    meet(strategy, members, walks)
    assert isinstance(average_N, Tensor)
    assert farthest(weights(members[0].model), average_N) <= 1e-12


def test_walks_of_one_step_are_all_reduce_for_linear_optimizers() -> None:
    walked, reduced = (train(s, momentum, (8, 4))[0] for s in (local_sgd(1), all_reduce()))
    assert farthest(weights(walked.model), weights(reduced.model)) <= 1e-12


def test_walks_of_one_step_are_not_all_reduce_for_adam() -> None:
    walked, reduced = (train(s, adam, (8, 4))[0] for s in (local_sgd(1), all_reduce()))
    assert farthest(weights(walked.model), weights(reduced.model)) > 1e-3


@pytest.mark.parametrize(
    "strategy",
    [all_reduce(), chain(ErrorFeedback(Int8()), Reduce()), local_sgd(4), diloco(5)],
    ids=repr,
)
def test_members_of_one_group_land_on_one_model(strategy: Strategy) -> None:
    first, *others = train(strategy, adam, (8, 4, 4))
    for other in others:
        assert torch.equal(weights(first.model), weights(other.model))


def test_shared_trunks_agree_and_private_heads_do_not() -> None:
    strategy = chain(Every(4), Only("0.*"), Reduce(), Outer(1.0))
    left, right = (dict(m.model.named_parameters()) for m in train(strategy, adam, (8, 8)))
    assert torch.equal(left["0.weight"], right["0.weight"])
    assert not torch.equal(left["2.weight"], right["2.weight"])


def test_eight_bits_with_feedback_learn_like_thirty_two() -> None:
    def held_out_loss(model: nn.Module) -> float:
        x, y = samples(500, 999)
        return nn.functional.mse_loss(model(x), y).item()

    def loss(strategy: Strategy) -> float:
        member = train(strategy, momentum, (16, 8))[0]
        return held_out_loss(member.model)

    untrained = held_out_loss(model_of())
    dense, packed = loss(all_reduce()), loss(chain(ErrorFeedback(Int8()), Reduce()))
    assert dense < 0.5 * untrained
    assert packed == pytest.approx(dense, rel=0.02)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (chain(Reduce(TrimmedMean(0))), all_reduce()),
        (chain(Reduce(MultiKrum(0, keep=3))), all_reduce()),
        (parameter_server(), all_reduce()),
        (parameter_server(2), all_reduce()),
        (chain(Clip(1e9), Reduce()), all_reduce()),
        (chain(Only("*"), Reduce()), all_reduce()),
        (chain(Every(4), Reduce(), DelayedNesterov(0.7, 0.9, every=1)), NESTEROV_OF_4),
        (fed_nova(4), local_sgd(4)),
        (chain(Every(4), Even(), Reduce(), Outer(1.0)), local_sgd(4)),
        (chain(DyLU(4), Reduce(), Outer(1.0)), local_sgd(4)),
        (tiers(4, 3), chain(Every(4), ErrorFeedback(Int8()), Reduce(), NESTEROV)),
    ],
    ids=repr,
)
def test_sentences_that_are_one_lead_to_one_model(left: Strategy, right: Strategy) -> None:
    assert left != right
    assert_same(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (chain(Reduce(Mean())), all_reduce()),
        (chain(Every(4, fragments=1, overlap=0), Reduce(), Outer(1.0)), local_sgd(4)),
        (chain(Every(4), Reduce(), Outer(1.0, 0.0)), local_sgd(4)),
    ],
    ids=repr,
)
def test_sentences_that_differ_in_what_is_left_out_alone_are_one(
    left: Strategy, right: Strategy
) -> None:
    assert left == right
    assert repr(left) == repr(right)


def test_sending_all_of_the_values_is_all_reduce_in_single_precision() -> None:
    assert_same(chain(TopK(1.0), Reduce()), all_reduce(), slack=1e-6)


def test_with_equal_shares_weights_do_not_matter() -> None:
    assert_same(average(4), local_sgd(4), shares=(4, 4, 4))


def test_a_weak_pull_to_the_anchor_is_none_and_a_strong_one_is_felt() -> None:
    assert_same(fed_prox(4, 1e-9), local_sgd(4), slack=1e-6)
    with pytest.raises(AssertionError):
        assert_same(fed_prox(4, 10.0), local_sgd(4), slack=1e-3)


def test_little_noise_is_nearly_none() -> None:
    quiet = chain(Every(4), Clip(10.0), Noise(1e-9), Reduce(), Outer(1.0))
    served = Reduce(weighted=False, road="star")
    veiled = chain(Every(4), Clip(10.0), served, Noise(1e-9), Outer(1.0))
    assert_same(quiet, local_sgd(4), slack=1e-5)
    assert_same(veiled, average(4), slack=1e-5)
    assert farthest(ends(quiet, adam, (8, 4))[0], ends(local_sgd(4), adam, (8, 4))[0]) > 0


def test_gossip_among_all_is_averaging() -> None:
    assert_same(gossip(4, "complete"), average(4))


@pytest.mark.parametrize("graph", ["ring", "exponential"])
def test_gossip_among_two_is_averaging(graph: str) -> None:
    assert_same(gossip(4, graph), average(4), shares=(8, 4))


def test_gossip_among_some_leaves_members_apart_and_together() -> None:
    ends_MN = torch.stack(ends(gossip(2, "ring"), adam, (4, 4, 4, 4, 4)))
    apart = float((ends_MN - ends_MN.mean(0)).norm(dim=1).max())
    assert 0 < apart < 0.5 * float(ends_MN[0].norm())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (asynchronous(4), local_sgd(4)),
        (chain(Every(4), Push(), Discount(2.0), Outer(1.0)), local_sgd(4)),
        (delayed_nesterov(4, every=1), chain(Every(4), Reduce(), Outer(0.7, 0.9, nesterov=True))),
    ],
    ids=repr,
)
def test_a_server_with_one_worker_is_local_sgd(left: Strategy, right: Strategy) -> None:
    assert_same(left, right, shares=(8,))


@pytest.mark.parametrize("law", [Median(), Krum(0), TrimmedMean(1)], ids=repr)
def test_members_that_bring_the_same_need_no_defence(law: Law) -> None:
    batches = [samples(8, seed) for seed in range(NUM_STEPS)]

    def end(strategy: Strategy) -> Tensor:
        members = group_of(strategy, adam, 3)
        for batch in batches:
            meet(strategy, members, [[batch]] * 3)
        return weights(members[0].model)

    assert farthest(end(chain(Reduce(law))), end(all_reduce())) <= 1e-12


def test_unequal_steps_make_fed_nova_another_than_fed_avg() -> None:
    """It moves as far as the mean walk, in the mean direction of one step."""
    walks = [[samples(4, seed) for seed in range(num)] for num in (1, 4)]

    def end(strategy: Strategy) -> Tensor:
        members = group_of(strategy, momentum, 2)
        meet(strategy, members, walks)
        return weights(members[0].model)

    assert farthest(end(fed_nova(4)), end(local_sgd(4))) > 1e-3


def test_fragments_that_meet_in_turn_all_meet() -> None:
    strategy = chain(Every(4, fragments=2), Reduce(), Outer(1.0))
    members = group_of(strategy, adam, 2)
    layout, before_N = Layout.of(members[0].model), weights(members[0].model)
    meet(strategy, members, [[samples(4, 0)] * 2, [samples(4, 1)] * 2], number=1)
    moved_N = weights(members[0].model) != before_N
    first, second = (strategy.part(layout, number) for number in (1, 2))
    views = layout.views(moved_N)
    assert all(views[name].all() for name in first.names)
    assert not any(views[name].any() for name in second.names)
    meet(strategy, members, [[samples(4, 2)] * 2, [samples(4, 3)] * 2], number=2)
    assert all(layout.views(weights(members[0].model) != before_N)[n].all() for n in second.names)


def test_sixteen_bits_learn_like_thirty_two() -> None:
    packed, dense = (ends(s, momentum, (8, 4))[0] for s in (chain(Fp16(), Reduce()), all_reduce()))
    assert 0 < farthest(packed, dense) < 2e-3
