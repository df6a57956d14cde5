"""Centres by gradients are mini-batch k-means; mixtures have the likelihood they should have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie.errors import JobError
from coterie.tasks import Clusters, IndexedTask, StagedTask, checked, digits
from coterie.tasks.clusters import GaussianMixture, KMeans, PerCentre, revive, spread_out

NUM = 3
CORNERS = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
LABELS = torch.arange(60) % NUM
ROWS = CORNERS[LABELS] + 0.5 * torch.randn(
    60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)


def task(kind: Any = KMeans, **changes: Any) -> Clusters:
    parts = {"model": functools.partial(kind, num=NUM), "train": ROWS, "test": ROWS}
    return Clusters(**{"name": "toy", **parts, **changes})


def reference(centres: Tensor, batches: list[list[int]]) -> Tensor:
    """Mini-batch k-means as running means, sample sums and all, after Sculley 2010."""
    counts = torch.full((len(centres),), 1 / len(centres), dtype=torch.float64)
    sums = centres * counts[:, None]
    for batch in batches:
        nearest = torch.cdist(ROWS[batch], sums / counts[:, None]).argmin(1)
        for index, k in zip(batch, nearest.tolist(), strict=True):
            counts[k] += 1 / len(batch)
            sums[k] += ROWS[index] / len(batch)
    return sums / counts[:, None]


def test_is_a_task_for_any_strategy_but_a_pipeline() -> None:
    assert isinstance(task(), IndexedTask)
    assert not isinstance(task(), StagedTask)


class TestSeeds:
    def test_the_same_seed_begins_from_the_same_samples(self) -> None:
        seeds = []
        for seed in (0, 0, 1, 2, 3):
            torch.manual_seed(seed)
            seeds.append(task().build().centres.detach())
        assert torch.equal(seeds[0], seeds[1])
        assert not all(torch.equal(seeds[0], other) for other in seeds[2:])

    def test_seeds_are_samples_far_from_one_another(self) -> None:
        for seed in range(10):
            torch.manual_seed(seed)
            seeds = spread_out(ROWS, NUM)
            assert (seeds[:, None] == ROWS).all(2).any(1).all()
            assert torch.pdist(seeds).min() > 2

    def test_equal_samples_are_no_trouble(self) -> None:
        assert torch.equal(spread_out(torch.ones(5, 2), 3), torch.ones(3, 2))

    def test_fewer_samples_than_clusters_are_refused(self) -> None:
        with pytest.raises(JobError, match="found 3 for 2 samples; ask for fewer"):
            task(train=ROWS[:2]).build()


class TestKMeans:
    def test_the_loss_is_half_the_squared_distance_to_the_nearest(self) -> None:
        one = task()
        model = one.build()
        nearest = torch.cdist(ROWS, model.centres).min(1)
        loss = one.loss(model, one.fetch(range(60)))
        assert loss.item() == pytest.approx(nearest.values.square().mean().item() / 2, abs=1e-12)
        assert torch.equal(model.assign(ROWS), nearest.indices)

    @pytest.mark.parametrize("shares", [[20], [11, 6, 3]])
    def test_steps_per_centre_are_mini_batch_k_means(self, shares: list[int]) -> None:
        """Members of unequal shares agree on one gradient, and so does each batch as a whole."""
        one, batches = task(), list(torch.arange(60).split(20)) * 4
        torch.manual_seed(0)
        model = one.build()
        first, optimizer = model.centres.detach().clone(), PerCentre(model.parameters())
        for batch in batches:
            optimizer.zero_grad()
            for part in torch.split(batch, shares):
                loss = one.loss(model, one.fetch(part.tolist()))
                (loss * len(part) / 20).backward()
            optimizer.step()
        expected = reference(first, [batch.tolist() for batch in batches])
        assert (model.centres - expected).abs().max() < 1e-12
        assert model.counts.sum().item() == pytest.approx(1 + len(batches))

    def test_any_other_optimizer_descends_the_same_loss(self, learned: Callable[..., Any]) -> None:
        one = task()
        model = learned(one, functools.partial(torch.optim.Adam, lr=0.05), 20, batch=20)
        best = learned(one, PerCentre, 20, batch=20)
        assert one.score(model)["test_loss"] < 1.05 * one.score(best)["test_loss"]

    def test_a_centre_that_died_takes_half_of_the_fullest_one_s(self) -> None:
        model = KMeans(ROWS, NUM)
        with torch.no_grad():
            model.centres.copy_(torch.tensor([[2.0, 2.0], [500.0, 1.0], [0.0, 900.0]]))
        optimizer = PerCentre(model.parameters())
        for _ in range(200):
            for batch in ROWS.split(20):
                optimizer.zero_grad()
                model.energy(batch).mean().backward()
                optimizer.step()
        assert torch.cdist(model.centres.double(), CORNERS).amin(1).max() < 0.5
        assert len(model.assign(ROWS).unique()) == NUM

    def test_reviving_leaves_the_living_alone_and_keeps_the_sum(self) -> None:
        centres, counts = CORNERS.clone(), torch.tensor([5.0, 9.0, 0.2], dtype=torch.float64)
        slopes = torch.full_like(centres, 0.25)
        revive(centres, counts, slopes)
        assert torch.equal(centres, CORNERS)
        counts[2] = 0.02
        revive(centres, counts, slopes)
        assert torch.equal(centres[:2], CORNERS[:2])
        assert centres[2].tolist() == [3.75, -0.25]
        assert counts.tolist() == [5.0, 4.51, 4.51]

    def test_the_optimizer_is_for_centres_alone(self) -> None:
        with pytest.raises(JobError, match=r"shapes \(2, 3\), \(2,\), \(2,\); choose"):
            PerCentre([*nn.Linear(3, 2).parameters(), nn.Parameter(torch.ones(2))])


class TestMixture:
    def test_the_likelihood_is_scikit_learn_s(self) -> None:
        sklearn = pytest.importorskip("sklearn.mixture")
        model = GaussianMixture(ROWS, NUM)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype))
        theirs = sklearn.GaussianMixture(NUM, covariance_type="diag")
        theirs.weights_ = model.logits.softmax(0).detach().numpy()
        theirs.means_ = model.means.detach().numpy()
        theirs.covariances_ = model.variances.detach().numpy()
        theirs.precisions_cholesky_ = theirs.covariances_**-0.5
        found = task(lambda samples, num: model).score(model)["negative_loss"]
        assert found == pytest.approx(theirs.score(ROWS.numpy()), abs=1e-10)
        assert model.assign(ROWS).tolist() == theirs.predict(ROWS.numpy()).tolist()

    def test_a_feature_that_never_changes_does_not_run_away(
        self, learned: Callable[..., Any]
    ) -> None:
        still = torch.cat([ROWS, torch.ones(60, 1)], 1)
        one = task(GaussianMixture, train=still, test=still)
        model = learned(one, functools.partial(torch.optim.Adam, lr=0.3), 60, batch=20)
        assert model.variances.min() >= 1e-3
        assert model.means.isfinite().all()

    def test_it_comes_as_near_to_the_data_as_by_expectation_and_maximisation(
        self, learned: Callable[..., Any]
    ) -> None:
        sklearn = pytest.importorskip("sklearn.mixture")
        one = task(GaussianMixture, labelled=TensorDataset(ROWS, LABELS))
        model = learned(one, functools.partial(torch.optim.Adam, lr=0.05), 60, batch=20)
        theirs = sklearn.GaussianMixture(NUM, covariance_type="diag", random_state=0, n_init=3)
        scores = one.score(model)
        assert scores["negative_loss"] > theirs.fit(ROWS.numpy()).score(ROWS.numpy()) - 0.05
        assert scores["ami"] > 0.9


class TestScore:
    def test_labels_are_known_in_part_or_not_at_all(self) -> None:
        labelled = TensorDataset(ROWS[:9], LABELS[:9])
        model = task().build()
        assert task().score(model).keys() == {"negative_loss", "test_loss"}
        scores = task(labelled=labelled).score(model)
        assert scores.keys() == {"ami", "negative_loss", "test_loss"}
        assert scores["negative_loss"] == -scores["test_loss"]

    def test_a_model_that_groups_nothing_is_refused(self) -> None:
        with pytest.raises(JobError, match="with energy and assign, found Linear"):
            checked(task(lambda samples, num: nn.Linear(2, num)))


def test_digits_are_grouped_as_well_as_by_scikit_learn(learned: Callable[..., Any]) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = digits.train_set().tensors
    one = Clusters(
        "digits",
        functools.partial(KMeans, num=10),
        digits.train_set,
        digits.test_set,
        labelled=digits.train_set,
    )
    scores = one.score(learned(one, PerCentre, 8))
    theirs = cluster.KMeans(10, n_init=1, random_state=0).fit(x.flatten(1).numpy())
    assert scores["ami"] > metrics.adjusted_mutual_info_score(y, theirs.labels_) - 0.05
    assert scores["ami"] > 0.65
