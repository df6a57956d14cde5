"""Commands that write files for people to fill in: init, schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.answers import AsJson, Overrides, answering


class File(StrEnum):
    """A file that people write."""

    JOB = "job"
    CLUSTER = "cluster"


def init(
    path: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to write.")] = Path(
        "job.yaml"
    ),
    task: Annotated[
        str,
        typer.Option(metavar="MODULE", help="Where model, train_set and test_set are."),
    ] = "my_task",
    overrides: Overrides = None,
    schema: Annotated[
        str, typer.Option(metavar="PATH", help="The schema that editors check the file by.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write a commented job file, with every key and its default; asks nothing."""
    with answering(as_json) as answer:
        from coterie.forms import write_job

        job = write_job(path, task, overrides or (), schema)
        answer(
            {"path": str(path), "job": job.model_dump(by_alias=True, mode="json")},
            [f"Wrote {path}. Look through it, then: coterie train {path}"],
        )


def schema(
    file: Annotated[File, typer.Argument(help="Of the job file, or of a described cluster.")] = (
        File.JOB
    ),
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of a file, for editors to complete and check it by."""
    with answering(as_json) as answer:
        from coterie.cluster import Cluster
        from coterie.config import Job
        from coterie.forms import schema

        written = schema(Job if file is File.JOB else Cluster)
        answer(written, [json.dumps(written, indent=2)])


COMMANDS: tuple[Callable[..., None], ...] = (init, schema)
