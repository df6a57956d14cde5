"""A run that others join by the line it prints: with the same code, or with what it ships."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from coterie.watch.events import audit
from coterie.watch.telling import told

pytestmark = pytest.mark.processes


def test_another_machine_joins_by_the_printed_line_and_runs_no_code_unasked(desk: Any) -> None:
    elsewhere = desk.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "shop.py").write_text("raise SystemExit('a stranger was run')\n")
    job = desk.job(agents={"local": 1}, deterministic=True)
    words = ("--listen", "127.0.0.1:0", "--ship", "--json", "--runs", desk.runs)
    up = desk.start("up", job, *words)
    line = next(line for line in up.stderr if "coterie join" in line)
    _, _, endpoint, _, key, accept = shlex.split(line)
    join = ("join", endpoint, "--key", key, "--root", elsewhere)
    refused = desk.finish(desk.start(*join, "--name", "other"))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert re.search("found other or no shop.py; copy the run's", refused.err)
    guest = desk.start(*join, "--name", "guest", accept)
    finished = desk.finish(up)
    assert finished.code == 0, finished.err
    assert desk.finish(guest).code == 0
    events = desk.events()
    leases = [event["leases"] for event in events if event["kind"] == "committed"]
    assert all(each.keys() == {"agent-0", "guest"} for each in leases)
    assert audit(events).is_exact
    why = [e["reason"] for e in events if e.get("member") == "other" and e["state"] == "lost"]
    assert len(why) == 1
    assert "shop.py" in why[0]
    run = desk.runs / "small"
    assert not [path for path in run.rglob("*.log") if key.encode() in path.read_bytes()]
    assert "agent-0: steps reached" in told(run).lines()
