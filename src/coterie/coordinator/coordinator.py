"""The coordinating agent: what it is told changes what it knows, and `life` says what it does next.

Real engines and the simulation drive the same one: they hand it messages, deaths and the time, and
carry out what its `run` lays out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coterie.config import Job
from coterie.coordinator.account import progress
from coterie.coordinator.hear import hear
from coterie.coordinator.life import life
from coterie.coordinator.members import BEAT_S, MISSED, Member
from coterie.coordinator.remember import remember
from coterie.coordinator.run import Resume, Run
from coterie.coordinator.terms import give_up_server
from coterie.errors import CoterieError
from coterie.transport import messages as say

TORN_GRACE_S = 1.0  # a broken meeting with nobody dead is tried again after this
PROGRESS_S = 0.5
STUCK_S = 10.0  # on one computation, at least, before a member makes no progress
STUCK_ROUNDS = 10  # and so many times as long as a round, or as the slowest scoring


class Coordinator:
    """One run from its first word to its last; `past` are the events of one that died in it.

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

    def __init__(
        self,
        job: Job,
        num_agents: int,
        resume: Resume | None = None,
        past: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.run = Run(job, num_agents, resume)
        remember(self.run, past)
        self._progress_s = 0.0
        self._life = life(self.run)
        self._may_go_on: Callable[[], bool] = lambda: True

    def start(self, now_s: float) -> None:
        """The clock begins."""
        self.run.now_s = self.run.started_s = self.run.watched_s = now_s
        self.run.hub_awaited_s = now_s
        self._go_on()

    def receive(self, name: str, message: Any, now_s: float) -> None:
        """A member said something."""
        run = self.run
        run.now_s = now_s
        if isinstance(message, say.Bye) and not run.leaving:
            self.lost(name, message.reason or "it left", now_s)
        elif isinstance(message, say.Bye):
            run.members.pop(name, None)
        elif isinstance(message, say.Hello | say.Back):
            run.suspects.pop(name, None)  # it begins anew
            self._guarded(lambda: hear(run, name, message))
        elif name in run.suspects and not self._is_back(name, message):
            pass  # it lives, but what it does still lasts
        elif name in run.members or name == say.HUB:
            if name in run.members:
                self._heard(name)
            else:
                run.hub_pulse.beat(now_s)
            self._guarded(lambda: hear(run, name, message))
        self._go_on()

    def _heard(self, name: str) -> None:
        """One that was needed, and so not suspected, is heard after a long silence.

        What was said meanwhile may be lost, on either side: it is asked what it did.
        """
        run, pulse = self.run, self.run.members[name].pulse
        was_silent = run.now_s > pulse.suspect_s()
        pulse.beat(run.now_s)
        at_work = bool(run.plan) and name in run.term.members and not (run.leaving or run.apart)
        if was_silent and at_work and not (run.torn or self._is_dispensable(name)):
            run.unheard.add(name)
            run.tell(name, say.Who())

    def _is_back(self, name: str, message: Any) -> bool:
        """Whether a suspected member is at hand again; it then waits to be taken in."""
        run = self.run
        member = run.suspects[name]
        member.pulse.beat(run.now_s)
        if isinstance(message, say.Beat):
            member.computing_s = message.computing_s
            if self._is_stuck(member):
                return False
        run.members[name] = run.suspects.pop(name)
        run.event("agent", member=name, state="returned")
        run.tell(name, run.term_for(name))  # which it is not in
        return True

    def lost(self, name: str, reason: str, now_s: float) -> None:
        """A member is dead, by the engine's word or its long silence."""
        run = self.run
        run.now_s = now_s
        if name == say.HUB and not run.leaving:
            self._lost_server(reason)
        member = run.members.get(name) or run.suspects.get(name)
        run.gone.add(name)
        if member is None:
            self._go_on()
            return
        if member.device is not None:
            run.beliefs[name] = member.device
        was_needed = self._part_with(name)
        run.suspects.pop(name, None)
        run.event("agent", member=name, state="lost", reason=reason)
        run.num_kills += was_needed
        run.losses[name] += was_needed
        self._go_on()

    def doubt(self, name: str, reason: str, since_s: float, now_s: float) -> bool:
        """An engine lost sight of a member: it is dead if it is not heard either.

        A machine that a cluster gave up may be cut off from that cluster alone. Whether there is
        nothing more to be found out: it was heard since, or is given up.
        """
        run = self.run
        member = run.members.get(name) or run.suspects.get(name)
        if member is None or member.pulse.heard_s > since_s:
            return True
        if now_s <= member.pulse.suspect_s():
            return False
        run.evicted.append(name)
        self.lost(name, reason, now_s)
        return True

    def _lost_server(self, reason: str) -> None:
        """Members hold what they have until another server is here."""
        run = self.run
        run.hub, run.hub_awaited_s = None, run.now_s
        run.event("server", state="lost", reason=reason)
        run.torn, run.why_torn = True, "the server was lost"

    def _look_at_server(self) -> None:
        """Do without a server that is silent for longer than another one takes to come."""
        run, pulse = self.run, self.run.hub_pulse
        silent_s = run.now_s - pulse.heard_s
        is_patient = run.now_s <= pulse.suspect_s() or silent_s <= run.hub_start_s
        if run.hub is not None and run.plan and not (run.leaving or is_patient):
            give_up_server(run, f"silent for {silent_s:.1f} s")

    def _suspect(self, name: str, reason: str) -> None:
        """Others take over a member's work; should it be heard again, it is taken in again."""
        run = self.run
        member = run.members[name]
        self._part_with(name)
        member.outdated = True
        run.suspects[name] = member
        run.event("agent", member=name, state="suspected", reason=reason)
        run.num_suspected += 1
        run.losses[name] += 1

    def _part_with(self, name: str) -> bool:
        """Go on without a member; whether it was at work."""
        run = self.run
        if run.members.pop(name, None) is None:
            return False
        run.missed.add(name)
        run.healthy.discard(name)
        run.left_out.discard(name)
        if run.saving and name in run.saving.meta["members"]:
            run.saving = None  # its part will never come
        learning = any(name in issued.leases for issued in run.ledger.issued.values())
        if name in run.term.members or learning:  # or in rounds of the term before
            run.torn = run.fewer_since_saved = True
            return True
        return False

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        run = self.run
        run.now_s, away_s = now_s, now_s - run.watched_s
        run.watch()
        for name, member in [*run.members.items(), *run.suspects.items()]:
            self._look_at(name, member)
        if away_s < MISSED * BEAT_S:  # else it heard nobody itself
            self._look_at_server()
        if run.torn_at_s is not None and now_s > run.torn_at_s + TORN_GRACE_S:
            run.torn, run.torn_at_s = True, None
        if run.plan and now_s > self._progress_s + PROGRESS_S:
            self._progress_s = now_s
            run.event("progress", **progress(run))
        self._go_on()

    def _look_at(self, name: str, member: Member) -> None:
        """Suspect early whoever is silent or gets no further, and give up late."""
        run = self.run
        silence = f"silent for {run.now_s - member.pulse.heard_s:.1f} s"
        is_suspicious = run.now_s > member.pulse.suspect_s()
        if run.now_s > member.pulse.evict_s() or (run.stopping and is_suspicious):
            run.evicted.append(name)
            self.lost(name, silence, run.now_s)
        elif name in run.members and (is_suspicious or self._is_stuck(member)):
            no_progress = f"no progress for {member.computing_s:.0f} s"
            if self._is_dispensable(name):
                self._suspect(name, silence if is_suspicious else no_progress)

    def _is_dispensable(self, name: str) -> bool:
        """Whether the run can go on without a member of the term: another holds the model."""
        run = self.run
        others = run.healthy & run.members.keys() & set(run.term.members) - {name}
        return bool(run.plan) and name in run.term.members and bool(others) and not run.leaving

    def _is_stuck(self, member: Member) -> bool:
        """Whether a member computes for far longer than what it was given can take."""
        run = self.run
        longest_s = max(
            run.plan.round_s if run.plan else 0.0, run.scores.seconds if run.scores else 0.0
        )
        return member.computing_s > max(STUCK_S, STUCK_ROUNDS * longest_s)

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
