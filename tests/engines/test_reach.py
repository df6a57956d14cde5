"""What is wrong with a cluster's address or token is one sentence, and comes in seconds."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from coterie.config import Job, parse_job
from coterie.engines import reach
from coterie.engines.reach import Answer, dial, find, judge, surveyed, towards
from coterie.errors import JobError, JoinError

HEAD = "192.0.2.7:6379"


def job(**changes: Any) -> Job:
    task = {"model": "m:net", "train": "m:train", "test": "m:test"}
    words = {"name": "x", "task": task, "optimizer": "m:o", "batch": 8, "until": {"epochs": 1.0}}
    return parse_job({**words, "engine": {"kind": "ray", "address": HEAD}, **changes})


def test_an_address_is_the_one_given_the_environments_or_this_machines(tmp_path: Path) -> None:
    assert find(HEAD, {}) == HEAD
    assert find("auto", {"RAY_ADDRESS": HEAD}) == HEAD
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(HEAD)
    assert find("auto", {"RAY_TMPDIR": str(tmp_path), "RAY_ADDRESS": "auto"}) == HEAD
    assert find("auto", {"TMPDIR": str(tmp_path)}) == HEAD


def test_no_cluster_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="found none; join it with ray start --address"):
        find("auto", {"RAY_TMPDIR": str(tmp_path)})


def test_an_address_where_nobody_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(JoinError, match=r"found nobody there .*refused"):
        dial(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("own", "stranger", "env", "words"),
    [
        ("refused", "refused", {"RAY_AUTH_TOKEN": "x"}, "found another one in RAY_AUTH_TOKEN;"),
        ("refused", "refused", {"RAY_AUTH_TOKEN_PATH": "/no/file"}, "found none in /no/file;"),
        ("refused", "refused", {"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled shows none"),
        ("welcome", "welcome", {}, "found that it lets anybody in"),
        ("silent", "silent", {}, "does not answer as one"),
        ("welcome", "silent", {}, "does not answer as one"),
    ],
)
def test_what_a_head_answers_is_said_in_a_sentence(
    own: Answer, stranger: Answer, env: dict[str, str], words: str
) -> None:
    with pytest.raises(JoinError, match=f"^expected .*{words}.*"):
        judge(HEAD, own, stranger, env)


def test_a_cluster_that_lets_anybody_in_is_used_by_whoever_says_so() -> None:
    judge(HEAD, "welcome", "welcome", {"RAY_AUTH_MODE": "disabled"})


def test_where_a_job_names_an_address_agents_dial_that() -> None:
    assert towards(HEAD, "198.51.100.1:7000") == "198.51.100.1:7000"
    assert towards("127.0.0.1:6379", "127.0.0.1:0") == "127.0.0.1:0"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A cluster as its node table tells of it."""
    rows: list[dict[str, Any]] = [
        {"NodeID": name, "NodeName": name, "Alive": True, "Resources": {"CPU": 2.0}}
        for name in ("a", "b")
    ]
    monkeypatch.setattr(reach, "knock", lambda address: None)
    monkeypatch.setattr(reach, "find_spec", lambda name: object())
    monkeypatch.setattr(reach, "_asked", lambda what, address, timeout_s: json.dumps(rows))
    return rows


@pytest.mark.usefixtures("nodes")
def test_auto_is_an_agent_on_every_node_and_on_those_that_come() -> None:
    found = surveyed(job(listen="198.51.100.1:0"))
    assert (found.agents.local, found.engine.most) == (2, "all")
    assert found.agents.join_timeout_s == job().agents.join_timeout_s


@pytest.mark.usefixtures("nodes")
def test_a_number_is_as_many_and_others_are_waited_for() -> None:
    fewer = surveyed(job(agents=1, listen="198.51.100.1:0"))
    assert (fewer.agents.local, fewer.engine.most) == (1, 1)
    more = surveyed(job(agents=3, listen="198.51.100.1:0"))
    assert (more.agents.local, more.engine.most) == (3, 3)
    assert more.agents.join_timeout_s == reach.GROWING_S


def test_a_cluster_on_which_no_agent_fits_is_refused(nodes: list[dict[str, Any]]) -> None:
    nodes[:] = [{**row, "Resources": {"CPU": 0.0}} for row in nodes]
    with pytest.raises(JobError, match="found none among 2; ask for less"):
        surveyed(job(listen="198.51.100.1:0"))


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"found none installed; pip install 'coterie\[ray\]'"):
        surveyed(job())
