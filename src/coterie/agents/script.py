"""A script of the user's own, run as one of several agents: its loop here, its worker beside it."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from coterie.agents import effects as do
from coterie.agents.draws import repeatable
from coterie.agents.grant import granted
from coterie.agents.learner import Learner
from coterie.agents.loop import Loop
from coterie.agents.me import Me, seat
from coterie.agents.perform import drive
from coterie.agents.prepared import Schedule, Scheduler, Shares, Things, steppers
from coterie.agents.rehearsal import setup_of
from coterie.agents.turns import Order, Over
from coterie.agents.worker import Worker
from coterie.config import Job
from coterie.errors import CoterieError, JobError, TrainingError
from coterie.transport.messages import Bye, Failed, Hello, Refused, Said, Stop, Wire

MOST_SAID = 2000  # characters of a line
# What a machine does to a script: others go on, and it may be back. All else is the script's own.
OF_THE_MACHINE = (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
FIRST = "agent-0"  # who speaks for all before there is a term


@dataclass(frozen=True)
class Seat:
    """An agent's place in a run: who it is, what it does, and whoever carries out its effects."""

    hello: Hello
    job: Job
    files: Mapping[str, bytes]  # of a checkpoint to go on from
    perform: Callable[[Any], Any]
    tell: Callable[[Wire], None]
    given_up: Callable[[], str]  # why, if the coordinator was


class OneOfMany(Me):
    """One of several agents, by what its worker knows."""

    def __init__(self, at: Seat) -> None:
        self._seat = at
        self.name = at.hello.name
        self._loop: Loop | None = None
        self._worker: Worker | None = None
        self._num_threads = torch.get_num_threads()

    @property
    def is_first(self) -> bool:
        members = self._worker.term.members if self._worker is not None else ()
        return self.name == (members or (FIRST,))[0]

    @property
    def should_stop(self) -> bool:
        return self._loop is not None and self._loop.is_over

    def tell(self, loss: Tensor | float) -> None:
        if self._loop is not None:
            self._loop.loss = loss.item() if isinstance(loss, Tensor) else loss

    def say(self, text: str) -> None:
        self._seat.tell(Said(text=text[:MOST_SAID]))

    def passes(self, num: int) -> Iterator[int]:
        if self._loop is None:
            raise JobError("expected me.prepare before me.passes, found none; move it up")
        self._loop.passes = self._loop.begin(self._start)
        for number in range(self._loop.passes, num):
            if self.should_stop:
                return
            yield number

    def clip_grad_norm_(self, max_norm: float) -> None:
        if self._loop is None:
            raise JobError("expected me.prepare before me.clip_grad_norm_, found none; move it up")
        self._loop.max_norm = max_norm

    def end(self) -> None:
        """The script is at its end; back once the run has no more need of this agent."""
        if self._loop is None or not self._loop.has_begun:
            raise JobError(
                "expected a script that calls coterie.join(), me.prepare(...) and goes through "
                "the loader that it gave back, found one that ended without; add what is missing"
            )
        self._loop.end(self._seat.tell)

    def has_begun(self) -> bool:
        """Whether a first pass was begun."""
        return self._loop is not None and self._loop.has_begun

    def _share(self, things: Things, accumulate: int) -> dict[int, Any]:
        things.checked()
        if things.loader.num_workers:
            print("coterie: samples are fetched as they are asked for, by no workers of the loader")
        assert things.loader.batch_size is not None
        self._loop = loop = Loop(
            things.whole, things.optimizer, things.loader.batch_size, accumulate
        )
        stands_for: dict[int, Any] = {
            id(things.loader): Shares(
                things.loader, loop, self._start, self.device, things.samples
            ),
            **steppers(things, loop),
        }
        if things.scheduler is not None:
            self._schedule = Schedule(things.scheduler, loop)
            stands_for[id(things.scheduler)] = Scheduler(self._schedule)
        return stands_for

    def _start(self) -> Order:
        """The first pass begins: from here on the worker lives, and the loop has its turns."""
        loop, at = self._loop, self._seat
        assert loop is not None
        assert self.things is not None
        self.things.checked()  # a scheduler may have been made since
        with torch.random.fork_rng(devices=[]):
            learner = Learner(setup_of(at.job.name, self.things, loop, at.job.seed))
        if self.things.scheduler is not None:
            learner.scheduler = cast(LRScheduler, self._schedule)
        self._worker = worker = Worker(
            self.name, learner, hello=at.hello, granted=granted(at.hello.device)
        )
        if at.files:
            worker.resume(at.files)
        learner.scratch().step([0])  # the first step pays for lazy imports: not in a measurement
        at.tell(learner.ready())
        return loop.turns.begin(lambda: self._live(worker, loop))

    def _live(self, worker: Worker, loop: Loop) -> None:
        torch.set_num_threads(self._num_threads)  # each thread has its own number
        is_sent_away = False

        def perform(effect: Any) -> Any:
            nonlocal is_sent_away
            if effect == do.Tell(Bye()) and not is_sent_away:  # first the script is to end
                loop.turns.ask(Over())
            answer = self._seat.perform(effect)
            is_sent_away = is_sent_away or (isinstance(answer, Stop) and answer.at_once)
            return answer

        drive(worker.live(), perform)
        if why := self._seat.given_up():
            raise TrainingError(why)


def follow(at: Seat) -> str:
    """Run the script of a job as an agent; why it ended.

    What the script does wrong or raises is told to the coordinator, for it would do so elsewhere
    too. What its machine does to it once it learns is raised: this agent alone is lost.
    """
    me = OneOfMany(at)
    try:
        _run(at.job, me)
        me.end()
    except CoterieError as error:
        if at.given_up():
            raise
        return _give_up(at, me, str(error), "")
    except SystemExit as end:
        return _give_up(at, me, f"the script ended by itself with {end.code!r}", "")
    except Exception as error:
        if me.has_begun() and isinstance(error, OF_THE_MACHINE):
            raise
        trace = _trace(error, at.job)
        print(trace, file=sys.stderr)
        what = "".join(traceback.format_exception_only(error)).strip()
        return _give_up(at, me, f"the script raised {what}", trace)
    return "the script ended"


def _give_up(at: Seat, me: Me, why: str, trace: str) -> str:
    kind = Failed if me.has_begun() else Refused
    at.tell(kind(reason=f"{me.name}: {why}" if me.has_begun() else why, traceback=trace))
    return why


def _trace(error: Exception, job: Job) -> str:
    """A traceback that begins in the script, as Python's own would; its end, if it is long."""
    assert job.script is not None
    path = str(job.script.found_in(job.root))
    frames = traceback.extract_tb(error.__traceback__)
    first = next((at for at, frame in enumerate(frames) if frame.filename == path), 0)
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames[first:])]
    lines += traceback.format_exception_only(error)
    return "".join(lines).rstrip()[-MOST_SAID:]


def _run(job: Job, me: Me) -> None:
    script = job.script
    assert script is not None
    path = script.found_in(job.root)
    token = seat.set(lambda: me)
    try:
        with _as_main(path, script.args), repeatable(job.deterministic):
            runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        seat.reset(token)


@contextmanager
def _as_main(path: Path, args: list[str]) -> Iterator[None]:
    """Arguments and modules as Python would have them, had it been given the script."""
    argv, folders = sys.argv, list(sys.path)
    sys.argv, sys.path[:] = [str(path), *args], [str(path.parent), *folders]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, folders
