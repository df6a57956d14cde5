"""The command that waits for other machines: up."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.answers import (
    RUNS,
    AsJson,
    Overrides,
    RunsFolder,
    answering,
    conclude,
    screen,
    showing,
)
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.config import Job

NOBODY = ("192.0.2.1", 9)  # an address that no machine has (RFC 5737)
A_DAY_S = 86_400.0  # for others to come, where the job says no other time


def up(
    path: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")] = Path(
        "job.yaml"
    ),
    overrides: Overrides = None,
    wait: Annotated[
        int, typer.Option(metavar="N", min=1, help="Begin once so many have come from elsewhere.")
    ] = 1,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="By default this machine, on a free port.")
    ] = "",
    ship: Annotated[
        bool, typer.Option("--ship", help="Give the job's code to those who ask for it.")
    ] = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Begin a run that other machines join, now or later, by the line that it prints."""
    with answering(as_json) as answer:
        from coterie.config import load_job
        from coterie.engines.launch import launch

        agents = {"remote": wait, "ship": ship}
        job = _for_others(load_job(path, overrides or ()), agents, listen, str(path))
        out = sys.stderr if as_json else sys.stdout
        with showing(screen(as_json, as_lines=False)) as show:

            def begin(event: Mapping[str, Any]) -> None:
                if event["kind"] == "run":
                    print("\n".join(_invitation(event, job.agents.ship)), file=out, flush=True)
                show(event)

            result = launch(job, runs=runs, resume=None, show=begin)
        conclude(result.summary, result.exit_code, answer)


def _for_others(job: Job, wishes: Mapping[str, int], listen: str, source: str) -> Job:
    """The job with agents from elsewhere, on an address that they reach."""
    from coterie.config import parse_job

    told = job.model_dump(by_alias=True)
    agents = {**told["agents"], **{key: max(told["agents"][key], wishes[key]) for key in wishes}}
    if "join_timeout_s" not in job.agents.model_fields_set:
        agents["join_timeout_s"] = A_DAY_S
    heard_at = listen or _reachable(job.listen)
    return parse_job({**told, "listen": heard_at, "agents": agents}, source)


def _reachable(listen: str) -> str:
    """Where others reach this machine, if the job names no such address itself."""
    host, _, port = listen.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "0.0.0.0"):
        return listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(NOBODY)  # chooses a road, and sends nothing
        except OSError:
            return listen  # there is none: agents of this machine alone can come
        return f"{probe.getsockname()[0]}:{port}"


def _invitation(event: Mapping[str, Any], ships: bool) -> list[str]:
    """What to type on another machine, and what that means."""
    from coterie.transport.secure import JoinKey

    key = Path(event["folder"], "join.key")
    code = " --accept-code" if ships else ""
    try:
        text = shlex.quote(JoinKey.read(key).text())
    except CoterieError:  # the run has ended already
        text = "join.key"
    return [
        "Other machines take part, now or while it runs, by typing",
        f"  coterie join {event['endpoint']} --key {text}{code}",
        "Whoever has that key can take part: treat it as a password.",
    ]


COMMANDS: tuple[Callable[..., None], ...] = (up,)
