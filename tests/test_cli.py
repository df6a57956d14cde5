"""The commands: what they call, what they print where, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from coterie import demo, doctor, errors, parent
from coterie.agents import join
from coterie.cli import app
from coterie.config import Job
from coterie.engines import planning
from coterie.errors import CoterieError, JobError, TrainingError
from coterie.inventory import Load
from coterie.transport.secure import Keys
from coterie.watch import progress

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ERRORS = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, CoterieError)]
WARNING = {"kind": "warning", "time_s": 1.0, "text": "a full disk"}
DECISION = {"kind": "decision", "number": 1, "cause": "the run begins", "chosen": {}}
JOB = """\
name: first
task: {model: nets:small, train: sets:train, test: sets:test}
optimizer: torch.optim:SGD
batch: 64
until: {epochs: 3}
"""


@dataclass
class FakeLaunch:
    """Stands in for the engine: notes what it was given, shows one event, ends as it was told."""

    exit_code: int = 0
    error: Exception | None = None
    events: list[dict[str, Any]] = field(default_factory=lambda: [WARNING])
    job: Job | None = None
    runs: Path | None = None
    resume: Path | None = None

    def __call__(
        self, job: Job, runs: Path, resume: Path | None, show: Callable[[dict[str, Any]], None]
    ) -> SimpleNamespace:
        self.job, self.runs, self.resume = job, runs, resume
        for event in self.events:
            show(event)
        if self.error:
            raise self.error
        folder = runs / job.name
        return SimpleNamespace(
            folder=folder, exit_code=self.exit_code, summary={"folder": str(folder), "seconds": 2.0}
        )


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> FakeLaunch:
    fake = FakeLaunch()
    module = ModuleType("coterie.engines.launch")
    module.launch = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def coterie(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def last_json(result: Any) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def write_run(folder: Path, *events: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"seq": seq, "time_s": 1.0, **e}) for seq, e in enumerate(events)]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_commands_and_their_options_are_frozen() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = {
        name: [
            option for p in command.params if not getattr(p, "hidden", False) for option in p.opts
        ]
        for name, command in commands.items()
        if not command.hidden
    }
    assert shown == {
        "init": ["path", "--task", "--set", "--schema", "--json"],
        "schema": ["file", "--json"],
        "demo": ["what", "--runs", "--json", "--plain"],
        "train": [
            "path",
            "--set",
            "--engine",
            "--resume",
            "--resume-from",
            "--runs",
            "--json",
            "--plain",
        ],
        "plan": ["paths", "--cluster", "--set", "--measure", "--json"],
        "place": ["cluster", "--json"],
        "run": [
            *("words", "--agents", "--strategy", "--name", "--resume", "--resume-from", "--alone"),
            *("--set", "--engine", "--runs", "--json"),
        ],
        "simulate": [
            *("path", "--cluster", "--set", "--kill", "--failures", "--runs", "--json"),
        ],
        "join": ["endpoint", "--key", "--name", "--root", "--threads", "--accept-code"],
        "up": [
            *("path", "--set", "--wait", "--listen", "--ship", "--key-minutes", "--runs", "--json"),
        ],
        "doctor": ["--listen", "--json"],
        "explain": ["run", "--runs", "--json"],
        "graph": ["run", "--out", "--runs", "--json"],
        "audit": ["run", "--runs", "--json"],
        "top": ["run", "--once", "--runs", "--json"],
        "logs": ["run", "--agent", "--follow", "--runs", "--json"],
    }


class TestFrontDoor:
    def test_version(self) -> None:
        result = coterie("--version")
        assert (result.exit_code, result.stdout.split()[0]) == (0, "coterie")

    def test_help_and_explain_need_no_torch(self, tmp_path: Path) -> None:
        write_run(tmp_path / "runs" / "first", {"kind": "run"})
        program = (
            "import sys; from typer.testing import CliRunner; from coterie.cli import app\n"
            "print([CliRunner().invoke(app, words).exit_code for words in "
            "(['--help'], ['train', '--help'], ['explain', 'first'])], 'torch' in sys.modules)"
        )
        assert self.fresh(tmp_path, "-c", program).stdout == "[0, 0, 0] False\n"

    def test_the_module_is_the_command(self, tmp_path: Path) -> None:
        done = self.fresh(tmp_path, "-m", "coterie.cli", "explain", "no-such-run", "--json")
        assert done.returncode == 2
        assert done.stderr.startswith("coterie: expected the folder of a run")
        assert done.stderr.count("\n") == 1
        assert "no-such-run" in json.loads(done.stdout)["error"]

    @staticmethod
    def fresh(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=environment,
        )


class TestRefusals:
    @pytest.mark.parametrize("kind", ERRORS)
    def test_every_error_is_one_line_and_exit_code_2(
        self, kind: type[CoterieError], launch: FakeLaunch, path: Path
    ) -> None:
        launch.error, launch.events = kind("expected bread,\n  found a stone; bake"), []
        result = coterie("train", path)
        assert result.exit_code == 2
        assert result.stderr == "coterie: expected bread, found a stone; bake\n"
        assert result.stdout == ""

    def test_with_json_it_is_the_last_line_too(self, launch: FakeLaunch, path: Path) -> None:
        launch.error = TrainingError("expected a finite loss, found nan; lower lr")
        result = coterie("train", path, "--json")
        assert result.exit_code == 2
        assert last_json(result) == {"error": "expected a finite loss, found nan; lower lr"}
        assert result.stderr.splitlines()[-1] == f"coterie: {launch.error}"

    def test_a_fault_of_ours_is_not_hidden(self, launch: FakeLaunch, path: Path) -> None:
        launch.error = ZeroDivisionError("ours")
        assert coterie("train", path).exception is launch.error


class TestCluster:
    """A job on machines that need not be here."""

    JOB = EXAMPLES / "01_digits" / "job.yaml"
    HOME = EXAMPLES / "03_cluster" / "cluster.yaml"

    def test_plan_tells_what_would_be_done_and_what_else_would_bring(self) -> None:
        result = coterie("plan", self.JOB, "--cluster", self.HOME)
        assert result.exit_code == 0
        for words in ("Chosen: ", "Until minutes: 2.0 min.", "One more laptop: ", "Bottleneck: "):
            assert words in result.stdout

    def test_plan_answers_in_json(self) -> None:
        told = last_json(coterie("plan", self.JOB, "--cluster", self.HOME, "--json"))
        assert told.keys() == {
            *("decision", "epoch_s", "until_s", "machines", "roads", "bottleneck"),
        }
        assert told["until_s"] == {"accuracy": None, "minutes": 120.0}

    def test_plan_measures_only_when_it_is_asked_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(planning, "measure", lambda job: Load(0.5, 0.25))
        told = last_json(coterie("plan", self.JOB, "--cluster", self.HOME, "--measure", "--json"))
        believed = {d["name"]: d for d in told["decision"]["world"]["devices"]}
        assert believed["laptop-1"]["overhead_s"] == 0.5

    def test_plan_shares_machines_out_among_several_jobs(self) -> None:
        shared = EXAMPLES / "07_two_jobs"
        words = ("plan", self.JOB, shared / "narrow.yaml", "--cluster", shared / "cluster.yaml")
        result = coterie(*words)
        assert result.exit_code == 0
        for said in (
            "Machines: digits on ",
            "Decision 2: narrow on what it is given.",
            "One more ",
        ):
            assert said in result.stdout
        told = last_json(coterie(*words, "--json"))
        assert told.keys() == {"utility", "most", "tasks", "free", "rejected", "machines"}
        assert told["tasks"]["digits"]["plan"]["decision"]["chosen"]["shares"].keys() == set(
            told["tasks"]["digits"]["machines"]
        )

    def test_place_tells_where_requests_are_answered(self) -> None:
        path = EXAMPLES / "08_requests" / "cluster.yaml"
        result = coterie("place", path)
        assert (result.exit_code, result.stdout.startswith("Asked: 16 requests")) == (0, True)
        told = last_json(coterie("place", path, "--json"))
        assert told["places"].keys() == {"camera", "edge", "cloud"}
        assert told["no_load_s"] < told["expected_s"]
        refused = coterie("place", self.HOME)
        assert refused.exit_code == 2
        assert "expected requests that the cluster is to answer, found none" in refused.stderr

    @pytest.mark.parametrize("command", ["plan", "simulate"])
    def test_a_cluster_that_cannot_be_is_refused(self, command: str, tmp_path: Path) -> None:
        path = tmp_path / "cluster.yaml"
        path.write_text("machines: [{name: pc, speeed: 1}]")
        result = coterie(command, self.JOB, "--cluster", path)
        assert result.exit_code == 2
        assert "found 'speeed'; did you mean 'speed'?" in result.stderr

    @pytest.mark.parametrize("code", [0, 1])
    def test_simulate_hands_on_what_befalls_the_machines(
        self, code: int, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[Any] = []

        def simulate(*arguments: Any) -> tuple[int, dict[str, Any]]:
            given.extend(arguments)
            arguments[-1](WARNING)
            return code, {"samples_lost": 0}

        monkeypatch.setattr(planning, "simulate", simulate)
        words = [
            "--kill",
            "pi-2@20",
            "--failures",
            "--set",
            "until.minutes=3",
            "--runs",
            runs,
            "--json",
        ]
        result = coterie("simulate", self.JOB, "--cluster", self.HOME, *words)
        job, cluster, mishaps, folder, _ = given
        assert (result.exit_code, last_json(result)) == (code, {"samples_lost": 0})
        assert (job.until["minutes"], cluster.num_machines, folder) == (3.0, 7, runs)
        assert mishaps == planning.Mishaps((("pi-2", 20.0),), failures=1.0)
        assert "a full disk" in result.stderr


class TestScreen:
    def test_json_keeps_stdout_for_the_summary(self, launch: FakeLaunch, path: Path) -> None:
        result = coterie("train", path, "--runs", path.parent, "--json")
        assert result.stdout.count("\n") == 1
        assert last_json(result) == {"folder": str(path.parent / "first"), "seconds": 2.0}
        assert "a full disk" in result.stderr

    def test_plain_lines_go_to_stdout(self, launch: FakeLaunch, path: Path) -> None:
        result = coterie("train", path, "--plain")
        assert "a full disk" in result.stdout
        assert result.stderr == ""

    def test_closes_whatever_happens(
        self, launch: FakeLaunch, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard: list[object] = []
        fake = SimpleNamespace(show=heard.append, close=lambda: heard.append("closed"))
        monkeypatch.setattr(progress, "choose_screen", lambda console: fake)
        launch.error = TrainingError("expected members, found none; start one")
        coterie("train", path)
        assert heard == [WARNING, "closed"]

    def test_opens_with_the_first_event(
        self, launch: FakeLaunch, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "choose_screen", lambda console: pytest.fail("opened"))
        launch.error, launch.events = JobError("expected bread, found a stone; bake"), []
        assert coterie("train", path).exit_code == 2


class TestTrain:
    def test_launches_the_job_of_the_file(self, launch: FakeLaunch, path: Path, runs: Path) -> None:
        result = coterie("train", path, "--set", "batch=32", "--set", "seed=7", "--runs", runs)
        assert result.exit_code == 0
        assert launch.job is not None
        assert (launch.job.name, launch.job.batch, launch.job.seed) == ("first", 32, 7)
        assert (launch.runs, launch.resume) == (runs, None)

    @pytest.mark.parametrize("code", [0, 1, 130])
    def test_ends_as_the_run_ended(self, code: int, launch: FakeLaunch, path: Path) -> None:
        launch.exit_code = code
        assert coterie("train", path).exit_code == code
        assert coterie("train", path, "--json").exit_code == code

    def test_resumes_the_newest_run_by_number(
        self, launch: FakeLaunch, path: Path, runs: Path
    ) -> None:
        for name in ("first", "first-2", "first-10", "first-x", "first-2-3", "firsts-99", "second"):
            (runs / name).mkdir(parents=True)
        (runs / "first-11").touch()  # no folder, hence no run
        coterie("train", path, "--runs", runs, "--resume")
        assert launch.resume == runs / "first-10"

    def test_resumes_the_only_run(self, launch: FakeLaunch, path: Path, runs: Path) -> None:
        (runs / "first").mkdir(parents=True)
        coterie("train", path, "--runs", runs, "--resume")
        assert launch.resume == runs / "first"

    def test_resumes_from_the_folder_that_is_named(self, launch: FakeLaunch, path: Path) -> None:
        coterie("train", path, "--resume-from", "runs/first/checkpoints/step-20")
        assert launch.resume == Path("runs/first/checkpoints/step-20")

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (["--resume"], "expected a run of first in"),
            (["--resume", "--resume-from", "x"], "found both; leave out --resume"),
            (["--set", "bacth=3"], "did you mean 'batch'?"),
        ],
    )
    def test_refuses_before_anything_is_launched(
        self, words: list[str], sentence: str, launch: FakeLaunch, path: Path, runs: Path
    ) -> None:
        result = coterie("train", path, "--runs", runs, *words)
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert launch.job is None

    def test_refuses_a_file_that_is_not_there(self, launch: FakeLaunch, tmp_path: Path) -> None:
        result = coterie("train", tmp_path / "no.yaml", "--json")
        assert result.exit_code == 2
        assert "expected a job file at" in last_json(result)["error"]


class TestRun:
    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        path = tmp_path / "my train.py"
        path.write_text("import coterie")
        return path

    def test_options_before_the_script_are_ours_and_those_behind_its_own(
        self, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = FakeLaunch()
        monkeypatch.setattr("coterie.engines.launch.launch", fake)
        ours = ("--agents", 2, "--strategy", "diloco(8)", "--set", "agents.remote=1", "--json")
        result = coterie("run", *ours, "--runs", tmp_path, script, "--json", "--lr", 0.1, "x")
        assert (result.exit_code, last_json(result)["seconds"]) == (0, 2.0)
        assert fake.job is not None
        assert fake.job.script is not None
        assert fake.job.script.args == ["--json", "--lr", "0.1", "x"]
        assert (fake.job.name, fake.job.strategy) == ("my-train", "diloco(8)")
        assert (fake.job.agents.local, fake.job.agents.remote) == (2, 1)

    @pytest.mark.parametrize(
        ("words", "refusal"),
        [
            (("--set", "batch=4"), "a script's own loader to say the batch"),
            (("--set", "agents.spares=1"), "no spares"),
            (("--set", "scheduler=m:f"), "expected no scheduler beside a script"),
            (("--set", "until.accuracy=1"), "expected in until one or more of epochs"),
        ],
    )
    def test_what_a_script_says_itself_is_refused(
        self, script: Path, words: tuple[str, ...], refusal: str
    ) -> None:
        result = coterie("run", *words, script)
        assert result.exit_code == 2
        assert refusal in result.stderr

    @pytest.mark.parametrize(
        ("words", "origin"), [(("--resume",), "train"), (("--resume-from", "x"), "x")]
    )
    def test_goes_on_from_the_newest_run_of_its_name_or_from_the_one_that_is_named(
        self,
        words: tuple[str, ...],
        origin: str,
        script: Path,
        runs: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (runs / "train").mkdir(parents=True)
        fake = FakeLaunch()
        monkeypatch.setattr("coterie.engines.launch.launch", fake)
        coterie("run", "--runs", runs, "--name", "train", *words, script)
        assert fake.resume in (runs / origin, Path(origin))

    def test_alone_this_process_becomes_the_script_s(
        self, script: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        became: list[list[str]] = []
        monkeypatch.setattr("os.name", "posix")
        monkeypatch.setattr("os.execv", lambda _, words: became.append(words))
        monkeypatch.setattr("subprocess.call", lambda words: became.append(words) or 3)
        result = coterie("run", "--alone", "--agents", 1, script, "--lr", 0.1)
        assert became[0] == [sys.executable, str(script), "--lr", "0.1"]
        assert result.exit_code == 3  # as where no process can become another

    @pytest.mark.parametrize("words", [("--agents", 2), ("--resume",), ("--set", "seed=1")])
    def test_alone_refuses_what_needs_a_run(self, script: Path, words: tuple[object, ...]) -> None:
        result = coterie("run", "--alone", *words, script)
        assert result.exit_code == 2
        assert f"a run of agents has, found {words[0]};" in result.stderr

    def test_a_script_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        result = coterie("run", tmp_path / "none.py")
        assert result.exit_code == 2
        assert "expected a script at" in result.stderr


class TestDemo:
    def test_launches_the_demo_s_job_under_the_time_of_day(
        self, launch: FakeLaunch, runs: Path
    ) -> None:
        result = coterie("demo", "--runs", runs, "--json")
        assert result.exit_code == 0
        assert launch.job is not None
        assert re.fullmatch(r"demo-\d{8}-\d{6}", launch.job.name)
        assert launch.job == demo.job(launch.job.name)
        assert (launch.runs, launch.resume) == (runs, None)
        assert last_json(result)["folder"] == str(runs / launch.job.name)

    def test_the_drill_kills_an_agent_that_there_is(self) -> None:
        job = demo.job("demo-1")
        assert job.drill is not None
        assert job.drill.kill in [f"agent-{num}" for num in range(job.agents.num_known or 0)]
        assert job.agents.speeds == [4, 2, 1]
        assert job.baselines == ["solo", "equal"]

    def test_the_task_is_real(self) -> None:
        from coterie.tasks.kinds import from_spec

        job = demo.job("demo-1")
        task = from_spec(job.name, job.task, job.root)
        assert 0 <= task.score(task.build())["accuracy"] <= 1


class TestJoin:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        calls: list[Any] = []

        def main(name: str, place: join.Place, threads: int, rest_s: Any) -> int:
            where = (place.endpoint, place.key, place.root, place.watch.pid)
            calls.append((name, *where, threads, rest_s(1.0)))
            return 3

        monkeypatch.setattr(join, "main", main)
        monkeypatch.setattr(
            join, "stand_by", lambda job, place, *_: calls.append((job, place.root))
        )
        monkeypatch.setattr(parent.Watch, "start", lambda watch: calls.append("tied"))
        monkeypatch.setattr("coterie.cli.learning._knock", lambda *where: calls.append(where[0]))
        return calls

    def test_is_called_as_the_machine_and_never_rests(self, calls: list[Any]) -> None:
        assert coterie("join", "10.0.0.1:7000", "--key", "join.key").exit_code == 3
        called = socket.gethostname()
        lived = (called, "10.0.0.1:7000", Path("join.key"), Path("."), 0, 0, 0.0)
        assert calls == ["10.0.0.1:7000", lived]  # first it knocks

    def test_is_tied_to_the_command_before_anything_else(self, calls: list[Any]) -> None:
        where = ("--key", "k", "--name", "pi", "--root", "code", "--threads", "2")
        coterie("join", "h:1", *where, "--beside", "7@0.25")
        assert calls == ["tied", ("pi", "h:1", Path("k"), Path("code"), 7, 2, 3.0)]

    def test_a_spare_builds_its_job_and_waits_for_a_name(self, calls: list[Any]) -> None:
        coterie("stand-by", "job.yaml", "h:1", "--key", "k", "--root", "code", "--beside", "7")
        assert calls == ["tied", (Path("job.yaml"), Path("code"))]

    def test_refuses_a_duty_that_cannot_be(self, calls: list[Any]) -> None:
        result = coterie("join", "h:1", "--key", "k", "--beside", "0@0")
        assert result.exit_code == 2
        assert result.stderr.startswith("coterie: expected a fraction of the time")
        assert calls == []


class TestKey:
    @pytest.fixture
    def place(self, monkeypatch: pytest.MonkeyPatch) -> list[join.Place]:
        places: list[join.Place] = []
        monkeypatch.setattr(join, "main", lambda name, place, *_: places.append(place) or 0)
        monkeypatch.setattr("coterie.cli.learning._knock", lambda *_: None)
        return places

    def test_is_a_file_or_its_text_or_is_asked_for(self, place: list[join.Place]) -> None:
        key = Keys.make().join
        coterie("join", "h:1", "--key", key.text(), "--accept-code")
        CliRunner().invoke(app, ["join", "h:1", "--key", "-"], input=f"{key.text()}\n")
        coterie("join", "h:1", "--key", "join.key")
        assert [each.key for each in place] == [key, key, Path("join.key")]
        assert [each.accepts_code for each in place] == [True, False, False]

    def test_that_is_none_is_refused_and_not_repeated(self, place: list[join.Place]) -> None:
        result = coterie("join", "h:1", "--key", "coterie:secret")
        assert (result.exit_code, place) == (2, [])
        assert "secret" not in result.output


class TestUp:
    def test_prints_the_line_by_which_others_join(
        self, launch: FakeLaunch, path: Path, tmp_path: Path
    ) -> None:
        key = Keys.make().join
        key.write(tmp_path / "join.key")
        run = {"kind": "run", "time_s": 1.0, "endpoint": "192.0.2.7:7000", "folder": str(tmp_path)}
        launch.events = [run]
        told = coterie("up", path, "--wait", "2", "--listen", "192.0.2.7:7000", "--ship")
        assert told.exit_code == 0
        line = next(line for line in told.stdout.splitlines() if "coterie join" in line)
        words = shlex.split(line)
        assert words[:4] == ["coterie", "join", "192.0.2.7:7000", "--key"]
        assert (words[4], words[5:]) == (key.text(), ["--accept-code"])
        assert launch.job is not None
        agents = launch.job.agents
        assert (agents.remote, agents.ship, agents.join_timeout_s) == (2, True, 86_400)
        assert (launch.job.listen, launch.job.batch) == ("192.0.2.7:7000", 64)
        counted = coterie("up", path, "--json")
        assert "coterie join" in counted.stderr
        assert counted.stdout.count("\n") == 1

    def test_what_the_job_says_of_others_holds(self, launch: FakeLaunch, path: Path) -> None:
        wishes = ("agents.remote=3", "agents.join_timeout_s=5", "listen=198.51.100.1:0")
        coterie("up", path, *(word for wish in wishes for word in ("--set", wish)))
        assert launch.job is not None
        assert (launch.job.agents.remote, launch.job.agents.join_timeout_s) == (3, 5)
        assert (launch.job.listen, launch.job.agents.ship) == ("198.51.100.1:0", False)

    def test_refuses_an_address_that_is_none(self, launch: FakeLaunch, path: Path) -> None:
        assert "listen" in coterie("up", path, "--listen", "nowhere").stderr
        assert launch.job is None


class TestDoctor:
    @pytest.mark.parametrize("healthy", [True, False])
    def test_the_exit_code_is_the_diagnosis(
        self, healthy: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        diagnosis = SimpleNamespace(
            healthy=healthy, as_dict=lambda: {"healthy": healthy}, lines=lambda: ["cores 2", "well"]
        )
        monkeypatch.setattr(doctor, "examine", lambda listen: diagnosis)
        told, counted = coterie("doctor"), coterie("doctor", "--json")
        assert told.exit_code == counted.exit_code == (0 if healthy else 1)
        assert told.stdout == "cores 2\nwell\n"
        assert last_json(counted) == {"healthy": healthy}

    def test_a_real_diagnosis_is_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        examine = doctor.examine
        monkeypatch.setattr(doctor, "examine", lambda listen: examine(listen, spin_s=0.001))
        assert last_json(coterie("doctor", "--json"))["facts"]["listen"] == "127.0.0.1:0"

    def test_refuses_what_is_no_address(self) -> None:
        result = coterie("doctor", "--listen", "nowhere", "--json")
        assert result.exit_code == 2
        assert "expected HOST:PORT" in last_json(result)["error"]


class TestExplain:
    def test_by_name_and_by_folder_are_the_same(self, runs: Path) -> None:
        write_run(runs / "first", DECISION)
        by_name = coterie("explain", "first", "--runs", runs)
        assert by_name.exit_code == 0
        assert by_name.stdout.startswith("Decision 1: the run begins.\n")
        assert by_name.stdout == coterie("explain", runs / "first").stdout

    def test_as_json(self, runs: Path) -> None:
        write_run(runs / "first", DECISION)
        told = last_json(coterie("explain", "first", "--runs", runs, "--json"))
        assert told["folder"] == str(runs / "first")
        assert [d["cause"] for d in told["decisions"]] == ["the run begins"]

    def test_a_run_without_decisions_says_so(self, runs: Path) -> None:
        write_run(runs / "first")
        assert coterie("explain", "first", "--runs", runs).stdout.startswith("No decision")

    def test_refuses_an_unknown_run_with_those_there_are(self, runs: Path) -> None:
        write_run(runs / "second")
        result = coterie("explain", "first", "--runs", runs)
        assert result.exit_code == 2
        assert "found 'first'; the newest there are second" in result.stderr


def learned(*leases: list[list[int]]) -> list[dict[str, Any]]:
    """A finished epoch of ten samples, learned by these members in turn."""
    rounds = [
        {"kind": "committed", "last_round": number, "data_epoch": 0, "leases": {"a": spans}}
        for number, spans in enumerate(leases, start=1)
    ]
    return [{"kind": "task", "num_train": 10}, *rounds, {"kind": "epoch", "data_epoch": 0}]


class TestAudit:
    def test_a_run_that_learned_each_sample_once_is_exact(self, runs: Path) -> None:
        write_run(runs / "first", *learned([[0, 6]], [[6, 10]]))
        result = coterie("audit", "first", "--runs", runs)
        assert result.exit_code == 0
        assert result.stdout == "Epoch 1: each of its 10 samples was learned exactly once.\n"

    def test_what_was_lost_or_repeated_is_told_and_is_the_exit_code(self, runs: Path) -> None:
        write_run(runs / "first", *learned([[0, 6]], [[4, 9]]))
        result = coterie("audit", "first", "--runs", runs)
        assert result.exit_code == 1
        assert result.stdout == (
            "Epoch 1: of its 10 samples 1 was never learned (position 9) "
            "and 2 more than once (4 to 5).\n"
        )
        told = last_json(coterie("audit", "first", "--runs", runs, "--json"))
        assert (told["exact"], told["samples_lost"], told["samples_repeated"]) == (False, 1, 2)
        (epoch,) = told["epochs"]
        assert (epoch["lost"], epoch["repeated"]) == ([[9, 10]], [[4, 6]])

    def test_a_run_without_a_finished_epoch_says_so(self, runs: Path) -> None:
        write_run(runs / "first")
        result = coterie("audit", "first", "--runs", runs)
        assert (result.exit_code, result.stdout[:20]) == (0, "No epoch was finishe")

    @pytest.mark.parametrize(
        "event", [{"kind": "committed"}, {"kind": "committed", "data_epoch": 0, "leases": [1]}]
    )
    def test_refuses_what_is_no_log_of_a_run(self, event: dict[str, Any], runs: Path) -> None:
        write_run(runs / "first", event)
        result = coterie("audit", "first", "--runs", runs)
        assert result.exit_code == 2
        assert "audit the log as Coterie wrote it" in result.stderr
        assert coterie("audit", "second", "--runs", runs).exit_code == 2


class TestInit:
    def test_writes_a_job_that_train_reads(self, launch: FakeLaunch, tmp_path: Path) -> None:
        path = tmp_path / "first.yaml"
        told = coterie("init", path, "--task", "nets", "--set", "batch=7", "--schema", "s.json")
        assert (told.exit_code, told.stdout.count("\n")) == (0, 1)
        assert coterie("train", path).exit_code == 0
        assert launch.job is not None
        assert (launch.job.name, launch.job.batch) == ("first", 7)
        assert launch.job.task.train.call == "nets:train_set"

    def test_never_overwrites(self, path: Path) -> None:
        result = coterie("init", path, "--json")
        assert (result.exit_code, path.read_text()) == (2, JOB)
        assert "found one there" in last_json(result)["error"]


class TestSchema:
    @pytest.mark.parametrize(("words", "key"), [([], "batch"), (["cluster"], "machines")])
    def test_prints_json_on_many_lines_or_on_one(self, words: list[str], key: str) -> None:
        told, short = coterie("schema", *words), coterie("schema", *words, "--json")
        assert key in json.loads(told.stdout)["properties"]
        assert json.loads(told.stdout) == last_json(short)
        assert short.stdout.count("\n") == 1


class TestTop:
    def test_shows_the_newest_run_once_where_it_cannot_draw(self, runs: Path) -> None:
        write_run(runs / "first", {"kind": "run", "name": "first"}, DECISION)
        told = coterie("top", "--runs", runs)
        assert (told.exit_code, "first" in told.stdout) == (0, True)
        assert told.stdout == coterie("top", runs / "first", "--once").stdout
        assert last_json(coterie("top", "first", "--runs", runs, "--json"))["name"] == "first"

    def test_refuses_where_there_is_no_run(self, runs: Path) -> None:
        result = coterie("top", "--runs", runs)
        assert (result.exit_code, "found none; name its folder" in result.stderr) == (2, True)


class TestLogs:
    def test_tells_and_follows_what_happened_and_what_was_said(self, runs: Path) -> None:
        write_run(runs / "first", WARNING, {"kind": "stopped", "reason": "steps reached"})
        (runs / "first" / "pi.log").write_text("it rains\n")
        told = coterie("logs", "first", "--runs", runs)
        assert told.stdout.splitlines() == [
            "    0.0 s  warning     a full disk",
            "    0.0 s  stopped     steps reached",
            "pi: it rains",
        ]
        assert coterie("logs", "first", "--runs", runs, "--follow").stdout == told.stdout
        said = last_json(coterie("logs", "first", "--runs", runs, "--agent", "pi", "--json"))
        assert (said["events"], said["said"]) == ([], [{"who": "pi", "text": "it rains"}])

    def test_refuses_what_cannot_be(self, runs: Path) -> None:
        write_run(runs / "first", WARNING)
        for words in (["--agent", "bob"], ["--follow", "--json"]):
            assert coterie("logs", "first", "--runs", runs, *words).exit_code == 2


class TestCompletion:
    def test_offers_runs_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("first", "first-2", "second"):
            write_run(tmp_path / "runs" / name)
        monkeypatch.chdir(tmp_path)
        asked = {"_COTERIE_COMPLETE": "complete_bash", "COMP_WORDS": "coterie explain fi"}
        told = CliRunner().invoke(app, [], prog_name="coterie", env={**asked, "COMP_CWORD": "2"})
        assert sorted(told.stdout.split()) == ["first", "first-2"]


class TestExamples:
    def test_are_short(self) -> None:
        files = [p for p in EXAMPLES.rglob("*") if p.suffix in (".py", ".yaml")]
        names = {"job.yaml", "digits_task.py", "02_python.py", "kinds.yaml", "04_own_loop.py"}
        names |= {"cluster.yaml", "narrow.yaml", "06_multitask.py"}
        assert names <= {p.name for p in files}
        assert [p.name for p in files if p.read_text().count("\n") > 100] == []

    def test_the_job_s_task_is_real(self, launch: FakeLaunch) -> None:
        from coterie.tasks.kinds import from_spec

        assert coterie("train", EXAMPLES / "01_digits" / "job.yaml").exit_code == 0
        assert launch.job is not None
        task = from_spec(launch.job.name, launch.job.task, launch.job.root)
        assert launch.job.until.keys() & task.score(task.build()).keys() == {"accuracy"}

    def test_clusters_begin_near_what_ends_their_run(self, launch: FakeLaunch) -> None:
        from coterie.tasks.kinds import from_spec

        assert coterie("train", EXAMPLES / "05_unsupervised" / "kinds.yaml").exit_code == 0
        assert launch.job is not None
        task = from_spec(launch.job.name, launch.job.task, launch.job.root)
        assert 0.3 < task.score(task.build())["ami"] < launch.job.until["ami"]
