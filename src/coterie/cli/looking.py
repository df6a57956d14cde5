"""Commands that look: at this machine, and at what runs left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from coterie.cli.answers import EVENTS, RUNS, AsJson, RunsFolder, answering, find_run


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
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a run's name.")],
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Tell why a run was decided as it was: each decision, its rivals, what came of it."""
    with answering(as_json) as answer:
        from coterie.coordinator import explain as reasons
        from coterie.watch.events import read

        folder = find_run(run, runs)
        decisions = reasons.explain(read(folder / EVENTS))
        words = reasons.sentences(decisions) or ["No decision was taken in this run yet."]
        answer({"folder": str(folder), "decisions": decisions}, words)


def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a run's name.")],
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


COMMANDS: tuple[Callable[..., None], ...] = (doctor, explain, audit)
