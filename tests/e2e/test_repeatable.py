"""Two runs of real processes with `deterministic: true` end with the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.processes

WET = """
from torch import nn


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 4))
"""


def trained(desk: Any, name: str, *words: str, **keys: Any) -> bytes:
    task = {"model": "wet:net", "train": "shop:from_disk", "test": "shop:samples"}
    job = desk.job(name, name=name, task=task, deterministic=True, agents=2, **keys)
    finished = desk.train(job, *words)
    assert finished.code == 0, finished.err
    folder = desk.runs / name
    newest = (folder / "latest").read_text().strip()
    weights: bytes = (folder / "checkpoints" / newest / "model.safetensors").read_bytes()
    return weights


@pytest.mark.parametrize("strategy", ["diloco-int8(4)"])
def test_the_same_job_twice_leaves_the_same_bytes(desk: Any, strategy: str) -> None:
    (desk.folder / "wet.py").write_text(WET)
    until = ("--set", "until={steps: 60}")
    first, second = (trained(desk, name, *until, strategy=strategy) for name in ("one", "two"))
    assert first == second
    assert len({e["seq"] for e in desk.events("one") if e["kind"] == "decision"}) == 1


def test_a_strategy_is_asked_for_in_a_sentence(desk: Any) -> None:
    for strategy, words in (("auto", "a strategy by name"), ("dylu(4)", "choose another")):
        finished = desk.train(desk.job(deterministic=True, strategy=strategy))
        assert finished.code == 2
        assert words in finished.err
        assert "Traceback" not in finished.err
