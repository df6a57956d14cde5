"""Teams: members that take every step of a walk together, and meet other teams as one.

Legend of shape suffixes: N values of a vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from coterie.errors import JobError, StrategyError
from coterie.sync.pieces import Kind, Memory, Piece, is_count

if TYPE_CHECKING:
    from torch import Tensor

    from coterie.types import Ctx


class Team(Piece):
    """How members are cut into teams; a second local word, after the walk.

    >>> Team.kind
    'local'
    """

    kind: ClassVar[Kind] = "local"

    @property
    def least(self) -> int:
        """Fewest members that make a team."""
        return 1

    def teams(self, members: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The members of each team, in order. Raises JobError where they cannot be cut so."""
        raise NotImplementedError

    def team_of(self, member: str, members: Sequence[str]) -> tuple[str, ...]:
        """The team that a member belongs to."""
        return next(team for team in self.teams(members) if member in team)

    def update(self, delta_N: Tensor, memory: Memory, ctx: Ctx) -> tuple[Tensor, Memory]:
        """The delta as it is: a team has walked it together."""
        return delta_N, memory


@dataclass(frozen=True, repr=False)
class Islands(Team):
    """Members of an island average every gradient over fast links; islands meet after the walk.

    Given as a number of islands, or as the names of each one's members. Hierarchical local SGD
    (Lin et al. 2020, Don't Use Large Mini-batches, Use Local SGD).

    >>> Islands(2).teams(["a", "b", "c", "d"])
    (('a', 'b'), ('c', 'd'))
    >>> Islands((("a", "c"), ("b",))).teams(["a", "b"])
    (('a',), ('b',))
    """

    islands: int | tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        named = isinstance(self.islands, tuple) and all(
            isinstance(each, tuple) and each and all(isinstance(name, str) for name in each)
            for each in self.islands
        )
        names = [name for each in self.islands for name in each] if named else []  # type: ignore[union-attr]
        if not (is_count(self.islands) or names) or len(names) != len(set(names)):
            raise StrategyError(
                f"expected a number of islands, or the names in each, every one once, found {self};"
                ' write Islands(2) or Islands((("a", "b"), ("c", "d")))'
            )

    def teams(self, members: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Islands of those who are here; one that nobody is left of is none."""
        ordered = sorted(members)
        if isinstance(self.islands, int):
            num = min(self.islands, len(ordered))
            bounds = [i * len(ordered) // num for i in range(num + 1)]
            return tuple(tuple(ordered[a:b]) for a, b in itertools.pairwise(bounds))
        known = {name for island in self.islands for name in island}
        if missing := [name for name in ordered if name not in known]:
            raise JobError(
                f"expected every member on an island, found none for {', '.join(missing)}; "
                "name it in Islands(...)"
            )
        here = (tuple(name for name in island if name in ordered) for island in self.islands)
        return tuple(island for island in here if island)


@dataclass(frozen=True, repr=False)
class Pipeline(Team):
    """A team's members hold a stage of the model each, and pass activations along.

    The stages begin at the modules named by `cuts`; a batch goes through in `micro_batches` parts
    (Huang et al. 2019, GPipe). Members form teams in the order of `crew`, then of their names; who
    is over is a spare. Pipelines meet as replicas do.

    >>> Pipeline(("2",)).teams(["a", "b", "c", "d", "e"])
    (('a', 'b'), ('c', 'd'), ('e',))
    >>> Pipeline(("2",), crew=("c", "a")).teams(["a", "b", "c"])
    (('c', 'a'), ('b',))
    """

    cuts: tuple[str, ...]
    micro_batches: int = field(default=4, kw_only=True)
    crew: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        named = isinstance(self.cuts, tuple) and all(isinstance(c, str) and c for c in self.cuts)
        if not named or not self.cuts or len(set(self.cuts)) < len(self.cuts):
            raise StrategyError(
                "expected the names of the modules that later stages begin at, each once, found "
                f'{self}; write for example Pipeline(("body.2",))'
            )
        if not is_count(self.micro_batches):
            raise StrategyError(f"expected at least one micro-batch, found {self}; write 4")
        of_names = isinstance(self.crew, tuple) and all(isinstance(n, str) and n for n in self.crew)
        if not of_names or len(set(self.crew)) < len(self.crew):
            raise StrategyError(
                f"expected the names of members in the order of their stages, each once, found "
                f'{self}; write crew=("a", "b"), or leave it out'
            )

    def teams(self, members: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """As many whole pipelines as there are members for; the rest stand by."""
        rest = sorted(name for name in members if name not in self.crew)
        ordered = [*(name for name in self.crew if name in members), *rest]
        size = len(self.cuts) + 1
        if len(ordered) < size:
            raise JobError(
                f"expected {size} members for the {size} stages of {self}, found {len(ordered)}; "
                "cut the model into fewer stages, or start more agents"
            )
        return tuple(tuple(ordered[i : i + size]) for i in range(0, len(ordered), size))

    @property
    def least(self) -> int:
        """One for each stage."""
        return len(self.cuts) + 1

    def crew_of(
        self, member: str, members: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The pipeline of a member, and whose samples go through it: spares' through the first.

        >>> Pipeline(("2",)).crew_of("b", ["a", "b", "c"])
        (('a', 'b'), ('a', 'b', 'c'))
        """
        teams = self.teams(members)
        whole = [team for team in teams if len(team) == len(teams[0])]
        spares = tuple(name for team in teams[len(whole) :] for name in team)
        team = next((team for team in whole if member in team), whole[0])
        return team, (*team, *spares) if team == whole[0] else team

    def weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """What each member counts: as much as all that went through its pipeline; a spare nothing.

        >>> Pipeline(("2",)).weights({"a": 1.0, "b": 2.0, "c": 4.0})
        {'a': 7.0, 'b': 7.0, 'c': 0.0}
        """
        members, counts = sorted(weights), dict.fromkeys(weights, 0.0)
        for name in members:
            team, crew = self.crew_of(name, members)
            if name in team:
                counts[name] = sum(weights[each] for each in crew)
        return counts
