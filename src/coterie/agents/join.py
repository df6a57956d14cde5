"""An agent process: dial the coordinator, build the task, and live a worker's life for real."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from coterie.agents.attend import attend
from coterie.agents.draws import repeatable
from coterie.agents.grant import granted
from coterie.agents.learner import Learner, Setup, best_device
from coterie.agents.perform import Performer, Roads, drive
from coterie.agents.script import Seat, follow
from coterie.agents.worker import Worker
from coterie.code import check_same, unpack
from coterie.config import Job, load_job, parse_job
from coterie.errors import CoterieError, JobError, JoinError, TrainingError
from coterie.machine import cores, memory_available_bytes
from coterie.parent import Watch
from coterie.specs import SeparateSpec
from coterie.tasks.kinds import from_spec
from coterie.tasks.references import instantiate
from coterie.transport.control import ControlClient, identity
from coterie.transport.messages import (
    Bye,
    Hello,
    Refused,
    State,
    Stop,
    Welcome,
    Who,
)
from coterie.transport.parcels import Assembly
from coterie.transport.secure import JoinKey

WELCOME_S = 15.0
AGAIN_S = 60.0  # for a coordinator to come in the place of one that called this agent back
LOST, REFUSED = 1, 2  # exit codes: worth a restart, and not


def setup_of(job: Job, device: str) -> Setup:
    """The task, optimizer and schedule that a job names; raises JobError for what does not work."""
    if job.task is None or job.optimizer is None:
        raise JobError("expected a job with a task, found one with a script; use coterie run")
    optimizer, scheduler = job.optimizer, job.scheduler
    return Setup(
        task=from_spec(job.name, job.task, job.root),
        optimizer=lambda params: instantiate(optimizer, job.root, params),
        scheduler=(lambda o: instantiate(scheduler, job.root, o)) if scheduler else None,
        scheduler_every=scheduler.every if scheduler else "epoch",
        device=device,
        seed=job.seed,
    )


@dataclass(frozen=True)
class Place:
    """Where an agent belongs: the coordinator, the key to it, the task's code on this machine."""

    endpoint: str
    key: Path | JoinKey
    root: Path = Path()  # it may lie elsewhere than on the coordinator's
    watch: Watch = field(default_factory=lambda: Watch(0))
    accepts_code: bool = False  # what the run ships is then run, in place of what is in root


def join(
    name: str, place: Place, rest_s: Callable[[float], float], learner: Learner | None = None
) -> str:
    """Take part in a run until it ends; returns why it ended. Raises JoinError if not let in.

    `rest_s` says how long to rest after computing for some seconds: a throttle without cgroups. A
    learner that was built beforehand saves the time to build one. Where the run goes on from its
    checkpoint, this agent comes back as a new one would.
    """
    why, again = _part(name, place, rest_s, learner, WELCOME_S)
    while again:
        why, again = _part(name, place, rest_s, None, AGAIN_S)
    return why


def _part(
    name: str,
    place: Place,
    rest_s: Callable[[float], float],
    learner: Learner | None,
    patience_s: float,
) -> tuple[str, bool]:
    """Take part once: why it ended, and whether to come back."""
    key = place.key if isinstance(place.key, JoinKey) else JoinKey.read(place.key)
    endpoint = place.endpoint
    _check_byte_order(sys.byteorder)
    client = ControlClient(endpoint, key, identity(name))
    place.watch.heard_s = lambda: client.heard_s
    roads = None
    try:
        roads = Roads(address_towards(endpoint), key, name, client.inbox)
        first = hello(name, roads.ring.store_endpoint, best_device())
        welcome, files = _welcome(client, first, endpoint, patience_s)
        root = _root(place, welcome, client)
        perform = Performer(name, client, roads, rest_s)
        try:
            job = parse_job({**welcome.job, "root": str(root.resolve())})
            if job.script is not None:
                seat = Seat(first, job, files, perform, client.tell, lambda: client.given_up)
                return _said(follow(seat)), False
            if isinstance(job.task, SeparateSpec):
                return _kept(client, attend(job, first, key, client, perform)), False
            worker = _worker(learner or _built(job), first, files)
        except _Lost:
            raise
        except CoterieError as error:
            client.tell(Refused(reason=str(error)))
            return _said(str(error)), False
        client.tell(worker.learner.ready())
        with repeatable(job.deterministic):
            why = drive(worker.live(), perform)
        return _kept(client, why), worker.again
    finally:
        if roads is not None:
            roads.close()
        client.close()


class _Lost(TrainingError):
    """The coordinator was given up."""


def _kept(client: ControlClient, why: str) -> str:
    """Why a life ended; TrainingError where that was for want of a coordinator."""
    if client.given_up:
        raise _Lost(client.given_up)
    return _said(why)


def _worker(learner: Learner, first: Hello, files: dict[str, bytes]) -> Worker:
    worker = Worker(first.name, learner, hello=first, granted=granted(first.device))
    if files:
        worker.resume(files)
    return worker


def _said(why: str) -> str:
    """Last words, before anything is closed: an agent may be ended as soon as it has left."""
    print(why, flush=True)
    return why


def _check_byte_order(found: str) -> None:
    if found != "little":
        raise JoinError(
            "expected a machine that stores the low byte of a number first, as numbers travel, "
            "found one that stores the high byte first; leave this machine out"
        )


def _root(place: Place, welcome: Welcome, client: ControlClient) -> Path:
    """The folder of the run's code: that of this machine if it is the same, or what is shipped."""
    try:
        if not place.accepts_code:
            check_same(place.root, welcome.code)
            return place.root
        folder = Path(tempfile.mkdtemp(prefix="coterie-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        unpack(welcome.source, folder)
        return folder
    except JobError as error:
        client.tell(Bye(reason=str(error)))
        raise


def hello(name: str, store: str, device: str) -> Hello:
    """What an agent says first."""
    return Hello(
        name=name,
        pid=os.getpid(),
        cores=cores(),
        memory_bytes=memory_available_bytes(),
        device=device,
        store=store,
        torch=torch.__version__,
    )


def _welcome(
    client: ControlClient, first: Hello, endpoint: str, patience_s: float
) -> tuple[Welcome, dict[str, bytes]]:
    client.tell(first)
    while isinstance(welcome := client.inbox.get(patience_s), Who):
        client.tell(first)  # to a coordinator that came after the one it was said to
    if isinstance(welcome, Stop):
        raise JoinError(f"expected to join the run at {endpoint}, found: {welcome.reason}")
    if not isinstance(welcome, Welcome):
        raise JoinError(
            f"expected a coordinator at {endpoint} that knows this key, found none within "
            f"{patience_s:.0f} s; check the address, and copy join.key again"
        )
    assembly = Assembly()
    while len(assembly.files) < welcome.num_files:
        piece = client.inbox.get(WELCOME_S)
        if not isinstance(piece, State):
            raise JoinError("expected a checkpoint's files, found none; start this agent again")
        assembly.add(piece)
    return welcome, assembly.files


def _built(job: Job) -> Learner:
    learner = Learner(setup_of(job, best_device()))
    # The first step pays for lazy imports and kernels: better now than in a measurement.
    learner.scratch().step(list(range(min(2, learner.task.num_train))))
    return learner


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


def main(name: str, place: Place, num_threads: int, rest_s: Callable[[float], float]) -> int:
    """An agent process started by hand or by an engine; its exit code.

    No threads given are as many as the cores that the kernel grants, which torch does not ask.
    """
    _tune(num_threads)
    return _lived(lambda: join(name, place, rest_s))


def stand_by(
    job: Path, place: Place, num_threads: int, resting: Callable[[float], Callable[[float], float]]
) -> int:
    """A warm spare: it builds the task, and takes part under the name that it is then given.

    Name and duty are a line of JSON on standard input; where that ends without one, the spare was
    not needed.
    """
    _tune(num_threads)

    def take_over() -> str:
        learner = _built(load_job(job))
        line = sys.stdin.readline()
        if not line:
            return _said("not needed")
        name, duty = json.loads(line)
        return join(name, place, resting(duty), learner)

    return _lived(take_over)


def _tune(num_threads: int) -> None:
    torch.set_num_threads(num_threads or max(1, int(cores())))
    torch.set_flush_denormal(True)  # moments of dead units decay to numbers that are slow to add


def _lived(life: Callable[[], str]) -> int:
    try:
        life()
    except CoterieError as error:
        print(f"coterie: {error}", file=sys.stderr)
        return LOST if isinstance(error, TrainingError) else REFUSED
    return 0
