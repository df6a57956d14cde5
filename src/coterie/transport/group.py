"""The ring road: a torch.distributed group (Gloo) per term, rebuilt when the membership changes.

A collective waits on the agent's inbox bell, so that the coordinator's word of a death breaks it
off at once, whether or not the operating system has noticed. Legend: N values of a vector.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coterie.errors import Torn
from coterie.transport.control import Inbox

TIMEOUT_S = 60.0
HOLD_S = 5.0  # and so much longer are groups held in which a call hangs
c10d: Any = dist  # torch ships no types for the stores and groups used here


class GroupTransport:
    """Collectives among the members of one term, interruptible by an urgent message.

    `address` is the interface that this agent shows to the others; nothing listens elsewhere.
    """

    def __init__(self, address: str, inbox: Inbox) -> None:
        self._inbox = inbox
        self._device = c10d.ProcessGroupGloo.create_device(hostname=address)
        listener = socket.create_server((address, 0))
        self.store_endpoint = f"{address}:{listener.getsockname()[1]}"
        self._server = c10d.TCPStore(
            host_name=address,
            port=listener.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        self._stores: dict[str, Any] = {self.store_endpoint: self._server}
        self._groups: dict[tuple[str, ...], Any] = {}
        self._term: _Term | None = None
        self._hangs = False  # whether a call was left that still waits for a silent peer
        self.told_bytes = 0  # that this member brought, as it gave them to the road

    def form(self, number: int, members: tuple[str, ...], me: str, store: str) -> None:
        """Build the group of a term; raises Torn if a member does not come."""
        self.leave()
        # Taken out until the group stands: a call that is abandoned goes on waiting for its member,
        # and holds the lock of its connection against the next term.
        dialled = self._stores.pop(store, None)
        prefix, rank = f"term-{number}", members.index(me)
        built = _InThread(
            lambda: self._build(prefix, rank, len(members), dialled or _dial(store)), self._inbox
        )
        if not self._inbox.wait(built.done, TIMEOUT_S):
            raise Torn(f"term {number} was not formed")
        group, self._stores[store] = _result(built.result)
        self._term = _Term(prefix, members, me, self._stores[store])
        self._groups = {members: group}

    def dial_ahead(self, store: str) -> None:
        """Connect to the store that the next term will need if this one's is lost, meanwhile."""
        if store and store not in self._stores:
            threading.Thread(target=self._dial_ahead, args=(store,), daemon=True).start()

    def _dial_ahead(self, store: str) -> None:
        with suppress(RuntimeError):  # whoever needs it dials again, and tells
            self._stores[store] = _dial(store)

    def _build(self, prefix: str, rank: int, size: int, store: Any) -> tuple[Any, Any]:
        options = c10d.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=TIMEOUT_S)
        options._threads = 1  # one thread keeps every collective in the order it was asked
        options._devices = [self._device]
        prefixed = c10d.PrefixStore(prefix, store)
        return c10d.ProcessGroupGloo(prefixed, rank, size, options), store

    def total(self, vector_N: Tensor, among: tuple[str, ...] = ()) -> Tensor:
        """The sum of every member's vector, in place; bitwise the same on all."""
        group = self._group(among)
        self._count(vector_N.nbytes)
        self._meet(lambda: group.allreduce([vector_N]))
        return vector_N

    def totals(self) -> Stream:
        """Sums of parts that are begun one after the other, and waited for together."""
        return Stream(self, self._group(()))

    def gather(self, vector_N: Tensor, among: tuple[str, ...] = ()) -> list[Tensor]:
        """Every member's vector, in the order of the term's members; all of one length."""
        group = self._group(among)
        rows = [torch.empty_like(vector_N) for _ in range(group.size())]
        self._count(vector_N.nbytes)
        self._meet(lambda: group.allgather([rows], [vector_N]))
        return rows

    def shuffle(self, parts: tuple[Tensor, ...], among: tuple[str, ...] = ()) -> list[Tensor]:
        """Part j goes to the j-th member; the parts meant for this one, in the members' order."""
        group = self._group(among)
        told = torch.cat([part.reshape(-1) for part in parts])
        size = parts[0].numel()
        if all(part.numel() == size for part in parts):
            heard = torch.empty_like(told)
            self._count(told.nbytes)
            self._meet(lambda: group.alltoall_base(heard, told, [], []))
            return list(heard.view(len(parts), size))
        mine = parts[group.rank()].numel()
        heard = told.new_empty(mine * len(parts))
        sizes = [part.numel() for part in parts]
        self._count(told.nbytes)
        self._meet(lambda: group.alltoall_base(heard, told, [mine] * len(parts), sizes))
        return list(heard.view(len(parts), mine))

    def swap(self, to: str, origin: str, vector_N: Tensor) -> Tensor:
        """Send a vector to one member, and receive one of its length from another."""
        group, members = self._group(()), self._alive().members
        heard = torch.empty_like(vector_N)
        self._count(vector_N.nbytes)

        def both() -> None:
            works = [
                group.send([vector_N], members.index(to), 0),
                group.recv([heard], members.index(origin), 0),
            ]
            for work in works:
                work.wait()

        self._pass(both)
        return heard

    def send(self, peer: str, vector_N: Tensor) -> None:
        """Send a vector to one member."""
        group, rank = self._group(()), self._alive().members.index(peer)
        self._count(vector_N.nbytes)
        self._pass(lambda: group.send([vector_N], rank, 0).wait())

    def receive(self, peer: str, into_N: Tensor) -> Tensor:
        """Receive a vector of known length from one member."""
        group, rank = self._group(()), self._alive().members.index(peer)
        self._pass(lambda: group.recv([into_N], rank, 0).wait())
        return into_N

    def leave(self) -> None:
        """Let go of the groups; peers that still wait on them are told by the coordinator."""
        groups, self._groups, self._term = list(self._groups.values()), {}, None
        hangs, self._hangs = self._hangs, False
        if groups:
            threading.Thread(target=_let_go, args=(groups, hangs), daemon=True).start()

    def _alive(self) -> _Term:
        if self._term is None:
            raise Torn("there is no group")
        return self._term

    def _group(self, among: tuple[str, ...]) -> Any:
        """The group of all members, or of some, which is built when it is first needed."""
        term = self._alive()
        team = tuple(name for name in term.members if name in among) if among else term.members
        if team not in self._groups:
            prefix = "/".join((term.prefix, *team))
            rank = team.index(term.me)
            built = _InThread(lambda: self._build(prefix, rank, len(team), term.store), self._inbox)
            if not self._inbox.wait(built.done, TIMEOUT_S):
                raise Torn(f"the group of {', '.join(team)} was not formed")
            self._groups[team], _ = _result(built.result)
        return self._groups[team]

    def _count(self, num_bytes: int) -> None:
        self.told_bytes += num_bytes

    def _meet(self, begin: Callable[[], Any]) -> None:
        self.wait(_result(begin))

    def wait(self, work: Any) -> None:
        """Wait for a collective that was begun; raises Torn where it breaks off."""
        future = work.get_future()
        if not future.done():
            future.add_done_callback(lambda _: self._inbox.ring())
            if not self._inbox.wait(future.done, TIMEOUT_S):
                self._hangs = True
                raise Torn("a new membership broke off the meeting, or no member answered")
        _result(work.wait)

    def _pass(self, begin: Callable[[], Any]) -> None:
        # Gloo has no future for send and recv, and may fail where they begin.
        waiting = _InThread(begin, self._inbox)
        if not self._inbox.wait(waiting.done, TIMEOUT_S):
            self._hangs = True
            raise Torn("a new membership broke off the exchange, or the peer does not answer")
        _result(waiting.result)


@dataclass(frozen=True)
class _Term:
    """Where a group came from, and who this member is in it."""

    prefix: str
    members: tuple[str, ...]
    me: str
    store: Any


class Stream:
    """Sums that go on while their next parts are computed; begun alike on every member."""

    def __init__(self, transport: GroupTransport, group: Any) -> None:
        self._transport, self._group = transport, group
        self._works: list[tuple[Any, Tensor]] = []

    def add(self, part: Tensor) -> None:
        """Begin the sum of a part, in place."""
        self._transport.told_bytes += part.nbytes
        self._works.append((_result(lambda: self._group.allreduce([part])), part))

    def finish(self) -> list[Tensor]:
        """The sums, in the order in which they were begun; raises Torn where one broke off."""
        for work, _ in self._works:
            self._transport.wait(work)
        return [part for _, part in self._works]


def _let_go(groups: list[Any], hangs: bool) -> None:
    """Drop groups. Their destructors join threads that may wait for a silent peer.

    So whoever drops the last reference waits too, be it a traceback that held one: where a call
    hangs, groups are held until it has timed out.
    """
    if hangs:
        time.sleep(TIMEOUT_S + HOLD_S)
    groups.clear()


def _dial(store: str) -> Any:
    """A connection to the store of addresses that listens at host:port."""
    host, _, port = store.rpartition(":")
    return c10d.TCPStore(
        host_name=host,
        port=int(port),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=TIMEOUT_S),
    )


def _result(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RuntimeError as error:
        raise Torn(f"a member left the meeting: {str(error).splitlines()[0]:.120}") from error


class _InThread:
    """A blocking call made in a thread of its own, so that an inbox can interrupt the wait."""

    def __init__(self, call: Callable[[], Any], inbox: Inbox) -> None:
        self._value: Any = None
        self._error: Exception | None = None
        self._finished = False
        self._inbox = inbox
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._value = call()
        except Exception as error:  # raised where the result is asked for
            self._error = error
        self._finished = True
        self._inbox.ring()

    def done(self) -> bool:
        return self._finished

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value
