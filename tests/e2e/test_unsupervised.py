"""Tasks without answers on agents that are processes, told in job files, and audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_unsupervised" / "kinds.yaml"
NET = """
from torch import nn


def through_4():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4), nn.Linear(4, 8))
"""


def test_an_autoencoder_is_learned_in_a_pipeline_beside_the_example_s_clusters(desk: Any) -> None:
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
    runs = [desk.start("train", path, "--json", "--runs", desk.runs) for path in (job, EXAMPLE)]
    auto, kinds = map(desk.finish, runs)
    assert (auto.code, kinds.code) == (0, 0), auto.err + kinds.err
    first = next(e for e in desk.events("auto") if e["kind"] == "epoch")["loss"]
    assert auto.answer["metrics"]["test_loss"] < 0.9 * first
    assert "Pipeline" in auto.answer["strategy"]
    assert kinds.answer["metrics"]["ami"] > 0.6
    for name in ("auto", "kinds"):
        assert desk.run("audit", name, "--runs", desk.runs).code == 0
