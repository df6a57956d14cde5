"""A job on a cluster of Ray that is started for it, learning from Parquet by `ray.data`.

Its coordinator is killed, and with it all of Ray: the agent goes on, and is found again.
"""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from coterie.watch.events import audit

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]
NUM_TRAIN, NUM_TEST, NUM_PARTS = 600, 100, 3
MODULE = """
from pathlib import Path

import ray.data
from torch import nn

HERE = Path(__file__).parent


def table(name="train"):
    return ray.data.read_parquet(str(HERE / name)).select_columns(["inputs", "target"])


def net():
    return nn.Linear(8, 4)


def accuracy(predictions, targets):
    return (predictions.argmax(dim=1) == targets).double().mean().item()


def enough(predictions, targets):
    return float((HERE / "enough").exists())
"""


def write(folder: Path, num: int) -> None:
    """A table in parts: vectors, and the place of the largest of their first four values."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    x = np.random.default_rng(num).standard_normal((num, 8)).astype(np.float32)
    for number, part in enumerate(np.array_split(x, NUM_PARTS)):
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part.reshape(-1)), 8)
        columns = {"row": np.arange(len(part)), "target": part[:, :4].argmax(1), "inputs": vectors}
        parquet.write_table(pyarrow.table(columns), folder / f"{number}.parquet")


@pytest.fixture
def home(desk: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, and nothing said of a cluster."""
    home = Path(desk.folder, "home")
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(desk.folder))  # what agents say stays there
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # short: sockets lie below it
    return home


def test_a_cluster_is_started_and_rows_of_parquet_are_learned_once_whoever_dies(
    desk: Any, home: Path
) -> None:
    (desk.folder / "table.py").write_text(MODULE)
    write(desk.folder / "train", NUM_TRAIN)
    write(desk.folder / "test", NUM_TEST)
    test = {"call": "table:table", "with": {"name": "test"}}
    metrics = {"accuracy": "table:accuracy", "enough": "table:enough"}
    task = {"model": "table:net", "train": "table:table", "test": test, "metrics": metrics}
    words = {"until": {"enough": 1.0, "minutes": 20}, "agents": {"join_timeout_s": 120.0}}
    job = desk.job(task=task, batch=50, **words)
    ray = ("--engine", "ray", "--set", "engine.address=local")
    run = desk.start("train", job, *ray, "--json", "--runs", desk.runs)
    for state in ("joined", "ready"):  # each takes its time where others compute
        desk.await_event(lambda e, state=state: e["kind"] == "agent" and e["state"] == state)
    desk.await_event(lambda e: e["kind"] == "epoch")
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600

    (name,) = {e["member"] for e in desk.events() if e["kind"] == "agent"}
    pid = desk.agent(name).pid
    psutil.Process(run.pid).children()[0].kill()
    back = desk.await_event(lambda e: e["kind"] == "coordinator")["seq"]
    placed = desk.await_event(
        lambda e: e["seq"] > back and e["kind"] == "placed" and f"{name} on node" in e["text"]
    )
    desk.await_event(lambda e: e["seq"] > placed["seq"] and e["kind"] == "epoch")
    assert desk.agent(name).pid == pid

    (desk.folder / "enough").touch()
    finished = desk.finish(run)
    assert finished.code == 0, finished.err
    assert (finished.answer["samples_lost"], finished.answer["samples_repeated"]) == (0, 0)
    assert finished.answer["epochs"] >= 2
    assert finished.answer["metrics"]["accuracy"] > 0.5  # rows and answers belong together
    assert audit(desk.events()).is_exact
    assert not desk.await_empty()
