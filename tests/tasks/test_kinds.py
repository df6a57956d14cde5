"""A task section becomes a task of its kind, or one sentence that says why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from coterie.config import TaskSpec
from coterie.errors import JobError
from coterie.specs import AutoencoderSpec, ClustersSpec, ContrastiveSpec, MultiSpec, PrototypesSpec
from coterie.tasks import (
    Autoencoder,
    Clusters,
    Conflict,
    Contrastive,
    MultiTask,
    Prototypes,
    Supervised,
    checked,
    from_spec,
)
from coterie.tasks.weighing import DWA


def tensors(num: int = 7) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(num, 3, generator=generator), torch.arange(num) % 2)


def task(**changes: Any) -> Supervised:
    parts = {"model": lambda: nn.Linear(3, 2), "train": tensors(), "test": tensors()}
    return Supervised(**{"name": "toy", **parts, **changes})


class Weighted(nn.Module):
    """A loss of the user's, as a class with an argument."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(predictions, targets)


MINE = """
import torch

def samples():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

def pairs():
    return list(zip(samples(), torch.arange(8) % 2))

def odd():
    return 9 + samples()

def error(outputs, inputs):
    return (outputs - inputs).abs().sum(1)
"""
SPEC: dict[str, Any] = {
    "model": {"call": "coterie.tasks.digits:model", "with": {"width": 1}},
    "train": "coterie.tasks.digits:train_set",
    "test": "coterie.tasks.digits:test_set",
}


class TestFromSpec:
    @pytest.fixture(autouse=True)
    def _needs_digits(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("sklearn")
        self.root = str(tmp_path)
        monkeypatch.syspath_prepend(self.root)

    def made(self, **changes: Any) -> Supervised:
        made = from_spec("digits", TaskSpec.model_validate({**SPEC, **changes}), self.root)
        assert isinstance(made, Supervised)
        return made

    def test_scores_what_it_was_told_to(self) -> None:
        made = self.made(metrics={"accuracy": "coterie.tasks.digits:accuracy"})
        assert made.num_train == 1437
        assert set(made.score(made.build())) == {"accuracy", "test_loss"}

    def test_binds_the_arguments_of_functions(self) -> None:
        smooth = {"call": "torch.nn.functional:cross_entropy", "with": {"label_smoothing": 0.5}}
        made, plain = self.made(loss=smooth), self.made()
        model, batch = made.build(), made.fetch(range(8))
        predictions, targets = model(batch.data[0]), batch.data[1]
        expected = F.cross_entropy(predictions, targets, label_smoothing=0.5)
        assert torch.equal(made.loss(model, batch), expected)
        assert not torch.equal(plain.loss(model, batch), expected)

    def test_instantiates_classes(self) -> None:
        loss = {"call": "torch.nn:CrossEntropyLoss", "with": {"label_smoothing": 0.5}}
        assert isinstance(self.made(loss=loss).criterion, nn.CrossEntropyLoss)

    def test_every_kind_is_made_of_what_its_section_names(self, tmp_path: Any) -> None:
        (tmp_path / "mine_of_kinds.py").write_text(MINE)
        parts = {"train": "mine_of_kinds:samples", "test": "mine_of_kinds:pairs"}
        layer = {"call": "torch.nn:Linear", "with": {"in_features": 3, "out_features": 3}}
        given = {**parts, "labelled": "mine_of_kinds:pairs"}
        few = {"call": "coterie.tasks.clusters:KMeans", "with": {"num": 2}}
        views = {"call": "coterie.tasks.views:vectors", "with": {"mask": 0.5}}
        specs = {
            Autoencoder: AutoencoderSpec(
                **parts, model=layer, anomalies="mine_of_kinds:odd", error="mine_of_kinds:error"
            ),
            Contrastive: ContrastiveSpec(**given, model=layer, views=views, head=layer, group=2),
            Clusters: ClustersSpec(**given, model=few),
            Prototypes: PrototypesSpec(
                train="mine_of_kinds:pairs", test="mine_of_kinds:pairs", model=layer, shots=1
            ),
        }
        for kind, spec in specs.items():
            made = from_spec("mine", spec, self.root)
            assert type(made) is kind
            assert made.score(made.build()).keys() == {*spec.scores, "test_loss"}
            told = {key for key, value in made.given.items() if value is not None}
            assert type(spec).model_fields.keys() - {"kind"} == made.given.keys()
            assert told >= spec.model_fields_set

    def test_leaves_the_seed_as_it_was(self) -> None:
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        self.made()
        assert torch.equal(torch.rand(1), expected)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"model": "torch.nn:Identity"}, "could not be computed on the first 2 samples"),
            ({"model": {"call": "coterie.tasks.digits:model", "with": {"w": 1}}}, "'w'"),
            ({"loss": "torch.nn:BCELoss"}, "could not be computed on the first 2 samples"),
            ({"loss": "torch.argmax:x"}, "expected a module torch.argmax"),
            ({"train": "builtins:list"}, "found an empty dataset"),
            (
                {"loss": {"call": "torch.nn:CrossEntropyLoss", "with": {"reduction": "sum"}}},
                "found reduction='sum'",
            ),
        ],
    )
    def test_mistakes_are_told_at_the_door(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(JobError) as refusal:
            self.made(**changes)
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)


DIGITS = "coterie.tasks.digits"
HEAD = {"call": "torch.nn:Linear", "with": {"in_features": 8, "out_features": 10}}
SEVERAL: dict[str, Any] = {
    "trunk": {"call": f"{DIGITS}:trunk", "with": {"width": 2}},
    "train": f"{DIGITS}:train_table",
    "test": f"{DIGITS}:test_table",
    "tasks": {
        "digit": {"model": HEAD, "metrics": {"accuracy": f"{DIGITS}:accuracy"}},
        "odd": {"model": {**HEAD, "with": {"in_features": 8, "out_features": 2}}},
    },
}


class TestSeveral:
    @pytest.fixture(autouse=True)
    def _needs_digits(self) -> None:
        pytest.importorskip("sklearn")

    def made(self, **changes: Any) -> MultiTask:
        made = from_spec("digits", MultiSpec.model_validate({**SEVERAL, **changes}), ".")
        assert isinstance(made, MultiTask)
        return made

    def test_tasks_that_name_one_table_share_its_samples(self) -> None:
        made = self.made()
        assert made.num_train == 1437
        assert [source.tasks for source in made.sources] == [("digit", "odd")]
        assert len(made.fetch([0, 1]).data) == 1

    def test_is_made_of_what_its_section_names(self) -> None:
        made = self.made()
        assert MultiSpec.model_fields.keys() - {"kind"} == made.given.keys()
        scores = set(MultiSpec.model_validate(SEVERAL).scores)
        assert made.score(made.build()).keys() - scores == {
            *("test_loss", "digit/test_loss", "odd/test_loss"),
        }

    @pytest.mark.parametrize(
        ("said", "balance"),
        [
            ("upgrad", Conflict("upgrad")),
            ({"call": "coterie.tasks.weighing:DWA", "with": {"temperature": 3.0}}, DWA(3.0)),
            (
                {"call": "coterie.tasks.weighing:Conflict", "with": {"law": "cagrad"}},
                Conflict("cagrad"),
            ),
        ],
    )
    def test_a_balance_is_a_word_or_a_call(self, said: Any, balance: object) -> None:
        assert self.made(balance=said).balance == balance

    def test_a_head_may_do_nothing(self) -> None:
        assert list(self.made(tasks={"odd": {"model": "torch.nn:Identity"}}).tasks) == ["odd"]

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"balance": "best"}, "found 'best'"),
            ({"balance": {"call": "builtins:dict"}}, "expected balance to be a Weighing"),
            ({"tasks": {"shape": {"model": HEAD}}}, "answers of shape, found digit, odd, ink"),
            ({"tasks": {"ink": {"model": HEAD}}}, "ink: the loss could not be computed"),
        ],
    )
    def test_what_would_fail_later_is_refused_with_the_task_s_name(
        self, changes: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(JobError, match=sentence):
            self.made(**changes)


class TestChecked:
    @pytest.mark.parametrize(
        ("loss", "words"),
        [
            (lambda p, t: F.cross_entropy(p, t).item(), "found float"),
            (lambda p, t: F.cross_entropy(p, t, reduction="none"), r"found \(2,\)"),
            (lambda p, t: F.cross_entropy(p, t).detach(), r"found \(\) without one"),
        ],
    )
    def test_the_loss_must_be_a_scalar_to_descend(self, loss: Any, words: str) -> None:
        with pytest.raises(JobError, match=words):
            checked(task(loss=loss))

    def test_a_single_sample_is_shown_twice(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        assert checked(task(model=model, train=tensors(1)))

    def test_a_class_that_is_a_loss_is_told_apart_from_its_instance(self) -> None:
        assert checked(task(loss=Weighted(2.0)))
        with pytest.raises(JobError):
            checked(task(loss=Weighted))
