"""What a simulated agent is made of: strands of effects, an inbox, mail, calls of others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from coterie.agents import effects as do
from coterie.agents.worker import Worker
from coterie.coordinator.parallel import passage_s
from coterie.coordinator.prices import streamed_s
from coterie.errors import CoterieError
from coterie.sync.exchanges import Reduce
from coterie.sync.room import Payload
from coterie.transport import messages as say
from coterie.transport.memory import Call
from coterie.transport.parcels import Assembly
from coterie.world import Device, Link, World

FORM_S = 0.005  # to build a group


@dataclass
class Strand:
    """One generator of effects under way: a member's life, or a meeting that it holds meanwhile."""

    life: Generator[Any, Any, Any]
    waits_for: str = ""  # "order" | "meeting" | "outcome" | "mail" | "" while it computes
    turn: int = 0  # what was scheduled for an earlier turn is void
    channel: str = ""  # of the mail that it waits for
    value: Any = None  # what it came to
    over: bool = False
    convert: Callable[[Any], Any] | None = None  # the answer it waits for into what it is told


@dataclass
class Agent:
    """A simulated agent process; the server of the star road is one without a device."""

    device: Device | None
    inbox: deque[Any] = field(default_factory=deque)
    mail: deque[tuple[str, str, bytes]] = field(default_factory=deque)  # (origin, channel, data)
    assembly: Assembly = field(default_factory=Assembly)
    welcome: say.Welcome | None = None
    worker: Worker | None = None
    main: Strand | None = None
    aside: Strand | None = None  # a meeting that goes on while it computes
    held: list[Callable[[], None]] | None = None  # what waits, while it is stopped or cut off
    stopped: bool = False
    stuck: list[Callable[[], None]] | None = None  # what it does not get done, though it lives
    stuck_at_s: float | None = None  # since when it gets nothing done

    @property
    def strands(self) -> list[Strand]:
        """What is under way."""
        return [strand for strand in (self.main, self.aside) if strand is not None]

    def urgent(self) -> bool:
        """Whether an order waits that breaks off a meeting."""
        return any(getattr(message, "at_once", False) for message in self.inbox)

    def fetch(self, channel: str) -> tuple[str, bytes] | None:
        """The next mail on a channel, as (origin, data)."""
        for place, (origin, on, data) in enumerate(self.mail):
            if on == channel:
                del self.mail[place]
                return origin, data
        return None


def call_of(name: str, term: int, effect: Any) -> Call:
    """What a member lays down for an effect that others decide."""
    match effect:
        case do.Form():
            return Call(term, "form")
        case do.Total(vector_N, among):
            return Call(term, "total", vector_N, among)
        case do.Gather(vector_N, among):
            return Call(term, "gather", vector_N, among)
        case do.Shuffle(parts, among):
            return Call(term, "shuffle", None, among, parts)
        case do.Swap(to, origin, vector_N):
            return Call(term, "swap", vector_N, to=to, origin=origin)
        case do.Give(peer, vector_N):
            return Call(term, f"pass:{name}:{peer}", vector_N)
        case do.Take(peer, into_N):
            return Call(term, f"pass:{peer}:{name}", into_N)
    raise AssertionError(f"no such meeting: {effect}")


def price_of(call: Call, members: tuple[str, ...], links: tuple[Link, ...]) -> float:
    """Seconds of a call on the true links among its members."""
    if call.op == "form":
        return FORM_S
    given = call.parts if call.op == "shuffle" else (call.vector_N,)
    num_bytes = sum(vector.nbytes for vector in given if vector is not None)
    if call.op.startswith("pass:"):
        return sum(link.latency_s + num_bytes / link.bytes_per_s for link in links)
    if call.op == "swap":
        return max((link.latency_s + num_bytes / link.bytes_per_s for link in links), default=0.0)
    if call.op == "shuffle":
        num_bytes //= max(1, len(members))
    payload = Payload(num_bytes, summable=call.op == "total")
    return Reduce().price(payload, len(members), links)


def early_s(
    call: Call, members: tuple[str, ...], links: tuple[Link, ...], step_s: float, num_parts: int
) -> float:
    """How long before the end of a step a sum begins that is made part by part as parts come."""
    return streamed_s(num_parts, price_of(call, members, links), step_s)


def attempt(run: Callable[[], Any]) -> Any:
    """What a computation comes to: its value, or the error to raise in the worker."""
    try:
        return run()
    except CoterieError as error:
        return error


def pass_through(agent: Agent, effect: do.Pass, name: str, world: World) -> tuple[float, Any]:
    """Seconds in which a batch goes through a team, and what one of it is told of its own part.

    Where nobody knows the layers, all stages are taken to be as long, and no road to be slow.
    """
    assert agent.worker is not None
    assert agent.device is not None
    cut = agent.worker.sentence.team
    share_s = agent.device.step_s(-(-effect.batch.size // len(effect.team)))
    known = passage_s(cut, effect.team, name, effect.batch.size, world)
    passing_s, own_s = known or (share_s, share_s)
    loss = attempt(effect.alone)
    return passing_s, loss if isinstance(loss, CoterieError) else (loss, own_s)
