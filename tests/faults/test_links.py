"""Agents on hosts of their own, and links between them that fail: whoever was cut off returns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed import hosts as beds
from benchmarks.testbed.hosts import Bed, Host
from benchmarks.testbed.links import why_unshaped
from coterie.watch.events import audit

WHY = why_unshaped()
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(WHY), reason=f"no links can be laid here: {WHY}"),
]
SOURCES = Path(__file__).parents[2] / "src"
HOSTS = ("ann", "bob", "cid")
FAST_MBIT, SLOW_MBIT = 100.0, 10.0
WIDTH = 10_000  # half a megabyte of parameters: a meeting fills a slow link for half a second


class Run:
    """A run whose agents sit on the hosts of a bed."""

    def __init__(self, desk: Any, bed: Bed) -> None:
        self.desk, self.bed = desk, bed
        job = desk.job(
            task={
                "model": {"call": "shop:net", "with": {"width": WIDTH}},
                "train": "shop:from_disk",
                "test": "shop:samples",
            },
            agents={"local": 0, "remote": len(HOSTS)},
            until={"minutes": 20},
            strategy="local-sgd(4)",
            deterministic=True,  # nobody is left out, however dear meetings are
            listen=f"{bed.address}:0",
        )
        self.process = desk.start("train", job, "--json", "--runs", desk.runs)
        told = desk.await_event(lambda event: event["kind"] == "run")
        key = desk.runs / "small" / "join.key"
        command = [sys.executable, "-m", "coterie.cli", "join", told["endpoint"]]
        command += ["--key", str(key), "--root", str(desk.folder)]
        for host in HOSTS:
            log = (desk.folder / f"{host}.log").open("w")
            env = {"PYTHONPATH": str(SOURCES)}
            bed.run(host, [*command, "--name", host], env, stdout=log, stderr=subprocess.STDOUT)
        self.await_round(-1)

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return int(self.desk.events()[-1]["seq"])

    def await_round(self, after: int) -> None:
        """Until a round is on record that was learned after an event."""
        self.desk.await_event(lambda e: e["seq"] > after and e["kind"] == "committed")

    def await_state(self, name: str, state: str, after: int) -> Any:
        """When an agent is told to be in a state."""
        return self.desk.await_event(
            lambda e: (
                e["seq"] > after
                and e["kind"] == "agent"
                and (e["member"], e["state"]) == (name, state)
            )
        )

    def assert_whole(self) -> None:
        """Everybody is here, and no sample was lost or repeated so far."""
        assert self.process.poll() is None
        told = [event for event in self.desk.events() if event["kind"] == "agent"]
        states = {event["member"]: event["state"] for event in told}
        assert states.keys() == set(HOSTS)
        assert not {"suspected", "lost"} & set(states.values())
        assert audit(self.desk.events()).is_exact


@pytest.fixture(scope="module")
def run(shared_desk: Any) -> Iterator[Run]:
    with beds.testbed([Host(name, mbit=FAST_MBIT) for name in HOSTS]) as bed:
        yield Run(shared_desk, bed)


def test_one_that_is_cut_off_returns_by_itself_when_its_link_does(run: Run) -> None:
    before = run.last
    run.bed.cut("bob")
    suspected = run.await_state("bob", "suspected", before)["seq"]
    # Longer than it takes both sides to give the line up.
    run.desk.await_event(lambda e: e["kind"] == "progress" and e["seq"] > suspected + 200)
    run.await_round(run.last)  # the others go on
    run.bed.mend("bob")
    run.await_round(run.await_state("bob", "rejoined", suspected)["seq"])
    run.assert_whole()


def test_nobody_is_taken_for_dead_while_data_fills_a_link_ten_times_slower(run: Run) -> None:
    before = run.last
    for host in HOSTS:
        run.bed.change(host, mbit=SLOW_MBIT)
    for _ in range(10):
        run.await_round(run.last)
    for host in HOSTS:
        run.bed.change(host, mbit=FAST_MBIT)
    told = [e for e in run.desk.events() if e["seq"] > before and e["kind"] == "agent"]
    assert not [e for e in told if e["state"] in ("suspected", "lost")]
    assert audit(run.desk.events()).is_exact
