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
    op: str  # "form" | "total" | "gather" | "shuffle" | "swap" | "pass:<sender>:<receiver>"
    vector_N: Tensor | None = None
    among: tuple[str, ...] = ()  # whom it concerns; everybody, where nobody is named
    parts: tuple[Tensor, ...] = ()  # of a shuffle, one for each
    to: str = ""  # of a swap
    origin: str = ""


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
    _waiting: dict[tuple[int, str, tuple[str, ...]], dict[str, Call]] = field(default_factory=dict)

    def enter(self, term: int, members: tuple[str, ...]) -> None:
        """Say who belongs to a term."""
        self._members[term] = members

    def members(self, term: int) -> tuple[str, ...]:
        """Who belongs to a term."""
        return self._members[term]

    def offer(self, member: str, call: Call) -> dict[str, Any] | None:
        """Lay down a member's call; the results by member once all are there, else None."""
        parties = self._parties(call)
        key = (call.term, call.op, parties)
        present = self._waiting.setdefault(key, {})
        present[member] = call
        if not all(party in present for party in parties):
            return None
        del self._waiting[key]
        return _complete(call.op, {party: present[party] for party in parties})

    def withdraw(self, member: str) -> None:
        """Take back the call that a member waits on, if any."""
        for present in self._waiting.values():
            present.pop(member, None)

    def _parties(self, call: Call) -> tuple[str, ...]:
        if call.op.startswith("pass:"):
            return tuple(call.op.split(":")[1:])
        members = self._members[call.term]
        return tuple(m for m in members if m in call.among) if call.among else members


def _complete(op: str, present: dict[str, Call]) -> dict[str, Any]:
    if op == "form":
        return dict.fromkeys(present)
    if op.startswith("pass:"):
        sender, _ = op.split(":")[1:]
        vector_N = present[sender].vector_N
        assert vector_N is not None
        return {member: vector_N.clone() for member in present}
    if op == "shuffle":
        rows_MM = [call.parts for call in present.values()]
        return {m: [row[j].clone() for row in rows_MM] for j, m in enumerate(present)}
    vectors = {m: call.vector_N for m, call in present.items() if call.vector_N is not None}
    if op == "swap":
        return {m: vectors[call.origin].clone() for m, call in present.items()}
    rows = list(vectors.values())
    if op == "total":
        total_N = torch.stack(rows).sum(0)
        return {member: total_N.clone() for member in present}
    rows_MN = torch.stack(rows)
    return {member: list(rows_MN.clone().unbind()) for member in present}
