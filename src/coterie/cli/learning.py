"""Commands that learn: demo, train, join."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.answers import (
    RUNS,
    Answer,
    AsJson,
    AsLines,
    JobFile,
    Placing,
    RunsFolder,
    answering,
    conclude,
    laid_over,
    newest_run,
    screen,
    showing,
)
from coterie.errors import JobError

if TYPE_CHECKING:
    from coterie.config import Job
    from coterie.parent import Watch
    from coterie.transport.secure import JoinKey
    from coterie.watch.progress import Screen

Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest run of this name.")]
ResumeFrom = Annotated[
    Path | None,
    typer.Option("--resume-from", metavar="PATH", help="Go on from this run or checkpoint."),
]


def demo(runs: RunsFolder = RUNS, as_json: AsJson = False, as_lines: AsLines = False) -> None:
    """Learn digits on three unequal agents, one of which is killed and returns."""
    with answering(as_json) as answer:
        from coterie import demo as rehearsal

        job = rehearsal.job(f"demo-{datetime.now():%Y%m%d-%H%M%S}")
        learn(job, runs, None, screen(as_json, as_lines), answer)


def train(
    path: JobFile,
    overrides: Placing = None,
    resume: Resume = False,
    resume_from: ResumeFrom = None,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> None:
    """Learn what a job file asks for, on the agents that it names."""
    with answering(as_json) as answer:
        from coterie.config import load_job

        job = load_job(path, laid_over(overrides or ()))
        origin = origin_of(job.name, runs, resume, resume_from)
        learn(job, runs, origin, screen(as_json, as_lines), answer)


def join(
    endpoint: Annotated[str, typer.Argument(metavar="HOST:PORT", help="As the run printed it.")],
    key: Annotated[
        str,
        typer.Option(metavar="KEY", help="As the run printed it, its join.key file, or - to ask."),
    ],
    name: Annotated[
        str | None, typer.Option(help="What to be called; by default as this machine is.")
    ] = None,
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where the task's code is.")] = Path(),
    threads: Annotated[int, typer.Option(help="To compute on; by default all cores.")] = 0,
    accept_code: Annotated[
        bool,
        typer.Option(
            "--accept-code", help="Run the code that the run ships, which can do anything."
        ),
    ] = False,
    beside: Annotated[str, typer.Option(metavar="PID@DUTY", hidden=True)] = "0@1",
) -> None:
    """Take part in a run that is under way on another machine."""
    with answering(as_json=False):
        pid, _, duty = beside.partition("@")
        watch = _watched(int(pid))
        from coterie.agents import join as agent
        from coterie.engines.throttle import DutyCycle

        place = agent.Place(endpoint, _key(key), root, watch, accept_code)
        called = name or socket.gethostname()
        raise typer.Exit(agent.main(called, place, threads, DutyCycle(float(duty)).rest_s))


def stand_by(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml")],
    endpoint: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    key: Annotated[Path, typer.Option()],
    root: Annotated[Path, typer.Option()] = Path(),
    threads: Annotated[int, typer.Option()] = 0,
    beside: Annotated[int, typer.Option()] = 0,
) -> None:
    """Build the task, and wait for the name of an agent that died: a warm spare."""
    with answering(as_json=False):
        watch = _watched(beside)
        from coterie.agents import join as agent
        from coterie.engines.throttle import DutyCycle

        place = agent.Place(endpoint, key, root, watch)
        raise typer.Exit(agent.stand_by(job, place, threads, lambda duty: DutyCycle(duty).rest_s))


def _key(given: str) -> Path | JoinKey:
    """A key as it is given: its file, its text, or nothing that others could read meanwhile."""
    from coterie.transport.secure import JoinKey

    if given == "-":
        return JoinKey.parse(getpass.getpass("join key: ") if sys.stdin.isatty() else input())
    return JoinKey.parse(given) if given.startswith("coterie:") else Path(given)


def _watched(beside: int) -> Watch:
    """A watch over the command that started this one, before torch is loaded, which takes long."""
    from coterie.parent import Watch

    watch = Watch(beside)
    if beside:
        watch.start()
    return watch


def origin_of(name: str, runs: Path, resume: bool, resume_from: Path | None) -> Path | None:
    """Where a run of this name goes on from, if it does."""
    if resume and resume_from is not None:
        raise JobError("expected one of --resume and --resume-from, found both; leave out --resume")
    return newest_run(name, runs) if resume else resume_from


def learn(
    job: Job, runs: Path, origin: Path | None, open_screen: Callable[[], Screen], answer: Answer
) -> None:
    """Carry out a job, shown on a screen, to the exit of its command."""
    from coterie.engines.launch import launch

    with showing(open_screen) as show:
        result = launch(job, runs=runs, resume=origin, show=show)
    conclude(result.summary, result.exit_code, answer)


COMMANDS: tuple[Callable[..., None], ...] = (demo, train, join)
