"""Which samples are leased, learned or free: so that each is learned exactly once, whatever dies.

A round that was told committed stays provisional until a later one is committed or a new term
settles on it: the only member that committed it may die before the others have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.leases import (
    Lease,
    Part,
    Span,
    are_owned_apart,
    count,
    cut_block,
    merge,
    take_evenly,
    without,
)


@dataclass(frozen=True)
class Grant:
    """Rounds given out: consecutive numbers from `first_round`, over these positions."""

    first_round: int
    last_round: int
    data_epoch: int
    spans: tuple[Span, ...]
    parts: tuple[Part, ...] = ()  # that they are cut by, where their epoch is laid out in parts


@dataclass(frozen=True)
class Round:
    """One round's leases, by member."""

    data_epoch: int
    leases: Mapping[str, Lease]

    @property
    def num_samples(self) -> int:
        """Samples over all members."""
        return sum(lease.num_samples for lease in self.leases.values())

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the member that walks longest."""
        return max((lease.num_steps for lease in self.leases.values()), default=0)


_COUNTS = ("num_train", "committed", "next_round", "num_steps", "num_samples", "num_epochs")


def _entry(number: int, issued: Round) -> dict[str, Any]:
    leases = {
        m: {"spans": k.spans, "batch": k.batch, "laid": k.laid} for m, k in issued.leases.items()
    }
    return {"round": number, "data_epoch": issued.data_epoch, "leases": leases}


def _round(entry: Mapping[str, Any]) -> tuple[int, Round]:
    leases = {
        m: Lease(_spans(k["spans"]), k["batch"], tuple(k.get("laid", ())))
        for m, k in entry["leases"].items()
    }
    return entry["round"], Round(entry["data_epoch"], leases)


def _spans(spans: Sequence[Sequence[int]]) -> tuple[Span, ...]:
    return tuple((start, stop) for start, stop in spans)


@dataclass
class Ledger:
    """The books of a run's samples.

    >>> ledger = Ledger(num_train=10)
    >>> ledger.grant({"a": 3, "b": 1}, every=1, num_rounds=2).spans
    ((0, 8),)
    >>> ledger.commit(1, ("a",))  # b died: what it held is free again
    >>> ledger.free[0]
    ((3, 4), (8, 10))
    """

    num_train: int
    committed: int = 0  # the newest round told committed
    next_round: int = 1
    num_steps: int = 0  # of committed rounds
    num_samples: int = 0  # of committed rounds
    free: dict[int, tuple[Span, ...]] = field(default_factory=dict)  # of epochs begun
    in_parts: set[int] = field(default_factory=set)  # of those, which are laid out in parts
    issued: dict[int, Round] = field(default_factory=dict)
    provisional: dict[int, Round] = field(default_factory=dict)
    final: list[tuple[int, Round]] = field(default_factory=list)  # not yet logged
    finished: list[int] = field(default_factory=list)  # epochs learned whole, not yet logged
    num_epochs: int = 0  # learned whole
    freed: bool = field(default=False, compare=False)  # since on record, by a round not yet final

    @property
    def idle(self) -> bool:
        """Whether every round given out is committed."""
        return not self.issued

    @property
    def epochs_done(self) -> float:
        """Epochs learned, with the part of those under way; rounds under way do not count."""
        num_train = max(1, self.num_train)  # 0 until an agent has built the task
        begun = sum(1 - count(spans) / num_train for spans in self.free.values())
        under_way = sum(r.num_samples for r in self.issued.values()) / num_train
        return self.num_epochs + begun - under_way

    def grant(
        self,
        shares: Mapping[str, int],
        every: int,
        num_rounds: int,
        last_epoch: float = float("inf"),
        batch: int | None = None,
        parts: tuple[Part, ...] = (),
    ) -> Grant | None:
        """Lease the next rounds of the earliest epoch that has free samples; None if none is left.

        A block never spans two epochs, and its last round may be shorter. An epoch that begins is
        laid out in `parts` where not all have the same owners.
        """
        data_epoch = self.next_epoch
        if data_epoch not in self.free:
            if data_epoch >= last_epoch:
                return None
            self.free[data_epoch] = ((0, self.num_train),)
            if are_owned_apart(parts):
                self.in_parts.add(data_epoch)
        parts = parts if data_epoch in self.in_parts else ()
        num = num_rounds * every * sum(shares.values())
        spans, self.free[data_epoch] = take_evenly(self.free[data_epoch], num, parts)
        rounds = cut_block(spans, shares, every, batch, parts)
        first = self.next_round
        for offset, leases in enumerate(rounds):
            self.issued[first + offset] = Round(data_epoch, leases)
        self.next_round = first + len(rounds)
        return Grant(first, self.next_round - 1, data_epoch, spans, parts)

    @property
    def next_epoch(self) -> int:
        """The earliest data epoch of which samples are free, or else the next to begin."""
        begun = next((e for e in sorted(self.free) if self.free[e]), None)
        return self.num_epochs + len(self.free) if begun is None else begun  # those begun: whole

    def commit(self, number: int, cohort: Collection[str]) -> None:
        """Note that a round counts, with the contributions of `cohort`; a repeated word is idle."""
        if number not in self.issued:
            return
        self._finalise(before=number)
        issued = self.issued.pop(number)
        kept = self._release(issued, cohort)
        self.freed = self.freed or kept.num_samples < issued.num_samples
        self.provisional[number] = kept
        self.committed = max(self.committed, number)
        self.num_steps += kept.num_steps
        self.num_samples += kept.num_samples

    def decline(self, number: int, member: str) -> None:
        """Free what a member has of a round that is not final: it will bring nothing of it.

        >>> ledger = Ledger(num_train=8)
        >>> grant = ledger.grant({"a": 3, "b": 1}, 1, 1)
        >>> ledger.decline(1, "a")
        >>> ledger.issued[1].leases.keys(), ledger.free[0]
        (dict_keys(['b']), ((0, 3), (4, 8)))
        """
        for rounds in (self.issued, self.provisional):
            if (lease := rounds[number].leases.get(member) if number in rounds else None) is None:
                continue
            if rounds is self.provisional:
                self.num_samples -= lease.num_samples
                self.freed = True
            rounds[number] = self._release(rounds[number], rounds[number].leases.keys() - {member})

    def forget(self, members: Collection[str]) -> None:
        """What these members were given and have not brought is free again; the rest stands."""
        for number in sorted(self.issued):
            keep = self.issued[number].leases.keys() - set(members)
            self.issued[number] = self._release(self.issued[number], keep)
            if not keep:
                del self.issued[number]

    def settle(self, number: int, stands: int, members: Collection[str]) -> None:
        """A broken term ended on round `number`: what `members` hold up to `stands` is theirs.

        Everything later is void; a round that only the dead had committed is open again.
        """
        for later in [n for n in self.provisional if n > number]:
            self.issued[later] = self.provisional.pop(later)
            self.num_steps -= self.issued[later].num_steps
            self.num_samples -= self.issued[later].num_samples
        self.committed = number
        self._finalise(before=number + 1)
        for later in sorted(self.issued):
            keep = members if later <= stands else ()
            self.issued[later] = self._release(self.issued[later], keep)
            if not keep:
                del self.issued[later]
        self.next_round = max(self.issued, default=number) + 1

    def close(self) -> None:
        """The run stands still: every committed round is final."""
        self._finalise(before=self.next_round)

    # -- on record --------------------------------------------------------------------------------

    def books(self) -> dict[str, Any]:
        """All that is known, as an event can hold it.

        >>> ledger = Ledger(num_train=4, committed=2)
        >>> Ledger.of(ledger.books()) == ledger
        True
        """
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "free": {str(epoch): spans for epoch, spans in self.free.items()},
            "in_parts": sorted(self.in_parts),
            "issued": [_entry(n, r) for n, r in self.issued.items()],
            "provisional": [_entry(n, r) for n, r in self.provisional.items()],
        }

    @classmethod
    def of(cls, books: Mapping[str, Any]) -> Ledger:
        """The ledger that `books` were written of."""
        return cls(
            **{name: books[name] for name in _COUNTS},
            free={int(epoch): _spans(spans) for epoch, spans in books["free"].items()},
            in_parts=set(books.get("in_parts", ())),
            issued=dict(map(_round, books["issued"])),
            provisional=dict(map(_round, books["provisional"])),
        )

    def replay(self, event: Mapping[str, Any]) -> None:
        """Take in an event that was written after the books: a block, a final round, an epoch."""
        match event["kind"]:
            case "block":
                self._replay_block(event)
            case "committed":
                number = event["last_round"]
                if number in self.issued:
                    self.commit(number, event["leases"])
                self.provisional.pop(number, None)
            case "epoch":
                self.free.pop(event["data_epoch"], None)
                self.in_parts.discard(event["data_epoch"])
                self.num_epochs += 1

    def _replay_block(self, event: Mapping[str, Any]) -> None:
        epoch, spans = event["data_epoch"], _spans(event["spans"])
        free = self.free.get(epoch, ((0, self.num_train),))
        self.free[epoch] = without(free, spans)
        parts = [Part(part["stop"], part["shares"]) for part in event.get("parts", ())]
        self.in_parts |= {epoch} if parts else set()
        rounds = cut_block(spans, event["shares"], event["every"], event["batch"], parts)
        for number, leases in enumerate(rounds, start=event["first_round"]):
            self.issued[number] = Round(epoch, leases)
        self.next_round = event["first_round"] + len(rounds)

    def mend(self) -> None:
        """Finish epochs that were learned whole, and not said to be when the record broke off."""
        for data_epoch in sorted(self.free):
            self._finish_epoch(data_epoch)

    def drain(self) -> tuple[list[tuple[int, Round]], list[int]]:
        """Rounds and epochs that became final since this was last asked."""
        final, finished = self.final, self.finished
        self.final, self.finished = [], []
        return final, finished

    def _release(self, issued: Round, keep: Collection[str]) -> Round:
        """Free what others than `keep` hold of a round."""
        freed = [s for m, lease in issued.leases.items() if m not in keep for s in lease.spans]
        if freed:  # an epoch of which nothing is held may have ended
            self.free[issued.data_epoch] = merge((*self.free[issued.data_epoch], *freed))
        return Round(issued.data_epoch, {m: k for m, k in issued.leases.items() if m in keep})

    def _finalise(self, before: int) -> None:
        for number in sorted(n for n in self.provisional if n < before):
            done = self.provisional.pop(number)
            self.final.append((number, done))
            self._finish_epoch(done.data_epoch)

    def _finish_epoch(self, data_epoch: int) -> None:
        under_way = [*self.issued.values(), *self.provisional.values()]
        if not self.free.get(data_epoch, ((0, 1),)) and not any(
            r.data_epoch == data_epoch and r.num_samples for r in under_way
        ):
            del self.free[data_epoch]
            self.in_parts.discard(data_epoch)
            self.finished.append(data_epoch)
            self.num_epochs += 1
