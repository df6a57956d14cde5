"""A name goes to one process alone: to a spare that takes it, or to a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from coterie.config import Job, Ref, TaskSpec
from coterie.engines import processes
from coterie.engines.processes import LocalAgents, Process

pytestmark = pytest.mark.processes
READS = "import sys; print(sys.stdin.readline().strip(), flush=True)"


@pytest.fixture
def agents(tmp_path: Path) -> LocalAgents:
    parts = {part: Ref(call=f"m:{part}") for part in ("model", "train", "test")}
    job = Job(
        name="x", task=TaskSpec(**parts), optimizer=Ref(call="torch.optim:SGD"), batch=8,
        until={"epochs": 1.0}, agents={"local": 2, "spares": 1},
    )  # fmt: skip
    return LocalAgents(job, tmp_path, "127.0.0.1:1", os.getpid())


@pytest.fixture
def spare() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", READS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as spare:
        yield spare
        spare.kill()


def refuse(process: psutil.Process, level: int | None = None) -> int:
    if level is None:
        return 0
    raise psutil.AccessDenied(process.pid, msg="only root may raise a priority")


def test_a_spare_that_took_a_name_keeps_it_where_priorities_may_not_be_raised(
    agents: LocalAgents, spare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil.Process, "nice", refuse)
    agents.spares = [spare]
    assert agents._take_over(Process("agent-0", spare, None)) is spare
    assert spare.stdout.read() == b'["agent-0", 1.0]\n'


def test_a_spare_that_is_gone_is_passed_over(agents: LocalAgents, spare: Any) -> None:
    spare.kill()
    spare.wait()
    agents.spares = [spare]
    assert agents._take_over(Process("agent-0", spare, None)) is None


@pytest.mark.parametrize("may", [True, False])
def test_a_spare_is_put_last_only_where_it_can_be_raised_again(
    agents: LocalAgents, spare: Any, monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(processes, "may_hurry", lambda: may)
    monkeypatch.setattr(psutil.Process, "nice", lambda p, level: told.append((p.pid, level)))
    monkeypatch.setattr(agents, "_begin", lambda *_: spare)
    agents.keep_spares()
    assert told == ([(spare.pid, processes.LAST)] if may else [])
