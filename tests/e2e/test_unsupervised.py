"""A task without answers on agents that are processes, told in a job file, and audited."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.processes

NET = """
from torch import nn


def through_4():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4), nn.Linear(4, 8))
"""


def test_an_autoencoder_is_learned_in_a_pipeline_and_its_log_is_audited(desk: Any) -> None:
    (desk.folder / "nets.py").write_text(NET)
    job = desk.job(
        name="auto",
        task={
            "kind": "autoencoder",
            "model": "nets:through_4",
            "train": "shop:from_disk",
            "test": "shop:samples",
        },
        optimizer={"call": "torch.optim:SGD", "with": {"lr": 0.5}},
        strategy="chain(Every(4), Pipeline(('2',), micro_batches=2), Reduce(), Outer(1.0))",
        until={"epochs": 6},
    )
    finished = desk.train(job)
    assert finished.code == 0, finished.err
    first = next(e for e in desk.events("auto") if e["kind"] == "epoch")["loss"]
    assert finished.answer["metrics"]["test_loss"] < 0.9 * first
    assert "Pipeline" in finished.answer["strategy"]
    assert desk.run("audit", "auto", "--runs", desk.runs).code == 0
