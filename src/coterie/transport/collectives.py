"""Collectives of a term by mail, whatever carries the mail.

No torch at run time: the coordinator loads this. Legend: N values of a vector.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coterie.errors import Torn, TrainingError
from coterie.transport.control import Inbox
from coterie.transport.mail import TIMEOUT_S, Mailbox, term_channel

if TYPE_CHECKING:
    from torch import Tensor, dtype


class Collectives(Mailbox):
    """The collectives of a term by mail: members call the same ones in the same order.

    Mail between two members is numbered within the term, so that one may run ahead of the other.
    Vectors travel as their bytes; answers have the dtype and the device of what was given.
    """

    def __init__(self, me: str, inbox: Inbox) -> None:
        super().__init__(me, inbox)
        self._term = 0
        self._members: tuple[str, ...] = ()
        self._posted: Counter[str] = Counter()  # in this term, to each member
        self._taken: Counter[str] = Counter()

    def form(self, number: int, members: tuple[str, ...], timeout_s: float = TIMEOUT_S) -> None:
        """Meet the members of a term, later than any before; raises Torn if one does not come."""
        self._members = ()
        self._forget_terms_before(number)
        self._term, self._posted, self._taken = number, Counter(), Counter()
        roll = "\n".join(members).encode()
        others = [member for member in members if member != self.me]
        for member in others:
            self._give(member, roll)
        until_s = time.monotonic() + timeout_s
        for member in others:
            if self._take(member, max(0.0, until_s - time.monotonic())) != roll:
                raise Torn(f"{member} has other members in term {number}")
        self._members = members

    def total(self, vector_N: Tensor, among: tuple[str, ...] = ()) -> Tensor:
        """The sum of the members' vectors, in their order: bitwise the same on all.

        Every member sends its vector to every other: for small vectors only.
        """
        first_N, *rows = self.gather(vector_N, among)
        for row_N in rows:
            first_N += row_N
        return first_N

    def gather(self, vector_N: Tensor, among: tuple[str, ...] = ()) -> list[Tensor]:
        """The members' vectors, in the order of the term; all of one length and dtype."""
        members = [member for member in self._alive() if not among or member in among]
        data = _bytes_of(vector_N)
        for member in members:
            self._give(member, data)
        return [self._vector(member, vector_N) for member in members]

    def shuffle(self, parts: Sequence[Tensor], among: tuple[str, ...] = ()) -> list[Tensor]:
        """Give part j to the j-th member; what was meant for me, in the members' order."""
        members = tuple(m for m in self._alive() if not among or m in among)
        for member, part_N in zip(members, parts, strict=True):
            self._give(member, _bytes_of(part_N))
        mine_N = parts[members.index(self.me)]
        return [self._vector(member, mine_N) for member in members]

    def swap(self, to: str, origin: str, vector_N: Tensor) -> Tensor:
        """Send a vector to one member and receive one of the same length from another."""
        self.send(to, vector_N)
        return self._vector(origin, vector_N)

    def send(self, peer: str, vector_N: Tensor) -> None:
        """Send a vector to one member; returns before it arrives."""
        self._alive()
        self._give(peer, _bytes_of(vector_N))

    def receive(self, peer: str, into_N: Tensor) -> Tensor:
        """Receive a vector of known length from one member, in place."""
        self._alive()
        into_N.copy_(self._vector(peer, into_N))
        return into_N

    def _alive(self) -> tuple[str, ...]:
        if not self._members:
            raise Torn("there is no group")
        return self._members

    def _give(self, member: str, data: bytes) -> None:
        self.post(member, term_channel(self._term, self._posted[member]), data)
        self._posted[member] += 1

    def _take(self, member: str, timeout_s: float = TIMEOUT_S) -> bytes:
        channel = term_channel(self._term, self._taken[member])
        _, data = self.fetch(channel, member, timeout_s)
        self._taken[member] += 1
        return data

    def _vector(self, member: str, like_N: Tensor) -> Tensor:
        data = self._take(member)
        row_N = like_N.detach().new_empty(like_N.shape, device="cpu")
        view = memoryview(row_N.view(_uint8(row_N)).numpy())  # type: ignore[arg-type]
        if len(data) != len(view):
            raise TrainingError(
                f"expected {len(view)} bytes from {member}, found {len(data)}; "
                "start all members with the same job and version"
            )
        view[:] = data
        return row_N.to(like_N.device)


def _bytes_of(vector_N: Tensor) -> bytes:
    flat_N = vector_N.detach().contiguous().cpu()
    return bytes(flat_N.view(_uint8(flat_N)).numpy().tobytes())


def _uint8(vector_N: Tensor) -> dtype:
    return vector_N[:0].byte().dtype  # the coordinator loads this module without torch
