"""Samples with answers: every road to a batch agrees, scores are whole, mistakes are told early."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from coterie.errors import JobError
from coterie.tasks import IndexedTask, StagedTask, Supervised, Task
from coterie.tasks.samples import SCORE_BATCH

NUM = 7


def tensors(num: int = NUM) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(num, 3, generator=generator), torch.arange(num) % 2)


def pairs(num: int = NUM) -> list[tuple[Tensor, Tensor]]:
    return [tensors(num)[i] for i in range(num)]


class Fetched(Dataset[Any]):
    """Offers many samples at once, and says that it was asked so."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("one by one")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.asked.append(indices)
        return [pairs()[i] for i in indices]


class Augmented(TensorDataset):
    """A TensorDataset in name: it works on one sample at a time."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + float(index), y


def task(**changes: Any) -> Supervised:
    parts = {"model": lambda: nn.Linear(3, 2), "train": tensors(), "test": tensors()}
    return Supervised(**{"name": "toy", **parts, **changes})


def fraction_right(predictions: Tensor, targets: Tensor) -> float:
    return (predictions.argmax(1) == targets).float().mean().item()


class TestContract:
    def test_is_a_task_with_numbered_samples(self) -> None:
        assert isinstance(task(), Task)
        assert isinstance(task(), IndexedTask)

    def test_learns_the_same_in_stages_unless_it_predicts_in_a_way_of_its_own(self) -> None:
        plain, own = task(), task(predict=lambda model, data: (model(data[0]), data[1]))
        assert isinstance(plain, StagedTask)
        assert (plain.in_stages, own.in_stages) == (True, False)

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            task().name = "other"

    def test_an_unknown_option_is_refused(self) -> None:
        with pytest.raises(JobError, match=r"expected metrics, .*, found metric$"):
            task(metric={})


class TestBuild:
    def test_a_factory_makes_a_fresh_model_each_time(self) -> None:
        one = task()
        assert one.build() is not one.build()

    def test_a_module_is_copied(self) -> None:
        module = nn.Linear(3, 2)
        built = task(model=module).build()
        assert built is not module
        assert torch.equal(built.weight, module.weight)
        built.weight.data.zero_()
        assert module.weight.any()

    def test_what_is_no_module_is_refused(self) -> None:
        with pytest.raises(JobError, match=r"to be a torch.nn.Module, found int"):
            task(model=lambda: 3).build()


class TestFetch:
    @pytest.mark.parametrize("train", [pairs(), Fetched(), Subset(tensors(), range(NUM))])
    def test_every_road_gives_the_same_batch(self, train: Any) -> None:
        fast, other = task().fetch([4, 1, 1]), task(train=train).fetch([4, 1, 1])
        assert type(fast.data) is type(other.data)
        assert [t.tolist() for t in fast.data] == [t.tolist() for t in other.data]
        assert fast.size == other.size == 3

    def test_many_are_asked_for_at_once_when_that_is_offered(self) -> None:
        train = Fetched()
        task(train=train).fetch([2, 0])
        assert train.asked == [[2, 0]]

    def test_a_subclass_that_augments_is_asked_one_by_one(self) -> None:
        train = Augmented(*tensors().tensors)
        assert torch.equal(task(train=train).fetch([3]).data[0][0], tensors()[3][0] + 3)

    def test_a_collate_of_ones_own_sees_samples(self) -> None:
        batch = task(collate=lambda samples: [y.item() for _, y in samples]).fetch([0, 1, 2])
        assert batch.data == [0, 1, 0]

    def test_sampling_is_seeded(self) -> None:
        one = task()
        draw = [
            one.sample(nn.Identity(), torch.Generator().manual_seed(5), 4).data[0].tolist()
            for _ in range(2)
        ]
        assert draw[0] == draw[1]
        assert len(draw[0]) == 4


class TestDatasets:
    def test_may_be_made_by_a_callable(self) -> None:
        assert task(train=tensors).num_train == NUM
        assert task(train=Fetched).num_train == NUM

    @pytest.mark.parametrize(
        ("train", "words"),
        [
            ([], "train to hold samples, found an empty dataset"),
            (lambda: 3, "__len__ and __getitem__, found int"),
            (iter([1]), "found list_iterator"),
        ],
    )
    def test_refused(self, train: Any, words: str) -> None:
        with pytest.raises(JobError, match=words):
            task(train=train)

    def test_a_stream_is_learned_by_its_samples_numbers(self) -> None:
        class Stream(IterableDataset[Any]):
            def __iter__(self) -> Iterator[Any]:
                return iter([(torch.full((3,), float(i)), i % 2) for i in range(NUM)])

        one = task(train=Stream(), test=Stream())
        assert one.num_train == NUM
        assert one.fetch([3, 1, NUM + 2]).data[0][:, 0].tolist() == [3, 1, 2]
        assert one.score(one.build()).keys() == {"test_loss", *one.metrics}


class TestLoss:
    def test_is_the_criterion_of_the_predictions(self) -> None:
        one = task()
        model, batch = one.build(), one.fetch([0, 1, 2])
        x, y = batch.data
        assert torch.equal(one.loss(model, batch), F.cross_entropy(model(x), y))

    def test_unequal_parts_weighted_by_samples_are_the_whole(self) -> None:
        one = task(predict=lambda model, data: (model(data[0].double()), data[1]))
        model, parts = one.build().double(), ([0, 1, 2, 3], [4, 5], [6])
        whole = one.loss(model, one.fetch(range(NUM)))
        mixed = sum(one.loss(model, one.fetch(part)) * len(part) / NUM for part in parts)
        assert abs(whole.item() - mixed.item()) < 1e-12

    @pytest.mark.parametrize(
        "loss",
        [
            nn.CrossEntropyLoss(reduction="sum"),
            functools.partial(F.cross_entropy, reduction="sum"),
            nn.CrossEntropyLoss(reduction="none"),
        ],
    )
    def test_what_is_no_mean_is_refused(self, loss: Any) -> None:
        with pytest.raises(JobError, match="mean over the batch, found reduction="):
            task(loss=loss)

    def test_class_weights_follow_the_model(self) -> None:
        one = task(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))
        loss = one.loss(one.build().to("meta"), one.fetch([0, 1]))
        assert loss.device.type == "meta"

    def test_samples_that_are_no_pairs_ask_for_predict(self) -> None:
        one = task(train=[{"x": torch.ones(3)}] * 2)
        with pytest.raises(JobError, match="rename the column, or pass predict"):
            one.loss(one.build(), one.fetch([0]))


class TestScore:
    def test_does_not_depend_on_how_the_test_set_is_cut(self) -> None:
        test = tensors(SCORE_BATCH + 3)
        one = task(test=test, metrics={"right": fraction_right})
        model = one.build()
        predictions = model(test.tensors[0])
        scores = one.score(model)
        assert scores["right"] == fraction_right(predictions, test.tensors[1])
        expected = F.cross_entropy(predictions, test.tensors[1]).item()
        assert scores["test_loss"] == pytest.approx(expected, rel=1e-6)

    def test_a_meter_is_fed_batch_by_batch_and_reset(self) -> None:
        class Count:
            seen = 99

            def reset(self) -> None:
                self.seen = 0

            def update(self, predictions: Tensor, targets: Tensor) -> None:
                self.seen += len(targets)

            def compute(self) -> Tensor:
                return torch.tensor(self.seen)

        one = task(test=tensors(SCORE_BATCH + 3), metrics={"seen": Count()})
        for _ in range(2):
            assert one.score(one.build())["seen"] == SCORE_BATCH + 3

    def test_leaves_each_part_in_the_mode_it_came_in(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(), nn.BatchNorm1d(2))
        model.train()
        model[2].eval()
        task().score(model)
        assert [module.training for module in model.modules()] == [True, True, True, False]

    def test_is_sure_despite_dropout_and_leaves_no_trace(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(), nn.BatchNorm1d(2))
        before = copy.deepcopy(model.state_dict())
        assert task().score(model) == task().score(model)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_the_mode_comes_back_after_an_error(self) -> None:
        def broken(predictions: Tensor, targets: Tensor) -> Tensor:
            raise ZeroDivisionError

        one = task(loss=broken)
        model = one.build()
        with pytest.raises(ZeroDivisionError):
            one.score(model)
        assert model.training

    def test_joins_what_predict_returns(self) -> None:
        one = task(
            predict=lambda model, data: ({"y": model(data[0])}, (data[1], data[1].tolist())),
            loss=lambda predictions, targets: F.cross_entropy(predictions["y"], targets[0]),
            metrics={"size": lambda p, t: len(p["y"]) + len(t[0]) + len(t[1])},
            test=tensors(SCORE_BATCH + 3),
        )
        assert one.score(one.build())["size"] == 3 * (SCORE_BATCH + 3)

    def test_a_metric_must_be_one_number(self) -> None:
        one = task(metrics={"both": lambda predictions, targets: {"a": 1}})
        with pytest.raises(JobError, match="metric both to be one number, found dict"):
            one.score(one.build())
