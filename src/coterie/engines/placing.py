"""Who is placed where on a cluster's nodes, and what is done about a death: decisions, no cluster.

An agent is called as its node is, so that a node which was given up and returns is known again. Of
a node whose engine is gone its agent may live: where it is asked for once more, whoever is found
alive under that name is taken over, and not started twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.homes import Engine
from coterie.transport.messages import HUB

MAX_RESTARTS = 3  # in a row, each of an agent that died young
GROWN_S = 30.0  # an agent that lived for so long was no failure to start
AGAIN_S = 1.0  # until an agent that died is started again
LONG_S = 15.0  # for a node to have room for an agent, before somebody is told
LOST = 1  # a code of an agent that nobody saw end
FINAL = (0, 2)  # codes of agents that ended as they should, or were refused
CPU, GPU = "CPU", "GPU"


@dataclass(frozen=True)
class Node:
    """A living node of a cluster, as its engine tells of it."""

    id: str
    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spot:
    """Where an agent fits: a part of a node, and what it is called there."""

    name: str
    node: str  # its id
    num_gpus: int
    num_threads: int


@dataclass
class Post:
    """An agent that was placed: where, how often it began, and when it is due again."""

    spot: Spot
    began_s: float
    num_starts: int = 1  # since it last lived for long
    again_at_s: float | None = None  # where it ended; never, where it was the last time
    pid: int = 0  # once it is at work

    def ended(self, code: int, now_s: float) -> None:
        """It is over, with an exit code."""
        if now_s - self.began_s > GROWN_S:
            self.num_starts = 1
        is_final = code in FINAL or self.num_starts > MAX_RESTARTS
        self.again_at_s = math.inf if is_final else now_s + AGAIN_S

    def is_due(self, now_s: float) -> bool:
        """Whether it ended, and is to be started again by now."""
        return self.again_at_s is not None and now_s >= self.again_at_s


@dataclass(frozen=True)
class Orders:
    """What is to be done: agents to place, and how many places are missing."""

    place: tuple[Spot, ...]
    num_missing: int


def told(found: Iterable[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The living nodes of a node table, in order of their names.

    >>> row = {"NodeID": "f0", "Alive": True, "NodeName": "pi", "Resources": {"CPU": 4.0}}
    >>> told([row, {**row, "Alive": False}])
    (Node(id='f0', name='pi', resources={'CPU': 4.0}, labels={}),)
    """
    nodes = [
        Node(
            str(row["NodeID"]),
            str(row.get("NodeName") or row.get("NodeManagerAddress") or row["NodeID"]),
            dict(row.get("Resources") or {}),
            dict(row.get("Labels") or {}),
        )
        for row in found
        if row.get("Alive")
    ]
    return tuple(sorted(nodes, key=lambda node: (node.name, node.id)))


def spots(nodes: Sequence[Node], engine: Engine, held: Mapping[str, str]) -> Iterator[Spot]:
    """Everywhere an agent fits: one on each node, or one on each GPU where there are any.

    `held` are names with the ids of their nodes: a living node keeps its name, and another one
    that is called alike gets a number behind it.

    >>> nodes = Node("f0", "pi", {"CPU": 4.0}), Node("f1", "box", {"CPU": 8.0, "GPU": 2.0})
    >>> [(s.name, s.num_gpus, s.num_threads) for s in spots(nodes, Engine(kind="ray"), {})]
    [('pi', 0, 4), ('box-0', 1, 4), ('box-1', 1, 4)]
    """
    living = {node.id for node in nodes}
    taken = {name: node for name, node in held.items() if node in living}
    for node in nodes:
        num_parts = int(node.resources.get(GPU, 0)) or 1
        if not fits(node, engine):
            continue
        num_gpus = int(node.resources.get(GPU, 0) >= 1)
        all_cpus = node.resources[CPU] / num_parts
        threads = all_cpus if engine.cpus == "auto" else engine.cpus
        for part in range(num_parts):
            name = _called(
                f"{_plain(node.name)}-{part}" if num_gpus else _plain(node.name), node, taken
            )
            taken[name] = node.id
            yield Spot(name, node.id, num_gpus, max(1, int(threads)))


def fits(node: Node, engine: Engine) -> bool:
    """Whether a node has, of all that an agent asks for, as much as it asks for.

    >>> fits(Node("f0", "pi", {"CPU": 4.0}), Engine(kind="ray", resources={"camera": 1.0}))
    False
    """
    asked = {CPU: reserved(engine), **engine.resources}
    has_all = all(node.resources.get(name, 0.0) >= amount for name, amount in asked.items())
    return has_all and engine.labels.items() <= node.labels.items()


def reserved(engine: Engine) -> float:
    """The CPUs that are reserved for an agent."""
    return 1.0 if engine.cpus == "auto" else engine.cpus


def decide(
    nodes: Sequence[Node], posts: Mapping[str, Post], engine: Engine, now_s: float
) -> Orders:
    """Fill every place that is free, as far as agents are wanted.

    Whoever is at work, or about to be started again, stays. A node that is not there any more
    leaves its agent's work to a node that has none yet, where there is one.

    >>> nodes = Node("f0", "a", {"CPU": 1.0}), Node("f1", "b", {"CPU": 1.0})
    >>> at_work = {"a": Post(Spot("a", "f0", 0, 1), began_s=0.0)}
    >>> orders = decide(nodes, at_work, Engine(kind="ray", most=3), now_s=1.0)
    >>> [spot.name for spot in orders.place], orders.num_missing
    (['b'], 1)
    """
    held = {name: post.spot.node for name, post in posts.items()}
    num_kept, free = 0, list[Spot]()
    for spot in spots(nodes, engine, held):
        post = posts.get(spot.name)
        if post is None or post.spot.node != spot.node or post.is_due(now_s):
            free.append(spot)
        elif post.again_at_s != math.inf:
            num_kept += 1
    if engine.most == "all" or engine.most == "auto":
        return Orders(tuple(free), 0)
    num_wanted = max(0, engine.most - num_kept)
    return Orders(tuple(free[:num_wanted]), max(0, num_wanted - len(free)))


def placed(spot: Spot, before: Post | None, now_s: float) -> Post:
    """A post that is filled: anew, or once more."""
    is_again = before is not None and before.spot == spot
    return Post(spot, now_s, before.num_starts + 1 if is_again and before else 1)


def _called(base: str, node: Node, taken: Mapping[str, str]) -> str:
    likes = [name for name in taken if name == base or name.startswith(f"{base}-")]
    mine = [name for name in likes if taken[name] == node.id]
    return (
        mine[0]
        if mine
        else next(
            name
            for name in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3)))
            if name not in taken
        )
    )


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:60]
    return f"{plain}-node" if plain == HUB else plain
