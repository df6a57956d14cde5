"""Commands that look: at this machine, and at what runs left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.answers import (
    EVENTS,
    OF_A_RUN,
    RUNS,
    AsJson,
    RunName,
    RunsFolder,
    answering,
    complete_run,
    find_run,
    latest_run,
)
from coterie.errors import JobError

if TYPE_CHECKING:
    from coterie.watch.lessons import Taught


def doctor(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where a run would listen.")
    ] = "127.0.0.1:0",
    as_json: AsJson = False,
) -> None:
    """Tell what this machine offers a run, and what stands in the way."""
    with answering(as_json) as answer:
        from coterie.doctor import examine

        diagnosis = examine(listen)
        answer(diagnosis.as_dict(), diagnosis.lines())
        raise typer.Exit(0 if diagnosis.healthy else 1)


def explain(
    run: RunName,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Tell why a run was decided as it was, and what came of each decision and each lesson."""
    with answering(as_json) as answer:
        from coterie.coordinator import explain as reasons
        from coterie.watch import lessons
        from coterie.watch.events import read

        folder = find_run(run, runs)
        events = read(folder / EVENTS)
        decisions = reasons.explain(events)
        words = [*reasons.sentences(decisions), *lessons.sentences(events)]
        taught = lessons.Taught.of(events)
        known = {"knowledge": taught.as_dict()} if taught.pupils else {}
        answer(
            {"folder": str(folder), "decisions": decisions, **known},
            words or ["No decision was taken in this run yet."],
        )


def graph(
    run: RunName,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="A name that ends in .json, .graphml or .png."),
    ] = None,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Tell who taught whom in a run, or write it as a graph."""
    with answering(as_json) as answer:
        from coterie.watch import lessons
        from coterie.watch.events import read

        folder = find_run(run, runs)
        taught = lessons.Taught.of(read(folder / EVENTS))
        words = [*taught.lines(), *([f"Written to {_written(taught, out)}."] if out else [])]
        answer({"folder": str(folder), **taught.as_dict()}, words)


def _written(taught: Taught, out: Path) -> Path:
    """A picture is drawn by whoever draws graphs; all else is text."""
    if out.suffix != ".png":
        return taught.save(out)
    from coterie.knowledge.graph import Graph

    drawn = {"measure": "lessons taken", "names": list(taught.pupils), **taught.matrices()}
    return Graph.from_json(json.dumps(drawn)).save(out)


def audit(
    run: RunName,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Prove from a run's log that each sample of each finished epoch was learned exactly once."""
    with answering(as_json) as answer:
        from coterie.watch import events

        folder = find_run(run, runs)
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


def top(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help=OF_A_RUN, autocompletion=complete_run),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one frame.")] = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Watch a run, by default the newest: agents, shares, paces, waits, bytes, last events."""
    with answering(as_json) as answer:
        from rich.console import Console

        from coterie.watch import board

        folder, console = find_run(run, runs) if run else latest_run(runs), Console()
        if as_json:
            answer({"folder": str(folder), **board.seen(folder / EVENTS).as_dict()}, ())
        elif once or not console.is_interactive:
            console.print(board.drawn(board.seen(folder / EVENTS), console.width))
        else:
            with suppress(KeyboardInterrupt):  # the way to leave what only looks
                board.LiveBoard(folder / EVENTS).watch(console)


def logs(
    run: RunName,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this agent alone, or the coordinator.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as more is said, until the run ends.")
    ] = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Tell a run's events in words, and what its agents and its coordinator said."""
    with answering(as_json) as answer:
        from coterie.watch import telling

        if follow and as_json:
            raise JobError("expected one of --follow and --json, found both; leave out --follow")
        folder = find_run(run, runs)
        if follow:
            with suppress(KeyboardInterrupt):
                for line in telling.follow(folder, agent):
                    print(line, flush=True)
            return
        told = telling.told(folder, agent)
        answer({"folder": str(folder), **told.as_dict()}, told.lines())


COMMANDS: tuple[Callable[..., None], ...] = (doctor, explain, graph, audit, top, logs)
