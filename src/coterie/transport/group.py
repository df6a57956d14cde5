"""The ring road: a torch.distributed group (Gloo) per term, rebuilt when the membership changes.

A collective waits on the agent's inbox bell, so that the coordinator's word of a death breaks it
off at once, whether or not the operating system has noticed. Legend: N values of a vector.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from coterie.errors import Torn
from coterie.transport.control import Inbox

TIMEOUT_S = 60.0
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
        self._group: Any = None

    def form(self, number: int, rank: int, size: int, store: str) -> None:
        """Build the group of a term; raises Torn if a member does not come."""
        self.leave()
        # Taken out until the group stands: a call that is abandoned goes on waiting for its member,
        # and holds the lock of its connection against the next term.
        dialled = self._stores.pop(store, None)
        built = _InThread(
            lambda: self._build(number, rank, size, dialled or _dial(store)), self._inbox
        )
        if not self._inbox.wait(built.done, TIMEOUT_S):
            raise Torn(f"term {number} was not formed")
        self._group, self._stores[store] = _result(built.result)

    def dial_ahead(self, store: str) -> None:
        """Connect to the store that the next term will need if this one's is lost, meanwhile."""
        if store and store not in self._stores:
            threading.Thread(target=self._dial_ahead, args=(store,), daemon=True).start()

    def _dial_ahead(self, store: str) -> None:
        with suppress(RuntimeError):  # whoever needs it dials again, and tells
            self._stores[store] = _dial(store)

    def _build(self, number: int, rank: int, size: int, store: Any) -> tuple[Any, Any]:
        options = c10d.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=TIMEOUT_S)
        options._threads = 1  # one thread keeps every collective in the order it was asked
        options._devices = [self._device]
        prefixed = c10d.PrefixStore(f"term-{number}", store)
        return c10d.ProcessGroupGloo(prefixed, rank, size, options), store

    def total(self, vector_N: Tensor) -> Tensor:
        """The sum of every member's vector, in place; bitwise the same on all."""
        group = self._alive()
        self._meet(lambda: group.allreduce([vector_N]))
        return vector_N

    def gather(self, vector_N: Tensor) -> list[Tensor]:
        """Every member's vector, in the order of ranks; all of one length."""
        group = self._alive()
        rows = [torch.empty_like(vector_N) for _ in range(group.size())]
        self._meet(lambda: group.allgather([rows], [vector_N]))
        return rows

    def send(self, peer: int, vector_N: Tensor) -> None:
        """Send a vector to one member."""
        group = self._alive()
        self._pass(lambda: group.send([vector_N], peer, 0))

    def receive(self, peer: int, into_N: Tensor) -> Tensor:
        """Receive a vector of known length from one member."""
        group = self._alive()
        self._pass(lambda: group.recv([into_N], peer, 0))
        return into_N

    def leave(self) -> None:
        """Let go of the group; peers that still wait on it are told by the coordinator."""
        group, self._group = self._group, None
        if group is not None:
            # Its destructor joins threads that may hang on a silent peer: never here.
            holder = [group]
            del group
            threading.Thread(target=holder.clear, daemon=True).start()

    def _alive(self) -> Any:
        if self._group is None:
            raise Torn("there is no group")
        return self._group

    def _meet(self, begin: Callable[[], Any]) -> None:
        work = _result(begin)
        future = work.get_future()
        future.add_done_callback(lambda _: self._inbox.ring())
        if not self._inbox.wait(future.done, TIMEOUT_S):
            raise Torn("a new membership broke off the meeting, or no member answered")
        _result(work.wait)

    def _pass(self, begin: Callable[[], Any]) -> None:
        # Gloo has no future for send and recv, and may fail where they begin.
        waiting = _InThread(lambda: begin().wait(), self._inbox)
        if not self._inbox.wait(waiting.done, TIMEOUT_S):
            raise Torn("a new membership broke off the exchange, or the peer does not answer")
        _result(waiting.result)


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
