"""The join key lets in whoever holds it, so it is written, read and shown with care."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq

from coterie.errors import JoinError
from coterie.transport.secure import JoinKey, Keys

KEYS = Keys.make()
GOOD = KEYS.join.text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_survives_its_line_and_its_file(tmp_path: Path) -> None:
    KEYS.join.write(tmp_path / "join.key")
    assert JoinKey.read(tmp_path / "join.key") == KEYS.join
    assert JoinKey.parse(f"  {GOOD}\r\n") == KEYS.join


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        KEYS.join.write(tmp_path / "join.key")
    finally:
        os.umask(before)
    assert mode(tmp_path / "join.key") == 0o600


def test_a_file_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "join.key"
    path.write_text("an older and longer text" * 10)
    path.chmod(0o644)
    KEYS.join.write(path)
    assert mode(path) == 0o600
    assert path.read_text() == GOOD + "\n"


NO_KEYS = {
    "nothing": "",
    "no body": "coterie:",
    "too short": GOOD[:-1],
    "too long": GOOD + "0",
    "another head": GOOD.replace("coterie:", "cluster:"),
    "no head": GOOD.removeprefix("coterie:"),
    "no colon": GOOD.replace(":", " ", 1),
    "two keys": f"{GOOD}\n{GOOD}",
    "not of Z85's alphabet, at the end": GOOD[:-1] + "~",
    "not of Z85's alphabet, at the start": GOOD[:8] + "~" + GOOD[9:],
    "not ASCII": "coterie:" + "é" * 80,
    "more than 32 bits in five digits": "coterie:" + "#" * 80,
}


@pytest.mark.parametrize("text", NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_key_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(JoinError, match=r"copy that file from the coordinator's run folder"):
        JoinKey.parse(text)


def test_a_refusal_does_not_quote_the_key() -> None:
    with pytest.raises(JoinError) as refusal:
        JoinKey.parse(GOOD + "0")
    assert KEYS.join.agent_secret.decode() not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"join\.key, found No such file"):
        JoinKey.read(tmp_path / "join.key")


def test_a_file_of_bytes_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "join.key").write_bytes(b"\xff\xfe\x00" * 30)
    with pytest.raises(JoinError, match="expected a join key"):
        JoinKey.read(tmp_path / "join.key")


def test_no_secret_is_shown() -> None:
    secrets = (KEYS.server_secret.decode(), KEYS.join.agent_secret.decode())
    for shown in (repr(KEYS), str(KEYS), repr(KEYS.join), f"{KEYS.join}"):
        assert not any(secret in shown for secret in secrets)


def test_agents_are_given_no_secret_of_the_coordinator() -> None:
    assert KEYS.server_secret.decode() not in KEYS.join.text()
    assert KEYS.join.agent_secret != KEYS.server_secret


def test_the_halves_of_each_pair_belong_together() -> None:
    assert zmq.curve_public(KEYS.server_secret) == KEYS.server_public == KEYS.join.server_public
    assert KEYS.join.agent_public != KEYS.server_public


def test_every_run_has_keys_of_its_own() -> None:
    other = Keys.make()
    mine = {KEYS.server_secret, KEYS.join.agent_secret}
    assert not mine & {other.server_secret, other.join.agent_secret}
