"""The job file: what it says, what it refuses, and in which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coterie.config import (
    Agents,
    Drill,
    Job,
    Ref,
    Scheduler,
    dump_job,
    load_job,
    parse_job,
)
from coterie.errors import JobError

TEXT = """\
name: first
task:
  model: {call: nets:small, with: {width: 8}}
  train: sets:train
  test: sets:test
  metrics: {accuracy: sets:accuracy}
optimizer: {call: torch.optim:SGD, with: {lr: 1e-3, momentum: 0.9}}
batch: 64
until: {accuracy: 0.97, epochs: 3}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(TEXT)
    return path


def job_with(**changes: Any) -> Job:
    return parse_job({**yaml.safe_load(TEXT), **changes})


class TestReading:
    def test_what_is_not_said_has_a_default(self, path: Path) -> None:
        job = load_job(path)
        assert job.task.loss == Ref(call="torch.nn.functional:cross_entropy")
        assert (job.strategy, job.agents, job.seed) == ("auto", Agents(), 0)
        assert (job.listen, job.keep_checkpoints, job.baselines) == ("127.0.0.1:0", 3, [])
        assert job.checkpoint_every_s == "auto"

    def test_an_exponent_without_a_point_is_a_number(self, path: Path) -> None:
        assert load_job(path).optimizer.kwargs["lr"] == 0.001

    def test_a_string_is_a_reference_without_arguments(self, path: Path) -> None:
        assert load_job(path).task.train == Ref(call="sets:train", kwargs={})

    def test_root_is_the_folder_of_the_file(self, path: Path) -> None:
        assert load_job(path).root == str(path.parent.resolve())

    def test_a_root_in_the_file_is_relative_to_it(self, path: Path) -> None:
        path.write_text(TEXT + "root: code\n")
        assert load_job(path).root == str(path.parent.resolve() / "code")

    def test_a_job_cannot_be_changed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            job_with().batch = 3

    def test_reading_loads_no_torch(self) -> None:
        code = "import sys, coterie.config; print('torch' in sys.modules)"
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
        )
        assert ran.stdout.strip() == "False"


class TestRoundTrip:
    def test_a_dumped_job_loads_back_equal_from_anywhere(self, path: Path) -> None:
        job = load_job(
            path, ["agents.speeds=[4, 2, 1]", "scheduler=torch.optim.lr_scheduler:StepLR"]
        )
        copy = path.parent / "runs" / "job.yaml"
        copy.parent.mkdir()
        copy.write_text(dump_job(job))
        assert load_job(copy) == job

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )

    @settings(max_examples=30, deadline=None)
    @given(kwargs=st.dictionaries(st.text(), values, max_size=4))
    def test_whatever_the_arguments(
        self, kwargs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.yaml"
        job = job_with(optimizer={"call": "torch.optim:SGD", "with": kwargs}, root="/")
        path.write_text(dump_job(job), encoding="utf-8")
        assert load_job(path) == job

    @pytest.mark.parametrize("text", ["1e-3", "-2E5", "1.5", "null", "on", "a: b", ""])
    def test_text_that_looks_like_something_else_stays_text(self, text: str, path: Path) -> None:
        path.write_text(dump_job(job_with(optimizer={"call": "m:f", "with": {"text": text}})))
        assert load_job(path).optimizer.kwargs == {"text": text}


class TestOverrides:
    def test_reach_any_depth_and_parse_as_yaml(self, path: Path) -> None:
        job = load_job(path, ["optimizer.with.lr=1e-2", "until.minutes=5", "agents.remote=2"])
        assert job.optimizer.kwargs == {"lr": 0.01, "momentum": 0.9}
        assert job.until["minutes"] == 5
        assert job.agents == Agents(remote=2)

    def test_the_last_one_wins(self, path: Path) -> None:
        assert load_job(path, ["batch=1", "batch=2"]).batch == 2

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("batch", "expected a.b=value, found 'batch'"),
            ("=3", "expected a.b=value"),
            ("until..epochs=3", "expected a.b=value"),
            ("batch.size=3", "expected a mapping at batch, found 64"),
            ("batch=[1", "--set batch=[1: expected YAML"),
            ("bacth=3", "--set bacth=3: expected a key of the job, found 'bacth'"),
        ],
    )
    def test_refuse_a_bad_one(self, path: Path, override: str, words: str) -> None:
        with pytest.raises(JobError) as refusal:
            load_job(path, [override])
        assert words in str(refusal.value)


class TestAgents:
    def test_a_number_means_so_many_here(self) -> None:
        assert job_with(agents=3).agents == Agents(local=3)

    def test_auto_may_be_said(self) -> None:
        assert job_with(agents="auto").agents == Agents()

    def test_speeds_say_how_many(self) -> None:
        assert Agents(speeds=[4, 2, 1]).local == 3

    def test_the_number_is_unknown_while_auto(self) -> None:
        assert Agents().num_known is None
        assert Agents(local=2, remote=3).num_known == 5

    @pytest.mark.parametrize(
        ("agents", "words"),
        [
            ({"local": 2, "speeds": [4, 2, 1]}, "found 3 speeds for 2 agents"),
            ({"speeds": [4, 0]}, "agents.speeds.1: expected greater than 0, found 0"),
            ({"speeds": [4, float("inf")]}, "a finite number, found inf"),
            ({"speeds": []}, "expected at least one agent"),
            ({"local": 0}, "expected at least one agent"),
            (-1, "agents: expected greater than or equal to 0 or 'auto', found -1"),
            (True, "a valid integer"),
            ("many", "agents: expected a valid integer or 'auto', found 'many'"),
            ([1], "agents: expected a mapping, found [1]"),
            ({"local": 1, "remot": 1}, "did you mean 'remote'?"),
        ],
    )
    def test_refused(self, agents: Any, words: str) -> None:
        with pytest.raises(JobError) as refusal:
            job_with(agents=agents)
        assert words in str(refusal.value)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"bacth": 3}, "expected a key of the job, found 'bacth'; did you mean 'batch'?"),
            ({"zebra": 3}, "possible are name, task, optimizer"),
            ({"batch": "many"}, "batch: expected a valid integer, found 'many'"),
            ({"batch": True}, "batch: expected a valid integer, found True"),
            ({"batch": 0}, "batch: expected greater than 0, found 0"),
            ({"batch": 2, "agents": 3}, "found 2 for 3 agents"),
            ({"task": 3}, "task: expected a mapping, found 3"),
            ({"name": "../x"}, "name: expected letters, digits"),
            ({"strategy": " "}, "strategy: expected 'auto', a recipe or a chain"),
            ({"listen": "localhost"}, "listen: expected host:port"),
            ({"listen": "localhost:70000"}, "found 'localhost:70000'"),
            ({"keep_checkpoints": 0}, "keep_checkpoints: expected greater than or equal to 1"),
            ({"checkpoint_every_s": 0}, "checkpoint_every_s: expected greater than 0 or 'auto'"),
            ({"checkpoint_every_s": "daily"}, "or 'auto', found 'daily'"),
            ({"baselines": ["fast"]}, "baselines.0: expected 'solo' or 'equal', found 'fast'"),
            ({"drill": {"kill": "b", "at": 1.5}}, "drill.at: expected less than 1, found 1.5"),
            ({"scheduler": {"call": "m:f", "every": "day"}}, "expected 'epoch' or 'step'"),
            ({"deterministic": 1}, "deterministic: expected a valid boolean, found 1"),
            ({"deterministic": True}, "a strategy by name beside deterministic: true, found auto"),
            (
                {"deterministic": True, "strategy": "diloco(8)", "baselines": ["solo"]},
                "expected no baselines beside deterministic: true, found solo",
            ),
            (
                {
                    "deterministic": True,
                    "strategy": "diloco(8)",
                    "scheduler": "torch.optim.lr_scheduler:ReduceLROnPlateau",
                },
                "found ReduceLROnPlateau",
            ),
            ({"until": {}}, "one or more of epochs, steps, minutes, accuracy, found none"),
            ({"until": {"acuracy": 1}}, "minutes, accuracy, found acuracy"),
            ({"until": {"epochs": 0}}, "until: expected epochs greater than 0, found 0"),
            (
                {"until": {"accuracy": None}},
                "until.accuracy: expected a valid number, found",
            ),
        ],
    )
    def test_in_one_sentence(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(JobError) as refusal:
            job_with(**changes)
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize(
        ("optimizer", "words"),
        [
            ("torch.optim.SGD", "found 'torch.optim.SGD'; was 'torch.optim:SGD' meant?"),
            ("SGD", "expected 'module:function', found 'SGD'"),
            ("m:", "expected 'module:function', found 'm:'"),
            (3, "optimizer: expected 'module:function' or {call, with}, found 3"),
            ({"with": {}}, "expected the key optimizer.call, found none"),
            ({"call": "m:f", "lr": 1}, "arguments of the call stand under 'with'"),
            ({"call": "m:f", "with": [1]}, "optimizer.with: expected a mapping, found [1]"),
            ({"call": "m:f", "with": {"when": {1}}}, "expected plain values, found {1}"),
        ],
    )
    def test_bad_references(self, optimizer: Any, words: str) -> None:
        with pytest.raises(JobError) as refusal:
            job_with(optimizer=optimizer)
        assert words in str(refusal.value)

    @pytest.mark.parametrize("name", ["epochs", "minutes", "test_loss"])
    def test_a_metric_with_a_name_that_is_taken(self, name: str) -> None:
        task = {**yaml.safe_load(TEXT)["task"], "metrics": {name: "m:f"}}
        with pytest.raises(JobError, match=f"task.metrics: .*found '{name}', which is taken"):
            job_with(task=task)

    def test_unknown_keys_below_a_metric_are_placed(self) -> None:
        task = {**yaml.safe_load(TEXT)["task"], "metrics": {"accuracy": {"cal": "m:f"}}}
        with pytest.raises(JobError, match=r"key of task.metrics.accuracy, found 'cal'.*'call'"):
            job_with(task=task)


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: [1", "expected YAML, found"),
            ("- 1", "expected a mapping of the job's keys, found [1]"),
            ("", "found nothing"),
            ("batch: 1\nbatch: 2", "the key 'batch' twice"),
            ("x: !!python/object/apply:os.getcwd []", "expected YAML"),
        ],
    )
    def test_what_is_no_job_is_refused_by_file(self, path: Path, text: str, words: str) -> None:
        path.write_text(text)
        with pytest.raises(JobError) as refusal:
            load_job(path)
        assert words in str(refusal.value)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(JobError, match=r"none\.yaml.*check the path"):
            load_job(tmp_path / "none.yaml")

    def test_a_file_of_bytes_is_refused(self, path: Path) -> None:
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(JobError, match="expected a job file"):
            load_job(path)


def test_a_scheduler_steps_each_epoch_unless_told() -> None:
    assert Scheduler.model_validate("m:f").every == "epoch"
    assert Scheduler.model_validate({"call": "m:f", "every": "step"}).every == "step"


def test_a_drill_strikes_after_a_third() -> None:
    assert Drill(kill="b") == Drill(kill="b", at=0.35, restart_after_s=1.0)
