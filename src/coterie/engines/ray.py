"""Agents on a Ray cluster: the one file that imports Ray, which places them and does nothing else.

A process of its own, `python -m coterie.engines.ray place RUN ENDPOINT`: a client of Ray ends with
its cluster, and the coordinator must not. On each node an actor starts an agent and watches it;
the agent dials the coordinator by itself, and outlives the actor and the node's Ray. What happens
is told on stdout in lines of JSON, what is wanted is read from stdin.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coterie.config import Job, load_job
from coterie.engines import placing
from coterie.engines.berth import Berth, Order
from coterie.engines.placing import CPU, LONG_S, Node, Post, Spot
from coterie.engines.processes import ended
from coterie.homes import LOCAL
from coterie.parent import die_with_parent
from coterie.transport.secure import JoinKey

TICK_S, LOOK_S = 0.2, 1.0  # between two looks at agents, and at nodes
ANSWER_S, END_S = 2.0, 3.0  # for an actor to say which process it watches; for all to end
GREET_S = 5.0
STORE_BYTES = 100_000_000  # of a cluster that is started here: datasets alone use it
SPREAD = "STRICT_SPREAD"


def greet(address: str) -> str:
    """Whether a head lets this process in, by the token that it is given."""
    from ray._raylet import GcsClient

    try:
        GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=GREET_S)
    except AuthenticationError:
        return "refused"
    return "welcome"


def connect(address: str) -> str:
    """Be a client of a cluster, or begin one here; its address."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        os.umask(0o077)  # Ray writes its token so that everybody can read it
        quiet |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    return str(ray.init(address=address, **quiet).address_info["gcs_address"])


class Placer:
    """Keeps an agent on every node that is to have one."""

    def __init__(self, job: Job, run: Path, endpoint: str, out: IO[str]) -> None:
        self._job, self._endpoint, self._out = job, endpoint, out
        key = JoinKey.read(run / "join.key")
        self._key, self._run = key.text(), hashlib.sha256(key.server_public).hexdigest()[:16]
        self._cluster = connect(job.engine.address)
        self._posts: dict[str, Post] = {}
        self._actors: dict[str, Any] = {}
        self._watches: dict[Any, str] = {}  # by reference: whose end it tells
        self._nodes: tuple[Node, ...] = ()
        self._look_at_s = 0.0
        self._asked: PlacementGroup | None = None
        self._num_asked = 0
        self._told_long: set[str] = set()

    def serve(self, wishes: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        """Place, watch and replace until the run is over, or whoever asked for it is gone."""
        self._tell("connected", cluster=self._cluster)
        while True:
            with suppress(queue.Empty):
                while True:
                    wish = wishes.get_nowait()
                    if wish is None:
                        return  # the agents live on, for another coordinator
                    if "end" in wish:
                        self._end()
                        return
                    self._kill(wish["kill"])
            self._hear()
            if time.monotonic() >= self._look_at_s:
                self._look()
            self._place()

    def _tell(self, word: str, **fields: Any) -> None:
        print(json.dumps({"word": word, **fields}), file=self._out, flush=True)

    def _look(self) -> None:
        """The node table; whoever sat on a node that Ray has given up is out of its sight."""
        now_s = time.monotonic()
        self._look_at_s = now_s + LOOK_S
        before = {node.id for node in self._nodes}
        self._nodes = placing.told(ray.nodes())
        living = {node.id for node in self._nodes}
        for name, post in self._posts.items():
            if post.spot.node in before - living:
                self._tell("doubted", member=name, reason="Ray has given its node up")
            is_long = now_s > post.began_s + LONG_S and not post.pid and post.again_at_s is None
            if is_long and name not in self._told_long and post.spot.node in living:
                self._told_long.add(name)
                text = (
                    f"the node of {name} has had no room for it for {LONG_S:.0f} s: see ray status"
                )
                self._tell("warning", text=text)

    def _place(self) -> None:
        orders = placing.decide(self._nodes, self._posts, self._job.engine, time.monotonic())
        for spot in orders.place:
            self._start(spot)
        self._ask_for(orders.num_missing)

    def _start(self, spot: Spot) -> None:
        self._posts[spot.name] = placing.placed(spot, self._posts.get(spot.name), time.monotonic())
        code = ("--accept-code",) if self._job.agents.ship else ()
        order = Order(
            self._run, spot.name, self._endpoint, self._key, self._job.root, spot.num_threads,
            code, self._cluster,
        )  # fmt: skip
        engine = self._job.engine
        where = NodeAffinitySchedulingStrategy(spot.node, soft=False)
        actor = (
            ray.remote(Berth)
            .options(
                num_cpus=placing.reserved(engine), num_gpus=spot.num_gpus,
                resources=engine.resources or None, scheduling_strategy=where, max_concurrency=4,
            )
            .remote(order)
        )  # fmt: skip
        self._actors[spot.name] = actor
        self._watches[actor.watch.remote()] = spot.name

    def _ask_for(self, num: int) -> None:
        """Have an autoscaler bring as many nodes more: a group that waits for them, and is let go.

        It can only lie on other nodes than those that there are.
        """
        ids = ",".join(node.id for node in self._nodes)
        key = hash((num, ids)) if num else 0
        if key == self._num_asked:
            return
        if self._asked is not None:
            remove_placement_group(self._asked)
            self._asked = None
        self._num_asked = key
        if num:
            engine = self._job.engine
            bundle = {CPU: placing.reserved(engine), **engine.resources}
            elsewhere = {**engine.labels, "ray.io/node-id": f"!in({ids})"}
            self._asked = placement_group(
                [bundle] * num, strategy=SPREAD, bundle_label_selector=[elsewhere] * num
            )
            self._tell("asked", num=num)

    def _hear(self) -> None:
        """Who has ended, and whom Ray has lost sight of."""
        if not self._watches:
            time.sleep(TICK_S)
        else:
            done, _ = ray.wait(list(self._watches), num_returns=1, timeout=TICK_S)
            for reference in done:
                self._over(self._watches.pop(reference), reference)
        for name, post in self._posts.items():
            if not post.pid and post.again_at_s is None:
                self._seen(name, post)

    def _seen(self, name: str, post: Post) -> None:
        """Whether an agent is at work by now."""
        with suppress(RayError):
            post.pid = ray.get(self._actors[name].pid.remote(), timeout=TICK_S)
            if post.pid:
                self._tell("placed", member=name, node=post.spot.node[:8], pid=post.pid)

    def _over(self, name: str, reference: Any) -> None:
        post, now_s = self._posts[name], time.monotonic()
        try:
            code, words = ray.get(reference)
        except RayError as error:
            reason = str(error).strip().partition("\n")[0]
            post.ended(placing.LOST, now_s)
            self._tell("doubted", member=name, reason=f"Ray: {type(error).__name__}: {reason}")
            return
        post.ended(code, now_s)
        said = f": {words}" if words and code > 0 else ""
        self._tell("ended", member=name, reason=ended(code) + said, num_starts=post.num_starts)

    def _kill(self, name: str) -> None:
        """End an agent that was given up for its silence, if its node can be reached at all."""
        with suppress(RayError, KeyError):
            actor = self._actors[name]
            pid = ray.get(actor.pid.remote(), timeout=ANSWER_S)
            actor.kill.remote(pid)

    def _end(self) -> None:
        self._ask_for(0)
        ends = [actor.end.remote() for actor in self._actors.values()]
        with suppress(RayError):
            ray.wait(ends, num_returns=len(ends), timeout=END_S) if ends else None


def _listen(wishes: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        wishes.put(json.loads(line))
    wishes.put(None)


def place(run: str, endpoint: str) -> None:
    """Keep agents placed for a coordinator, until it says that its run is over or is gone."""
    die_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is for the log
    wishes: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(wishes,), daemon=True).start()
    Placer(load_job(Path(run, "job.yaml")), Path(run), endpoint, out).serve(wishes)
    ray.shutdown()


def main(what: str, *words: str) -> int:
    """One of: greet ADDRESS, count ADDRESS, place RUN ENDPOINT."""
    if what == "greet":
        print(greet(*words))
    elif what == "count":
        connect(*words)
        print(json.dumps(ray.nodes(), default=str))
    else:
        place(*words)
    return 0


if __name__ == "__main__":
    from coterie.engines import ray as itself  # actors are known by this module's name

    sys.exit(itself.main(*sys.argv[1:]))
