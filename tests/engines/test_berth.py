"""An agent outlives whoever watches it, and is found again rather than started twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from coterie.engines import berth as berths
from coterie.engines.berth import Berth, Order, environment
from coterie.engines.processes import UNSEEN
from coterie.errors import JoinError
from coterie.parent import is_alive
from coterie.transport.secure import Keys

pytestmark = pytest.mark.processes
PATIENCE_S = 30.0


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Order]]:
    monkeypatch.setattr(berths.tempfile, "gettempdir", lambda: str(tmp_path))
    words: list[str] = []
    monkeypatch.setattr(Order, "words", lambda self, key: words)
    key = Keys.make().join.text()

    def make(*command: str) -> Order:
        words[:] = command
        return Order("run", "pi", "192.0.2.7:7000", key)

    yield make
    Berth(make("true")).end()


def watched(berth: Berth) -> tuple[threading.Thread, list[Any]]:
    """Watch in a thread, until the agent is told to be there."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(berth.watch()), daemon=True)
    thread.start()
    return thread, found


def at_work(berth: Berth) -> int:
    """The agent's process, once there is one."""
    ready = threading.Event()
    while not berth.pid():
        ready.wait(0.01)
    return berth.pid()


def test_how_an_agent_ended_is_told_with_its_last_words(order: Callable[..., Order]) -> None:
    berth = Berth(order("sh", "-c", "echo first; echo last >&2; exit 3"))
    assert berth.watch() == (3, "last")


def test_one_that_was_killed_is_told_by_its_signal(order: Callable[..., Order]) -> None:
    berth = Berth(order("sleep", "60"))
    thread, found = watched(berth)
    os.kill(at_work(berth), signal.SIGKILL)
    thread.join(PATIENCE_S)
    assert found[0][0] == -signal.SIGKILL


def test_one_that_outlives_its_watch_is_taken_over_and_ended_with_the_run(
    order: Callable[..., Order],
) -> None:
    first, second = Berth(order("sleep", "60")), Berth(order("sleep", "60"))
    (one, told), pid = watched(first), at_work(first)
    psutil.Process(pid).parent().kill()  # as Ray does with the children of a worker
    (other, told_too), again = watched(second), at_work(second)
    assert again == pid
    second.end()
    for thread in (one, other):
        thread.join(PATIENCE_S)
    assert [code for code, _ in (*told, *told_too)] == [UNSEEN, UNSEEN]
    assert not is_alive(pid)


def test_an_agent_is_killed_only_if_it_is_the_one_that_is_meant(
    order: Callable[..., Order],
) -> None:
    berth = Berth(order("sleep", "60"))
    (thread, found), pid = watched(berth), at_work(berth)
    berth.kill(pid + 1)
    assert psutil.Process(pid).is_running()
    berth.kill(pid)
    thread.join(PATIENCE_S)
    assert found[0][0] == -signal.SIGKILL


def test_a_file_of_an_agent_that_is_gone_names_nobody(
    order: Callable[..., Order], tmp_path: Path
) -> None:
    folder = tmp_path / f"coterie-{os.getuid()}" / "run" / "pi"
    folder.mkdir(parents=True)
    (folder / "agent.pid").write_text(f"{os.getpid()} 1.5")  # another process has that number now
    assert Berth(order("sh", "-c", "exit 0")).watch() == (0, "")


def test_a_key_is_nobody_elses_and_does_not_stay(
    order: Callable[..., Order], tmp_path: Path
) -> None:
    berth = Berth(order("sleep", "60"))
    (thread, _), pid = watched(berth), at_work(berth)
    (key,) = tmp_path.rglob("join.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    os.kill(pid, signal.SIGKILL)
    thread.join(PATIENCE_S)
    assert not key.exists()


def test_a_folder_that_somebody_else_made_is_refused(
    order: Callable[..., Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    berth = Berth(order("true"))
    monkeypatch.setattr(berths.os, "getuid", lambda: os.stat("/").st_uid + 1)
    with pytest.raises(JoinError, match="to belong to the user that Ray runs as"):
        berth.watch()


def test_an_agent_finds_nothing_set_of_the_worker_that_started_it() -> None:
    given = {"RAY_RAYLET_PID": "1", "RAY_AUTH_TOKEN_PATH": "/t", "OMP_NUM_THREADS": "1", "A": "b"}
    found = environment(given, "192.0.2.7:6379")
    assert found.keys() & given.keys() == {"RAY_AUTH_TOKEN_PATH", "A"}
    assert found["RAY_ADDRESS"] == "192.0.2.7:6379"
    assert "RAY_ADDRESS" not in environment(given, "")
