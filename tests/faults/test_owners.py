"""An owner of a task is killed on real processes: others go on where its head was left."""

from __future__ import annotations

import signal
from typing import Any

import pytest

pytestmark = pytest.mark.processes

TASK = {
    "trunk": {"call": "torch.nn:Linear", "with": {"in_features": 8, "out_features": 8}},
    "test": "shop:samples",
    "tasks": {
        name: {
            "model": {"call": "torch.nn:Linear", "with": {"in_features": 8, "out_features": 4}},
            "train": {"call": "shop:from_disk", "with": {"num": num}},
            "metrics": {"accuracy": "shop:accuracy"},
        }
        for name, num in (("left", 384), ("right", 256))
    },
    "place": {"left": ["agent-0"], "right": ["agent-1"]},
}


def test_an_owner_is_killed_and_its_task_is_learned_by_the_other_until_it_is_back(
    desk: Any,
) -> None:
    job = desk.job(
        task=TASK, strategy='chain(Only("trunk.*"), Reduce())', until={"minutes": 5}, batch=32
    )
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    begun = desk.await_event(lambda event: event["kind"] == "committed")
    assert set(begun["leases"]) == {"agent-0", "agent-1"}
    desk.agent("agent-1").send_signal(signal.SIGKILL)
    gone = desk.await_event(lambda event: event["kind"] == "handover")
    assert (gone["task"], gone["lost"], gone["came"]) == ("right", ["agent-1"], ["agent-0"])
    back = desk.await_event(
        lambda event: event["kind"] == "handover" and event["seq"] > gone["seq"]
    )
    assert (back["task"], back["came"]) == ("right", ["agent-1"])
    desk.await_event(lambda event: event["kind"] == "epoch" and event["seq"] > back["seq"])
    process.send_signal(signal.SIGINT)
    finished = desk.finish(process)
    assert finished.code == 130, finished.err
    summary = finished.answer
    assert (summary["samples_lost"], summary["samples_repeated"]) == (0, 0)
    assert summary["kills_survived"] == 1
    told = desk.run("explain", desk.runs / "small")
    assert "Handed over: right from agent-1 to agent-0." in told.out
    assert "Because: right is learned by agent-1, as the job says." in told.out
    assert not desk.await_empty()
