"""Scripts with loops of their own, on real agents."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from coterie.watch.events import audit

pytestmark = pytest.mark.processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_own_loop.py"

# Without a seed: agents begin with the same weights all the same.
SCRIPT = """
import sys

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import coterie
import shop

me = coterie.join()
model = shop.net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(shop.from_disk(512, 1.0), batch_size=64, shuffle=True)
model, optimizer, loader = me.prepare(model, optimizer, loader)
for epoch in me.passes(int(sys.argv[1])):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    me.print("pass", epoch)
"""


def test_an_agent_is_killed_and_each_sample_is_learned_once_and_fewer_agents_go_on(
    desk: Any,
) -> None:
    (desk.folder / "small.py").write_text(SCRIPT)
    words = ("--agents", 3, "--strategy", "all-reduce", "--set", "deterministic=true")
    process = desk.start("run", *words, "--runs", desk.runs, "--json", "small.py", 1000)
    desk.await_event(lambda event: event["kind"] == "committed")
    desk.agent("agent-1").send_signal(signal.SIGKILL)
    back = desk.await_event(
        lambda event: (
            event["kind"] == "agent"
            and (event["member"], event["state"]) == ("agent-1", "rejoined")
        )
    )
    desk.await_event(lambda event: event["kind"] == "committed" and event["seq"] > back["seq"])
    process.send_signal(signal.SIGINT)
    finished = desk.finish(process)
    assert finished.code == 130, finished.err
    summary = finished.answer
    assert (summary["samples_lost"], summary["samples_repeated"]) == (0, 0)
    assert (summary["kills_survived"], summary["rejoined"]) == (1, 1)
    assert set(summary["shares"]) == {"agent-0", "agent-1", "agent-2"}
    assert not [e for e in desk.events() if e["kind"] == "disagreement"]
    assert not desk.await_empty()

    first = int(summary["epochs"])  # the pass that was under way
    words = ("--agents", 2, "--resume", *words[2:])
    resumed = desk.run("run", *words, "--runs", desk.runs, "--json", "small.py", first + 2)
    assert resumed.code == 0, resumed.err
    assert resumed.answer["steps"] > summary["steps"]
    assert resumed.answer["epochs"] == first + 2
    said = [event["text"] for event in desk.events() if event["kind"] == "said"]
    assert said[-2:] == [f"pass {first}", f"pass {first + 1}"]


def test_the_example_ends_where_its_loop_does(desk: Any) -> None:
    words = ("--agents", 2, "--strategy", "local-sgd(4)", "--name", "small")
    finished = desk.run("run", *words, "--runs", desk.runs, "--json", EXAMPLE, "--epochs", 2)
    assert finished.code == 0, finished.err
    assert finished.answer["epochs"] == 2
    assert not audit(desk.events()).num_lost
    said = [event["text"] for event in desk.events() if event["kind"] == "said"]
    assert [text.split(":")[0] for text in said] == ["epoch 0", "epoch 1"]
