"""Machines join by the line that `coterie up` prints, at any time, from hosts of their own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed import hosts as beds
from benchmarks.testbed.hosts import Host
from benchmarks.testbed.links import why_unshaped
from coterie.watch.events import audit

WHY = why_unshaped()
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(WHY), reason=f"no links can be laid here: {WHY}"),
]
SOURCES = Path(__file__).parents[2] / "src"
EARLY, LATE = "ann", "bob"


def test_hosts_join_by_the_star_road_before_and_while_a_run_goes_on(desk: Any) -> None:
    words = {"until": {"minutes": 20}, "strategy": "parameter-server()", "deterministic": True}
    job = desk.job(agents={"local": 1}, **words)  # nobody is left out
    with beds.testbed([Host(EARLY), Host(LATE)]) as bed:
        listen = ("--listen", f"{bed.address}:7700", "--ship")
        up = desk.start("up", job, *listen, "--json", "--runs", desk.runs)
        line = shlex.split(next(line for line in up.stderr if "coterie join" in line))
        env = {"PYTHONPATH": str(SOURCES)}

        def join(host: str) -> None:
            command = [sys.executable, "-m", "coterie.cli", *line[1:], "--name", host]
            log = (desk.folder / f"{host}.txt").open("w")
            bed.run(host, command, env, stdout=log, stderr=subprocess.STDOUT)

        join(EARLY)
        first = desk.await_event(lambda e: e["kind"] == "committed")
        join(LATE)
        healed = desk.await_event(
            lambda e: e["kind"] == "agent" and (e["member"], e["state"]) == (LATE, "healed")
        )
        desk.await_event(lambda e: e["seq"] > healed["seq"] and LATE in e.get("leases", ()))
        up.terminate()
        assert desk.finish(up).code == 130
    assert first["seq"] < healed["seq"]
    server = next(event for event in desk.events() if event["kind"] == "server")
    assert server["state"] == "joined"
    assert audit(desk.events()).is_exact
