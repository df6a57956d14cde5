"""Examples with models of other libraries, on one device and on two agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.watch.events import audit

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = {
    "10_transformers": "transformers",
    "12_keras": "keras",
    "13_lightning": "lightning",
    "14_transforms": "torch",
    "15_sklearn": "sklearn",
}
LOOPS = {"11_lora": "peft", "16_streams": "datasets"}

# Half the precision in the forward pass, and a model that is compiled.
COMPILED = """
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import coterie
import shop

me = coterie.join()
torch.manual_seed(0)
model = shop.net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(shop.samples(), batch_size=64, shuffle=True)
model, optimizer, loader = me.prepare(model, optimizer, loader)
fast = torch.compile(model, dynamic=True)
for epoch in me.passes(4):
    for x, y in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = fast(x)
            assert scores.dtype == torch.bfloat16
            loss = F.cross_entropy(scores.float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    me.print("loss", loss.item())
"""


@pytest.mark.parametrize("num_agents", [1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_runs(desk: Any, name: str, num_agents: int) -> None:
    pytest.importorskip(TASKS[name], reason=f"needs {TASKS[name]}")
    words = ("--agents", num_agents, "--epochs", 1)
    finished = desk.finish(desk.python(EXAMPLES / f"{name}.py", *words))
    assert finished.code == 0, finished.err
    assert "acc" in finished.out.splitlines()[-1]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_runs_alone(desk: Any, name: str) -> None:
    pytest.importorskip(LOOPS[name], reason=f"needs {LOOPS[name]}")
    finished = desk.finish(desk.python(EXAMPLES / f"{name}.py", "--epochs", 1))
    assert finished.code == 0, finished.err
    assert "epoch 0" in finished.out


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_runs_on_two_agents_and_learns_each_sample_once(desk: Any, name: str) -> None:
    pytest.importorskip(LOOPS[name], reason=f"needs {LOOPS[name]}")
    words = ("--agents", 2, "--strategy", "all-reduce", "--name", "small", "--runs", desk.runs)
    finished = desk.run("run", *words, "--json", EXAMPLES / f"{name}.py", "--epochs", 2)
    assert finished.code == 0, finished.err
    assert finished.answer["epochs"] == 2
    assert audit(desk.events()).is_exact


def test_half_precision_and_a_compiled_model_in_company(desk: Any) -> None:
    (desk.folder / "small.py").write_text(COMPILED)
    words = ("--agents", 2, "--strategy", "all-reduce", "--runs", desk.runs)
    finished = desk.run("run", *words, "--json", "small.py")
    assert finished.code == 0, finished.err
    said = [event["text"] for event in desk.events() if event["kind"] == "said"]
    losses = [float(text.split()[1]) for text in said]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
