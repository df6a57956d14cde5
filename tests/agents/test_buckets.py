"""A gradient handed out in parts is the gradient, in one order on all members, whatever happens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from coterie.agents.buckets import stream
from coterie.errors import NotFinite
from coterie.sync import fragments as module
from coterie.sync.fragments import buckets
from coterie.types import Layout

INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.unused = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def plain(net: nn.Module) -> Tensor:
    net.zero_grad()
    net(INPUTS).square().mean().backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    return torch.cat([grad.flatten() for grad in grads])


def told(net: nn.Module, factor: float, fails: bool = False) -> tuple[Tensor, list[int], bool]:
    layout, parts = Layout.of(net), []
    told_N = torch.empty(layout.size)
    start = told_N.data_ptr()

    def backward() -> float:
        if fails:
            raise NotFinite("expected a finite loss")
        loss = net(INPUTS).square().mean()
        loss.backward()
        return float(loss.detach())

    failed = False
    try:
        stream(list(net.parameters()), layout, backward, told_N, factor, parts.append)
    except NotFinite:
        failed = True
    return told_N, [(part.data_ptr() - start) // 4 for part in parts], failed


@pytest.mark.parametrize("bucket_bytes", [1, 64, 1 << 22])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_what_is_told_is_the_gradient_times_the_factor(
    monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, factor: float
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", bucket_bytes)
    net = Net()
    expected_N = factor * plain(net)
    told_N, places, _ = told(net, factor)
    assert torch.equal(told_N, expected_N)
    wanted = [where.start for _, where in buckets(Layout.of(net), 4)]
    assert places == wanted  # from the last parameter to the first, and all of them


@pytest.mark.parametrize("bucket_bytes", [1, 1 << 22])
def test_a_loss_that_is_not_finite_still_hands_out_every_bucket(
    monkeypatch: pytest.MonkeyPatch, bucket_bytes: int
) -> None:
    monkeypatch.setattr(module, "BUCKET_BYTES", bucket_bytes)
    net = Net()
    told_N, places, failed = told(net, 1.0, fails=True)
    assert failed
    assert all(map(math.isnan, told_N.tolist()))
    assert places == [where.start for _, where in buckets(Layout.of(net), 4)]


def test_no_hook_is_left_behind() -> None:
    net = Net()
    told(net, 1.0)
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())


def test_buckets_cover_the_vector_once_from_its_end() -> None:
    layout = Layout(("a", "b", "c"), ((1 << 20,), (3,), (1 << 20,)))
    places = [where for _, where in buckets(layout, 4)]
    assert places[0].stop == layout.size
    assert places[-1].start == 0
    assert all(later.stop == earlier.start for earlier, later in itertools.pairwise(places))
