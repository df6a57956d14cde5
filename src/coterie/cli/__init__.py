"""The commands: thin words over the rooms below, each loaded by the command that needs it.

>>> from typer.testing import CliRunner
>>> CliRunner().invoke(app, ["--version"]).output.split()[0]
'coterie'
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from coterie import __version__
from coterie.cli import deciding, gathering, learning, looking, scripts, writing

# Tracebacks stay Python's own: they show faults of ours, and no values of the user's.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A pipe of Windows may lack some letters; what an agent says is read while it lives.
            stream.reconfigure(errors="replace", line_buffering=True)
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


ROOMS = (writing, learning, gathering, looking, deciding)
for command in (command for room in ROOMS for command in room.COMMANDS):
    app.command()(command)
app.command(context_settings=scripts.OWN_ARGUMENTS)(scripts.run)
app.command(hidden=True)(learning.stand_by)
