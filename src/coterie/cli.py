"""The commands: thin words over the rooms below, each loaded by the command that needs it.

>>> from typer.testing import CliRunner
>>> CliRunner().invoke(app, ["--version"]).output.split()[0]
'coterie'
"""

from __future__ import annotations

import functools
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie import __version__
from coterie.errors import CoterieError, JobError

if TYPE_CHECKING:
    from coterie.config import Job
    from coterie.machine import Watch
    from coterie.watch.progress import Screen

EVENTS = "events.jsonl"
RUNS = Path("runs")
REFUSED = 2  # the exit code of every CoterieError
NUM_SUGGESTED = 5

Answer = Callable[[Mapping[str, Any], Sequence[str]], None]  # as JSON, and in plain words
RunsFolder = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where runs are kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
AsLines = Annotated[bool, typer.Option("--plain", help="Tell the run line by line.")]

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
ClusterFile = Annotated[Path, typer.Option(metavar="FILE", help="The described cluster.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a.b=value over the job; repeatable."),
]
Measured = Annotated[
    bool, typer.Option("--measure", help="Time the job's step here: that of a speed of 1.")
]

# Tracebacks stay Python's own: they show faults of ours, and no values of the user's.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """The console script."""
    app(prog_name="coterie")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"coterie {__version__}")
        raise typer.Exit


@app.callback()
def coterie(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train PyTorch models on unequal machines that come and go, and be told why."""


@app.command()
def demo(runs: RunsFolder = RUNS, as_json: AsJson = False, as_lines: AsLines = False) -> None:
    """Learn digits on three unequal agents, one of which is killed and returns."""
    with _answering(as_json) as answer:
        from coterie import demo as rehearsal

        job = rehearsal.job(f"demo-{datetime.now():%Y%m%d-%H%M%S}")
        _learn(job, runs, None, _screen(as_json, as_lines), answer)


@app.command()
def train(
    path: JobFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest run of this job.")
    ] = False,
    resume_from: Annotated[
        Path | None,
        typer.Option("--resume-from", metavar="PATH", help="Go on from this run or checkpoint."),
    ] = None,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> None:
    """Learn what a job file asks for, on the agents that it names."""
    with _answering(as_json) as answer:
        from coterie.config import load_job

        if resume and resume_from is not None:
            raise JobError(
                "expected one of --resume and --resume-from, found both; leave out --resume"
            )
        job = load_job(path, overrides or ())
        origin = _newest_run(job.name, runs) if resume else resume_from
        _learn(job, runs, origin, _screen(as_json, as_lines), answer)


@app.command()
def join(
    endpoint: Annotated[str, typer.Argument(metavar="HOST:PORT", help="As the run printed it.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The run's join.key, copied here.")],
    name: Annotated[
        str | None, typer.Option(help="What to be called; by default as this machine is.")
    ] = None,
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where the task's code is.")] = Path(),
    threads: Annotated[int, typer.Option(help="To compute on; by default all cores.")] = 0,
    duty: Annotated[float, typer.Option(hidden=True)] = 1.0,
    beside: Annotated[int, typer.Option(metavar="PID", hidden=True)] = 0,
) -> None:
    """Take part in a run that is under way on another machine."""
    with _answering(as_json=False):
        watch = _watched(beside)
        from coterie.agents import join as agent
        from coterie.engines.throttle import DutyCycle

        place = agent.Place(endpoint, key, root, watch)
        called = name or socket.gethostname()
        raise typer.Exit(agent.main(called, place, threads, DutyCycle(duty).rest_s))


@app.command(hidden=True)
def stand_by(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml")],
    endpoint: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    key: Annotated[Path, typer.Option()],
    root: Annotated[Path, typer.Option()] = Path(),
    threads: Annotated[int, typer.Option()] = 0,
    beside: Annotated[int, typer.Option()] = 0,
) -> None:
    """Build the task, and wait for the name of an agent that died: a warm spare."""
    with _answering(as_json=False):
        watch = _watched(beside)
        from coterie.agents import join as agent
        from coterie.engines.throttle import DutyCycle

        place = agent.Place(endpoint, key, root, watch)
        raise typer.Exit(agent.stand_by(job, place, threads, lambda duty: DutyCycle(duty).rest_s))


def _watched(beside: int) -> Watch:
    """A watch over the command that started this one, before torch is loaded, which takes long."""
    from coterie.machine import Watch

    watch = Watch(beside)
    if beside:
        watch.start()
    return watch


@app.command()
def doctor(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where a run would listen.")
    ] = "127.0.0.1:0",
    as_json: AsJson = False,
) -> None:
    """Tell what this machine offers a run, and what stands in the way."""
    with _answering(as_json) as answer:
        from coterie.doctor import examine

        diagnosis = examine(listen)
        answer(diagnosis.as_dict(), diagnosis.lines())
        raise typer.Exit(0 if diagnosis.healthy else 1)


@app.command()
def explain(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a run's name.")],
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Tell why a run was decided as it was: each decision, its rivals, what came of it."""
    with _answering(as_json) as answer:
        from coterie.coordinator import explain as reasons
        from coterie.watch.events import read

        folder = _find_run(run, runs)
        decisions = reasons.explain(read(folder / EVENTS))
        words = reasons.sentences(decisions) or ["No decision was taken in this run yet."]
        answer({"folder": str(folder), "decisions": decisions}, words)


@app.command()
def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a run's name.")],
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Prove from a run's log that each sample of each finished epoch was learned exactly once."""
    with _answering(as_json) as answer:
        from coterie.watch import events

        folder = _find_run(run, runs)
        books = events.audit(events.read(folder / EVENTS))
        told = {
            "folder": str(folder),
            "exact": books.is_exact,
            "samples_lost": books.num_lost,
            "samples_repeated": books.num_repeated,
            "epochs": [asdict(found) for found in books.findings],
        }
        words = [found.sentence for found in books.findings]
        answer(told, words or ["No epoch was finished in this run yet."])
        raise typer.Exit(0 if books.is_exact else 1)


@app.command()
def plan(
    path: JobFile,
    cluster: ClusterFile,
    overrides: Overrides = None,
    measure: Measured = False,
    as_json: AsJson = False,
) -> None:
    """Tell what would be done on a described cluster, how long it takes, what else would bring."""
    with _answering(as_json) as answer:
        from coterie.cluster import load_cluster
        from coterie.config import load_job
        from coterie.coordinator.forecast import sentences
        from coterie.engines import planning

        job, described = load_job(path, overrides or ()), load_cluster(cluster)
        load = planning.measure(job) if measure else None
        told = planning.plan(job, described, load)
        answer(told.as_dict(), list(sentences(told)))


@app.command()
def simulate(
    path: JobFile,
    cluster: ClusterFile,
    overrides: Overrides = None,
    measure: Measured = False,
    kill: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME@SECONDS", help="Kill a machine then; repeatable."),
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="Let machines fail as often as they do.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.001, help="End after so many virtual minutes.")
    ] = None,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> None:
    """Run a job on a described cluster, with real gradients and in virtual time."""
    with _answering(as_json) as answer:
        from coterie.cluster import load_cluster
        from coterie.config import load_job
        from coterie.engines import planning

        limit = [f"until.minutes={minutes}"] if minutes is not None else []
        job, described = load_job(path, [*(overrides or ()), *limit]), load_cluster(cluster)
        load = planning.measure(job) if measure else None
        kills = tuple(map(planning.parse_kill, kill or ()))
        mishaps = planning.Mishaps(kills, 1.0 if failures else 0.0)
        with _showing(_screen(as_json, as_lines)) as show:
            code, figures = planning.simulate(job, described, load, mishaps, runs, show)
        answer(figures, ())  # in words the screen has told it
        _complain(figures)
        raise typer.Exit(code)


def _learn(
    job: Job, runs: Path, origin: Path | None, open_screen: Callable[[], Screen], answer: Answer
) -> None:
    from coterie.engines.launch import launch

    with _showing(open_screen) as show:
        result = launch(job, runs=runs, resume=origin, show=show)
    answer(result.summary, ())  # in words the screen has told it
    _complain(result.summary)
    raise typer.Exit(result.exit_code)


def _complain(figures: Mapping[str, Any]) -> None:
    if "error" in figures:
        print(f"coterie: {figures['error']}", file=sys.stderr)


def _screen(as_json: bool, as_lines: bool) -> Callable[[], Screen]:
    from rich.console import Console

    from coterie.watch.progress import PlainScreen, choose_screen

    if as_json:
        return lambda: PlainScreen(sys.stderr)  # the last line of stdout belongs to the answer
    return lambda: PlainScreen(sys.stdout) if as_lines else choose_screen(Console())


@contextmanager
def _showing(open_screen: Callable[[], Screen]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show events on a screen that opens with the first: a refused job draws no empty frame."""
    with ExitStack() as open_until_then:

        @functools.cache
        def screen() -> Screen:
            return open_until_then.enter_context(closing(open_screen()))

        yield lambda event: screen().show(event)


@contextmanager
def _answering(as_json: bool) -> Iterator[Answer]:
    """How a command answers; whatever Coterie refuses becomes one line and an exit code."""
    try:
        yield _answer_json if as_json else _answer_lines
    except CoterieError as error:
        sentence = " ".join(str(error).split())
        print(f"coterie: {sentence}", file=sys.stderr)
        if as_json:
            _answer_json({"error": sentence}, ())
        raise typer.Exit(REFUSED) from None


def _answer_json(value: Mapping[str, Any], words: Sequence[str]) -> None:
    print(json.dumps(value))


def _answer_lines(value: Mapping[str, Any], words: Sequence[str]) -> None:
    for line in words:
        print(line)


def _newest_run(name: str, runs: Path) -> Path:
    """The folder of the last run of a job: runs are called NAME, NAME-2, NAME-3 and so on."""
    numbered = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = {
        int(match[1] or 0): folder
        for folder in runs.glob(f"{name}*")
        if (match := numbered.fullmatch(folder.name)) and folder.is_dir()
    }
    if not found:
        raise JobError(
            f"expected a run of {name} in {runs} to go on from, found none; "
            "leave out --resume to begin one, or name its folder with --resume-from"
        )
    return found[max(found)]


def _find_run(run: str, runs: Path) -> Path:
    for folder in (Path(run), runs / run):
        if (folder / EVENTS).is_file():
            return folder
    logs = sorted(runs.glob(f"*/{EVENTS}"), key=lambda log: log.stat().st_mtime, reverse=True)
    newest = ", ".join(log.parent.name for log in logs[:NUM_SUGGESTED])
    raise JobError(
        f"expected the folder of a run, or the name of one in {runs}, found {run!r}; "
        + (f"the newest there are {newest}" if newest else "none is there: set --runs")
    )


if __name__ == "__main__":
    main()
