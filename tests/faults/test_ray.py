"""Agents on a Ray cluster: a node dies whole, another is cut off, and both return."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ray_bed import SHORT, RayBed, ray_bed
from benchmarks.testbed import hosts as beds
from benchmarks.testbed.hosts import Host
from benchmarks.testbed.links import why_unshaped
from coterie.watch.events import audit

WHY = "Ray is not installed" if find_spec("ray") is None else why_unshaped()
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(WHY), reason=f"no cluster can be laid here: {WHY}"),
]
HEAD, ANN, BOB = "head", "ann", "bob"


@pytest.fixture
def cluster() -> Iterator[RayBed]:
    with (
        beds.testbed([Host(HEAD), Host(ANN), Host(BOB)]) as bed,
        ray_bed(bed, HEAD, SHORT) as cluster,
    ):
        cluster.build((ANN, BOB))
        yield cluster


def test_a_node_that_dies_and_one_that_is_given_up_are_back_at_work_by_themselves(
    desk: Any, cluster: RayBed, tmp_path: Path
) -> None:
    ann, bob = (cluster.bed.address_of(host) for host in (ANN, BOB))
    engine = {"kind": "ray", "address": cluster.address}
    words = {"until": {"minutes": 20}, "strategy": "local-sgd(4)", "deterministic": True}
    job = desk.job(agents={"join_timeout_s": 120.0}, engine=engine, **words)

    def state(name: str, state: str, after: int) -> int:
        wanted = (name, state)
        return int(
            desk.await_event(
                lambda e: (
                    e["seq"] > after
                    and e["kind"] == "agent"
                    and (e["member"], e["state"]) == wanted
                )
            )["seq"]
        )

    def told(words: str, after: int) -> int:
        return int(
            desk.await_event(
                lambda e: e["seq"] > after and e["kind"] == "placed" and words in e["text"]
            )["seq"]
        )

    def at_work(name: str, after: int) -> int:
        return int(
            desk.await_event(lambda e: e["seq"] > after and name in e.get("leases", ()))["seq"]
        )

    command = [sys.executable, "-m", "coterie.cli", "train", str(job), "--json"]
    with (tmp_path / "command.log").open("w") as log:
        run = cluster.bed.run(
            HEAD, [*command, "--runs", str(desk.runs)], cluster.env,
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    for name in (ann, bob):
        at_work(name, -1)

    cluster.kill(ANN)
    lost = state(ann, "lost", 0)
    cluster.start(ANN)
    back = state(ann, "rejoined", lost)
    at_work(ann, back)

    pid = desk.agent(bob).pid
    cluster.bed.cut(BOB)
    suspected = state(bob, "suspected", back)
    at_work(ann, told(f"{bob} is out of sight", suspected))
    cluster.bed.mend(BOB)
    rejoined = state(bob, "rejoined", suspected)
    at_work(bob, rejoined)
    assert desk.agent(bob).pid == pid  # the same process: it outlived its node's Ray
    cluster.start(BOB)
    taken = told(f"{bob} on node", rejoined)
    at_work(bob, taken)
    assert desk.agent(bob).pid == pid  # and was not started twice

    run.terminate()
    out, _ = run.communicate(timeout=60.0)
    assert run.returncode == 130, out
    assert audit(desk.events()).is_exact
