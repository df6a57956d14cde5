"""Models of other libraries as they are: what is learned, what travels, what is kept."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported
INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
PAIRS = TensorDataset(INPUTS, INPUTS.argmax(dim=1))


def needs(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs {name}: make test-libraries installs it")


def quietly(event: dict[str, Any]) -> None: ...


class TestTransformers:
    def bert(self) -> Any:
        transformers = needs("transformers")
        config = transformers.BertConfig(
            vocab_size=16,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=8,
            num_labels=2,
        )
        return transformers.BertForSequenceClassification(config)

    def rows(self) -> Any:
        ids = torch.randint(1, 16, (32, 6), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        labels = (ids[:, 0] > 7).long()
        columns = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return needs("datasets").Dataset.from_dict(
            {name: column.tolist() for name, column in columns.items()}
        )

    def test_batches_of_a_data_collator_are_learned(self, tmp_path: Path) -> None:
        import coterie
        from coterie.tasks import digits

        rows, bert = self.rows(), self.bert()
        task = coterie.Supervised(
            "bert",
            bert,
            rows,
            rows,
            loss=coterie.own_loss,
            collate=needs("transformers").default_data_collator,
            metrics={"accuracy": digits.accuracy},
        )
        adam = functools.partial(torch.optim.AdamW, lr=0.02)
        result = coterie.train(task, adam, 8, {"epochs": 12}, runs=tmp_path, show=quietly)
        assert result.summary["metrics"]["accuracy"] > 0.9
        bert.load_state_dict(result.weights())


class TestPeft:
    def adapted(self) -> Any:
        peft = needs("peft")
        base = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4))
        return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "2"]))

    def test_adapters_alone_travel_and_a_checkpoint_holds_the_whole(self, tmp_path: Path) -> None:
        import coterie
        from coterie.types import Layout

        model = self.adapted()
        layout = Layout.of(model)
        assert layout.size == 2 * (4 + 32) + 2 * (32 + 4)
        assert all("lora_" in name for name in layout.names)
        task = coterie.Supervised("lora", model, PAIRS, PAIRS)
        adam = functools.partial(torch.optim.AdamW, lr=0.05)
        given = {"runs": tmp_path, "show": quietly}
        result = coterie.train(task, adam, 16, {"steps": 4}, **given)
        learned = result.weights()
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert frozen
        for name, value in model.state_dict().items():
            assert torch.equal(value, learned[name]) == (name in frozen)
        on = coterie.train(task, adam, 16, {"steps": 8}, resume=result.folder, **given)
        whole = coterie.train(task, adam, 16, {"steps": 8}, **given)
        for name, value in whole.weights().items():
            assert torch.equal(value, on.weights()[name])


class TestKeras:
    def net(self) -> Any:
        keras = needs("keras")
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(4),
            ]
        )

    def test_names_modes_and_copies_are_as_torch_has_them(self) -> None:
        from coterie.tasks.keras import KerasNet

        first, second = KerasNet(self.net()), KerasNet(self.net())
        assert list(first.state_dict()) == list(second.state_dict())
        second.load_state_dict(first.state_dict())
        first.eval(), second.eval()
        assert torch.equal(first(INPUTS), second(INPUTS))
        assert torch.equal(first(INPUTS), first.keras(INPUTS, training=False))
        twin = copy.deepcopy(first)
        assert list(twin.state_dict()) == list(first.state_dict())
        assert torch.equal(twin(INPUTS), first(INPUTS))
        with torch.no_grad():
            next(p for p in twin.parameters() if p.requires_grad).add_(1)
        assert not torch.equal(twin(INPUTS), first(INPUTS))
        assert not torch.equal(first.train()(INPUTS), first(INPUTS))  # dropout is at work

    def test_losses_and_metrics_mean_what_keras_means(self) -> None:
        import coterie

        keras = needs("keras")
        for loss in (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=True),
        ):
            metrics = {
                "whole": keras.metrics.SparseCategoricalAccuracy(),
                "each": keras.metrics.sparse_categorical_accuracy,
                "torch": lambda scores, labels: (scores.argmax(1) == labels).double().mean(),
            }
            task = coterie.Supervised("k", self.net, PAIRS, PAIRS, loss=loss, metrics=metrics)
            model = task.build().eval()
            batch = task.fetch(range(10))
            wanted = nn.functional.cross_entropy(model(batch.data[0]), batch.data[1])
            assert task.loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
            scores = task.score(model)
            assert scores["whole"] == pytest.approx(scores["torch"])
            assert scores["each"] == pytest.approx(scores["torch"])

    def test_a_loss_that_is_no_mean_and_a_model_without_weights_are_refused(self) -> None:
        import coterie

        keras = needs("keras")
        summed = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
        with pytest.raises(coterie.JobError, match="found reduction='sum'"):
            coterie.Supervised("k", self.net, PAIRS, PAIRS, loss=summed)
        with pytest.raises(coterie.JobError, match="expected a Keras model whose weights are made"):
            coterie.KerasNet(keras.Sequential([keras.layers.Dense(4)]))

    def test_early_stopping_ends_the_run_with_its_checkpoint(self, tmp_path: Path) -> None:
        import coterie

        keras = needs("keras")
        stop = keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=1)
        task = coterie.Supervised("k", self.net, PAIRS, PAIRS)
        sgd = functools.partial(torch.optim.SGD, lr=0.1)
        show = coterie.KerasCallbacks([stop])
        result = coterie.train(task, sgd, 16, {"epochs": 500}, runs=tmp_path, show=show)
        assert result.exit_code == 130
        assert result.summary["epochs"] < 500
        assert result.weights()


class TestDatasets:
    def stream(self) -> Any:
        rows = {"x": INPUTS.tolist(), "labels": PAIRS[:][1].tolist()}
        whole = needs("datasets").Dataset.from_dict(rows)
        return whole.to_iterable_dataset(num_shards=4).shuffle(seed=0, buffer_size=8)

    def test_a_stream_has_each_sample_once_in_a_pass_and_another_order_in_the_next(self) -> None:
        from coterie.tasks.passes import numbered

        samples = numbered("train", self.stream().with_format("torch"))
        assert len(samples) == len(INPUTS)
        passes = [
            [tuple(samples[len(INPUTS) * number + i]["x"].tolist()) for i in range(len(INPUTS))]
            for number in range(2)
        ]
        assert passes[0] != passes[1]
        assert set(passes[0]) == set(passes[1]) == {tuple(x.tolist()) for x in INPUTS}

    def test_a_stream_is_learned(self, tmp_path: Path) -> None:
        import coterie

        task = coterie.Supervised(
            "stream",
            functools.partial(nn.Linear, 4, 4),
            self.stream,
            PAIRS,
            predict=lambda model, data: (
                (model(data["x"]), data["labels"]) if isinstance(data, dict) else _pair(model, data)
            ),
            collate=lambda rows: torch.utils.data.default_collate(
                [{"x": torch.tensor(r["x"]), "labels": r["labels"]} for r in rows]
                if isinstance(rows[0], dict)
                else rows
            ),
        )
        sgd = functools.partial(torch.optim.SGD, lr=0.1)
        result = coterie.train(task, sgd, 10, {"epochs": 2}, runs=tmp_path, show=quietly)
        assert result.summary["steps"] == 14


def _pair(model: nn.Module, data: Any) -> Any:
    return model(data[0]), data[1]


class TestLightning:
    def test_a_real_module_is_learned_without_its_trainer(self, tmp_path: Path) -> None:
        import coterie
        from coterie.tasks.lightning import configured, scheduled

        lightning = needs("lightning")

        class Net(lightning.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(4, 4)

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = nn.functional.cross_entropy(self.inner(batch[0]), batch[1])
                self.log("train_loss", loss, prog_bar=True)
                return loss

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                right = self.inner(batch[0]).argmax(dim=1) == batch[1]
                self.log_dict({"acc": right.float().mean(), "val_loss": 1 - right.float().mean()})

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 10)]

        task = coterie.Lightning("net", Net, PAIRS, PAIRS, metrics=["acc"])
        result = coterie.train(
            task,
            configured,
            16,
            {"acc": 0.9, "epochs": 40},
            scheduler=scheduled,
            runs=tmp_path,
            show=quietly,
        )
        assert result.summary["metrics"]["acc"] >= 0.9


@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_estimators_keep_what_scikit_learn_asks_of_its_own(kind: str) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    import coterie.sklearn

    estimator = getattr(coterie.sklearn, kind)(epochs=15, random_state=0)
    checks = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {check["check_name"] for check in checks if check["status"] == "failed"}
    assert failed == set()
