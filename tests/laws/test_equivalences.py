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

from coterie.sync.chain import Memories, Strategy, chain
from coterie.sync.codecs import ErrorFeedback, Int8
from coterie.sync.exchanges import Reduce
from coterie.sync.outer import Outer
from coterie.sync.pieces import Every, Only
from coterie.sync.recipes import all_reduce, diloco, local_sgd
from coterie.types import Ctx, Layout, Message

Samples = tuple[Tensor, Tensor]
Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

NUM_STEPS = 20


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
            step(self.model, self.optimizer, gradient(self.model, batch))
        delta_N = anchor_N - weights(self.model)
        vector_to_parameters(anchor_N, self.model.parameters())
        return delta_N

    def land(self, strategy: Strategy, update_N: Tensor) -> None:
        if strategy.walks:
            vector_to_parameters(weights(self.model) - update_N, self.model.parameters())
        else:
            step(self.model, self.optimizer, update_N)


def meet(strategy: Strategy, members: Sequence[Member], walks: Sequence[Sequence[Samples]]) -> None:
    """One round: walk, prepare, meet, land; a member weighs as many samples as it learned."""
    ctx, layout = Ctx(), Layout.of(members[0].model)
    deltas, messages = [], []
    for member, walk in zip(members, walks, strict=True):
        delta_N = member.delta(strategy, walk)
        payload, member.memory = strategy.prepare(delta_N, member.memory, ctx)
        row_K = strategy.open(payload, delta_N.new_zeros(strategy.narrowed(layout).size))
        messages.append(Message(member.name, row_K, sum(len(x) for x, _ in walk)))
        deltas.append(delta_N)
    agreed = strategy.exchange.meet(messages)
    for member, agreed_K, delta_N in zip(members, agreed, deltas, strict=True):
        update_N, member.memory = strategy.land(agreed_K, delta_N, layout, member.memory, ctx)
        member.land(strategy, update_N)


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
    for start in range(0, NUM_STEPS, strategy.every):
        walked = batches[start : start + strategy.every]
        meet(strategy, members, list(zip(*walked, strict=True)))
    return members


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
