"""Views are drawn anew, keep shapes, and change what they say they change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from coterie.errors import JobError
from coterie.tasks import views

SAMPLES = {
    views.vectors: torch.randn(16, 6, dtype=torch.float64),
    views.series: torch.randn(16, 2, 20),
    views.images: torch.rand(16, 3, 8, 8),
}
View = Callable[..., Tensor]


@pytest.mark.parametrize("view", SAMPLES, ids=lambda view: view.__name__)
def test_a_view_has_the_samples_shape_and_is_another_each_time(view: View) -> None:
    samples = SAMPLES[view]
    before = samples.clone()
    one, two = view(samples), view(samples)
    assert (one.shape, one.dtype) == (samples.shape, samples.dtype)
    assert not torch.equal(one, two)
    assert torch.equal(samples, before)
    torch.manual_seed(5)
    chosen = views.by_shape(samples)
    torch.manual_seed(5)
    assert torch.equal(chosen, view(samples))


@pytest.mark.parametrize(
    ("view", "nothing"),
    [
        (views.vectors, {"noise": 0.0, "mask": 0.0}),
        (views.series, {"noise": 0.0, "scale": 0.0, "cover": 0.0}),
        (views.images, {"shift": 0.0, "contrast": 0.0, "cover": 0.0}),
    ],
)
def test_where_nothing_changes_a_view_is_the_sample(view: View, nothing: dict[str, float]) -> None:
    assert torch.equal(view(SAMPLES[view], **nothing), SAMPLES[view])


def test_an_image_is_shifted_as_a_whole() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(40, 2, 8, 8)
    seen = views.images(image, shift=0.25, contrast=0.0, cover=0.0)
    inner = seen[:, :, 2:6, 2:6]
    by = inner - image[:, :, 2:6, 2:6]
    assert torch.equal(by, by[:, :1, :1, :1].expand_as(by))  # every pixel moved alike
    assert len(by[:, 0, 0, 0].unique()) > 8


def test_a_stretch_of_a_window_and_a_rectangle_of_an_image_are_covered() -> None:
    window = views.series(SAMPLES[views.series], noise=0.0, scale=0.0, cover=0.25)
    image = views.images(SAMPLES[views.images], shift=0.0, contrast=0.0, cover=0.25)
    assert ((window != SAMPLES[views.series]).sum((1, 2)) == 2 * 5).all()
    assert ((image != SAMPLES[views.images]).sum((1, 2, 3)) == 3 * 2 * 2).all()


def test_samples_of_no_known_shape_ask_for_views() -> None:
    with pytest.raises(JobError, match=r"shape \(1, 2, 3, 4\); give views"):
        views.by_shape(torch.zeros(2, 1, 2, 3, 4))
