"""Deaths among agents that learn tasks of their own: others go on with what the dead one held."""

from __future__ import annotations

import signal
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.processes

TASK = {
    "model": "shop:net",
    "train": {"call": "shop:from_disk", "with": {"num": 128}},
    "test": "shop:samples",
    "metrics": {"accuracy": "shop:accuracy"},
    "classes": ["n", "e", "s", "w"],
}


def test_agents_the_board_and_the_coordinator_may_be_killed_and_no_learning_is_lost(
    desk: Any,
) -> None:
    job = desk.job(
        task={"kind": "separate", "tasks": {"ann": TASK, "bob": TASK, "eve": TASK}},
        knowledge={"every": 10, "gate": "open"},
        strategy="auto",
        batch=16,
        until={"steps": 900},
        checkpoint_every_s=0.3,
    )
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    desk.await_event(lambda event: event["kind"] == "lesson_taken" and event["num_steps"] >= 100)
    homes = [event["homes"] for event in desk.events() if event["kind"] == "homes"][-1]
    victim = homes["ann"]
    desk.agent(victim).send_signal(signal.SIGKILL)
    moved = desk.await_event(lambda event: event["kind"] == "rehomed")
    assert moved["to"] != victim
    assert moved["from_steps"] > 0
    board = desk.await_event(lambda event: event["kind"] == "server")["pid"]
    psutil.Process(board).kill()
    _coordinator(desk).kill()
    desk.await_event(lambda event: event["kind"] == "coordinator")
    after = len(desk.events())
    desk.await_event(lambda event: event["kind"] == "lesson_taken" and event["seq"] > after)
    finished = desk.finish(process)
    assert finished.code == 0, finished.err
    assert {row["steps"] for row in finished.answer["pupils"].values()} == {900}
    assert finished.answer["handed_over"] >= 1
    assert not desk.await_empty()


def _coordinator(desk: Any) -> psutil.Process:
    return next(p for p in desk.processes() if "coterie.engines.local" in p.cmdline())
