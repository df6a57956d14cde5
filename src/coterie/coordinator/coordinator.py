"""The coordinating agent: what it is told changes what it knows, and `life` says what it does next.

Real engines and the simulation drive the same one: they hand it messages, deaths and the time, and
carry out what its `run` lays out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.config import Job
from coterie.coordinator.account import progress
from coterie.coordinator.hear import hear
from coterie.coordinator.life import life
from coterie.coordinator.run import Resume, Run
from coterie.errors import CoterieError
from coterie.transport import messages as say

TORN_GRACE_S = 1.0  # a broken meeting with nobody dead is tried again after this
PROGRESS_S = 0.5


class Coordinator:
    """One run from its first word to its last.

    >>> from coterie.config import Ref, TaskSpec
    >>> task = TaskSpec(model=Ref(call="m:net"), train=Ref(call="m:train"), test=Ref(call="m:test"))
    >>> job = Job(name="x", task=task, optimizer=Ref(call="torch.optim:SGD"), batch=8,
    ...           until={"epochs": 1.0})
    >>> coordinator = Coordinator(job, num_agents=2)
    >>> coordinator.start(now_s=0.0)
    >>> coordinator.tick(now_s=61.0)
    >>> coordinator.run.failure[:42]
    'expected 2 agents within 60 s, found 0 (no'
    """

    def __init__(self, job: Job, num_agents: int, resume: Resume | None = None) -> None:
        self.run = Run(job, num_agents, resume)
        self._progress_s = 0.0
        self._life = life(self.run)
        self._may_go_on: Callable[[], bool] = lambda: True

    def start(self, now_s: float) -> None:
        """The clock begins."""
        self.run.now_s = self.run.started_s = now_s
        self._go_on()

    def receive(self, name: str, message: Any, now_s: float) -> None:
        """A member said something."""
        run = self.run
        run.now_s = now_s
        if isinstance(message, say.Bye) and not run.leaving:
            self.lost(name, "it left", now_s)
        elif isinstance(message, say.Bye):
            run.members.pop(name, None)
        elif name in run.members or name == say.HUB or isinstance(message, say.Hello):
            if name in run.members:
                run.members[name].pulse.beat(now_s)
            self._guarded(lambda: hear(run, name, message))
        self._go_on()

    def lost(self, name: str, reason: str, now_s: float) -> None:
        """A member is dead, by the engine's word or its silence."""
        run = self.run
        run.now_s = now_s
        if name == say.HUB and not run.leaving:
            run.fail(f"the server of the star road is gone: {reason}; resume from a checkpoint")
        member = run.members.pop(name, None)
        if member is None:
            return
        if member.device is not None:
            run.beliefs[name] = member.device
        run.event("agent", member=name, state="lost", reason=reason)
        run.missed.add(name)
        run.healthy.discard(name)
        run.left_out.discard(name)
        if run.saving and name in run.saving.meta["members"]:
            run.saving = None  # its part will never come
        learning = any(name in issued.leases for issued in run.ledger.issued.values())
        if name in run.term.members or learning:  # or in rounds of the term before
            run.torn = True
            run.num_kills += 1
        self._go_on()

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        run = self.run
        run.now_s = now_s
        for name, member in list(run.members.items()):
            if now_s > member.pulse.deadline_s():
                self.lost(name, f"silent for {now_s - member.pulse.heard_s:.1f} s", now_s)
        if run.torn_at_s is not None and now_s > run.torn_at_s + TORN_GRACE_S:
            run.torn, run.torn_at_s = True, None
        if run.plan and now_s > self._progress_s + PROGRESS_S:
            self._progress_s = now_s
            run.event("progress", **progress(run))
        self._go_on()

    def stop(self, reason: str) -> None:
        """End at the next boundary with a checkpoint."""
        self.run.stopping = self.run.stopping or reason
        self._go_on()

    def _go_on(self) -> None:
        """Live on as far as what is known allows."""
        while not self.run.done and self._may_go_on():
            self._guarded(self._next)

    def _next(self) -> None:
        try:
            self._may_go_on = next(self._life)
        except StopIteration:
            self.run.done = True

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except CoterieError as error:
            self.run.fail(str(error))
