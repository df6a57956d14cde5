"""Commands that decide without machines: plan, place, simulate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.answers import (
    RUNS,
    AsJson,
    ClusterFile,
    JobFile,
    Overrides,
    RunsFolder,
    answering,
    conclude,
    screen,
    showing,
)

JobFiles = Annotated[list[Path], typer.Argument(metavar="JOB.yaml...", help="The job files.")]
Measured = Annotated[
    bool, typer.Option("--measure", help="Time the job's step here: that of a speed of 1.")
]


def plan(
    paths: JobFiles,
    cluster: ClusterFile,
    overrides: Overrides = None,
    measure: Measured = False,
    as_json: AsJson = False,
) -> None:
    """Tell what would be done on a described cluster, how long it takes, what else would bring.

    Several jobs share out its machines among them, by their priorities.
    """
    with answering(as_json) as answer:
        from coterie.cluster import load_cluster
        from coterie.config import load_job
        from coterie.coordinator import allotment, forecast
        from coterie.engines import planning

        described = load_cluster(cluster)
        jobs = [load_job(path, overrides or ()) for path in paths]
        loads = [planning.measure(job) if measure else None for job in jobs]
        if len(jobs) > 1:
            shared = planning.plan_several(jobs, described, loads)
            answer(shared.as_dict(), list(allotment.sentences(shared)))
        else:
            told = planning.plan(jobs[0], described, loads[0])
            answer(told.as_dict(), list(forecast.sentences(told)))


def place(
    cluster: Annotated[Path, typer.Argument(metavar="CLUSTER.yaml", help="Who asks, who answers.")],
    as_json: AsJson = False,
) -> None:
    """Tell which machines of a described cluster answer which part of the requests to it."""
    with answering(as_json) as answer:
        from coterie.cluster import load_cluster
        from coterie.coordinator import place as placing

        told = placing.place(load_cluster(cluster))
        answer(told.as_dict(), list(placing.sentences(told)))


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
        conclude(figures, code, answer)


COMMANDS: tuple[Callable[..., None], ...] = (plan, place, simulate)
