"""Class means and how near samples are to them, against their definitions."""

from __future__ import annotations

import torch

from coterie.combine import class_means, nearness

RNG = torch.Generator().manual_seed(0)
FEATURES = torch.randn(20, 5, generator=RNG, dtype=torch.float64)
TARGETS = torch.arange(20) % 3


def test_means_are_of_each_class_and_follow_a_gradient() -> None:
    features = FEATURES.clone().requires_grad_()
    means, counts = class_means(features, TARGETS, 4)
    for c in range(3):
        assert torch.allclose(means[c], features[c == TARGETS].mean(0))
    assert counts.tolist() == [7, 7, 6, 0]
    assert not means[3].any()
    means[0].sum().backward()
    assert torch.allclose(features.grad[TARGETS == 0], torch.tensor(1 / 7).double())


def test_nearness_is_minus_the_mean_squared_distance_times_the_temperature() -> None:
    means, _ = class_means(FEATURES, TARGETS, 3)
    wanted = -7.0 * (FEATURES[:, None] - means).square().mean(2)
    assert torch.allclose(nearness(FEATURES, means, 7.0), wanted, atol=1e-12)
