"""What a choice is compared with: its neighbours, and the best of each other kind."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Sequence
from dataclasses import dataclass

from coterie.coordinator.prices import Sentence
from coterie.world import Option

MOST_REJECTED = 16
MOST_REFUSED = 4


@dataclass(frozen=True)
class Weighed:
    """A sentence on some members, with what it is predicted to bring."""

    sentence: Sentence
    option: Option

    @property
    def kind(self) -> str:
        """What sets it apart from others whatever the length of its walk."""
        return self.sentence.kind

    @property
    def every(self) -> int:
        """Steps between two meetings."""
        return self.sentence.every

    @property
    def walks(self) -> bool:
        """Whether members walk between meetings."""
        return self.sentence.strategy.walks

    @property
    def members(self) -> KeysView[str]:
        """Who meets."""
        return self.option.shares.keys()

    @property
    def num_members(self) -> int:
        """How many meet."""
        return len(self.option.shares)


def best(weighed: Sequence[Weighed]) -> Weighed:
    """The highest goodput; among equals the first, which is the simpler sentence."""
    return max(weighed, key=lambda each: each.option.goodput_per_s)


def soonest(weighed: Sequence[Weighed]) -> Weighed:
    """The most samples a second that are not torn: who asks for a sentence takes its progress."""
    return max(weighed, key=lambda each: each.option.throughput_per_s * each.option.survival)


def rejected(
    weighed: Sequence[Weighed], able: Sequence[Weighed], chosen: Weighed
) -> tuple[Option, ...]:
    """What a reader would ask about: the next walks, other members, other kinds; then refused."""
    others = _one_of_each_kind(each for each in able if each.kind != chosen.kind)
    refused = _one_of_each_kind(each for each in weighed if each.option.refused)[:MOST_REFUSED]
    asked_about = (each.option for each in (*_neighbours(able, chosen), *others))
    unique = {(option.strategy, tuple(option.shares)): option for option in asked_about}
    unique.pop((chosen.option.strategy, tuple(chosen.option.shares)), None)
    kept = list(unique.values())[: MOST_REJECTED - len(refused)]
    by_goodput = sorted(kept, key=lambda option: -option.goodput_per_s)
    return (*by_goodput, *(each.option for each in refused))


def _one_of_each_kind(weighed: Iterable[Weighed]) -> list[Weighed]:
    found: dict[str, Weighed] = {}
    for each in sorted(weighed, key=lambda each: -each.option.goodput_per_s):
        found.setdefault(each.kind, each)
    return list(found.values())


def _neighbours(able: Sequence[Weighed], chosen: Weighed) -> list[Weighed]:
    """Plain gradients of the same members, the next walks, the best alone, the best with more."""
    found = (
        every_step(able, chosen),
        _shorter(able, chosen),
        longer(able, chosen),
        alone(able),
        with_more(able, chosen),
    )
    return [each for each in found if each is not None]


def every_step(able: Sequence[Weighed], chosen: Weighed) -> Weighed | None:
    """What the same members would come to if they averaged every gradient as it is."""
    plain = (each for each in able if each.sentence.strategy.plain and not each.walks)
    return next((each for each in plain if each.members == chosen.members), None)


def longer(able: Sequence[Weighed], chosen: Weighed) -> Weighed | None:
    """The next longer walk of the same members: of the same kind, or the best of any."""
    found = [e for e in able if e.every > chosen.every and e.members == chosen.members]
    alike = [each for each in found if each.kind == chosen.kind]
    nearest = min((each.every for each in alike), default=0)
    return _first([each for each in alike if each.every == nearest] or found)


def _shorter(able: Sequence[Weighed], chosen: Weighed) -> Weighed | None:
    """The next shorter walk of the same kind and members."""
    shorter = [e for e in able if e.every < chosen.every and e.kind == chosen.kind]
    alike = [each for each in shorter if each.members == chosen.members]
    return max(alike, key=lambda each: each.every, default=None)


def alone(able: Sequence[Weighed]) -> Weighed | None:
    """The best that one device can do."""
    return _first([each for each in able if each.num_members == 1])


def with_more(able: Sequence[Weighed], chosen: Weighed) -> Weighed | None:
    """The best of more members than were chosen."""
    return _first([each for each in able if each.num_members > chosen.num_members])


def _first(weighed: Sequence[Weighed]) -> Weighed | None:
    return best(weighed) if weighed else None
