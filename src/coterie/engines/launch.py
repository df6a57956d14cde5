"""The front door of a run: check the job, make its folder, start it, follow its events."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from coterie.agents import checkpoint
from coterie.config import Job, Script, dump_job, overlaid, parse_job
from coterie.coordinator.fixed import refuse_unsteady
from coterie.engines.processes import (
    BEREFT,
    DONE,
    FAILED,
    GROWN_S,
    INTERRUPTED,
    KEY_FILES,
    MAX_RESTARTS,
    REFUSED,
    member_names,
)
from coterie.engines.reach import surveyed
from coterie.errors import CoterieError, JobError, TrainingError
from coterie.machine import gpus
from coterie.specs import SeparateSpec
from coterie.sync.reading import parse
from coterie.watch.events import follow, read
from coterie.watch.patience import WARNING
from coterie.watch.said import COORDINATOR, note

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.agents.learner import Setup

# How the coordinator is asked to end, more urgently each time; after these it is killed.
BREAK: int | None = getattr(signal, "CTRL_BREAK_EVENT", None)  # all that Windows has
URGES: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT) if BREAK is None else (BREAK,)
NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
SCRIPT_S = 300.0  # for a script to come to its loop: its imports, its data
Show = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Result:
    """What a run came to: its folder, the exit code of its command, and its figures."""

    folder: Path
    exit_code: int  # 0 done, 1 failed, 130 interrupted
    summary: Mapping[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """What was learned, by name, as `load_state_dict` takes it: of the newest checkpoint."""
        from safetensors.torch import load  # a process that only follows needs no torch

        from coterie.agents.snapshot import MODEL_FILE

        return load(checkpoint.load(self.folder).files[MODEL_FILE])


def launch(job: Job, runs: Path, resume: Path | None, show: Show) -> Result:
    """Carry out a job in a folder of its own under `runs`, or go on in the folder of `resume`.

    Bad input raises a CoterieError, and then nothing is left behind.
    """
    job = _resolved(job)
    origin = _origin(resume)  # a damaged one is refused before anything is started
    with _run_folder(job, runs, resume) as run:
        if is_alone(job) and isinstance(job.task, SeparateSpec):
            return _in_one(job, run, origin, show)
        if is_alone(job):
            return _alone(job, lambda: _setup_of(job), run, origin, show)
        return _follow(run, resume, show)


def is_alone(job: Job) -> bool:
    """Whether one agent of this machine learns alone; one on a cluster is a process of its own."""
    is_one = job.agents.num_known == 1 and job.agents.remote == 0 and job.script is None
    return is_one and job.engine.kind == "local"


def script_job(
    path: Path, args: Sequence[str], given: Mapping[str, Any], overrides: Sequence[str] = ()
) -> Job:
    """The job of running a script; what is given, and `a.b=value` overrides, laid over it.

    >>> job = script_job(Path(__file__), ["--lr", "0.1"], {"agents": 3})
    >>> job.name, job.agents.local, job.script.args
    ('launch', 3, ['--lr', '0.1'])
    """
    data: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9_-]", "-", path.stem),
        **{key: value for key, value in given.items() if value is not None},
    }
    num_local = {} if given.get("agents") is None else {"local": given["agents"]}
    data["agents"] = {"join_timeout_s": SCRIPT_S, **num_local}
    data = overlaid(data, overrides)
    data |= {"script": Script.of(path, args).model_dump(), "root": str(path.parent.resolve())}
    return parse_job(data, " with --set ".join((str(path), *overrides)))


class _Origin(NamedTuple):
    """Where a run goes on from, and what is wrong with a newer checkpoint."""

    folder: Path
    passed_over: str


def _origin(resume: Path | None) -> _Origin | None:
    if resume is None:
        return None
    origin = _Origin(*checkpoint.choose(resume))
    if origin.passed_over:
        print(f"{WARNING}{origin.passed_over}", file=sys.stderr)
    return origin


@contextmanager
def _run_folder(job: Job, runs: Path, resume: Path | None) -> Iterator[Path]:
    """The run's folder with its job file; one that is refused before it began is removed."""
    run = free_folder(job, runs, resume)
    path = run / "job.yaml"
    fresh, before = not run.exists(), path.read_text() if path.exists() else None
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_job(job))
        yield run
    except OSError as error:
        raise CoterieError(f"expected to write the run to {run}, found: {error}") from error
    except _Refused as refusal:
        if fresh:
            shutil.rmtree(run, ignore_errors=True)
        elif before is not None:
            path.write_text(before)
        raise CoterieError(str(refusal)) from None


class _Refused(CoterieError):
    """The run ended before it began."""


def _resolved(job: Job) -> Job:
    """The job with every `auto` that can be known now made a number, checked once more."""
    if job.strategy != "auto":
        strategy = parse(job.strategy)
        if job.deterministic:
            refuse_unsteady(strategy)
    if job.script is not None and (job.batch != 1 or job.agents.spares):
        found = f"batch {job.batch}" if job.batch != 1 else f"{job.agents.spares} spares"
        raise JobError(
            "expected a script's own loader to say the batch, and no spares, which would build a "
            f"task, found {found}; leave that out"
        )
    if job.engine.kind == "ray":
        return surveyed(job)
    local = max(1, len(gpus())) if job.agents.local == "auto" else job.agents.local
    data = job.model_dump(by_alias=True, mode="json")
    data["agents"]["local"] = local
    resolved = parse_job(data)
    names = member_names(resolved)
    if job.drill is not None and job.drill.kill not in names:
        raise JobError(
            f"expected drill.kill to name an agent of this machine ({', '.join(names) or 'none'}), "
            f"found {job.drill.kill}; name one of these"
        )
    return resolved


def free_folder(job: Job, runs: Path, resume: Path | None = None) -> Path:
    """The folder of the run that is resumed, or the next free one of the job's name."""
    if resume is not None:
        beside = resume.absolute().parent
        return beside.parent if beside.name == "checkpoints" else resume
    if not (runs / job.name).exists():
        return runs / job.name
    pattern = re.compile(re.escape(job.name) + r"-(\d+)")
    taken = [int(m[1]) for p in runs.iterdir() if (m := pattern.fullmatch(p.name))]
    return runs / f"{job.name}-{max(taken, default=1) + 1}"


# -- many agents: a coordinating process of its own ----------------------------------------------


def _follow(run: Path, resume: Path | None, show: Show) -> Result:
    """Follow a run to its end; a coordinator that is killed is started anew, in its place."""
    events = run / "events.jsonl"
    num_known = events.read_bytes().count(b"\n") if events.exists() else 0
    began, summary, num_starts = num_known, dict[str, Any](), 1  # starts in quick succession
    host = _Host(run, resume)
    with _on_interrupt(host.interrupt), closing(host):
        while True:
            for event in follow(events, until=lambda: host.popen.poll() is not None):
                if event["seq"] < num_known:
                    continue
                num_known = event["seq"] + 1
                show(event)
                if event["kind"] == "summary":
                    summary = event
            complaint = host.complaint()
            num_starts = 1 if host.lived_s > GROWN_S else num_starts
            if num_starts > MAX_RESTARTS or not host.may_go_on(_has_begun(events, began)):
                break
            num_starts += 1
    code = host.popen.returncode
    if code == BEREFT:  # again and again
        for name in KEY_FILES:
            (run / name).unlink(missing_ok=True)
    if code == REFUSED:
        raise _Refused(complaint)
    if code == INTERRUPTED or summary:
        figures = {**summary, "error": complaint} if code == FAILED else summary
        return Result(run, code, figures)
    found = complaint.rpartition("\n")[2] or f"it ended with code {code}"
    raise TrainingError(
        f"expected the coordinator of {run} to see the run through, found: {found}; "
        f"go on from its last checkpoint with --resume-from {run}"
    )


def _has_begun(events: Path, first: int) -> bool:
    """Whether anything was decided: before, there is nothing that members could hold."""
    told = read(events)[first:] if events.exists() else []
    return any(event["kind"] in ("decision", "homes") for event in told)


class _Host:
    """The coordinating process; the first Ctrl-C asks it to stop, the second ends it at once."""

    def __init__(self, run: Path, resume: Path | None) -> None:
        self._run = run
        self._signals = iter(URGES)
        self._asked = False  # to end
        self.popen = self._start(resume)

    def _start(self, resume: Path | None, how: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "coterie.engines.local", str(self._run)]
        command += ["" if resume is None else str(resume), how]
        self._started_s = time.monotonic()
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            creationflags=NEW_GROUP,
        )
        assert popen.stderr is not None
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, args=(popen.stderr,), daemon=True)
        self._listener.start()
        return popen

    def _listen(self, stderr: IO[bytes]) -> None:
        """Keep what is said, and pass on warnings at once; the rest is told at the end."""
        for line in stderr:
            note(self._run, COORDINATOR, line)
            text = line.decode(errors="replace")
            if text.startswith(WARNING):
                print(text, end="", file=sys.stderr, flush=True)
            else:
                self._said.append(text)

    def complaint(self) -> str:
        """What it said before it ended, once it has."""
        self.popen.wait()
        self._listener.join()
        return "".join(self._said).strip()

    def may_go_on(self, has_begun: bool) -> bool:
        """Start one in the place of one that ended before its run did; whether there is need to."""
        if self.popen.returncode == BEREFT and not self._asked:
            is_saved = bool(checkpoint.good_checkpoints(self._run))
            self.popen = self._start(self._run if is_saved else None, "anew")
        elif self.popen.returncode < 0 and has_begun and not self._asked:
            self.popen = self._start(None, "again")
        else:
            return False
        return True

    @property
    def lived_s(self) -> float:
        """Seconds since it was started last."""
        return time.monotonic() - self._started_s

    def interrupt(self, *_: object) -> None:
        """Ask it to end, more urgently each time."""
        self._asked = True
        if (number := next(self._signals, None)) is None:
            self.popen.kill()
        else:
            self.popen.send_signal(number)

    def close(self) -> None:
        """Leave no process behind."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


@contextmanager
def _on_interrupt(call: Callable[..., None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM call a function; only the main thread can listen for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {n: signal.signal(n, call) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# -- one agent: in this process ------------------------------------------------------------------


def alone(job: Job, setup: Setup, runs: Path, resume: Path | None, show: Show) -> Result:
    """Carry out a job on one device in this process, on the setup's own objects."""
    origin = _origin(resume)
    with _run_folder(job, runs, resume) as run:
        return _alone(job, lambda: setup, run, origin, show)


def _setup_of(job: Job) -> Setup:
    from coterie.agents.join import setup_of
    from coterie.agents.learner import best_device

    return setup_of(job, best_device())


def _alone(
    job: Job, setup: Callable[[], Setup], run: Path, origin: _Origin | None, show: Show
) -> Result:
    from coterie.engines.solo import Solo

    try:
        point = checkpoint.load(origin.folder) if origin is not None else None
        solo = Solo(job, setup(), run, show)
        if point is not None and origin is not None:
            solo.restore(point, origin.passed_over)
    except CoterieError as error:
        raise _Refused(str(error)) from None
    try:
        summary = solo.train()
    except CoterieError as error:
        return Result(run, FAILED, {"error": solo.fail(str(error))})
    return Result(run, INTERRUPTED if solo.interrupted else DONE, summary)


def apart(
    job: Job, setups: Mapping[str, Setup], runs: Path, resume: Path | None, show: Show
) -> Result:
    """Learn separate tasks in this process, on the setups' own objects."""
    origin = _origin(resume)
    with _run_folder(job, runs, resume) as run:
        return _in_one(job, run, origin, show, setups)


def _in_one(
    job: Job,
    run: Path,
    origin: _Origin | None,
    show: Show,
    setups: Mapping[str, Setup] | None = None,
) -> Result:
    from coterie.engines.one import OneProcess

    try:
        folder = origin.folder if origin is not None else None
        one = OneProcess(job, run, show, member_names(job), setups, folder)
    except CoterieError as error:
        raise _Refused(str(error)) from None
    with _on_interrupt(one.stop):
        summary, failure = one.see_through()
    if failure:
        return Result(run, FAILED, {**summary, "error": failure})
    return Result(run, INTERRUPTED if one.stopped else DONE, summary)
