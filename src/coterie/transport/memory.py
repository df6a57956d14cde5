"""Collectives inside one process: what the roads must equal, and what a simulation runs on.

Nothing blocks here. A member lays down its call; the last one to arrive completes it for all, and
whoever drives the members hands the results out. Legend: N values of a vector, M members.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One member's part in a collective of a term."""

    term: int
    op: str  # "form" | "total" | "gather" | "pass:<sender>:<receiver>"
    vector_N: Tensor | None = None


@dataclass
class MemoryTransport:
    """Where calls of one process's members meet.

    >>> hub = MemoryTransport()
    >>> hub.enter(1, ("a", "b"))
    >>> hub.offer("a", Call(1, "total", torch.tensor([1.0])))
    >>> hub.offer("b", Call(1, "total", torch.tensor([2.0])))
    {'a': tensor([3.]), 'b': tensor([3.])}
    """

    _members: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _waiting: dict[tuple[int, str], dict[str, Call]] = field(default_factory=dict)

    def enter(self, term: int, members: tuple[str, ...]) -> None:
        """Say who belongs to a term."""
        self._members[term] = members

    def members(self, term: int) -> tuple[str, ...]:
        """Who belongs to a term."""
        return self._members[term]

    def offer(self, member: str, call: Call) -> dict[str, Any] | None:
        """Lay down a member's call; the results by member once all are there, else None."""
        present = self._waiting.setdefault((call.term, call.op), {})
        present[member] = call
        parties = self._parties(call)
        if not all(party in present for party in parties):
            return None
        del self._waiting[(call.term, call.op)]
        return self._complete(call.op, {party: present[party] for party in parties})

    def tear(self, term: int) -> list[str]:
        """Break off whatever waits in a term; who waited."""
        torn = []
        for (number, op), present in list(self._waiting.items()):
            if number == term:
                torn += list(present)
                del self._waiting[(number, op)]
        return torn

    def withdraw(self, member: str) -> None:
        """Take back the call that a member waits on, if any."""
        for present in self._waiting.values():
            present.pop(member, None)

    def _parties(self, call: Call) -> tuple[str, ...]:
        if call.op.startswith("pass:"):
            return tuple(call.op.split(":")[1:])
        return self._members[call.term]

    def _complete(self, op: str, present: dict[str, Call]) -> dict[str, Any]:
        if op == "form":
            return dict.fromkeys(present)
        if op.startswith("pass:"):
            sender, _ = op.split(":")[1:]
            vector_N = present[sender].vector_N
            assert vector_N is not None
            return {member: vector_N.clone() for member in present}
        rows = [call.vector_N for call in present.values() if call.vector_N is not None]
        if op == "total":
            total_N = torch.stack(rows).sum(0)
            return {member: total_N.clone() for member in present}
        return {member: [row.clone() for row in rows] for member in present}
