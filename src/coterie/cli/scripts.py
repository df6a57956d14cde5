"""The command for scripts with a training loop of their own: run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.answers import RUNS, AsJson, Placing, RunsFolder, answering, laid_over, screen
from coterie.cli.learning import Resume, ResumeFrom, learn, origin_of
from coterie.cli.spreading import spread
from coterie.errors import JobError

OWN_ARGUMENTS = {"allow_interspersed_args": False, "ignore_unknown_options": True}  # of the script


@dataclass(frozen=True)
class Asked:
    """What is asked of a run of a script, each by an option."""

    agents: Annotated[int | None, typer.Option(help="Started here; by default one a GPU.")] = None
    strategy: Annotated[str, typer.Option(help="A recipe or a sentence.")] = "auto"
    name: Annotated[str | None, typer.Option(help="Of the run; by default the script's.")] = None
    resume: Resume = False
    resume_from: ResumeFrom = None
    alone: Annotated[
        bool, typer.Option("--alone", help="As Python itself would run it, without a run.")
    ] = False
    overrides: Placing = None

    def refuse_company(self) -> None:
        """Raise JobError where something is asked that a script alone cannot have."""
        wishes = (f"--{f.name}" for f in fields(self) if getattr(self, f.name) != f.default)
        given = [wish.replace("_", "-").replace("overrides", "set") for wish in wishes]
        if given != ["--alone"] and not (
            set(given) == {"--alone", "--agents"} and self.agents == 1
        ):
            raise JobError(
                "expected --alone without what only a run of agents has, found "
                f"{', '.join(wish for wish in given if wish != '--alone')}; leave out one or other"
            )


@spread(Asked)
def run(
    words: Annotated[
        list[str], typer.Argument(metavar="SCRIPT.py [ARGS]", help="It calls coterie.join().")
    ],
    asked: Asked,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Run a script with a training loop of its own on every agent."""
    with answering(as_json) as answer:
        from coterie.engines.launch import script_job

        given = {"name": asked.name, "strategy": asked.strategy, "agents": asked.agents}
        job = script_job(Path(words[0]), words[1:], given, laid_over(asked.overrides or ()))
        if asked.alone:
            asked.refuse_company()
            raise typer.Exit(as_python(words))
        origin = origin_of(job.name, runs, asked.resume, asked.resume_from)
        learn(job, runs, origin, screen(as_json, as_lines=False), answer)


def as_python(words: Sequence[str]) -> int:
    """Run a script as Python itself would; its exit code, where this process does not become it."""
    command = [sys.executable, *words]
    if os.name == "posix":
        os.execv(command[0], command)
    return subprocess.call(command)
