"""What a placer tells becomes deaths, doubts and events; one that ends is started again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from coterie.engines.placed import AGAIN_S, PLACER, PlacedAgents


class Placer:
    """A placer that has said some lines."""

    def __init__(self, *said: dict[str, Any], code: int | None = None) -> None:
        self.stdout = io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in said))
        self.stdin = io.BytesIO()
        self.code = code

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def agents(tmp_path: Path) -> PlacedAgents:
    (tmp_path / f"{PLACER}.log").write_text("a trace\nthe head is gone\n")
    return PlacedAgents(tmp_path, "192.0.2.7:7000")


def hear(agents: PlacedAgents, *said: dict[str, Any], code: int | None = None) -> list[Any]:
    agents.placer = Placer(*said, code=code)  # type: ignore[assignment]
    return list(agents.reap(now_s=10.0, restart_after_s=1.0))


def test_an_agent_that_ended_is_dead(agents: PlacedAgents) -> None:
    ended = {"word": "ended", "member": "pi", "reason": "killed by signal 9", "num_starts": 2}
    (death,) = hear(agents, ended)
    assert (death.name, death.reason, death.num_starts) == ("pi", "killed by signal 9", 2)


def test_one_that_the_cluster_lost_sight_of_is_in_doubt_until_it_is_placed_again(
    agents: PlacedAgents,
) -> None:
    assert hear(agents, {"word": "doubted", "member": "pi", "reason": "its node died"}) == []
    assert agents.doubts == {"pi": ("its node died", 10.0)}
    hear(agents, {"word": "placed", "member": "pi", "node": "f0", "pid": 7})
    assert agents.doubts == {}
    texts = [fields["text"] for _, fields in agents.told]
    assert texts == ["pi is out of sight: its node died", "pi on node f0"]


def test_lines_that_come_in_parts_are_put_together(agents: PlacedAgents) -> None:
    whole = json.dumps({"word": "warning", "text": "no room"}).encode() + b"\n"
    for part in (whole[:9], whole[9:]):
        agents.placer = Placer()  # type: ignore[assignment]
        agents.placer.stdout = io.BytesIO(part)
        assert list(agents.reap(0.0, 1.0)) == []
    assert agents.told == [("warning", {"text": "no room"})]


def test_a_placer_that_ends_is_started_again_after_a_while(
    agents: PlacedAgents, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(agents, "start", lambda: started.append("placer"), raising=False)
    hear(agents, code=1)
    ((_, fields),) = agents.told
    assert fields["text"].endswith("the head is gone; agents go on meanwhile")
    list(agents.reap(10.0 + AGAIN_S / 2, 1.0))
    assert started == []
    list(agents.reap(10.0 + AGAIN_S, 1.0))
    assert started == ["placer"]


def test_a_cluster_that_could_never_be_used_is_complained_of(agents: PlacedAgents) -> None:
    hear(agents, code=1)
    assert "the head is gone" in agents.complaint


def test_one_that_was_used_before_is_not(agents: PlacedAgents) -> None:
    hear(agents, {"word": "connected", "cluster": "192.0.2.7:6379"}, code=1)
    assert agents.complaint == ""


def test_wishes_are_told_and_one_that_is_gone_is_no_error(agents: PlacedAgents) -> None:
    agents.placer = placer = Placer()  # type: ignore[assignment]
    agents.kill("pi")
    assert placer.stdin.getvalue() == b'{"kill": "pi"}\n'
    agents.placer = None
    agents.kill("pi")
    agents.close()
