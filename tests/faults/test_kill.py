from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from coterie.engines.processes import MAX_RESTARTS
from coterie.engines.throttle import can_throttle
from coterie.machine import ROOT, cgroup_of

pytestmark = pytest.mark.processes

NUM_KILLS = 3
SUSPECTED = ("guest", "suspected")


def control_groups(owner: int) -> list[Path]:
    tree = cgroup_of("cpu", ROOT) if can_throttle() else None
    return [group for p in tree.lineage() for group in p.glob(f"coterie-{owner}-*")] if tree else []


def test_any_agent_may_be_killed_at_any_moment_and_no_sample_is_lost_or_repeated(desk: Any) -> None:
    luck = random.Random(7)
    agents = {"local": 3, "speeds": [1.0, 1.0, 1.0]}
    job = desk.job(agents=agents, until={"minutes": 5}, strategy="local-sgd(4)")
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    after = desk.await_event(lambda event: event["kind"] == "decision")["seq"]
    owner = desk.agent("agent-0").ppid()
    for victim in luck.sample(["agent-0", "agent-1", "agent-2"], NUM_KILLS):
        moment = after + luck.randint(1, 30)
        desk.await_event(
            lambda event, at=moment: event["kind"] == "committed" and event["seq"] > at
        )
        desk.agent(victim).send_signal(signal.SIGKILL)
        back = desk.await_event(
            lambda event, name=victim, at=after: (
                event["kind"] == "agent"
                and (event["member"], event["state"]) == (name, "rejoined")
                and event["seq"] > at
            )
        )
        after = back["seq"]
    process.send_signal(signal.SIGINT)
    finished = desk.finish(process)
    summary = finished.answer
    assert finished.code == 130, finished.err
    assert (summary["samples_lost"], summary["samples_repeated"]) == (0, 0)
    assert summary["epochs"] >= 2  # or nothing was counted
    assert summary["kills_survived"] == NUM_KILLS
    assert summary["rejoined"] == NUM_KILLS
    assert 0 < summary["pause_s"] < summary["seconds"]
    assert not desk.await_empty()
    assert not control_groups(owner)
    assert not (desk.runs / "small" / "join.key").exists()


def test_the_death_of_the_command_is_the_end_of_its_processes_and_the_state_is_saved(
    desk: Any,
) -> None:
    job = desk.job(until={"minutes": 5})
    process = desk.start("train", job, "--runs", desk.runs)
    desk.await_event(lambda event: event["kind"] == "committed")
    assert len(desk.processes()) >= 4  # the command, the coordinator, two agents
    process.kill()
    process.wait()
    assert not desk.await_empty()
    kinds = [event["kind"] for event in desk.events()]
    assert kinds[-1] == "stopped"
    assert "checkpoint" in kinds


def test_a_coordinator_that_is_killed_again_and_again_ends_the_run_and_costs_no_checkpoint(
    desk: Any,
) -> None:
    job = desk.job(until={"minutes": 5}, checkpoint_every_s=0.2)
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    saved = desk.await_event(lambda event: event["kind"] == "checkpoint")
    coordinator, after = desk.agent("agent-0").parent(), saved["seq"]
    for _ in range(MAX_RESTARTS):
        coordinator.kill()
        told = desk.await_event(
            lambda event, at=after: event["kind"] == "coordinator" and event["seq"] > at
        )
        coordinator, after = psutil.Process(told["pid"]), told["seq"]
    coordinator.kill()
    finished = desk.finish(process)
    assert finished.code not in (0, 130)
    assert f"--resume-from {desk.runs / 'small'}" in finished.err
    assert "Traceback" not in finished.err
    assert not desk.await_empty()
    assert Path(saved["path"]).parent.is_dir()
    resumed = desk.train(job, "--resume", "--set", f"until={{steps: {saved['step'] + 60}}}")
    assert resumed.code == 0, resumed.err
    assert resumed.answer["samples_lost"] == resumed.answer["samples_repeated"] == 0


def test_when_all_who_hold_the_model_die_the_run_goes_on_by_itself(desk: Any) -> None:
    """First from its start, then from a checkpoint, and with one of elsewhere that was cut off."""
    job = desk.job(
        agents={"local": 2, "remote": 1},
        until={"minutes": 5},
        strategy="local-sgd(4)",
        deterministic=True,  # nobody is left out
        checkpoint_every_s=6.0,
    )
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    told = desk.await_event(lambda event: event["kind"] == "run")
    guest = desk.start(
        "join", told["endpoint"], "--key", desk.runs / "small" / "join.key", "--name", "guest"
    )
    for origin in ("its start", "step-"):
        if origin == "step-":
            desk.await_event(lambda e: e["kind"] == "checkpoint")
        desk.await_event(lambda e, after=told["seq"]: e["kind"] == "committed" and e["seq"] > after)
        before = desk.events()[-1]["seq"]
        guest.send_signal(signal.SIGSTOP)
        desk.await_event(
            lambda e, at=before: e["seq"] > at and (e.get("member"), e.get("state")) == SUSPECTED
        )
        for name in ("agent-0", "agent-1"):
            desk.agent(name).send_signal(signal.SIGKILL)
        said = desk.await_event(
            lambda e, at=before: e["seq"] > at and "going on" in e.get("text", "")
        )
        assert f"going on from {origin}" in said["text"]
        guest.send_signal(signal.SIGCONT)
        told = desk.await_event(lambda e, at=before: e["kind"] == "run" and e["seq"] > at)
        desk.await_event(
            lambda e, at=told["seq"]: (
                e["kind"] == "committed" and e["seq"] > at and "guest" in e["leases"]
            )
        )
    assert guest.poll() is None
    process.send_signal(signal.SIGINT)
    finished = desk.finish(process)
    assert finished.code in (0, 130), finished.err
    assert finished.answer["samples_lost"] == finished.answer["samples_repeated"] == 0
    assert desk.finish(guest).code == 0
    assert not desk.await_empty()
