"""Agents as processes of this machine, and the process that coordinates them.

Run as `python -m coterie.engines.local RUN`: the folder's job.yaml says what to do, its
events.jsonl what happened. Loads no torch.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from coterie import code
from coterie.agents import checkpoint
from coterie.agents.checkpoint import Checkpoint
from coterie.config import load_job
from coterie.coordinator.run import Resume
from coterie.engines.bell import ASKED, empty, wakeups
from coterie.engines.coordinators import coordinator_of, figures
from coterie.engines.placed import agents_of
from coterie.engines.processes import (
    BEREFT,
    DONE,
    FAILED,
    INTERRUPTED,
    KEY_FILES,
    MAX_RESTARTS,
    REFUSED,
    Server,
    ended,
)
from coterie.engines.writer import Writer
from coterie.errors import CoterieError
from coterie.machine import cores, memory_available_bytes
from coterie.parent import die_with_parent
from coterie.transport.control import ControlServer
from coterie.transport.door import Door
from coterie.transport.messages import HUB, Back, Beat, Bye, Hello, Stop, Who
from coterie.transport.secure import JoinKey, Keys
from coterie.watch.events import read
from coterie.watch.patience import PatientLog
from coterie.watch.said import trim
from coterie.watch.words import Event

TICK_S = 0.1
BEAT_S = 2.0
ASK_S = 1.0  # between two times that a stranger is asked who it is


class Host:
    """Drives a coordinator with real sockets, clocks, processes and files."""

    def __init__(
        self,
        run: Path,
        resume: Checkpoint | None,
        past: Sequence[Event] = (),
        by_itself: bool = False,
    ) -> None:
        self.job = load_job(run / "job.yaml")
        self._run, self._past = run, () if by_itself else past
        keys = _keys(run, anew=not past)
        door = Door.open(keys.join, run, self.job.agents.key_minutes, anew=not past)
        self._server = ControlServer(_endpoint(past) or self.job.listen, keys, door)
        self._log = PatientLog(run / "events.jsonl")
        self._writer = Writer(run, self.job.keep_checkpoints)
        beside = os.getppid()
        self._agents = agents_of(self.job, run, self._server.endpoint, beside)
        goes_on = Resume(resume.files, resume.meta) if resume else None
        self.coordinator = coordinator_of(self.job, run, goes_on, self._past)
        self.coordinator.run.by_itself = by_itself
        found = code.texts(self.job)
        self.coordinator.run.source = code.shipped(found) if self.job.agents.ship else found
        self._goes_on = False  # as another process, that agents elsewhere come back to
        listen = _next_to(self._server.endpoint, self.job.listen)
        self._hub = Server(run, self._server.endpoint, listen, beside)
        self._asked_at_s: dict[bytes, float] = {}  # by identity: when it was asked who it is
        self._identities: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._kill_at_s: float | None = None
        self._unsaved = ""  # why the newest checkpoint could not be written
        self._told_task = False
        self._beat_at_s = 0.0
        self._resume = resume
        self.passed_over = ""  # what is wrong with a checkpoint that is newer

    def serve(self) -> int:
        """Run to the end; the exit code."""
        try:
            with wakeups(self._signalled) as bell:
                if self._past:
                    self._take_over()
                else:
                    self._begin()
                self.coordinator.start(time.monotonic())
                while not self.coordinator.run.done:
                    self._server.wait(TICK_S, bell)
                    empty(bell)
                    self._hear()
                    self._reap()
                    self.coordinator.tick(time.monotonic())
                    self._drill()
                    self._beat()
                    self._flush()
            return self._end()
        finally:
            self._close()

    def _begin(self) -> None:
        self._tell_run()
        if self.passed_over:
            self._log.write("warning", text=self.passed_over)
        if self.coordinator.run.by_star:
            self._hub.start()
        self._agents.start()

    def _take_over(self) -> None:
        """Go on in the place of a coordinator that died: what it started still runs."""
        self._log.write("coordinator", state="returned", pid=os.getpid())
        pids = {e["member"]: e["pid"] for e in self._past if e["kind"] == "agent" and "pid" in e}
        self._agents.adopt(pids)
        if self.coordinator.run.by_star:
            told = [e["pid"] for e in self._past if e["kind"] == "server" and "pid" in e]
            self._hub.adopt(told[-1] if told else 0)
        self._told_task = True
        if any(event["kind"] == "fault" for event in self._past):
            self._kill_at_s = float("inf")  # it was rehearsed already

    def _signalled(self, number: int) -> None:
        if number == ASKED:
            self.coordinator.stop("interrupted")
            return
        self._close()  # asked to end at once: no state is saved any more
        os._exit(INTERRUPTED)

    def _close(self) -> None:
        self._agents.close()
        self._hub.close()
        self._server.close()
        self._writer.close()
        self._log.close()
        for name in () if self._goes_on else KEY_FILES:
            (self._run / name).unlink(missing_ok=True)

    def _hear(self) -> None:
        while (received := self._server.receive()) is not None:
            identity, message = received
            if isinstance(message, CoterieError):
                self._log.write("warning", text=str(message))
                continue
            hello = message.hello if isinstance(message, Back) else message
            if isinstance(hello, Hello):
                was_asked = hello.name in self.coordinator.run.unheard
                if self._knows(identity, hello) and not was_asked:
                    continue  # it was asked before it could say so by itself
                if not was_asked:
                    self._greet(identity, hello)
            name = self._names.get(identity)
            if name is not None:
                self.coordinator.receive(name, message, time.monotonic())
                self._flush()
            elif not isinstance(hello, Hello | Bye):
                self._ask(identity)

    def _knows(self, identity: bytes, hello: Hello) -> bool:
        here = hello.name in self.coordinator.run.members
        return here and self._names.get(identity) == hello.name

    def _ask(self, identity: bytes) -> None:
        """Ask whoever speaks and is not known who it is, once in a while."""
        now_s = time.monotonic()
        if now_s >= self._asked_at_s.get(identity, 0.0) + ASK_S:
            self._asked_at_s[identity] = now_s
            self._server.send(identity, Who())

    def _greet(self, identity: bytes, hello: Hello) -> None:
        if hello.name in self.coordinator.run.members:
            # An impostor, or a restart that is faster than the news of the death.
            reason = f"an agent {hello.name} is here already; choose another --name"
            self._server.send(identity, Stop(reason=reason, at_once=True))
            return
        if self.coordinator.run.is_fenced(hello):
            reason = "another server was started in the place of this one"
            self._server.send(identity, Stop(reason=reason, at_once=True))
            return
        self._identities[hello.name] = identity
        self._names = {i: n for n, i in self._identities.items()}

    def _reap(self) -> None:
        if (code := self._hub.gone()) is not None:
            self._replace_server(f"{ended(code)}; see {HUB}.log")
        drill = self.job.drill
        after_s = drill.restart_after_s if drill else 1.0
        for name, reason, num_starts, log in self._agents.reap(time.monotonic(), after_s):
            if self.coordinator.run.plan is None and num_starts > 1:
                self.coordinator.run.fail(f"{name} {reason} while starting; see {log}")
            self.coordinator.lost(name, reason, time.monotonic())
        for name, (reason, since_s) in list(self._agents.doubts.items()):
            if self.coordinator.doubt(name, reason, since_s, time.monotonic()):
                del self._agents.doubts[name]
        if self._agents.complaint and self.coordinator.run.plan is None:
            self.coordinator.run.fail(self._agents.complaint)

    def _replace_server(self, reason: str) -> None:
        run = self.coordinator.run
        self.coordinator.lost(HUB, reason, time.monotonic())
        if self._hub.num_starts > MAX_RESTARTS:
            run.fail(f"the server of the star road died again and again, at last {reason}")
        if not (run.done or run.leaving):
            self._hub.start()

    def _drill(self) -> None:
        """The rehearsed failure of a demo: at a random moment after its fraction of the run."""
        drill, now_s = self.job.drill, time.monotonic()
        if drill is None or self.coordinator.run.plan is None:
            return
        if self._kill_at_s is None and self.coordinator.run.fraction() >= drill.at:
            self._kill_at_s = now_s + random.Random(self.job.seed).random()
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            self._kill_at_s = float("inf")
            self._log.write("fault", member=drill.kill, action="kill -9")
            self._agents.kill(drill.kill)

    def _beat(self) -> None:
        """Agents that hear nothing for long take the coordinator for dead; their logs are cut."""
        if time.monotonic() >= self._beat_at_s:
            self._beat_at_s = time.monotonic() + BEAT_S
            trim(self._run)
            for identity in self._identities.values():
                self._server.send(identity, Beat())
            # A line that broke may have taken the order along.
            for name, message in self.coordinator.run.unanswered():
                if name in self._identities:
                    self._server.send(self._identities[name], message)

    def _flush(self) -> None:
        """Carry out what the coordinator laid out: events, messages, checkpoints."""
        c = self.coordinator.run
        if c.layout is not None and not self._told_task:
            self._told_task = True
            num_train, size = c.ledger.num_train, c.layout.size
            self._log.write("task", num_train=num_train, num_parameters=size)
        for kind, fields in self._agents.told:
            self._log.write(kind, **fields)
        self._agents.told.clear()
        for kind, fields in c.log:
            self._log.write(kind, **fields)
            if kind == "agent" and fields["state"] == "ready":
                self._agents.settle(fields["member"])
        if c.plan and not c.missed and not c.leaving:
            self._agents.keep_spares()
        for name, message in c.outbox:
            if name in self._identities:
                self._server.send(self._identities[name], message)
        for point in c.checkpoints:
            self._writer.add(point)
        self._tell_written()
        for name in c.evicted:  # should it be heard again, it is asked who it is
            self._names = {i: n for i, n in self._names.items() if n != name}
            self._identities.pop(name, None)
            if name == HUB:
                self._hub.kill()
            else:
                self._agents.kill(name)
        c.evicted.clear()
        self._log.flush()
        c.log.clear()
        c.outbox.clear()
        c.checkpoints.clear()

    def _tell_run(self) -> None:
        resumed = {}
        if self.coordinator.run.by_itself:  # at worst it begins anew
            resumed = {"resumed_from": "its start", "resumed_round": 0}
        if self._resume is not None:
            resumed = {
                "resumed_from": f"step {self._resume.step}",
                "resumed_round": self._resume.meta["round"],
            }
        self._log.write(
            "run",
            name=self._run.name,
            folder=str(self._run),
            agents=self.coordinator.run.num_agents,
            batch=self.job.batch if self.job.script is None else None,  # its loader will say
            strategy=self.job.strategy,
            until=self.job.until,
            endpoint=self._server.endpoint,
            cores=cores(),
            memory_bytes=memory_available_bytes(),
            **resumed,
        )

    def _tell_written(self, wait: bool = False) -> None:
        """What became of checkpoints; a disk that is full is no reason to end."""
        for done in self._writer.written(wait):
            self._unsaved = done.error
            if done.error:
                self._log.write("warning", text=done.error)
            else:
                self._log.write("checkpoint", **done.event())

    def _end(self) -> int:
        c = self.coordinator.run
        self._flush()
        self._tell_written(wait=True)
        failure = c.failure or self._unsaved
        code = FAILED if failure and c.plan else REFUSED if failure else DONE
        if not failure and c.stopping:
            code = INTERRUPTED
        saved = checkpoint.good_checkpoints(self._run)
        if c.bereft and c.plan and not c.stopping:
            origin = saved[0].name if saved else "its start"
            self._log.write("warning", text=f"{failure}; going on from {origin}")
            self._goes_on = True
            return BEREFT
        self._log.write(
            "summary",
            **figures(self.coordinator, self._run, self._log.held()),
            checkpoint=str(saved[0]) if saved else None,
            folder=str(self._run),
        )
        reason = failure or c.stopping or c.reached()
        self._log.write("stopped", reason=reason, ok=code == DONE, resumable=bool(saved))
        if untold := self._log.flush():
            failure, code = failure or f"{len(self._log.held()):,} {untold}", FAILED
        if failure:
            kept = f"; the last good checkpoint is {saved[0]}" if saved else ""
            print(f"{failure}{kept}", file=sys.stderr)
        return code


def _keys(run: Path, anew: bool) -> Keys:
    """The keys of the run: of the coordinator before, or fresh ones."""
    join, own = (run / name for name in KEY_FILES[:2])
    if not anew:
        return Keys.read(own, JoinKey.read(join))
    keys = Keys.make()
    keys.join.write(join)
    keys.write(own)
    return keys


def _next_to(endpoint: str, asked: str) -> str:
    """Where the star road's server listens: at the next port, where a job names its own.

    >>> _next_to("192.0.2.7:7000", asked="192.0.2.7:7000"), _next_to("h:4123", asked="h:0")
    ('192.0.2.7:7001', 'h:0')
    """
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{0 if asked.endswith(':0') else (int(port) + 1) % (1 << 16)}"


def _endpoint(past: Sequence[Event]) -> str:
    """Where the coordinator before listened."""
    told = [event["endpoint"] for event in past if event["kind"] == "run"]
    return str(told[-1]) if told else ""


def main(run: str, resume: str = "", how: str = "") -> int:
    """The coordinating process of one run.

    `again` if another one died in it, `anew` if it goes on by itself after all who held the model
    were lost: from its checkpoint or its start, with the keys and the address that agents know.
    """
    die_with_parent(ASKED)  # and save the state first
    host = None
    try:
        origin, passed_over = checkpoint.choose(Path(resume)) if resume else (None, "")
        start = checkpoint.load(origin) if origin else None
        past = read(Path(run) / "events.jsonl") if how else ()
        host = Host(Path(run), start, past, by_itself=how == "anew")
        host.passed_over = passed_over
        return host.serve()
    except CoterieError as error:
        print(error, file=sys.stderr)
        return FAILED if host and host.coordinator.run.plan else REFUSED


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*sys.argv[1:]))
