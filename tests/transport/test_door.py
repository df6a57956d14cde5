"""A key that is given away opens for its time, and for good to those who came in it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from coterie.errors import JoinError
from coterie.transport.door import ADMITTED, GUEST, Door
from coterie.transport.secure import JoinKey, Keys

KEYS = Keys.make()


def test_without_a_time_there_is_no_other_key(tmp_path: Path) -> None:
    door = Door.open(KEYS.join, tmp_path, None, anew=True)
    assert not list(tmp_path.iterdir())
    assert door.callback("*", KEYS.join.agent_public)
    assert not door.callback("*", Keys.make().join.agent_public)
    assert not door.callback("*", b"")


def test_a_guest_key_is_to_the_same_coordinator_and_its_owner_s_alone(tmp_path: Path) -> None:
    door = Door.open(KEYS.join, tmp_path, 5.0, anew=True)
    guest = JoinKey.read(tmp_path / GUEST)
    assert guest.server_public == KEYS.join.server_public
    assert guest.agent_secret != KEYS.join.agent_secret
    assert door.callback("*", guest.agent_public)
    for name in (GUEST, ADMITTED):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_coordinator_that_takes_over_knows_who_came_in_time(tmp_path: Path) -> None:
    before = Door.open(KEYS.join, tmp_path, 5.0, anew=True)
    assert before.guest is not None
    assert not before.refusal(b"ann", before.guest, before.until_s)
    after = Door.open(KEYS.join, tmp_path, 5.0, anew=False)
    assert after == before
    late_s = after.until_s + 60.0
    assert not after.refusal(b"ann", before.guest, late_s)
    assert not after.refusal(b"bob", KEYS.join.agent_public, late_s)
    assert "good until 1.0 minutes ago" in after.refusal(b"bob", before.guest, late_s)


def test_who_was_let_in_before_must_be_known(tmp_path: Path) -> None:
    Door.open(KEYS.join, tmp_path, 5.0, anew=True)
    (tmp_path / ADMITTED).write_text("yesterday")
    with pytest.raises(JoinError, match="expected who was let in before"):
        Door.open(KEYS.join, tmp_path, 5.0, anew=False)
