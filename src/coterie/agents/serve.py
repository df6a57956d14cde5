"""The server's process: run as `python -m coterie.agents.serve ENDPOINT KEY LISTEN PID`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from coterie.agents import effects as do
from coterie.agents.board import Keeper, keep
from coterie.agents.hub import Hub
from coterie.agents.join import hello
from coterie.agents.perform import FOREVER_S, drive
from coterie.errors import CoterieError, JoinError, TrainingError
from coterie.parent import Watch
from coterie.transport.control import ControlClient
from coterie.transport.door import GUEST
from coterie.transport.messages import HUB, Hello, Stop, Welcome, Who
from coterie.transport.secure import JoinKey
from coterie.transport.star import StarSwitch

WELCOME_S = 15.0


class Performer:
    """Each effect of the server as a call of something real."""

    def __init__(self, client: ControlClient, switch: StarSwitch) -> None:
        self._client, self._switch = client, switch

    def __call__(self, effect: Any) -> Any:
        """Carry out an effect."""
        match effect:
            case do.Now():
                return time.perf_counter()
            case do.Tell(message):
                return self._client.tell(message)
            case do.Next(channel):
                return self._next(channel)
            case do.Post(to, channel, data):
                return self._switch.post(to, channel, data)
        raise AssertionError(f"no such effect of a server: {effect}")

    def _next(self, channel: str) -> Any:
        inbox = self._client.inbox
        while True:
            if (order := inbox.get(0.0)) is not None:
                return order
            if self._switch.waiting(channel):
                return self._switch.fetch(channel)
            inbox.wait(lambda: self._switch.waiting(channel) or inbox.waiting(), FOREVER_S)


def _agents(key_path: Path) -> list[bytes]:
    """Whose keys open the switch: the run's own, and guests whom the coordinator let in."""
    paths = [path for path in (key_path, key_path.with_name(GUEST)) if path.exists()]
    return [JoinKey.read(path).agent_public for path in paths]


def serve(endpoint: str, key_path: Path, listen: str, watch: Watch) -> str:
    """Serve a run until it ends; why it ended. Raises JoinError if not let in."""
    key = JoinKey.read(key_path)
    client = ControlClient(endpoint, key, identity=f"{HUB}:{os.getpid()}")
    watch.heard_s = lambda: client.heard_s
    switch = StarSwitch(listen, _agents(key_path), client.inbox, HUB)
    try:
        client.tell(first := hello(HUB, switch.address, "cpu"))
        while isinstance(welcome := client.inbox.get(WELCOME_S), Who):
            client.tell(first)
        if not isinstance(welcome, Welcome):
            found = welcome.reason if isinstance(welcome, Stop) else "nothing"
            raise JoinError(f"expected a coordinator at {endpoint}, found {found}")
        why = drive(_life(first, welcome), Performer(client, switch))
        if client.given_up:
            raise TrainingError(client.given_up)
        return why
    finally:
        switch.close()
        client.close()


def _life(first: Hello, welcome: Welcome) -> do.Life[str]:
    """What is served: the meetings of members, or the board of agents that learn apart."""
    if welcome.job.get("kind") == "separate":
        return keep(first, Keeper(float(welcome.job["max_age_s"])))
    return Hub(first).live()


def main(endpoint: str, key_path: str, listen: str, beside: str) -> int:
    """A server process started by an engine; its exit code."""
    watch = Watch(int(beside))
    watch.start()
    torch.set_num_threads(1)
    try:
        print(serve(endpoint, Path(key_path), listen, watch))
    except CoterieError as error:
        print(f"coterie: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
