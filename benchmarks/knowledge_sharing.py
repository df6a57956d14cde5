"""How agents of the benchmark share: each has a study of the product, and all meet at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.knowledge_race import Agents
from coterie.knowledge import Currency, Open, Pupil, Rules, Study

Groups = Iterable[Collection[str]]  # names of pupils
UNGUARDED = Rules(gate=Open())  # whoever is listened to is believed


@dataclass
class Meetings:
    """Every so many steps all pupils write lessons, then all take up what the others wrote."""

    studies: Sequence[Study]
    every: int = 10  # steps
    begin: int = 10  # the step of the first meeting
    regroup: Callable[[Sequence[Pupil]], Groups] | None = None  # at the first meeting
    events: list[object] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, num_steps: int) -> int:
        """Meet if it is time; the bytes that were written and read."""
        if num_steps < self.begin or num_steps % self.every:
            return 0
        if self.regroup is not None and not self.groups:
            self._form(self.regroup([study.pupil for study in self.studies]))
        before = self._num_bytes()
        written = self.written()
        for study in self.studies:
            others = [name for name in written if name != study.pupil.name]
            heard = [name for name in others if study.kin is None or name in study.kin]
            self.events += study.learn(data for name in heard for data in written[name])
        return self._num_bytes() - before

    def written(self) -> dict[str, list[bytes]]:
        """The lessons that each wrote."""
        return {study.pupil.name: study.teach()[0] for study in self.studies}

    def _form(self, groups: Groups) -> None:
        self.groups = [tuple(sorted(group)) for group in groups]
        for study in self.studies:
            mine = [group for group in self.groups if study.pupil.name in group]
            study.kin = frozenset(name for group in mine for name in group)

    def _num_bytes(self) -> int:
        return sum(study.taught_bytes + study.heard_bytes for study in self.studies)


def sharing(
    agents: Agents,
    currencies: Callable[[], Sequence[Currency]],
    rules: Rules = UNGUARDED,
    **when: object,
) -> Agents:
    """The same agents, who meet."""
    studies = [Study(scholar, currencies(), rules) for scholar in agents.scholars]
    agents.share = Meetings(studies, **when)  # type: ignore[arg-type]
    return agents
