"""The coordinator of agents that learn tasks of their own: who learns what, where, and until when.

There are no terms and no rounds: nobody waits for anybody. An agent is told what it holds, learns
on by itself, and tells how far it is. When it dies, its learners go on elsewhere from the state
that they told last; when this coordinator dies, they learn on and tell the next one what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coterie.code import digests
from coterie.config import Job
from coterie.coordinator.homes import Homes, homes
from coterie.coordinator.register import Record, Register, files_of, spread
from coterie.coordinator.run import Resume
from coterie.knowledge.graph import gathered
from coterie.transport import messages as say
from coterie.transport.duties import Able, Broke, Cut, Judged, Kept, Kinship, LaidDown, Learned
from coterie.transport.parcels import Assembly

PROGRESS_S = 0.5
SAVED_S = 2.0  # between two checkpoints
END_S = 10.0  # for last words
RETURN_S = 5.0  # for agents to come to a coordinator that took another's place
ASK_S = 1.0  # between two times that a stranger is asked who it is
Event = Mapping[str, Any]


class School:
    """One run from its first word to its last; `past` are the events of one that died in it.

    >>> from coterie.specs import OwnTask, SeparateSpec
    >>> greek = OwnTask(model="m:net", train="m:train", test="m:test")
    >>> job = Job(name="x", task=SeparateSpec(tasks={"greek": greek}), optimizer="torch.optim:SGD",
    ...           batch=8, until={"steps": 9})
    >>> school = School(job, num_agents=2)
    >>> school.start(now_s=0.0)
    >>> school.tick(now_s=61.0)
    >>> school.run.failure[:42]
    'expected 2 agents within 60 s, found none;'
    """

    def __init__(
        self,
        job: Job,
        num_agents: int,
        resume: Resume | None = None,
        past: Sequence[Event] = (),
    ) -> None:
        self.run = Register(job, num_agents)
        self._progress_s = self._ended_s = self._saved_s = 0.0
        self._is_news = False  # a state that is in no checkpoint yet
        self._returned = bool(past)
        self._asked_s: dict[str, float] = {}  # when an agent was asked who it is
        if resume is not None:
            for record in self.run.learners.values():
                record.files = files_of(record.name, resume.files)
                record.kept_steps = resume.meta["steps"].get(record.name, 0)
            self.run.before_s = float(resume.meta.get("elapsed_s", 0.0))
        for event in past:
            self._remember(event)

    def start(self, now_s: float) -> None:
        """The clock begins."""
        self.run.now_s = self.run.started_s = self.run.began_s = now_s

    def receive(self, name: str, message: Any, now_s: float) -> None:
        """An agent said something."""
        run = self.run
        run.now_s = now_s
        if name in run.members:
            run.members[name].pulse.beat(now_s)
        elif name != say.HUB and not isinstance(message, say.Hello | say.Bye):
            self._ask(name)
            return
        match message:
            case say.Hello():
                self._hello(message)
            case Able():
                self._able(name, message)
            case Learned() | Judged() | Cut() | Kinship() | Kept() | Broke():
                record = run.learners.get(message.pupil)
                if record is not None and record.home == name:
                    self._of_learner(name, record, message)
            case say.State():
                run.assemblies.setdefault(name, Assembly()).add(message)
            case LaidDown():
                self._laid_down(name, message)
            case say.Refused(reason=reason) | say.Failed(reason=reason):
                self._part_with(name, reason)
            case say.Bye(reason=reason):
                self._part_with(name, reason or "it left")
        self._settle()

    def lost(self, name: str, reason: str, now_s: float) -> None:
        """An agent, or the board's process, is dead."""
        self.run.now_s = now_s
        if name == say.HUB:
            self.run.hub = None
            self.run.event("server", state="lost", reason=reason)
        self._part_with(name, reason)
        self._settle()

    def doubt(self, name: str, reason: str, since_s: float, now_s: float) -> bool:
        """An engine lost sight of an agent: it is dead if it is not heard either.

        Whether there is nothing more to be found out: it was heard since, or is given up.
        """
        member = self.run.members.get(name)
        if member is None or member.pulse.heard_s > since_s:
            return True
        if now_s <= member.pulse.suspect_s():
            return False
        self.lost(name, reason, now_s)
        return True

    def stop(self, reason: str) -> None:
        """End early, resumably."""
        self.run.stopping = reason
        self._settle()

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        run = self.run
        run.now_s = now_s
        for name, member in list(run.members.items()):
            # One that still builds its tasks holds nothing, and loads what may silence it for long.
            until_s = member.pulse.suspect_s() if name in run.able else member.pulse.evict_s()
            if not run.leaving and now_s > until_s:
                silent_s = now_s - member.pulse.heard_s
                self._part_with(name, f"silent for {silent_s:.1f} s")
                run.suspects[name] = member.pulse
        for name in [name for name, pulse in run.suspects.items() if now_s > pulse.evict_s()]:
            del run.suspects[name]
            run.evicted.append(name)
        if run.plan is not None and now_s - self._progress_s >= PROGRESS_S:
            self._progress_s = now_s
            run.event("progress", **run.progress())
        if self._is_news and now_s - self._saved_s >= SAVED_S:
            self._is_news, self._saved_s = False, now_s
            run.save()
        self._settle()

    # -- who is here ------------------------------------------------------------------------------

    def _ask(self, name: str) -> None:
        """Ask one that was given up and speaks after all who it is, and what it holds by now."""
        if self.run.now_s - self._asked_s.get(name, -ASK_S) >= ASK_S:
            self._asked_s[name] = self.run.now_s
            self.run.tell(name, say.Who())

    def _hello(self, hello: say.Hello) -> None:
        run = self.run
        if hello.name == say.HUB:
            if run.hub != hello:
                run.hub = hello
                run.event("server", state="joined", pid=hello.pid)
                age_s = run.job.knowledge.max_age_s if run.job.knowledge else 0.0
                run.tell(say.HUB, say.Welcome(job={"kind": "separate", "max_age_s": age_s}))
            return
        state = "returned" if run.suspects.pop(hello.name, None) else "joined"
        run.joined(hello)
        run.event("agent", member=hello.name, state=state, cores=hello.cores, pid=hello.pid)
        job = run.job.model_dump(by_alias=True, mode="json")
        source = run.source if run.job.agents.ship else {}
        run.tell(hello.name, say.Welcome(job=job, code=digests(run.source), source=source))

    def _able(self, name: str, able: Able) -> None:
        run = self.run
        if name not in run.members:
            return
        run.able[name] = able
        run.told.pop(name, None)
        run.event("agent", member=name, state="ready", cores=run.members[name].hello.cores)
        for task, reason in able.refused.items():
            run.event("warning", text=f"{name} cannot learn {task}: {reason}")
        for held, num_steps in able.holds.items():
            record = run.learners.get(held)
            if record is not None and record.home in ("", name) and not record.broken:
                record.home, record.moving_to, record.since_s = name, "", run.now_s
                record.kept_steps = max(record.kept_steps, num_steps)
        self._look_for_homes(f"{name} is here")

    def _part_with(self, name: str, reason: str) -> None:
        """Go on without an agent: what it held goes on elsewhere, from what was told last."""
        run = self.run
        if run.members.pop(name, None) is None:
            return
        run.able.pop(name, None)
        run.told.pop(name, None)
        run.assemblies.pop(name, None)
        if run.leaving:
            return
        run.losses[name] = run.losses.get(name, 0) + 1
        run.event("agent", member=name, state="lost", reason=reason)
        for record in run.learners.values():
            if record.home == name:
                record.home, record.moving_to = "", ""
        self._look_for_homes(f"{name} is gone")

    # -- what learners tell -----------------------------------------------------------------------

    def _of_learner(self, name: str, record: Record, message: Any) -> None:
        run = self.run
        match message:
            case Learned():
                if message.metrics != record.metrics:
                    figures = {"metrics": message.metrics, "steps": message.num_steps}
                    run.event("learned", pupil=record.name, member=name, **figures)
                record.learned = message
            case Judged():
                self._judged(record, message)
            case Cut(reason=reason, num_steps=num_steps):
                run.event("board_failed", pupil=record.name, num_steps=num_steps, reason=reason)
            case Kinship():
                run.kinship[record.name] = dict(message.row)
                run.event("kinship", pupil=record.name, row=message.row)
                self._group()
            case Kept():
                self._kept(name, record, message.num_steps)
            case Broke(reason=reason):
                record.broken = reason
                text = f"{record.name} on {name} cannot go on: {reason}; the others do"
                run.event("warning", text=text, pupil=record.name)
                self._group()
                self._look_for_homes(f"{record.name} has ended")

    def _judged(self, record: Record, message: Judged) -> None:
        kind = "lesson_refused" if message.reason else "lesson_taken"
        record.num_refused += bool(message.reason)
        record.num_taken += not message.reason
        told = {"pupil", "teacher", "currency", "num_bytes", "num_steps"}
        told |= {"reason"} if message.reason else {"gain", "gain_error", "weight"}
        self.run.event(kind, **message.model_dump(include=told))

    def _kept(self, name: str, record: Record, num_steps: int) -> None:
        come = self.run.assemblies.get(name, Assembly()).files
        if files := files_of(record.name, come):
            for path in files:
                del come[path]
            record.files, record.kept_steps = files, num_steps
            self._is_news = True

    def _laid_down(self, name: str, message: LaidDown) -> None:
        record = self.run.learners.get(message.pupil)
        if record is not None and record.home == name and record.moving_to:
            self._move_in(record, record.moving_to)
            self._tell_homes(f"{record.name} has moved")

    def _group(self) -> None:
        """Who teaches whom, once all have tried the others' models on their own samples."""
        run = self.run
        if run.job.knowledge is None or run.job.knowledge.groups != "auto":
            return
        names = [r.name for r in run.learners.values() if not r.broken]
        if any(name not in run.kinship for name in names):
            return
        groups = gathered("cross loss", {name: run.kinship[name] for name in names}).groups()
        groups = tuple(group for group in groups if len(group) > 1)
        run.event("groups", groups=groups)
        run.groups = groups

    # -- where they learn -------------------------------------------------------------------------

    def _look_for_homes(self, cause: str) -> None:
        run = self.run
        if run.leaving or (run.plan is None and not self._may_begin()):
            return
        found = homes(run.wanting(), run.hosts(), run.groups)
        if run.plan is None:
            self._begin()
        self._refuse(found)
        for name, home in found.of.items():
            record = run.learners[name]
            if record.home and record.home != home:
                record.moving_to = home
            elif not record.home:
                self._move_in(record, home)
        self._tell_homes(cause)

    def _tell_homes(self, cause: str) -> None:
        run = self.run
        living = [r for r in run.learners.values() if not r.broken]
        homes = {r.name: r.home for r in living}
        if homes != run.plan:
            run.plan = homes
            run.event("homes", homes=homes, cause=cause, text=spread(living))

    def _may_begin(self) -> bool:
        return bool(self.run.able) and (len(self.run.able) >= self.run.num_agents or self._is_late)

    @property
    def _is_late(self) -> bool:
        """Whether those who are not here are not waited for."""
        patience_s = RETURN_S if self._returned else self.run.job.agents.join_timeout_s
        return self.run.now_s - self.run.started_s > patience_s

    def _begin(self) -> None:
        run = self.run
        run.began_s, run.plan = run.now_s, {}
        sharing = run.job.knowledge
        if sharing is not None and sharing.groups != "auto":
            run.groups = sharing.groups_of(run.spec.pupils)

    def _refuse(self, found: Homes) -> None:
        """A task that no agent can learn ends here, if all who are to come have looked at it."""
        run = self.run
        for name in found.homeless:
            record = run.learners[name]
            whys = [a.refused[record.task] for a in run.able.values() if record.task in a.refused]
            if whys and len(whys) == len(run.able) and not record.broken:
                record.broken = whys[0]
                text = f"{name} is learned by nobody: {whys[0]}; the others are"
                run.event("warning", text=text, pupil=name)

    def _move_in(self, record: Record, home: str) -> None:
        run = self.run
        goes_on = record.learned is not None or record.kept_steps > 0
        if goes_on:
            run.num_handed_over += 1
            again = max(0, record.num_steps - record.kept_steps)
            told = {"pupil": record.name, "to": home, "from_steps": record.kept_steps}
            run.event("rehomed", **told, steps_again=again)
        record.home, record.moving_to, record.since_s = home, "", run.now_s

    # -- from here to the end ---------------------------------------------------------------------

    def _settle(self) -> None:
        """Do what follows of all that is known by now."""
        run = self.run
        if run.done:
            return
        if run.leaving:
            if not run.members or run.now_s - self._ended_s > END_S:
                run.save()
                run.event("progress", **run.progress())
                run.done = True
            return
        if run.plan is None and self._is_late and run.able:
            self._look_for_homes("those who are late are not waited for")
        if run.plan is None and self._is_late and not (run.able or self._returned):
            wanted = f"{run.num_agents} agents within {run.job.agents.join_timeout_s:.0f} s"
            run.fail(f"expected {wanted}, found none; look into their logs, or start them sooner")
        elif run.plan is not None and all(r.broken for r in run.learners.values()):
            whys = "; ".join(f"{r.name}: {r.broken}" for r in run.learners.values())
            run.fail(f"expected a task that can be learned, found none ({whys}); mend one")
        elif run.stopping or (run.plan is not None and run.reached()):
            self._leave()
        else:
            run.tell_duties()

    def _leave(self) -> None:
        self.run.ended = self.run.stopping or self.run.reached()
        self.run.leaving, self._ended_s = True, self.run.now_s
        self.run.tell_all(say.Stop(reason=self.run.ended))

    def _remember(self, event: Event) -> None:
        """Know again what a coordinator that died put on record."""
        run = self.run
        record = run.learners.get(str(event.get("pupil", "")))
        match event["kind"]:
            case "progress":
                run.before_s = float(event.get("elapsed_s") or 0.0)
            case "lesson_taken" if record:
                record.num_taken += 1
            case "lesson_refused" if record:
                record.num_refused += 1
            case "kinship" if record:
                run.kinship[record.name] = {k: tuple(v) for k, v in event["row"].items()}
            case "groups":
                run.groups = tuple(tuple(group) for group in event["groups"])
            case "rehomed":
                run.num_handed_over += 1
