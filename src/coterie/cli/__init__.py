"""The commands: thin words over the rooms below, each loaded by the command that needs it.

>>> from typer.testing import CliRunner
>>> CliRunner().invoke(app, ["--version"]).output.split()[0]
'coterie'
"""

from __future__ import annotations

from typing import Annotated

import typer

from coterie import __version__
from coterie.cli import deciding, learning, looking

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


for command in (*learning.COMMANDS, *looking.COMMANDS, *deciding.COMMANDS):
    app.command()(command)
app.command(context_settings=learning.OWN_ARGUMENTS)(learning.run)
app.command(hidden=True)(learning.stand_by)
