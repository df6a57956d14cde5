"""An autoencoder's loss is the mean of its errors, and its errors tell anomalies."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import JobError
from coterie.tasks import Autoencoder, IndexedTask, StagedTask, checked

EXAMPLE = Path(__file__).parents[2] / "examples" / "05_unsupervised" / "anomalies.py"
ROWS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5), nn.Linear(2, 4)).double()


def task(**changes: Any) -> Autoencoder:
    parts = {"model": narrow, "train": ROWS, "test": ROWS}
    return Autoencoder(**{"name": "toy", **parts, **changes})


def test_is_a_task_that_a_pipeline_can_learn() -> None:
    assert isinstance(task(), IndexedTask)
    assert isinstance(task(), StagedTask)
    assert task().in_stages


def test_the_loss_is_torch_s_and_unequal_parts_of_it_are_the_whole() -> None:
    one, parts = task(model=narrow().eval()), ([0, 1, 2, 3, 4], [5, 6, 7], [8])
    model = one.build()
    whole = one.loss(model, one.fetch(range(9)))
    assert whole.item() == pytest.approx(F.mse_loss(model(ROWS), ROWS).item(), abs=1e-14)
    mixed = sum(one.loss(model, one.fetch(part)) * len(part) / 9 for part in parts)
    assert abs(whole.item() - mixed.item()) < 1e-12


def test_an_error_of_ones_own_sees_whatever_the_model_returns() -> None:
    class Variational(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Linear(4, 6), nn.Linear(3, 4)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            code = self.inside(inputs)
            return self.outside(code[:, :3]), code

    def error(outputs: tuple[Tensor, Tensor], inputs: Tensor) -> Tensor:
        there, code = outputs
        return (there - inputs).square().sum(1) + code.square().sum(1)

    one = checked(task(model=Variational().double(), error=error))
    model = one.build()
    assert torch.equal(one.anomaly(model, ROWS), error(model(ROWS), ROWS).detach())
    assert one.score(model)["test_loss"] == pytest.approx(error(model(ROWS), ROWS).mean().item())


def test_the_score_is_sure_despite_dropout_and_tells_anomalies_where_there_are_any() -> None:
    one = task(anomalies=ROWS + 9, train=[(row, "odd or not") for row in ROWS])
    model = one.build()
    scores = one.score(model)
    assert scores == one.score(model)
    assert scores.keys() == {"auroc", "negative_loss", "test_loss"}
    assert scores["auroc"] == 1
    assert scores["negative_loss"] == -scores["test_loss"] < 0
    assert model.training
    assert task().score(model).keys() == {"negative_loss", "test_loss"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": nn.Linear(4, 3).double()}, r"as the inputs, \(2, 4\), found \(2, 3\)"),
        ({"error": F.mse_loss}, r"an error for each of 2 samples, found \(\); return one value a"),
        ({"train": torch.arange(9)}, r"of floating point, .*, found torch\.int64"),
        ({"anomalies": []}, "anomalies to hold samples, found an empty dataset"),
    ],
)
def test_mistakes_are_told_at_the_door(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        checked(task(**changes))


def test_the_example_tells_a_digit_that_was_never_seen_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *_, found, strangest = capsys.readouterr().out.splitlines()
    assert float(found.rpartition(":")[2]) > 0.85
    assert strangest.count("0") > 2  # one image of ten is a zero
