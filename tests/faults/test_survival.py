"""One run of four agents, and one fault after the other: each is survived, and nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from coterie.parent import is_alive
from coterie.transport.frames import encode
from coterie.transport.messages import Report, State, TornRound
from coterie.transport.secure import JoinKey
from coterie.watch.events import audit

pytestmark = pytest.mark.processes

NAMES = tuple(f"agent-{i}" for i in range(4))
STUCK = """

import os
from pathlib import Path


class Hanging(FromDisk):
    def __getitems__(self, indices):
        while Path(__file__).with_name(f"hang-{os.getpid()}").exists():
            time.sleep(0.05)
        return super().__getitems__(indices)


def hanging():
    return samples(512, Hanging)
"""


class Run:
    """The run that all faults of this module are done to."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk
        with (desk.folder / "shop.py").open("a") as shop:
            shop.write(STUCK)
        job = desk.job(
            task={
                "model": "shop:net",
                "train": "shop:hanging",
                "test": "shop:samples",
                "metrics": {"accuracy": "shop:accuracy"},
            },
            agents={"local": len(NAMES), "spares": 1},
            until={"minutes": 20},
            strategy="local-sgd(4)",
            deterministic=True,  # on a busy machine too nobody is left out
            checkpoint_every_s=2.0,
        )
        self.job = job
        self.process = desk.start("train", job, "--json", "--runs", desk.runs)
        self.await_first(lambda event: event["kind"] == "committed", after=-1)

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return int(self.desk.events()[-1]["seq"])

    def await_first(self, wanted: Callable[[Any], bool], after: int) -> Any:
        """The first event after another that is wanted."""
        return self.desk.await_event(lambda event: event["seq"] > after and wanted(event))

    def await_state(self, name: str, state: str, after: int) -> int:
        """When an agent is told to be in a state; the number of the event."""
        told = self.await_first(
            lambda e: e["kind"] == "agent" and (e["member"], e["state"]) == (name, state), after
        )
        return int(told["seq"])

    def await_round(self, after: int) -> None:
        """Until a round is on record that was learned after an event."""
        self.await_first(lambda event: event["kind"] == "committed", after)

    @property
    def coordinator(self) -> psutil.Process:
        """The newest coordinating process."""
        told = [e["pid"] for e in self.desk.events() if e["kind"] == "coordinator"]
        found = [psutil.Process(pid) for pid in told[-1:]]
        return found[0] if found else self.desk.agent("agent-0").parent()

    def assert_whole(self) -> None:
        """Everybody is here, and no sample was lost or repeated so far."""
        assert self.process.poll() is None
        told = [event for event in self.desk.events() if event["kind"] == "agent"]
        states = {event["member"]: event["state"] for event in told}
        assert states.keys() == set(NAMES)
        assert not {"suspected", "lost"} & set(states.values())
        books = audit(self.desk.events())
        assert books.is_exact
        assert books.epochs


@pytest.fixture(scope="module")
def run(shared_desk: Any) -> Run:
    return Run(shared_desk)


def test_two_killed_at_once_return(run: Run) -> None:
    before = run.last
    for name in ("agent-1", "agent-2"):
        run.desk.agent(name).send_signal(signal.SIGKILL)
    for name in ("agent-1", "agent-2"):
        run.await_state(name, "rejoined", before)
    run.await_round(run.last)
    run.assert_whole()


def test_all_but_one_killed_return(run: Run) -> None:
    before = run.last
    for name in NAMES[1:]:
        run.desk.agent(name).send_signal(signal.SIGKILL)
    for name in NAMES[1:]:
        run.await_state(name, "rejoined", before)
    run.await_round(run.last)
    run.assert_whole()


def test_one_that_is_stopped_is_suspected_and_comes_back_as_it_continues(run: Run) -> None:
    before, agent = run.last, run.desk.agent("agent-3")
    agent.suspend()
    suspected = run.await_state("agent-3", "suspected", before)
    run.await_round(suspected)  # the others go on
    agent.resume()
    run.await_round(run.await_state("agent-3", "rejoined", suspected))
    run.assert_whole()
    assert run.desk.agent("agent-3").pid == agent.pid  # the very same process


def test_one_that_lives_and_makes_no_progress_is_done_without(run: Run) -> None:
    before, agent = run.last, run.desk.agent("agent-2")
    hang = run.desk.folder / f"hang-{agent.pid}"
    hang.touch()
    suspected = run.await_state("agent-2", "suspected", before)
    assert "no progress" in run.desk.events()[suspected]["reason"]
    run.await_round(suspected)
    hang.unlink()
    run.await_round(run.await_state("agent-2", "rejoined", suspected))
    run.assert_whole()


def test_a_coordinator_that_is_killed_is_replaced_and_nothing_is_repeated(run: Run) -> None:
    before, pids = run.last, [run.desk.agent(name).pid for name in NAMES]
    run.coordinator.kill()
    back = run.await_first(lambda event: event["kind"] == "coordinator", before)["seq"]
    run.await_first(
        lambda e: e["kind"] == "decision" and e["cause"] == "the coordinator came back", back
    )
    run.await_round(run.last)
    run.assert_whole()
    assert [run.desk.agent(name).pid for name in NAMES] == pids


def test_a_coordinator_and_an_agent_may_die_together(run: Run) -> None:
    before = run.last
    run.desk.agent("agent-1").send_signal(signal.SIGKILL)
    run.coordinator.kill()
    back = run.await_first(lambda event: event["kind"] == "coordinator", before)["seq"]
    run.await_first(
        lambda e: e["kind"] == "term" and "agent-1" in e["members"] and e["seq"] > back + 1, back
    )
    run.await_round(run.last)
    run.assert_whole()


@contextlib.contextmanager
def dialled(run: Run) -> Iterator[zmq.Socket[bytes]]:
    """The control channel as somebody with the run's key may use it."""
    key = JoinKey.read(run.desk.runs / "small" / "join.key")
    endpoint = [e["endpoint"] for e in run.desk.events() if e["kind"] == "run"][-1]
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.curve_serverkey = key.server_public
    dealer.curve_publickey, dealer.curve_secretkey = key.agent_public, key.agent_secret
    dealer.linger = 10_000
    dealer.connect(f"tcp://{endpoint}")
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


def test_garbage_and_words_of_strangers_change_nothing(run: Run) -> None:
    before = run.last
    report = Report(
        term=1,
        first_round=1,
        last_round=10_000_000,
        cohort=NAMES,
        num_samples=1,
        num_steps=1,
        loss=0.0,
        compute_s=0.1,
        exchange_s=0.1,
    )
    frames = [
        [b""],
        [b"\x80\x04\x95pickle"],
        [b'{"kind":"stop","reason":"now"}'],
        [b'{"kind":"beat"}', b"more", b"and more"],
        [b"{" * 100_000],
        encode(report),
        encode(TornRound(term=1)),
        encode(State(ticket=1, file="../../x", index=0, total=1, blob=b"x")),
    ]
    with dialled(run) as dealer:
        for each in frames:
            dealer.send_multipart(each)
    run.await_first(lambda event: event["kind"] == "warning", before)
    run.await_round(run.last)
    run.assert_whole()


def test_when_the_power_fails_the_run_goes_on_from_disk(run: Run) -> None:
    saved = run.await_first(lambda event: event["kind"] == "checkpoint", -1)
    victims = [process for process in run.desk.processes() if process.pid != run.process.pid]
    run.process.kill()
    for process in [run.coordinator, *victims]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.process.wait()
    assert not run.desk.await_empty()
    assert Path(saved["path"]).parent.is_dir()
    steps = max(e["step"] for e in run.desk.events() if e["kind"] == "checkpoint")
    resumed = run.desk.train(
        run.job, "--resume", f"--set=until={{steps: {steps + 60}}}", "--set=agents=2"
    )
    assert resumed.code == 0, resumed.err
    assert resumed.answer["samples_lost"] == resumed.answer["samples_repeated"] == 0
    assert not run.desk.await_empty()


@pytest.mark.parametrize("sentence", ["asynchronous(2)"])  # both kinds in virtual time
def test_a_server_that_is_stopped_or_killed_is_replaced_and_nothing_is_repeated(
    sentence: str, desk: Any
) -> None:
    """First it is stopped; the next one dies together with the coordinator."""
    job = desk.job(strategy=sentence, until={"minutes": 5}, checkpoint_every_s=2.0)
    process = desk.start("train", job, "--json", "--runs", desk.runs)
    desk.await_event(lambda event: event["kind"] == "committed" and event["last_round"] > 20)
    agents = [desk.agent(name).pid for name in NAMES[:2]]
    before = -1
    for with_coordinator in (False, True):
        told = [e for e in desk.events() if e["kind"] == "server" and "pid" in e]
        if with_coordinator:
            desk.agent("agent-0").parent().kill()
        server = psutil.Process(told[-1]["pid"])
        server.send_signal(signal.SIGKILL if with_coordinator else signal.SIGSTOP)
        before = desk.events()[-1]["seq"]
        another = desk.await_event(
            lambda e, before=before: e["seq"] > before and e["kind"] == "server" and "pid" in e
        )
        desk.await_event(
            lambda e, after=another["seq"]: e["seq"] > after + 20 and e["kind"] == "committed"
        )
        assert not is_alive(server.pid)  # it can never wake up
    assert [desk.agent(name).pid for name in NAMES[:2]] == agents
    process.send_signal(signal.SIGINT)
    finished = desk.finish(process)
    assert finished.code == 130, finished.err
    assert finished.answer["samples_lost"] == finished.answer["samples_repeated"] == 0
    assert finished.answer["kills_survived"] == 0
    assert not desk.await_empty()
