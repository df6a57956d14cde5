"""Commands that decide without machines: plan, simulate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.answers import (
    RUNS,
    AsJson,
    JobFile,
    Overrides,
    RunsFolder,
    answering,
    complain,
    screen,
    showing,
)

ClusterFile = Annotated[Path, typer.Option(metavar="FILE", help="The described cluster.")]
Measured = Annotated[
    bool, typer.Option("--measure", help="Time the job's step here: that of a speed of 1.")
]


def plan(
    path: JobFile,
    cluster: ClusterFile,
    overrides: Overrides = None,
    measure: Measured = False,
    as_json: AsJson = False,
) -> None:
    """Tell what would be done on a described cluster, how long it takes, what else would bring."""
    with answering(as_json) as answer:
        from coterie.cluster import load_cluster
        from coterie.config import load_job
        from coterie.coordinator.forecast import sentences
        from coterie.engines import planning

        job, described = load_job(path, overrides or ()), load_cluster(cluster)
        load = planning.measure(job) if measure else None
        told = planning.plan(job, described, load)
        answer(told.as_dict(), list(sentences(told)))


def simulate(
    path: JobFile,
    cluster: ClusterFile,
    overrides: Overrides = None,
    kill: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME@SECONDS", help="Kill a machine then; repeatable."),
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="Let machines fail as often as they do.")
    ] = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Run a job on a described cluster, with real gradients and in virtual time."""
    with answering(as_json) as answer:
        from coterie.cluster import load_cluster
        from coterie.config import load_job
        from coterie.engines import planning

        job, described = load_job(path, overrides or ()), load_cluster(cluster)
        kills = tuple(map(planning.parse_kill, kill or ()))
        mishaps = planning.Mishaps(kills, 1.0 if failures else 0.0)
        with showing(screen(as_json, as_lines=False)) as show:
            code, figures = planning.simulate(job, described, mishaps, runs, show)
        answer(figures, ())  # in words the screen has told it
        complain(figures)
        raise typer.Exit(code)


COMMANDS: tuple[Callable[..., None], ...] = (plan, simulate)
