"""An agent process: dial the coordinator, build the task, and live a worker's life for real."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from coterie.agents import effects as do
from coterie.agents.learner import Learner, Setup
from coterie.agents.worker import Worker
from coterie.config import Job, parse_job
from coterie.errors import CoterieError, JoinError, Torn, TrainingError
from coterie.machine import cores, memory_available_bytes
from coterie.tasks.references import instantiate
from coterie.tasks.supervised import from_spec
from coterie.transport.control import ControlClient
from coterie.transport.group import GroupTransport
from coterie.transport.messages import Assembly, Hello, Refused, State, Stop, Welcome
from coterie.transport.secure import JoinKey

WELCOME_S = 15.0
LOST, REFUSED = 1, 2  # exit codes: worth a restart, and not


def best_device() -> str:
    """Where this process computes: its GPU if it has one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def setup_of(job: Job, device: str) -> Setup:
    """The task, optimizer and schedule that a job names; raises JobError for what does not work."""
    task = from_spec(job.name, job.task, job.root)
    scheduler = job.scheduler
    return Setup(
        task=task,
        optimizer=lambda params: instantiate(job.optimizer, job.root, params),
        scheduler=(lambda o: instantiate(scheduler, job.root, o)) if scheduler else None,
        scheduler_every=scheduler.every if scheduler else "epoch",
        device=device,
        seed=job.seed,
    )


def join(
    endpoint: str, key: JoinKey, name: str, root: Path, rest_s: Callable[[float], float]
) -> str:
    """Take part in a run until it ends; returns why it ended. Raises JoinError if not let in.

    `root` is the folder of the task's code on this machine, for it may lie elsewhere than on the
    coordinator's. `rest_s` says how long to rest after computing for some seconds: a throttle
    without cgroups.
    """
    client = ControlClient(endpoint, key, identity=f"{name}:{os.getpid()}")
    try:
        transport = GroupTransport(_address_towards(endpoint), client.inbox)
        device = best_device()
        client.tell(_hello(name, transport, device))
        welcome, files = _welcome(client, endpoint)
        try:
            job = parse_job({**welcome.job, "root": str(root.resolve())})
            worker = _build(name, job, device, files)
        except CoterieError as error:
            client.tell(Refused(reason=str(error)))
            return str(error)
        client.tell(worker.learner.ready())
        why = drive(worker, client, transport, rest_s)
        if client.given_up:
            raise TrainingError(client.given_up)
        return why
    finally:
        client.close()


def drive(
    worker: Worker,
    client: ControlClient,
    transport: GroupTransport,
    rest_s: Callable[[float], float],
) -> str:
    """Carry out a worker's effects on real sockets and clocks."""
    perform = _Performer(client, transport, rest_s)
    life = worker.live()
    answer: Any = None
    error: CoterieError | None = None  # what an effect came to, for the worker to judge
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


class _Performer:
    """Each effect as a call of something real."""

    def __init__(
        self, client: ControlClient, transport: GroupTransport, rest_s: Callable[[float], float]
    ) -> None:
        self._client, self._transport, self._rest_s = client, transport, rest_s
        self._members: tuple[str, ...] = ()

    def __call__(self, effect: do.Effect) -> Any:
        match effect:
            case do.Now():
                return time.perf_counter()
            case do.Tell(message):
                return self._client.tell(message)
            case do.Hear():
                return self._client.inbox.get()
            case do.Compute(run, _):
                return self._compute(run)
        if self._client.inbox.urgent():
            raise Torn("a new membership was named")
        return self._meet(effect)

    def _compute(self, run: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        value = run()
        rest_s = self._rest_s(time.perf_counter() - began_s)
        if rest_s > 0:
            time.sleep(rest_s)
        return value

    def _meet(self, effect: do.Effect) -> Any:
        match effect:
            case do.Form(me, term):
                self._members = term.members
                rank = term.members.index(me)
                self._transport.form(term.number, rank, len(term.members), term.store)
                return self._transport.dial_ahead(term.spare_store)
            case do.Total(vector_N):
                return self._transport.total(vector_N)
            case do.Gather(vector_N):
                return self._transport.gather(vector_N)
            case do.Give(peer, vector_N):
                return self._transport.send(self._members.index(peer), vector_N)
            case do.Take(peer, into_N):
                return self._transport.receive(self._members.index(peer), into_N)
        raise AssertionError(f"no such effect: {effect}")


def _hello(name: str, transport: GroupTransport, device: str) -> Hello:
    return Hello(
        name=name,
        pid=os.getpid(),
        cores=cores(),
        memory_bytes=memory_available_bytes(),
        device=device,
        store=transport.store_endpoint,
    )


def _welcome(client: ControlClient, endpoint: str) -> tuple[Welcome, dict[str, bytes]]:
    welcome = client.inbox.get(WELCOME_S)
    if isinstance(welcome, Stop):
        raise JoinError(f"expected to join the run at {endpoint}, found: {welcome.reason}")
    if not isinstance(welcome, Welcome):
        raise JoinError(
            f"expected a coordinator at {endpoint} that knows this key, found none within "
            f"{WELCOME_S:.0f} s; check the address, and copy join.key again"
        )
    assembly = Assembly()
    while len(assembly.files) < welcome.num_files:
        piece = client.inbox.get(WELCOME_S)
        if not isinstance(piece, State):
            raise JoinError("expected a checkpoint's files, found none; start this agent again")
        assembly.add(piece)
    return welcome, assembly.files


def _build(name: str, job: Job, device: str, files: dict[str, bytes]) -> Worker:
    learner = Learner(setup_of(job, device))
    worker = Worker(name, learner)
    if files:
        worker.resume(files)
    # The first step pays for lazy imports and kernels: better now than in a measurement.
    scratch = learner.scratch()
    scratch.step(list(range(min(2, learner.task.num_train))))
    return worker


def _address_towards(endpoint: str) -> str:
    """This machine's address on the road to the coordinator: nothing else is listened on."""
    host, _, port = endpoint.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))
        except (OSError, ValueError) as error:
            raise JoinError(
                f"expected a coordinator's HOST:PORT, found {endpoint!r} ({error}); "
                "use the address that the run printed"
            ) from error
        return str(probe.getsockname()[0])


def main(
    endpoint: str,
    key_path: Path,
    name: str,
    root: Path,
    num_threads: int,
    rest_s: Callable[[float], float],
) -> int:
    """An agent process started by hand or by an engine; its exit code.

    No threads given are as many as the cores that the kernel grants, which torch does not ask.
    """
    torch.set_num_threads(num_threads or max(1, int(cores())))
    torch.set_flush_denormal(True)  # moments of dead units decay to numbers that are slow to add
    try:
        print(join(endpoint, JoinKey.read(key_path), name, root, rest_s))
    except CoterieError as error:
        print(f"coterie: {error}", file=sys.stderr)
        return LOST if isinstance(error, TrainingError) else REFUSED
    return 0
