"""What the Ray engine costs, and what happens when nodes die: ours beside Ray's own, in one run.

A head and three nodes in network namespaces, with Ray's own patience and with the shortest that it
takes, in turns. One node is killed whole, one is cut off for longer than Ray's patience and
returns; beside it, how long Ray takes to say so. Then what an agent takes beside a node of Ray, in
memory and in time to join. Needs root. Prints a page for benchmarks/ray.md.

    python benchmarks/bench_ray.py --rounds 2
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bed_runs import say  # noqa: E402
from faults_runs import Running, job  # noqa: E402
from faults_sums import recount  # noqa: E402

from benchmarks.ray_bed import SHORT, RayBed, ray_bed  # noqa: E402
from benchmarks.testbed import Bed, Host, testbed  # noqa: E402
from coterie.transport.control import ControlServer  # noqa: E402
from coterie.transport.messages import Hello  # noqa: E402
from coterie.transport.secure import Keys  # noqa: E402
from coterie.watch.events import audit  # noqa: E402

HEAD, NODES = "head", ("ann", "bob", "cid")
KILLED, CUT = "ann", "bob"
START_S, BACK_S, CALM_S = 240.0, 120.0, 8.0
PATIENCES = {"short": SHORT, "default": {}}
NUM_TRIALS = 3
BEYOND_S = 3.0  # a link stays cut after Ray has given its node up
NEVER_S = 20.0  # for Ray to take a node back by itself, once its link returned
# What a user's own loop on the same task takes, with no agent around it; and with no loop either.
LOOP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
loaded_s = time.time()
if sys.argv[2] == "loop":
    import faults_task, shakespeare
    model, samples = faults_task.network(), faults_task.train_set()
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(10):
        inputs, targets = samples.batch(list(range(16 * step, 16 * step + 16)))
        optimizer.zero_grad()
        shakespeare.loss(model(inputs), targets).backward()
        optimizer.step()
print(loaded_s, flush=True)
sys.stdin.read()
"""
DIAL = """
import os, sys
from coterie.transport.control import ControlClient
from coterie.transport.messages import Hello
from coterie.transport.secure import JoinKey
client = ControlClient(sys.argv[1], JoinKey.parse(sys.stdin.readline()), "control")
client.tell(Hello(name="control", pid=os.getpid(), cores=1, memory_bytes=1, device="cpu", store=""))
sys.stdin.read()
"""

Told = dict[str, Any]


@contextmanager
def running_on(cluster: RayBed, folder: Path) -> Iterator[Running]:
    """A run on the cluster, begun on its head as a user would."""
    folder.mkdir(parents=True)
    engine = {"kind": "ray", "address": cluster.address}
    words = {"until": {"steps": 1_000_000}, "strategy": "local-sgd(4)", "deterministic": True}
    wanted = job("ray", 0, engine=engine, agents={"join_timeout_s": START_S}, **words)
    path = folder / "job.yaml"
    path.write_text(json.dumps(wanted))
    argv = [sys.executable, "-m", "coterie.cli", "train", str(path), "--runs", str(folder)]
    with (folder / "command.log").open("w") as log:
        command = cluster.bed.run(HEAD, [*argv, "--plain"], cluster.env, stdout=log, stderr=log)
    run = Running(command, folder / "ray")
    run.followed = threading.Thread(target=run.follow, daemon=True)
    run.followed.start()
    try:
        yield run
    finally:
        if command.poll() is None:
            command.kill()


def regrouped_s(run: Running, without: str, since_s: float) -> float | None:
    """Until the others had learned a round together, in a group without one of them."""
    term = run.find(lambda e: e["kind"] == "term" and without not in e["members"], BACK_S, since_s)
    first = term and run.find(lambda e: e["kind"] == "committed", BACK_S, term["time_s"])
    return first["time_s"] - since_s if first else None


def killed(run: Running, cluster: RayBed) -> Told:
    """Everything on a node killed at once; then its Ray is started again."""
    name = cluster.bed.address_of(KILLED)
    time.sleep(CALM_S)
    fault_s = cluster.kill(KILLED)
    ours_s = regrouped_s(run, name, fault_s)
    ray_s = cluster.await_alive(KILLED, False)
    started_s = time.time()
    cluster.start(KILLED)
    node_s = cluster.await_alive(KILLED, True)
    back = run.state(name, "rejoined", started_s, BACK_S)
    work = back and run.commit_of(name, back["time_s"], BACK_S)
    here = [e for e in run.of("agent") if e["member"] == name and "pid" in e]
    born_s = psutil.Process(here[-1]["pid"]).create_time()
    return {
        "regrouped_s": ours_s,
        "ray_dead_s": ray_s - fault_s if ray_s else None,
        "agent_join_s": here[-1]["time_s"] - born_s,
        "node_again_s": node_s - started_s if node_s else None,
        "back_s": work["time_s"] - started_s if work else None,
    }


def cut_off(run: Running, cluster: RayBed) -> Told:
    """A link cut until Ray has given its node up, then mended; then its Ray is started again."""
    name, pid = cluster.bed.address_of(CUT), run.pid(cluster.bed.address_of(CUT))
    time.sleep(CALM_S)
    fault_s = time.time()
    cluster.bed.cut(CUT)
    ours_s = regrouped_s(run, name, fault_s)
    ray_s = cluster.await_alive(CUT, False)
    time.sleep(BEYOND_S)
    mended_s = time.time()
    cluster.bed.mend(CUT)
    back = run.state(name, "rejoined", mended_s, BACK_S)
    work = back and run.commit_of(name, back["time_s"], BACK_S)
    by_itself = cluster.await_alive(CUT, True, NEVER_S)
    started_s = time.time()
    cluster.start(CUT)
    taken = run.find(
        lambda e: e["kind"] == "placed" and f"{name} on node" in e["text"], BACK_S, started_s
    )
    return {
        "regrouped_s": ours_s,
        "ray_dead_s": ray_s - fault_s if ray_s else None,
        "cut_s": mended_s - fault_s,
        "back_s": work["time_s"] - mended_s if work else None,
        "ray_back_by_itself": by_itself is not None,
        "taken_over": taken is not None and run.pid(name) == pid,
    }


def pss_mb(processes: Sequence[psutil.Process]) -> float:
    """Their share of memory, each page counted once over all who map it."""
    return sum(process.memory_full_info().pss for process in processes) / 1e6


def control_alone(bed: Bed, env: Mapping[str, str]) -> Told:
    """A process that is an agent's control channel and nothing else: PSS, and time to be heard."""
    keys = Keys.make()
    server = ControlServer(f"{bed.address}:0", keys)
    argv = [sys.executable, "-c", DIAL, server.endpoint]
    began_s = time.time()
    dialling = bed.run(NODES[-1], argv, env, stdin=subprocess.PIPE)
    assert dialling.stdin is not None
    dialling.stdin.write(keys.join.text() + "\n")
    dialling.stdin.flush()
    until_s = time.monotonic() + BACK_S
    while time.monotonic() < until_s:
        received = server.receive()
        if received is not None and isinstance(received[1], Hello):
            break
        time.sleep(0.005)
    found = {"join_s": time.time() - began_s, "pss_mb": pss_mb([psutil.Process(dialling.pid)])}
    dialling.kill()
    server.close()
    return found


def torch_alone(bed: Bed, env: Mapping[str, str], what: str) -> Told:
    """A Python that has loaded torch, and may have learned: PSS, and how long loading took."""
    began_s, pipe = time.time(), subprocess.PIPE
    argv = [sys.executable, "-c", LOOP, str(HERE), what]
    loaded = bed.run(NODES[-1], argv, env, stdin=pipe, stdout=pipe)
    assert loaded.stdout is not None
    load_s = float(loaded.stdout.readline()) - began_s
    found = {"load_s": load_s, "pss_mb": pss_mb([psutil.Process(loaded.pid)])}
    loaded.kill()
    return found


def footprints(run: Running, cluster: RayBed, nodes_mb: float) -> Told:
    """What agents take beside a node of Ray."""
    agents = [psutil.Process(run.pid(cluster.bed.address_of(host))) for host in NODES]
    took: dict[str, list[Told]] = {"loop": [], "load": [], "control": []}
    for _ in range(NUM_TRIALS):
        for what in ("loop", "load"):
            took[what].append(torch_alone(cluster.bed, cluster.env, what))
        took["control"].append(control_alone(cluster.bed, cluster.env))

    def middle(what: str, key: str) -> float:
        return median(each[key] for each in took[what])

    return {
        "agent_mb": median(pss_mb([agent]) for agent in agents),
        "loop_mb": middle("loop", "pss_mb"),
        "load_mb": middle("load", "pss_mb"),
        "control_mb": middle("control", "pss_mb"),
        "node_mb": nodes_mb,
        "load_s": middle("load", "load_s"),
        "control_join_s": middle("control", "join_s"),
    }


def helpers(cluster: RayBed, host: str) -> list[psutil.Process]:
    """A node's raylet and what it started for itself: no workers, and not the command."""
    mine = ("/raylet/raylet ", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "log_monitor.py")
    processes = [(process, " ".join(process.cmdline())) for process in cluster.processes(host)]
    return [process for process, words in processes if any(word in words for word in mine)]


def measured(patience: str, folder: Path) -> Told:
    """One cluster and one run on it."""
    hosts = [Host(name) for name in (HEAD, *NODES)]
    with testbed(hosts) as bed, ray_bed(bed, HEAD, PATIENCES[patience]) as cluster:
        took_s = cluster.build(NODES)
        started_s = {host: cluster.started_s(host) for host in NODES}
        say(f"nodes joined after {took_s}, ray start was done after {started_s}")
        time.sleep(CALM_S)
        nodes_mb = median(pss_mb(helpers(cluster, host)) for host in NODES)
        with running_on(cluster, folder) as run:
            began = run.find(lambda e: e["kind"] == "decision", START_S)
            if began is None:
                raise RuntimeError(f"the run did not begin: {run.words()} {cluster.words()}")
            time.sleep(CALM_S)
            size = footprints(run, cluster, nodes_mb)
            say(f"footprints {size}")
            kill = killed(run, cluster)
            say(f"kill {kill}")
            cut = cut_off(run, cluster)
            say(f"cut {cut}")
            time.sleep(CALM_S)
            run.command.send_signal(signal.SIGTERM)
            code = run.finish(60.0)
            books, again = audit(run.events), recount(run.events)
    return {
        "patience": patience,
        "node_join_s": [took_s[host] for host in NODES],
        "node_start_s": [started_s[host] for host in NODES],
        "kill": kill,
        "cut": cut,
        **size,
        "code": code,
        "lost": books.num_lost,
        "repeated": books.num_repeated,
        "recount": again,
    }


def spread(values: Sequence[float | None]) -> str:
    """Median (least, most), of those that there are.

    >>> spread([1.0, None, 3.0])
    '2 (1, 3)'
    """
    found = sorted(value for value in values if value is not None)
    if not found:
        return "never"
    return f"{median(found):.3g} ({found[0]:.3g}, {found[-1]:.3g})"


def page(found: Sequence[Told], minutes: float) -> str:
    """The page of the outcomes."""
    import platform

    import ray
    import torch

    load = ", ".join(f"{value:.3g}" for value in os.getloadavg())
    machine = f"{os.cpu_count()} shared virtual cores, {platform.machine()}"
    lines = [
        f"{date.today()}; {machine}, load {load}; "
        f"python {platform.python_version()}, ray {ray.__version__}, torch {torch.__version__}; "
        f"{len(found)} runs, {minutes:.0f} minutes. Figures are medians (least, most).",
        "",
        "## A node dies, a node is cut off",
        "",
        "| Ray's patience | fault | ours: the others learn on after, s | Ray marks the node dead "
        "after, s | ours: back at work, s | Ray: node back by itself |",
        "|---|---|---|---|---|---|",
    ]
    for patience in dict.fromkeys(each["patience"] for each in found):
        runs = [each for each in found if each["patience"] == patience]
        for fault, words in (("kill", "node killed"), ("cut", "link cut, returned")):
            told = [each[fault] for each in runs]
            by_itself = sum(each.get("ray_back_by_itself", False) for each in told)
            column = f"{by_itself} of {len(told)}" if fault == "cut" else "-"
            lines.append(
                f"| {patience} | {words} | {spread([t['regrouped_s'] for t in told])} | "
                f"{spread([t['ray_dead_s'] for t in told])} | "
                f"{spread([t['back_s'] for t in told])} | {column} |"
            )
    return "\n".join([*lines, "", *sums(found), "", *sizes(found)])


def sums(found: Sequence[Told]) -> list[str]:
    """What was lost, and who was taken over."""
    books = {key: sum(each[key] for each in found) for key in ("lost", "repeated")}
    own = {
        key: sum(each["recount"][key] for each in found) for key in ("lost", "repeated", "epochs")
    }
    taken = sum(each["cut"]["taken_over"] for each in found)
    codes = ", ".join(str(code) for code in sorted({each["code"] for each in found}))
    return [
        f"Samples lost {books['lost']}, repeated {books['repeated']} by the log's audit; "
        f"{own['lost']} and {own['repeated']} by a count of our own, over {own['epochs']} whole "
        f"data epochs. Exit codes: {codes} (130: ended by us). Agents that were found alive when "
        f"their node's Ray was started again, and not started twice: {taken} of {len(found)}."
    ]


def sizes(found: Sequence[Told]) -> list[str]:
    """Memory and time to join."""
    starts_s = [median(each["node_start_s"]) for each in found]

    def row(what: str, mb: Sequence[float], join_s: Sequence[float]) -> str:
        parts = [a / each["node_mb"] for a, each in zip(mb, found, strict=True)]
        times = [a / b for a, b in zip(join_s, starts_s, strict=True)]
        cells = (what, *(spread(values) for values in (mb, parts, join_s, times)))
        return f"| {' | '.join(cells)} |"

    joins = [each["kill"]["agent_join_s"] for each in found]
    listed_s = [value for each in found for value in each["node_join_s"]]
    return [
        "## What it takes beside a node of Ray",
        "",
        "| | PSS, MB | of a node's | joined after, s | of `ray start` |",
        "|---|---|---|---|---|",
        row("a node: raylet and its helpers, no worker", [e["node_mb"] for e in found], starts_s),
        row("an agent at work, torch and all", [e["agent_mb"] for e in found], joins),
        row(
            "less a plain loop on the same task; less loading torch",
            [e["agent_mb"] - e["loop_mb"] for e in found],
            [a - e["load_s"] for a, e in zip(joins, found, strict=True)],
        ),
        row(
            "less a Python that has loaded torch",
            [e["agent_mb"] - e["load_mb"] for e in found],
            [a - e["load_s"] for a, e in zip(joins, found, strict=True)],
        ),
        row(
            "its control channel alone",
            [e["control_mb"] for e in found],
            [e["control_join_s"] for e in found],
        ),
        "",
        f"`ray start` is done after what the table says; the head lists the node as alive after "
        f"{spread(listed_s)} s.",
    ]


def main() -> None:
    """Measure, write the numbers, print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--patiences", nargs="*", default=list(PATIENCES))
    parser.add_argument("--keep", type=Path, help="where the runs are kept; by default nowhere")
    said = parser.parse_args()
    began_s, found = time.monotonic(), list[Told]()
    results = HERE / "results" / f"ray-{date.today():%Y%m%d}.json"
    with tempfile.TemporaryDirectory(prefix="coterie-ray-") as folder:
        for number in range(said.rounds):
            for patience in said.patiences:
                say(f"round {number + 1} of {said.rounds}: {patience} patience")
                found.append(measured(patience, Path(said.keep or folder, f"{patience}-{number}")))
                results.write_text(json.dumps(found, indent=1))
    print(page(found, (time.monotonic() - began_s) / 60))


if __name__ == "__main__":
    main()
