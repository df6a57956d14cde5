"""An agent that learns tasks of its own: it steps its learners in turn, and has them teach.

It waits for nobody. What it holds it is told; lessons are read from a board when there are some;
and whoever is not there, the board or the coordinator, is done without until it is back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from coterie.agents import effects as do
from coterie.agents.kinship import ALONE_STEPS, Enquiry
from coterie.agents.learner import Learner, Setup
from coterie.agents.lessons import Metered, currencies_of, rules_of
from coterie.agents.pupil import Place, TaskPupil
from coterie.config import Job
from coterie.errors import CoterieError
from coterie.knowledge.board import Board
from coterie.knowledge.currency import Currency
from coterie.knowledge.events import BoardFailed, Event, LessonTaken
from coterie.knowledge.study import BROKEN, Study
from coterie.sharing import Sharing
from coterie.specs import SeparateSpec
from coterie.tasks.kinds import from_spec
from coterie.tasks.references import instantiate, quoted
from coterie.transport.duties import Able, Broke, Cut, Duties, Judged, Kept, LaidDown, Learned
from coterie.transport.messages import Beat, Bye, Hello, State, Stop, Who, Wire
from coterie.transport.parcels import Assembly, pieces

TOLD_S = 0.5  # between two words on how far a learner is
KEPT_S = 2.0  # between two tellings of its state, where the job says nothing
SCORED_S = 1.0  # between two scorings, at least
SCORED_PART = 0.03  # of the time, at most, that they take
KEPT_PART = 0.02  # and telling a state
SHARED_PART = 0.1  # and lessons, where a job leaves to an agent how often they are given
NUM_TIMED = 2  # steps by which a task's speed is measured, after one that pays for beginnings

Say = list[Wire]


@dataclass
class Seat:
    """One learner of this agent, and what it has had."""

    study: Study
    pupil: TaskPupil
    priority: float
    turns: float = 0.0  # seconds that it had, over its priority: the least is next
    step_s: float = 0.0
    loss: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)
    told_s: float = -math.inf
    kept_s: float = 0.0
    kept_took_s: float = 0.0
    learned_s: float = 0.0  # that its steps have taken
    shared_s: float = 0.0  # and its lessons
    scored_s: float = -math.inf
    score_took_s: float = 0.0
    enquiry: Enquiry | None = None  # who its kin are, where it is to find out
    was_cut: bool = False

    def learned(self) -> Learned:
        """How far it is."""
        pupil = self.pupil
        return Learned(
            pupil=pupil.name,
            num_steps=pupil.num_steps,
            num_samples=pupil.num_learned,
            data_epoch=pupil.data_epoch,
            position=pupil.position,
            num_epochs=pupil.num_epochs,
            loss=self.loss,
            step_s=self.step_s,
            metrics=dict(self.metrics),
            published_bytes=dict(pupil.published_bytes),
            heard_bytes=dict(pupil.heard_bytes),
        )

    def files(self) -> Say:
        """Its state, and the word that it was sent."""
        pupil = self.pupil
        told: Say = []
        for file, data in pupil.files().items():
            told += pieces(pupil.num_steps, file, data)
        return [*told, Kept(pupil=pupil.name, num_steps=pupil.num_steps)]


class Classroom:
    """The life of one agent. `board` is where its learners' lessons meet, which `dial` finds."""

    def __init__(
        self,
        job: Job,
        first: Hello,
        board: Board,
        dial: Callable[[str], None],
        setups: Mapping[str, Setup] | None = None,
        device: str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        assert isinstance(job.task, SeparateSpec)
        self.job, self.spec, self.first = job, job.task, first
        self.board, self._dial, self._device, self._clock = board, dial, device, clock
        self._setups = dict(setups or {})
        self._currencies: list[Currency] | None = None
        self._able: Able | None = None
        self.seats: dict[str, Seat] = {}
        self._duties = Duties(pupils={})
        self._assembly = Assembly()
        self._board_at = ""

    def live(self) -> do.Life[str]:
        """Learn until told to stop; returns why."""
        self._able = yield do.Compute(self._rehearsed, ())
        assert self._able is not None
        yield do.Tell(self._able)
        while True:
            seat = self._next()
            message = yield (do.Hear() if seat is None else do.Glance())
            if isinstance(message, Stop):
                yield from self._end(message)
                return message.reason
            if message is not None:
                yield from self._hear(message)
            elif seat is not None:
                yield from self._learn(seat)

    def _next(self) -> Seat | None:
        """Whose turn it is: who had least of the time that its priority gives it."""
        active = [seat for seat in self.seats.values() if not self._is_done(seat)]
        return min(active, key=lambda seat: seat.turns, default=None)

    def _is_done(self, seat: Seat) -> bool:
        done = {"steps": seat.pupil.num_steps, "epochs": seat.pupil.num_epochs}
        return any(done[key] >= n for key, n in self.job.until.items() if key in done)

    # -- what it is told --------------------------------------------------------------------------

    def _hear(self, message: Any) -> do.Life[None]:
        match message:
            case State():
                self._assembly.add(message)
            case Duties():
                yield from self._take(message)
            case Who():
                yield do.Tell(self.first)
                holds = {name: seat.pupil.num_steps for name, seat in self.seats.items()}
                assert self._able is not None
                yield do.Tell(self._able.model_copy(update={"holds": holds}))
            case Beat():
                pass

    def _take(self, duties: Duties) -> do.Life[None]:
        """Hold what is to be held, and nothing else."""
        self._duties = duties
        if duties.board and duties.board != self._board_at:
            self._board_at = duties.board
            self._dial(duties.board)
        for name in self.seats.keys() - duties.pupils.keys():
            seat = self.seats.pop(name)
            for word in (seat.learned(), *seat.files()):
                yield do.Tell(word)
            yield do.Tell(LaidDown(pupil=name, num_steps=seat.pupil.num_steps))
        for name in duties.pupils.keys() - self.seats.keys():
            files = self._files_of(name)
            try:
                seat = yield do.Compute(partial(self._seat, name, files), ())
            except CoterieError as error:
                yield do.Tell(Broke(pupil=name, reason=str(error)))
            else:
                self.seats[name] = seat
        for name, seat in self.seats.items():
            seat.study.kin = self._kin(name)
            if duties.groups and seat.enquiry is not None:
                seat.enquiry.is_over = True  # it is known by now

    def _files_of(self, name: str) -> dict[str, bytes]:
        paths = [path for path in self._assembly.files if path.startswith(f"{name}/")]
        return {path: self._assembly.files.pop(path) for path in paths}

    def _kin(self, name: str) -> frozenset[str]:
        groups = [group for group in self._duties.groups if name in group]
        return frozenset(other for group in groups for other in group if other != name)

    # -- what it learns ---------------------------------------------------------------------------

    def _seat(self, name: str, files: Mapping[str, bytes]) -> Seat:
        """A learner that begins, or goes on from its files."""
        task = self.spec.pupils[name]
        sharing = self.job.knowledge
        judged = sharing is not None and sharing.gate == "held-out"
        pupil = TaskPupil(
            self._setup(task),
            Place(
                name,
                task,
                self.job.batch,
                self.job.seed,
                sharing.held_out if sharing is not None and judged else 0.0,
                tuple(self.spec.tasks[task].classes or ()),
            ),
        )
        if files:
            pupil.go_on(files)
        seat = Seat(self._study(pupil), pupil, self.spec.tasks[task].priority)
        seat.turns = min((other.turns for other in self.seats.values()), default=0.0)
        if sharing is not None and sharing.groups == "auto":
            others = frozenset(self.spec.pupils) - {name}
            seat.enquiry = Enquiry(others, sharing.every_steps, max(ALONE_STEPS, sharing.after))
        return seat

    def _study(self, pupil: TaskPupil) -> Study:
        sharing = self.job.knowledge
        if sharing is None:
            return Study(pupil, [])
        if self._currencies is None:
            self._currencies = currencies_of(sharing, self.job.root)
        return Study(pupil, self._currencies, rules_of(sharing))

    def _setup(self, task: str) -> Setup:
        if task not in self._setups:
            spec, job = self.spec.tasks[task], self.job
            optimizer = spec.optimizer or job.optimizer
            scheduler = job.scheduler
            assert optimizer is not None
            self._setups[task] = Setup(
                task=from_spec(task, spec, job.root),
                optimizer=lambda params: instantiate(optimizer, job.root, params),
                scheduler=(lambda o: instantiate(scheduler, job.root, o)) if scheduler else None,
                scheduler_every=scheduler.every if scheduler else "epoch",
                device=self._device,
                seed=job.seed,
            )
        return self._setups[task]

    def _rehearsed(self) -> Able:
        """Which tasks can be learned here, and how long a step takes."""
        step_s: dict[str, float] = {}
        refused: dict[str, str] = {}
        for task in self.spec.tasks:
            try:
                step_s[task] = self._timed(Learner(self._setup(task)))
            except CoterieError as error:
                refused[task] = str(error)
            except Exception as error:  # of the user's own code: the other tasks go on
                refused[task] = f"its first steps failed: {quoted(error)}"
        return Able(step_s=step_s, refused=refused)

    def _timed(self, learner: Learner) -> float:
        indices = list(range(min(self.job.batch, learner.task.num_train)))
        learner.step(indices)
        began_s = self._clock()
        for _ in range(NUM_TIMED):
            learner.step(indices)
        return (self._clock() - began_s) / NUM_TIMED

    def _learn(self, seat: Seat) -> do.Life[None]:
        """One step of a learner, and what is due after it."""
        began_s = yield do.Now()
        try:
            seat.loss = yield do.Compute(lambda: _stepped(seat.pupil), (self.job.batch,))
            stepped_s = yield do.Now()
            words = yield do.Compute(lambda: self._met(seat), ())
        except CoterieError as error:
            del self.seats[seat.pupil.name]
            yield do.Tell(Broke(pupil=seat.pupil.name, reason=str(error)))
            return
        now_s = yield do.Now()
        seat.learned_s += stepped_s - began_s
        seat.shared_s += now_s - stepped_s
        seat.step_s += 0.1 * (now_s - began_s - seat.step_s) if seat.step_s else now_s - began_s
        seat.turns += (now_s - began_s) / max(seat.priority, 1e-9)
        for word in words:
            yield do.Tell(word)
        yield from self._report(seat)

    def _met(self, seat: Seat) -> Say:
        """What became of lessons, where it is time for some."""
        sharing, pupil, study = self.job.knowledge, seat.pupil, seat.study
        if sharing is None or self._is_done(seat):
            return []  # a lesson may take steps to be judged
        board = Metered(self.board, pupil.published_bytes)
        if seat.enquiry is not None and not seat.enquiry.is_over:
            found = self._asked(seat, seat.enquiry, board)
            study.cursor = seat.enquiry.cursor
            return found
        is_due = pupil.num_steps >= sharing.after and not pupil.num_steps % sharing.every_steps
        if not (study.kin and is_due and self._affords(seat, sharing)):
            return []
        return [word for event in study.meet(board) for word in self._told(seat, event)]

    def _affords(self, seat: Seat, sharing: Sharing) -> bool:
        """Whether a learner has the time for a lesson: what a job asks for, it is given."""
        spent_s = seat.learned_s + seat.shared_s
        return sharing.every != "auto" or seat.shared_s <= SHARED_PART * spent_s

    def _asked(self, seat: Seat, enquiry: Enquiry, board: Metered) -> Say:
        try:
            found = enquiry.go_on(seat.pupil, board)
        except BROKEN as error:
            steps = seat.pupil.num_steps
            return self._told(seat, BoardFailed(seat.pupil.name, steps, str(error)))
        return [found] if found is not None else []

    def _told(self, seat: Seat, event: Event) -> Say:
        told = event.fields()
        if isinstance(event, BoardFailed):
            if seat.was_cut:
                return []  # once is enough, until it is back
            seat.was_cut = True
            return [Cut(**told)]
        seat.was_cut = False
        heard = seat.pupil.heard_bytes
        heard[event.currency] = heard.get(event.currency, 0) + event.num_bytes
        if isinstance(event, LessonTaken):
            return [Judged(**{**told, "gain": _finite(event.gain)})]
        return [Judged(**told)]

    def _report(self, seat: Seat) -> do.Life[None]:
        """Tell how far a learner is, what it scores and what it stands on, each once in a while."""
        now_s = yield do.Now()
        is_done = self._is_done(seat)
        if is_done or now_s - seat.scored_s >= max(SCORED_S, seat.score_took_s / SCORED_PART):
            seat.metrics = yield do.Compute(seat.pupil.score, ())
            seat.scored_s = yield do.Now()
            seat.score_took_s = seat.scored_s - now_s
            seat.told_s = -math.inf
        if is_done or now_s - seat.told_s >= TOLD_S:
            seat.told_s = now_s
            yield do.Tell(seat.learned())
        every_s = self.job.checkpoint_every_s
        every_s = KEPT_S if every_s == "auto" else every_s
        if is_done or now_s - seat.kept_s >= max(every_s, seat.kept_took_s / KEPT_PART):
            for word in seat.files():
                yield do.Tell(word)
            seat.kept_s = yield do.Now()
            seat.kept_took_s = seat.kept_s - now_s

    def _end(self, stop: Stop) -> do.Life[None]:
        """Last words: what each learner scores, and all that it is."""
        for seat in () if stop.at_once else list(self.seats.values()):
            seat.metrics = yield do.Compute(seat.pupil.score, ())
            for word in (seat.learned(), *seat.files()):
                yield do.Tell(word)
        yield do.Tell(Bye())


def _stepped(pupil: TaskPupil) -> float:
    """One step; whatever the user's code raises ends this learner alone."""
    try:
        return pupil.step()
    except CoterieError:
        raise
    except Exception as error:
        raise CoterieError(f"a step failed: {quoted(error)}") from error


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
