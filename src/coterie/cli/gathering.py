"""The command that waits for other machines: up."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from coterie.cli.spreading import spread
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.config import Job

NOBODY = ("192.0.2.1", 9)  # an address that no machine has (RFC 5737)
A_DAY_S = 86_400.0  # for others to come, where the job says no other time


@dataclass(frozen=True)
class Opened:
    """How a run is open to others."""

    wait: Annotated[
        int, typer.Option(metavar="N", min=1, help="Begin once so many have come from elsewhere.")
    ] = 1
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="By default this machine, on a free port.")
    ] = ""
    ship: Annotated[
        bool, typer.Option("--ship", help="Give the job's code to those who ask for it.")
    ] = False
    key_minutes: Annotated[
        float | None, typer.Option(metavar="N", help="For how long others may come.")
    ] = None

    def wishes(self, agents: Mapping[str, Any]) -> dict[str, Any]:
        """The job's agents, as open as the job or these options ask."""
        minutes = {} if self.key_minutes is None else {"key_minutes": self.key_minutes}
        remote, ship = max(agents["remote"], self.wait), agents["ship"] or self.ship
        return {**agents, "remote": remote, "ship": ship, **minutes}


@spread(Opened)
def up(
    path: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")] = Path(
        "job.yaml"
    ),
    overrides: Overrides = None,
    asked: Opened = Opened(),
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Begin a run that other machines join, now or later, by the line that it prints."""
    with answering(as_json) as answer:
        from coterie.config import load_job
        from coterie.engines.launch import launch

        job = _for_others(load_job(path, overrides or ()), asked, str(path))
        out = sys.stderr if as_json else sys.stdout
        with showing(screen(as_json, as_lines=False)) as show:

            def begin(event: Mapping[str, Any]) -> None:
                if event["kind"] == "run":
                    print("\n".join(_invitation(event, job)), file=out, flush=True)
                show(event)

            result = launch(job, runs=runs, resume=None, show=begin)
        conclude(result.summary, result.exit_code, answer)


def _for_others(job: Job, asked: Opened, source: str) -> Job:
    """The job with agents from elsewhere, on an address that they reach."""
    from coterie.config import parse_job

    told = job.model_dump(by_alias=True)
    agents = asked.wishes(told["agents"])
    if "join_timeout_s" not in job.agents.model_fields_set:
        agents["join_timeout_s"] = A_DAY_S
    heard_at = asked.listen or _reachable(job.listen)
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


def _invitation(event: Mapping[str, Any], job: Job) -> list[str]:
    """What to type on another machine, and what that means."""
    from coterie.transport.door import GUEST, OWN
    from coterie.transport.secure import JoinKey

    folder, minutes = Path(event["folder"]), job.agents.key_minutes
    key = folder / (OWN if minutes is None else GUEST)
    code = " --accept-code" if job.agents.ship else ""
    try:
        text = shlex.quote(JoinKey.read(key).text())
    except CoterieError:  # the run has ended already
        text = key.name
    until = "" if minutes is None else f" within {minutes:g} minutes, and whoever did may stay"
    return [
        "Other machines take part, now or while it runs, by typing",
        f"  coterie join {event['endpoint']} --key {text}{code}",
        f"Whoever has that key can take part{until}: treat it as a password.",
    ]


COMMANDS: tuple[Callable[..., None], ...] = (up,)
