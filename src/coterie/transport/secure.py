"""Keys of the control channel: made at start, one pair for the coordinator, one for its agents.

CURVE (Bernstein 2011, as in ZeroMQ's RFC 26) encrypts and authenticates both ways. The join key is
all that an agent needs: the coordinator's public key and the agents' secret key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from coterie.errors import JoinError

_LENGTH = 40  # a CURVE key in Z85


@dataclass(frozen=True)
class JoinKey:
    """What an agent shows and trusts: keep it as secret as a password.

    >>> JoinKey.parse(Keys.make().join.text()).text()[:8]
    'coterie:'
    """

    server_public: bytes
    agent_secret: bytes = field(repr=False)

    @property
    def agent_public(self) -> bytes:
        """The public half that the coordinator lets in."""
        return zmq.curve_public(self.agent_secret)

    @classmethod
    def beside(cls, other: JoinKey) -> JoinKey:
        """A fresh key to the same coordinator."""
        _, agent_secret = zmq.curve_keypair()
        return cls(other.server_public, agent_secret)

    def text(self) -> str:
        """The key as one line."""
        return f"coterie:{(self.server_public + self.agent_secret).decode()}"

    @classmethod
    def parse(cls, text: str) -> JoinKey:
        """Read a key's line; raises JoinError if it is not one."""
        head, _, body = text.strip().partition(":")
        server_public, agent_secret = body[:_LENGTH].encode(), body[_LENGTH:].encode()
        if head != "coterie" or not (_is_key(server_public) and _is_key(agent_secret)):
            raise JoinError(
                "expected a join key (the one line of the run's join.key file), found something "
                "else; copy that file from the coordinator's run folder"
            )
        return cls(server_public, agent_secret)

    def write(self, path: Path) -> None:
        """Write the key so that only its owner can read it."""
        write_secret(path, self.text())

    @classmethod
    def read(cls, path: Path) -> JoinKey:
        """Read a key file; raises JoinError if it is missing or no key."""
        try:
            return cls.parse(path.read_text(errors="replace"))
        except OSError as error:
            raise JoinError(
                f"expected a join key in {path}, found {error.strerror}; "
                "copy join.key from the coordinator's run folder"
            ) from error


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)  # a file that was there would keep its mode when opened
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == _LENGTH and bool(zmq.curve_public(text))
    except zmq.ZMQError:  # not Z85
        return False


@dataclass(frozen=True)
class Keys:
    """The coordinator's keys for one start of a run."""

    server_public: bytes
    server_secret: bytes = field(repr=False)
    join: JoinKey = field(repr=False)

    @classmethod
    def make(cls) -> Keys:
        """Fresh keys from the system's randomness."""
        server_public, server_secret = zmq.curve_keypair()
        _, agent_secret = zmq.curve_keypair()
        return cls(server_public, server_secret, JoinKey(server_public, agent_secret))

    def write(self, path: Path) -> None:
        """Write the coordinator's own half, for one that takes its place should it die.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keys, path = Keys.make(), Path(folder, "coordinator.key")
        ...     keys.write(path)
        ...     Keys.read(path, keys.join) == keys
        True
        """
        write_secret(path, self.server_secret.decode())

    @classmethod
    def read(cls, path: Path, join: JoinKey) -> Keys:
        """The keys of the coordinator before; raises JoinError if they are not there."""
        try:
            secret = path.read_text().strip().encode()
        except OSError as error:
            raise JoinError(
                f"expected the keys of the coordinator before in {path}, found {error.strerror}; "
                "go on from a checkpoint with --resume"
            ) from error
        if not _is_key(secret) or zmq.curve_public(secret) != join.server_public:
            raise JoinError(
                f"expected the key that belongs to join.key in {path}, found another; "
                "go on from a checkpoint with --resume"
            )
        return cls(join.server_public, secret, join)
