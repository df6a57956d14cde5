"""Effects carried out for real: sockets, clocks, threads and roads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

from torch import Tensor

from coterie.agents import effects as do
from coterie.errors import CoterieError, Torn, TrainingError
from coterie.transport.collectives import Collectives
from coterie.transport.control import ControlClient, Inbox
from coterie.transport.group import GroupTransport
from coterie.transport.mail import Mailbox
from coterie.transport.messages import Failed, Term, Wire
from coterie.transport.pipeline import PipelineTransport
from coterie.transport.secure import JoinKey
from coterie.transport.star import StarTransport

BREATH_S = 2e-4  # between messages told meanwhile: Python runs one thread, let it be the worker's
FOREVER_S = 1e9  # an urgent message ends such a wait


def drive(life: Generator[Any, Any, str], perform: Callable[[Any], Any]) -> str:
    """Carry out the effects of a life to its end; why it ended."""
    answer: Any = None
    error: CoterieError | None = None  # what an effect came to, for the life to judge
    while True:
        try:
            effect = life.throw(error) if error is not None else life.send(answer)
        except StopIteration as end:
            return str(end.value)
        error = None
        try:
            answer = perform(effect)
        except CoterieError as raised:
            error = raised


class Roads:
    """The roads of one agent; a term says by which its members meet."""

    def __init__(self, address: str, key: JoinKey, me: str, inbox: Inbox) -> None:
        self._address, self._key, self._me, self._inbox = address, key, me, inbox
        self.ring = GroupTransport(address, inbox)
        self.star: StarTransport | None = None
        self._served_at = ""
        self.current: GroupTransport | Collectives = self.ring
        self._term = Term(number=0, members=(), store="")
        self._pipeline: PipelineTransport | None = None
        self._formed: tuple[int, tuple[str, ...]] | None = None

    def form(self, term: Term) -> None:
        """Build the group of a term, or connect to its server."""
        self._term = term
        if not term.hub:
            self.current = self.ring
            self.ring.form(term.number, term.members, self._me, term.store)
            self.ring.dial_ahead(term.spare_store)
            return
        if self.star is None or self._served_at != term.hub:
            if self.star is not None:  # that server has died, and what it was sent with it
                self.star.close()
            self.star = StarTransport(term.hub, self._key, self._me, self._inbox)
            self._served_at = term.hub
        self.current = self.star
        if not term.apart:
            self.star.forget("server")  # what the server said in the term before
            self.star.form(term.number, term.members)

    def pipeline(self, team: tuple[str, ...]) -> PipelineTransport:
        """The pipeline of a team in this term, formed when it is first needed."""
        if self._pipeline is None:
            self._pipeline = PipelineTransport(self._address, self._inbox)
        if self._formed != (self._term.number, team):
            self._formed = None
            self._pipeline.form(self._term.number, team, self._me, self._term.store)
            self._formed = (self._term.number, team)
        return self._pipeline

    def seat(self, team: tuple[str, ...]) -> int:
        """Which stage of a team's pipeline is this member's."""
        return team.index(self._me)

    def mail(self) -> Mailbox:
        """The way to the server of the star road."""
        if self.star is None:
            raise Torn("there is no server")
        return self.star

    def close(self) -> None:
        """Hang up on the star road; groups end with the process."""
        if self.star is not None:
            self.star.close()


class Performer:
    """Each effect of a member as a call of something real."""

    def __init__(
        self, name: str, client: ControlClient, roads: Roads, rest_s: Callable[[float], float]
    ) -> None:
        self._name, self._client, self._roads, self._rest_s = name, client, roads, rest_s

    def __call__(self, effect: do.Effect) -> Any:
        """Carry out an effect; raises Torn where a meeting breaks off."""
        match effect:
            case do.Now():
                return time.perf_counter()
            case do.Tell(message):
                return self._client.tell(message)
            case do.TellMeanwhile(make):
                return self._tell_meanwhile(make)
            case do.Hear():
                return self._client.inbox.get()
            case do.Glance():
                return self._client.inbox.get(0.0)
            case do.Compute(run, _):
                return self._compute(run)
            case do.Await(run):
                return run()
            case do.Leave(handle):
                return handle.leave()
        if self._client.inbox.urgent():
            raise Torn("a new membership was named")
        return self._meet(effect)

    def _tell_meanwhile(self, make: Callable[[], Iterable[Wire]]) -> None:
        def tell() -> None:
            try:
                for message in make():
                    self._client.tell(message)
                    time.sleep(BREATH_S)
            except Exception as error:  # nobody waits for the thread: the coordinator is to know
                self._client.tell(Failed(reason=f"{self._name}: {error}"))

        threading.Thread(target=tell, daemon=True).start()

    def _compute(self, run: Callable[[], Any], waited_s: Callable[[], float] = lambda: 0.0) -> Any:
        began_s = time.perf_counter()
        self._client.computing_since_s = time.monotonic()
        try:
            value = run()
        finally:
            self._client.computing_since_s = None
        rest_s = self._rest_s(time.perf_counter() - began_s - waited_s())
        if rest_s > 0:
            time.sleep(rest_s)
        return value

    def _meet(self, effect: do.Effect) -> Any:
        match effect:
            case do.Form(_, term):
                return self._roads.form(term)
            case do.Begin(talk):
                return Meanwhile(talk, self._roads, self._client.inbox)
            case do.Finish(handle):
                return handle.finish()
            case do.Stream(run, _):
                return self._stream(run)
            case do.Pass():
                return self._pass(effect)
            case do.Post(to, channel, data):
                return self._roads.mail().post(to, channel, data)
            case do.Fetch():
                return self._fetch(effect)
        return ask(self._roads.current, effect)

    def _fetch(self, effect: do.Fetch) -> Any:
        mail, inbox, channel = self._roads.mail(), self._client.inbox, effect.channel
        if effect.patience_s is not None:
            inbox.wait(lambda: mail.waiting(channel), effect.patience_s)
            if inbox.urgent():
                raise Torn("a new membership was named")
        is_asked = effect.wait and effect.patience_s is None
        return mail.fetch(channel) if is_asked or mail.waiting(channel) else None

    def _stream(self, run: Callable[[Callable[[Tensor], None]], Any]) -> Any:
        sums = self._roads.ring.totals()
        whole, began_s = True, time.perf_counter()
        try:
            value = self._compute(lambda: run(sums.add))
        finally:  # others have begun the same sums, whatever came of this member's part
            computed_s = time.perf_counter() - began_s
            try:
                sums.finish()
            except Torn:
                whole = False
        return value, whole, computed_s

    def _pass(self, effect: do.Pass) -> Any:
        pipeline = self._roads.pipeline(effect.team)
        data: Any = effect.batch.data
        me = self._roads.seat(effect.team)
        inputs = data[0] if me == 0 else None
        targets = data[1] if me == len(effect.team) - 1 else None
        began_s = time.perf_counter()
        loss = self._compute(
            lambda: pipeline.gradient(
                effect.stage, inputs, targets, effect.loss, effect.micro_batches
            ),
            lambda: pipeline.waited_s,
        )
        return loss, time.perf_counter() - began_s - pipeline.waited_s


def ask(road: GroupTransport | Collectives, effect: Any) -> Any:
    """What members ask of the road in a meeting."""
    match effect:
        case do.Total(vector_N, among):
            return road.total(vector_N, among)
        case do.Gather(vector_N, among):
            return road.gather(vector_N, among)
        case do.Shuffle(parts, among):
            return road.shuffle(parts, among)
        case do.Swap(to, origin, vector_N):
            return road.swap(to, origin, vector_N)
        case do.Give(peer, vector_N):
            return road.send(peer, vector_N)
        case do.Take(peer, into_N):
            return road.receive(peer, into_N)
    raise AssertionError(f"no such effect: {effect}")


class Meanwhile:
    """A meeting that a thread holds while its member computes."""

    def __init__(self, talk: Any, roads: Roads, inbox: Inbox) -> None:
        self._road, self._inbox = roads.current, inbox
        self._talk, self._given_up, self._over = talk, False, False
        self._value: Any = None
        self._error: Exception | None = None
        threading.Thread(target=self._hold, daemon=True).start()

    def _hold(self) -> None:
        answer: Any = None
        try:
            while not self._given_up:  # else its asks would meet those of a later term
                answer = ask(self._road, self._talk.send(answer))
        except StopIteration as end:
            self._value = end.value
        except Exception as error:  # raised where the outcome is waited for
            self._error = error
        self._over = True
        self._inbox.ring()

    def leave(self) -> None:
        """Take no further part in it."""
        self._given_up = True

    def finish(self) -> Any:
        """Wait for the outcome; raises Torn where the meeting broke off."""
        if not self._inbox.wait(lambda: self._over, FOREVER_S):
            self.leave()
            raise Torn("a new membership broke off the meeting")
        if isinstance(self._error, CoterieError):
            raise self._error
        if self._error is not None:
            raise TrainingError(f"a meeting failed: {self._error}") from self._error
        return self._value
