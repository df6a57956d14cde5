"""The doors of plan and simulate: what is built, what is refused, what is left in the folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coterie.agents import checkpoint
from coterie.cluster import Cluster, load_cluster
from coterie.config import Job, load_job
from coterie.coordinator.explain import explain
from coterie.coordinator.run import Checkpoint
from coterie.engines import planning
from coterie.engines.planning import Mishaps, parse_kill, plan, plan_several, simulate
from coterie.errors import JobError
from coterie.watch.events import audit, read

EXAMPLES = Path(__file__).parents[2] / "examples"


def job(*overrides: str) -> Job:
    small = ("task.model.with.num_hidden=8", "until={epochs: 2}", *overrides)
    return load_job(EXAMPLES / "01_digits" / "job.yaml", small)


@pytest.fixture
def home() -> Cluster:
    return load_cluster(EXAMPLES / "03_cluster" / "cluster.yaml")


@pytest.fixture
def shown() -> list[Mapping[str, Any]]:
    return []


def test_a_job_that_the_file_knows_is_planned_without_its_code(home: Cluster) -> None:
    absent = job("task.model={call: absent_task:network}")
    assert plan(absent, home).decision.world.num_train == 1347
    unknown = home.task.model_copy(update={"samples": None})
    with pytest.raises(JobError, match="absent_task"):
        plan(absent, home.model_copy(update={"task": unknown}))


def test_a_measured_step_takes_the_place_of_the_one_described(home: Cluster) -> None:
    load = planning.measure(job("batch=64"))
    assert load.per_sample_s > 0
    devices = {device.name: device for device in plan(job(), home, load).decision.world.devices}
    assert devices["laptop-1"].per_sample_s == load.per_sample_s
    assert devices["pi-1"].per_sample_s == pytest.approx(5 * load.per_sample_s)
    assert devices["desktop"].per_sample_s == 0.0004  # as described


def test_a_simulated_run_leaves_a_folder_that_others_read(
    home: Cluster, shown: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    mishaps = Mishaps((("laptop-2", 0.4),))
    code, figures = simulate(job(), home, mishaps, tmp_path, shown.append)
    events = read(tmp_path / "digits" / "events.jsonl")
    assert (code, figures["kills_survived"], figures["samples_lost"]) == (0, 1, 0)
    assert events == shown
    assert audit(events).epochs == (0, 1)
    assert [decision["number"] for decision in explain(events)] == [1, 2]
    assert [event["time_s"] for event in events] == sorted(event["time_s"] for event in events)
    assert load_job(tmp_path / "digits" / "job.yaml").agents.local == home.num_machines
    point = checkpoint.load(tmp_path / "digits")  # which a real run can go on from
    assert (point.step, figures["checkpoint"]) == (22, str(tmp_path / "digits/checkpoints/step-22"))
    assert {"model.safetensors", "state/desktop.safetensors"} <= point.files.keys()
    assert simulate(job("until={steps: 1}"), home, Mishaps(), tmp_path, shown.append)[1][
        "folder"
    ].endswith("digits-2")


def test_a_run_that_fails_says_why(
    home: Cluster, shown: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    alone = home.model_copy(update={"machines": home.machines[:1]})
    mishaps = Mishaps((("desktop", 0.2),))
    code, figures = simulate(job("until={epochs: 9}"), alone, mishaps, tmp_path, shown.append)
    assert code == 1
    assert "all died" in figures["error"]


def test_of_many_machines_a_checkpoint_holds_the_states_of_the_first(tmp_path: Path) -> None:
    files = {f"state/pi-{number:02}.safetensors": b"" for number in range(30)}
    record = planning._Record(job(), tmp_path, lambda event: None, ())
    (path,) = record.keep(
        0.0, [Checkpoint(3, {"model.safetensors": b"w", **files}, {"round": 1})]
    ).values()
    record.close()
    assert len(checkpoint.load(Path(path)).files) == 1 + planning.MOST_SHOWN


def test_jobs_that_share_a_cluster_are_planned_without_their_code() -> None:
    cluster = load_cluster(EXAMPLES / "07_two_jobs" / "cluster.yaml")
    narrow = load_job(EXAMPLES / "07_two_jobs" / "narrow.yaml", ["task.model=absent_task:network"])
    told = plan_several([job(), narrow], cluster)
    assert [(each.task, each.priority) for each in told.given] == [("digits", 2.0), ("narrow", 1.0)]
    assert all(each.machines for each in told.given)
    with pytest.raises(JobError, match="different names, found narrow twice; name each job once"):
        plan_several([narrow, narrow], cluster)
    with pytest.raises(JobError, match="expected the job narrow under tasks of the cluster"):
        plan_several(
            [job(), narrow],
            cluster.model_copy(update={"tasks": {"digits": cluster.tasks["digits"]}}),
        )


@pytest.mark.parametrize(
    ("overrides", "kill", "said"),
    [
        (["batch=4"], (), "at least one sample per agent, found 4 for 7 agents"),
        ([], (("laptop", 1.0),), "a machine of the cluster, such as desktop, laptop-1, laptop-2"),
    ],
)
def test_what_cannot_be_simulated_is_a_sentence_and_leaves_nothing(
    overrides: list[str],
    kill: tuple[tuple[str, float], ...],
    said: str,
    home: Cluster,
    tmp_path: Path,
) -> None:
    with pytest.raises(JobError, match=said):
        simulate(job(*overrides), home, Mishaps(kill), tmp_path, lambda event: None)
    assert list(tmp_path.iterdir()) == []


def test_more_agents_than_this_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "memory_available_bytes", lambda: 10**6)
    with pytest.raises(JobError, match="expected memory for 1,000 agents with 1,000 parameters"):
        planning._check_memory(1_000, 1_000)


@pytest.mark.parametrize("text", ["pi", "pi@", "@3", "pi@soon", "pi@-1", f"pi@{math.inf}"])
def test_a_kill_without_a_name_or_a_second_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="expected --kill NAME@SECONDS"):
        parse_kill(text)
