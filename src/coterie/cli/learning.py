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


def demo(
    what: Annotated[
        str, typer.Argument(metavar="[knowledge]", help="What to show; by default a group at work.")
    ] = "",
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> None:
    """Learn digits on three unequal agents, one of which is killed and returns.

    With `knowledge`: on five agents with few labels each, alone and teaching one another.
    """
    with answering(as_json) as answer:
        name = f"demo-{datetime.now():%Y%m%d-%H%M%S}"
        if what == "knowledge":
            from coterie.engines.lesson_demo import rehearse

            with showing(screen(as_json, as_lines)) as show:
                outcome = rehearse(name, runs, show)
            answer(outcome.as_dict(), [outcome.sentence()])
            return
        if what:
            raise JobError(f"expected knowledge, or nothing, after demo, found {what!r}")
        from coterie import demo as rehearsal

        job = rehearsal.job(name)
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
        watch, called = _watched(int(pid)), name or socket.gethostname()
        from coterie.engines.throttle import DutyCycle

        rest_s, shown = DutyCycle(float(duty)).rest_s, _key(key)
        if not int(pid):
            _knock(endpoint, shown, called)
        from coterie.agents import join as agent

        place = agent.Place(endpoint, shown, root, watch, accept_code)
        raise typer.Exit(agent.main(called, place, threads, rest_s))


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


def _knock(endpoint: str, key: Path | JoinKey, name: str) -> None:
    """See that the key opens the run, before torch is loaded, which takes long."""
    from coterie.transport import control
    from coterie.transport.secure import JoinKey

    shown = key if isinstance(key, JoinKey) else JoinKey.read(key)
    control.knock(endpoint, shown, name, control.KNOCK_S)


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
