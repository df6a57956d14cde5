"""Examples with models of other libraries, on one device and on two agents."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coterie.watch.events import audit

pytestmark = pytest.mark.processes

PATIENCE_S = 600.0
EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = {
    "10_transformers": "transformers",
    "12_keras": "keras",
    "13_lightning": "lightning",
    "14_transforms": "torch",
    "15_sklearn": "sklearn",
}
LOOPS = {"11_lora": "peft", "16_streams": "datasets"}

# A Keras model in a loop of one's own, where callbacks have the model.
KERAS = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
import torch
from torch.utils.data import DataLoader

import coterie
import shop

me = coterie.join()
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(4)])
loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
net = coterie.KerasNet(model)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
loader = DataLoader(shop.samples(), batch_size=64, shuffle=True)
net, optimizer, loader = me.prepare(net, optimizer, loader)
best = keras.callbacks.ModelCheckpoint("best.weights.h5", "loss", save_weights_only=True)
callbacks = keras.callbacks.CallbackList([best] if me.is_first else [], model=model)
callbacks.on_train_begin()
for epoch in me.passes(2):
    callbacks.on_epoch_begin(epoch)
    for x, y in loader:
        loss = loss_of(y, net(x))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    callbacks.on_epoch_end(epoch, {"loss": loss.item()})
    me.print("pass", epoch, loss.item())
callbacks.on_train_end()
"""

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
loader = DataLoader(shop.from_disk(512, 1.0), batch_size=64, shuffle=True)
model, optimizer, loader = me.prepare(model, optimizer, loader)
fast = torch.compile(model, dynamic=True)


def loss_of(x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = fast(x)
        assert scores.dtype == torch.bfloat16
        return F.cross_entropy(scores.float(), y)


loss_of(torch.ones(4, 8), torch.ones(4, dtype=torch.long)).backward()  # compiled before it counts
optimizer.zero_grad()
for epoch in me.passes(4):
    for x, y in loader:
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    me.print("loss", loss.item())
"""


def output(process: subprocess.Popen[str]) -> str:
    """What a command prints that ends well; heavy imports take their time."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("num_agents", [1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_runs(desk: Any, name: str, num_agents: int) -> None:
    pytest.importorskip(TASKS[name], reason=f"needs {TASKS[name]}")
    words = ("--agents", num_agents, "--epochs", 1)
    out = output(desk.python(EXAMPLES / f"{name}.py", *words))
    assert "acc" in out.splitlines()[-1]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_runs_alone(desk: Any, name: str) -> None:
    pytest.importorskip(LOOPS[name], reason=f"needs {LOOPS[name]}")
    assert "epoch 0" in output(desk.python(EXAMPLES / f"{name}.py", "--epochs", 1))


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_runs_on_two_agents_and_learns_each_sample_once(desk: Any, name: str) -> None:
    pytest.importorskip(LOOPS[name], reason=f"needs {LOOPS[name]}")
    words = ("--agents", 2, "--strategy", "all-reduce", "--name", "small", "--runs", desk.runs)
    out = output(desk.start("run", *words, "--json", EXAMPLES / f"{name}.py", "--epochs", 2))
    assert json.loads(out.splitlines()[-1])["epochs"] == 2
    assert audit(desk.events()).is_exact


def test_a_loop_with_keras_and_its_callbacks(desk: Any) -> None:
    pytest.importorskip("keras", reason="needs keras")
    (desk.folder / "small.py").write_text(KERAS)
    words = ("--agents", 2, "--strategy", "all-reduce", "--runs", desk.runs)
    output(desk.start("run", *words, "--json", "small.py"))
    said = [event["text"] for event in desk.events() if event["kind"] == "said"]
    assert [text.split()[:2] for text in said] == [["pass", "0"], ["pass", "1"]]
    assert (desk.folder / "best.weights.h5").exists()


def test_half_precision_and_a_compiled_model_in_company(desk: Any) -> None:
    (desk.folder / "small.py").write_text(COMPILED)
    words = (
        "--agents",
        2,
        "--strategy",
        "all-reduce",
        "--set",
        f"agents.join_timeout_s={PATIENCE_S}",
    )
    output(desk.start("run", *words, "--runs", desk.runs, "--json", "small.py"))
    said = [event["text"] for event in desk.events() if event["kind"] == "said"]
    losses = [float(text.split()[1]) for text in said]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
