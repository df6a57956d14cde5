"""How a pupil teaches and takes lessons: from bytes, through door, trust and gate, to events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from coterie.errors import CoterieError, LessonError
from coterie.knowledge.board import Board
from coterie.knowledge.currency import Change, Currency
from coterie.knowledge.events import BoardFailed, Event, LessonRefused, LessonTaken
from coterie.knowledge.gate import Gate, Verdict
from coterie.knowledge.lesson import Door, Lesson, Packing
from coterie.knowledge.pupil import Pupil
from coterie.knowledge.trust import Record, Trust

TAKEN, REFUSED, UNHEARD = Record(taken=1.0), Record(refused=1.0), Record()
BROKEN = (CoterieError, OSError, TimeoutError)  # what a board may raise


class Keeper(Protocol):
    """What decides whether a change stays: a `Gate`, or `Open`."""

    def keep(self, pupil: Pupil, change: Change) -> Verdict:
        """Have the pupil change, and undo it where the verdict is against it."""


@dataclass(frozen=True)
class Rules:
    """What a pupil holds lessons to.

    `max_lag_steps` is how far a lesson may lie behind the newest that its teacher gave. A lesson
    that harms beside others is tried without them, and they without it, `sifts` at most.

    >>> Rules(max_lag_steps=100).sifts
    8
    """

    gate: Keeper = field(default_factory=Gate)
    door: Door = field(default_factory=Door)
    packings: tuple[Packing, ...] = ()  # that lessons may come in
    packing: Packing | None = None  # that one's own go out in
    max_lag_steps: int = 0
    max_evidence: float = 10.0  # times the pupil's own samples, that one lesson may count for
    sifts: int = 8
    max_teachers: int = 10_000


@dataclass(frozen=True)
class _Held:
    """A lesson that a pupil took, and until which of its steps it counts."""

    lesson: Lesson
    until_steps: int


class Study:
    """One pupil among others: it writes lessons, and takes those that do it good.

    `kin` are the teachers that are listened to; None: all. Whatever a lesson is, learning goes
    on: each comes to an event.

    >>> from coterie.knowledge import Fusion, Linear, Course, Scholar
    >>> import torch
    >>> data = (torch.eye(4), torch.arange(4) % 2)
    >>> course = Course("parity", lambda: torch.nn.Linear(4, 3), data, data, ("even", "odd"),
    ...                 Linear(3, 2, batch=4))
    >>> ann, bob = (Study(Scholar(name, course), [Fusion()]) for name in ("ann", "bob"))
    >>> losses = [ann.pupil.step() for _ in range(30)]
    >>> lessons, _ = ann.teach()
    >>> events = bob.learn(lessons)
    >>> print(events[0].line().partition(":")[0])
    bob took a lesson in parameters from ann at step 0
    """

    def __init__(
        self,
        pupil: Pupil,
        currencies: Sequence[Currency],
        rules: Rules | None = None,
        trust: Trust | None = None,
        kin: frozenset[str] | None = None,
    ) -> None:
        self.pupil, self.kin = pupil, kin
        self.currencies = {currency.name: currency for currency in currencies}
        self.rules, self.trust = rules or Rules(), trust or Trust()
        self.taught_bytes = 0
        self.heard_bytes = 0
        self.cursor = 0
        self._newest: dict[tuple[str, str], int] = {}  # steps of a teacher's newest lesson
        self._held: dict[str, dict[str, _Held]] = {}  # by currency and teacher
        self._lost: dict[str, Tensor] = {}  # by a codec, of each currency

    def teach(self) -> tuple[list[bytes], list[Event]]:
        """What the pupil knows, a lesson in each currency; an event where it has none to give."""
        lessons: list[bytes] = []
        events: list[Event] = []
        for name, currency in self.currencies.items():
            try:
                lessons.append(self._written(currency.teach(self.pupil)))
            except CoterieError as error:
                events.append(self._refused(self.pupil.name, name, 0, f"not taught: {error}"))
        self.taught_bytes += sum(map(len, lessons))
        return lessons, events

    def learn(self, lessons: Iterable[bytes]) -> list[Event]:
        """Take up what came, one currency after another; what became of each."""
        events: list[Event] = []
        heard: dict[str, dict[str, Lesson]] = {name: {} for name in self.currencies}
        for data in lessons:
            self.heard_bytes += len(data)
            try:
                lesson = Lesson.from_bytes(data, self.rules.door, self.rules.packings)
            except LessonError as error:
                events.append(self._refused("unknown", "unknown", len(data), str(error)))
                continue
            if lesson.teacher == self.pupil.name or not self._is_kin(lesson.teacher):
                continue
            events += self._admitted(lesson, heard)
        for name, fresh in heard.items():
            events += self._taken_up(self.currencies[name], fresh)
        return events

    def meet(self, board: Board) -> list[Event]:
        """Teach on a board and learn from it; where it fails, learning goes on alone."""
        lessons, events = self.teach()
        try:
            for data in lessons:
                board.publish(data)
            heard = board.since(self.cursor)
        except BROKEN as error:
            failed = BoardFailed(self.pupil.name, self.pupil.num_steps, str(error))
            return [*events, failed]
        self.cursor = heard.cursor
        return [*events, *self.learn(heard.lessons)]

    def _written(self, lesson: Lesson) -> bytes:
        if self.rules.packing is None:
            return lesson.to_bytes()
        lost_N = self._lost.get(lesson.currency)
        data, self._lost[lesson.currency] = lesson.packed(self.rules.packing, lost_N)
        return data

    def _is_kin(self, teacher: str) -> bool:
        return self.kin is None or teacher in self.kin

    def _admitted(self, lesson: Lesson, heard: Mapping[str, dict[str, Lesson]]) -> list[Event]:
        """Lay a lesson beside the others of its currency, or say why not."""
        key = (lesson.teacher, lesson.currency)
        newest = self._newest.get(key, lesson.num_steps)
        why, record, most = "", UNHEARD, self.rules.max_teachers
        if lesson.currency not in heard:
            why = f"it takes none of this currency, but {', '.join(heard)}"
        elif key not in self._newest and len(self._newest) >= most:
            why = f"it knows {most:,} teachers already"
        elif not self.trust.hears(lesson.teacher):
            why = f"its teacher is trusted {self.trust.of(lesson.teacher):.2f} of 1 at present"
        elif lesson.num_steps < newest - self.rules.max_lag_steps:
            why = f"it is of step {lesson.num_steps}, and one of step {newest} was heard"
        else:
            try:
                self.currencies[lesson.currency].check(lesson, self.pupil)
            except LessonError as error:
                why, record = str(error), REFUSED
        if why:
            known = self.trust.records
            if lesson.teacher in known or (record is REFUSED and len(known) < most):
                self.trust = self.trust.after(lesson.teacher, record)
            return [self._refused(lesson.teacher, lesson.currency, lesson.num_bytes, why)]
        self._newest[key] = max(newest, lesson.num_steps)
        earlier = heard[lesson.currency].get(lesson.teacher)
        if earlier is not None and earlier.num_steps > lesson.num_steps:
            lesson, earlier = earlier, lesson
        heard[lesson.currency][lesson.teacher] = lesson
        if earlier is None:
            return []
        reason = "its teacher gave a newer one"
        return [self._refused(earlier.teacher, earlier.currency, earlier.num_bytes, reason)]

    def _taken_up(self, currency: Currency, fresh: Mapping[str, Lesson]) -> list[Event]:
        now, held = self.pupil.num_steps, self._held.setdefault(currency.name, {})
        kept = {
            teacher: past
            for teacher, past in held.items()
            if past.until_steps > now and self._is_kin(teacher) and teacher not in fresh
        }
        self._held[currency.name] = kept
        known = {teacher: past.lesson for teacher, past in kept.items()}
        if len(kept) < len(held):  # what is stale, or has a newer one beside it, counts no more
            known = self._stand_by(currency, known)
        if not fresh:
            return []
        taken, alone, verdict = self._sifted(currency, known, fresh)
        weights = {teacher: self._weight(lesson) for teacher, lesson in taken.items()}
        refusals = self._judged(fresh, taken, alone, verdict)
        return [*self._remember(currency, taken, weights, verdict), *refusals]

    def _stand_by(self, currency: Currency, known: dict[str, Lesson]) -> dict[str, Lesson]:
        """Attend to these lessons, which were judged when they came, or to none that fits still."""
        try:
            if known:
                self._change(currency, known).apply(self.pupil)
                return known
        except LessonError:  # the pupil has changed since
            self._held[currency.name] = {}
        self.pupil.attend(currency.name, None)
        return {}

    def _sifted(
        self, currency: Currency, known: Mapping[str, Lesson], fresh: Mapping[str, Lesson]
    ) -> tuple[Mapping[str, Lesson], dict[str, Verdict], Verdict]:
        """Which new lessons go in beside the known ones, what each did alone, and what all did.

        All of them, or else those that are left once who harms most by itself is left out, one
        after the other. What several do together says more than what each does: of a single one
        chance alone may refuse an honest lesson, and members that take different ones drift apart.
        Of several tries the best may seem good by chance: it is to gain by more than its error.
        """
        verdict = self._tried(currency, {**known, **fresh})
        if verdict.kept:
            return fresh, {}, verdict
        if len(fresh) < 2:
            return {}, dict.fromkeys(fresh, verdict), verdict
        alone: dict[str, Verdict] = {}
        start = self.pupil.snapshot()
        for teacher in sorted(fresh, key=self.trust.of)[: self.rules.sifts]:
            alone[teacher] = self._tried(currency, {teacher: fresh[teacher]})
            self.pupil.restore(start)
        left = dict(fresh)
        for worst in sorted(alone, key=lambda teacher: alone[teacher].gain):
            del left[worst]
            if not left:
                break
            verdict = self._tried(currency, {**known, **left})
            if verdict.stands_out:
                return left, alone, verdict
            self.pupil.restore(start)
        best = max(alone, key=lambda teacher: alone[teacher].gain)
        verdict = self._tried(currency, {best: fresh[best]})  # without those it knows already
        if verdict.stands_out:
            return {best: fresh[best]}, alone, verdict
        self.pupil.restore(start)
        return {}, alone, verdict

    def _judged(
        self,
        fresh: Mapping[str, Lesson],
        taken: Mapping[str, Lesson],
        alone: Mapping[str, Verdict],
        verdict: Verdict,
    ) -> list[Event]:
        """Who gains and who loses trust; an event for each lesson that was not taken."""
        events: list[Event] = []
        for teacher, lesson in fresh.items():
            own = alone.get(teacher, verdict)
            does_harm = teacher in alone and own.does_harm
            record = TAKEN if teacher in taken else REFUSED if does_harm else UNHEARD
            self.trust = self.trust.after(teacher, record)
            if teacher not in taken:
                why = own.refusal or "beside others it would do harm"
                events.append(self._refused(teacher, lesson.currency, lesson.num_bytes, why))
        return events

    def _tried(self, currency: Currency, lessons: Mapping[str, Lesson]) -> Verdict:
        try:
            return self.rules.gate.keep(self.pupil, self._change(currency, lessons))
        except LessonError as error:
            return Verdict(0.0, 0.0, str(error))

    def _change(self, currency: Currency, lessons: Mapping[str, Lesson]) -> Change:
        order = sorted(lessons)  # sums depend on their order in the last bit
        return currency.integrate(
            [lessons[teacher] for teacher in order],
            [self._weight(lessons[teacher]) for teacher in order],
            self.pupil,
        )

    def _weight(self, lesson: Lesson) -> float:
        """What it counts: trust times evidence, for who claims much is not believed all of it."""
        most = self.rules.max_evidence * self.pupil.num_samples
        samples = min(lesson.evidence.num_samples, most) if most else 1.0
        return self.trust.of(lesson.teacher) * samples

    def _remember(
        self,
        currency: Currency,
        taken: Mapping[str, Lesson],
        weights: Mapping[str, float],
        verdict: Verdict,
    ) -> list[Event]:
        until = self.pupil.num_steps + currency.lasts_steps
        total = sum(weights.values()) or 1.0
        events: list[Event] = []
        for teacher, lesson in taken.items():
            if currency.lasts_steps:
                self._held[currency.name][teacher] = _Held(lesson, until)
            events.append(
                LessonTaken(
                    self.pupil.name,
                    self.pupil.num_steps,
                    teacher,
                    currency.name,
                    lesson.num_bytes,
                    verdict.gain,
                    verdict.error,
                    weights[teacher] / total,
                )
            )
        return events

    def _refused(self, teacher: str, currency: str, num_bytes: int, why: str) -> LessonRefused:
        steps = self.pupil.num_steps
        return LessonRefused(self.pupil.name, steps, teacher, currency, num_bytes, why)
