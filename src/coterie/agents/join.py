"""An agent process: dial the coordinator, build the task, and live a worker's life for real."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from coterie.agents.learner import Learner, Setup
from coterie.agents.perform import Performer, Roads, drive
from coterie.agents.worker import Worker
from coterie.config import Job, parse_job
from coterie.errors import CoterieError, JoinError, TrainingError
from coterie.machine import cores, memory_available_bytes
from coterie.tasks.references import instantiate
from coterie.tasks.supervised import from_spec
from coterie.transport.control import ControlClient
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
    roads = None
    try:
        roads = Roads(address_towards(endpoint), key, name, client.inbox)
        device = best_device()
        client.tell(hello(name, roads.ring.store_endpoint, device))
        welcome, files = _welcome(client, endpoint)
        try:
            job = parse_job({**welcome.job, "root": str(root.resolve())})
            worker = _build(name, job, device, files)
        except CoterieError as error:
            client.tell(Refused(reason=str(error)))
            return str(error)
        client.tell(worker.learner.ready())
        why = drive(worker.live(), Performer(client, roads, rest_s))
        if client.given_up:
            raise TrainingError(client.given_up)
        return why
    finally:
        if roads is not None:
            roads.close()
        client.close()


def hello(name: str, store: str, device: str) -> Hello:
    """What an agent says first."""
    return Hello(
        name=name,
        pid=os.getpid(),
        cores=cores(),
        memory_bytes=memory_available_bytes(),
        device=device,
        store=store,
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


def address_towards(endpoint: str) -> str:
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
