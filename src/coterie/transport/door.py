"""Who may come in by the control channel: holders of the run's own key, and guests in their time.

A guest's key is let through for good, for those who came in time dial in again where a line
broke. What tells them apart is the identity of their process, which nobody else knows.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from coterie.errors import JoinError
from coterie.transport.secure import JoinKey, write_secret

OWN, GUEST, ADMITTED = "join.key", "guest.key", "guests"  # files of a run


@dataclass
class Door:
    """Lets in the holders of `own` keys, and those of a guest's key who first come until `until_s`.

    With a file, who was admitted is known to a coordinator that takes this one's place.

    >>> door = Door(frozenset({b"own"}), guest=b"guest", until_s=100.0)
    >>> door.refusal(b"ann", b"guest", now_s=99.0), door.refusal(b"ann", b"guest", now_s=101.0)
    ('', '')
    >>> door.refusal(b"bob", b"own", now_s=101.0)
    ''
    >>> door.refusal(b"bob", b"guest", now_s=190.0).partition(";")[0]
    'expected a key that still opens this run, found one that was good until 1.5 minutes ago'
    """

    own: frozenset[bytes]
    guest: bytes | None = None  # where there is none, the own key is given away
    until_s: float = (
        math.inf
    )  # of the clock that all processes of a machine share, since it started
    file: Path | None = None
    admitted: set[bytes] = field(default_factory=set)

    def callback(self, domain: str, key: bytes) -> bool:
        """Asked by pyzmq's authenticator with the raw public key, in Z85."""
        return key in self.own or (self.guest is not None and key == self.guest)

    def refusal(self, identity: bytes, key: bytes, now_s: float) -> str:
        """Why whoever speaks by this key is not heard; empty if it is."""
        if self.guest is None or key != self.guest or identity in self.admitted:
            return ""
        if now_s > self.until_s:
            return (
                "expected a key that still opens this run, found one that was good until "
                f"{(now_s - self.until_s) / 60:.1f} minutes ago; ask for a new one where the run "
                "was begun"
            )
        self.admitted.add(identity)
        self._write()
        return ""

    def _write(self) -> None:
        if self.file is not None:
            lines = [repr(self.until_s), *(each.hex() for each in sorted(self.admitted))]
            write_secret(self.file, "\n".join(lines))

    @classmethod
    def open(cls, own: JoinKey, run: Path, minutes: float | None, anew: bool) -> Door:
        """The door of a run, with a fresh key for guests if it is to be good for some minutes."""
        if minutes is None:
            return cls(frozenset({own.agent_public}))
        if anew:
            guest = JoinKey.beside(own)
            guest.write(run / GUEST)
            door = cls(frozenset({own.agent_public}), guest.agent_public)
            door.until_s, door.file = time.monotonic() + 60 * minutes, run / ADMITTED
            door._write()
            return door
        guest = JoinKey.read(run / GUEST)
        try:
            until, *known = (run / ADMITTED).read_text().split()
            admitted = {bytes.fromhex(each) for each in known}
            keys = frozenset({own.agent_public}), guest.agent_public
            return cls(*keys, float(until), run / ADMITTED, admitted)
        except (OSError, ValueError) as error:
            raise JoinError(
                f"expected who was let in before in {run / ADMITTED}, found {error}; go on from a "
                "checkpoint with --resume"
            ) from error
