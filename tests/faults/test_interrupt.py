from __future__ import annotations

import signal
from typing import Any

import pytest

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(("agents", "others"), [(1, 2), (2, 1)])
def test_an_interrupted_run_is_saved_and_goes_on_with_another_number_of_agents(
    agents: int, others: int, desk: Any
) -> None:
    job = desk.job(agents=agents, until={"minutes": 5})
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    desk.await_event(lambda event: event["kind"] == "epoch")
    process.send_signal(signal.SIGINT)
    interrupted = desk.finish(process)
    assert interrupted.code == 130
    assert "Traceback" not in interrupted.err
    assert not desk.await_empty()
    (stopped,) = [event for event in desk.events() if event["kind"] == "stopped"]
    assert (stopped["reason"], stopped["ok"], stopped["resumable"]) == ("interrupted", False, True)
    before = interrupted.answer
    goal = before["steps"] + 40
    resumed = desk.train(
        job, "--resume", f"--set=agents={others}", f"--set=until={{steps: {goal}}}"
    )
    after = resumed.answer
    assert resumed.code == 0, resumed.err
    assert (after["steps"], after["agents"]) == (goal, others)
    assert after["folder"] == before["folder"]
    assert after["epochs"] == goal * 64 // 512
    saved = [event["step"] for event in desk.events() if event["kind"] == "checkpoint"]
    assert saved == [before["steps"], goal]


@pytest.mark.parametrize("agents", [1, 2])
def test_a_second_interrupt_ends_the_run_at_once(agents: int, desk: Any) -> None:
    job = desk.job(agents=agents, until={"minutes": 5})
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    desk.await_event(lambda event: event["kind"] == "epoch")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # means the same, and two of one kind could become one
    finished = desk.finish(process)
    assert finished.code == 130
    assert "Traceback" not in finished.err
    assert not {"checkpoint", "stopped"} & {event["kind"] for event in desk.events()}
    assert not desk.await_empty()
    assert not (desk.runs / "small" / "join.key").exists()
