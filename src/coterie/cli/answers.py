"""What all commands say alike: their options, how they answer, refuse, and find a run."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from coterie.errors import CoterieError, JobError

if TYPE_CHECKING:
    from coterie.watch.progress import Screen

EVENTS = "events.jsonl"
RUNS = Path("runs")
REFUSED = 2  # the exit code of every CoterieError
NUM_SUGGESTED = 5

Answer = Callable[[Mapping[str, Any], Sequence[str]], None]  # as JSON, and in plain words
RunsFolder = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where runs are kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
AsLines = Annotated[bool, typer.Option("--plain", help="Tell the run line by line.")]

OF_A_RUN = "A run folder, or a run's name."


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of runs for a shell to offer, the newest first."""
    names = [folder.name for folder in runs_in(ctx.params.get("runs") or RUNS)]
    return [name for name in names if name.startswith(incomplete)]


RunName = Annotated[str, typer.Argument(metavar="RUN", help=OF_A_RUN, autocompletion=complete_run)]
JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
ClusterFile = Annotated[Path, typer.Option(metavar="FILE", help="The described cluster.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a.b=value over the job; repeatable."),
]

Placing = Annotated[
    list[str] | None,
    typer.Option(
        *("--set", "--engine"),
        metavar="KEY=VALUE",
        help="Lay a.b=value over the job; --engine ray is --set engine.kind=ray.",
    ),
]
KINDS = ("local", "ray")  # of engines


def laid_over(said: Sequence[str]) -> list[str]:
    """What --set and --engine lay over a job, in order.

    >>> laid_over(["ray", "batch=32"])
    ['engine.kind=ray', 'batch=32']
    """
    for word in said:
        if "=" not in word and word not in KINDS:
            raise JobError(
                f"--set: expected a.b=value, found {word!r}; --engine takes {' or '.join(KINDS)}"
            )
    return [f"engine.kind={word}" if word in KINDS else word for word in said]


def conclude(figures: Mapping[str, Any], exit_code: int, answer: Answer) -> NoReturn:
    """End as a run did: its figures as the answer, and on stderr what ended it before its time."""
    answer(figures, ())  # in words the screen has told it
    if "error" in figures:
        print(f"coterie: {figures['error']}", file=sys.stderr)
    raise typer.Exit(exit_code)


def screen(as_json: bool, as_lines: bool) -> Callable[[], Screen]:
    """What opens the screen on which a run is told."""
    from rich.console import Console

    from coterie.watch.progress import PlainScreen, choose_screen

    if as_json:
        return lambda: PlainScreen(sys.stderr)  # the last line of stdout belongs to the answer
    return lambda: PlainScreen(sys.stdout) if as_lines else choose_screen(Console())


@contextmanager
def showing(open_screen: Callable[[], Screen]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show events on a screen that opens with the first: a refused job draws no empty frame."""
    with ExitStack() as open_until_then:

        @functools.cache
        def screen() -> Screen:
            return open_until_then.enter_context(closing(open_screen()))

        yield lambda event: screen().show(event)


@contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
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


def newest_run(name: str, runs: Path) -> Path:
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


def find_run(run: str, runs: Path) -> Path:
    """The folder of a run that is named, or given as a folder."""
    for folder in (Path(run), runs / run):
        if (folder / EVENTS).is_file():
            return folder
    newest = ", ".join(folder.name for folder in runs_in(runs)[:NUM_SUGGESTED])
    raise JobError(
        f"expected the folder of a run, or the name of one in {runs}, found {run!r}; "
        + (f"the newest there are {newest}" if newest else "none is there: set --runs")
    )


def latest_run(runs: Path) -> Path:
    """The folder of the run that was written to last."""
    found = runs_in(runs)
    if not found:
        raise JobError(f"expected a run in {runs}, found none; name its folder, or set --runs")
    return found[0]


def runs_in(runs: Path) -> list[Path]:
    """The folders of all runs there, the one written to last first."""
    logs = sorted(runs.glob(f"*/{EVENTS}"), key=lambda log: log.stat().st_mtime, reverse=True)
    return [log.parent for log in logs]
