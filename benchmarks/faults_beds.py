"""Faults put into runs of ours on hosts with links of their own: cuts, stops, a mix, and none."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bed_runs import say
from faults_runs import BACK_S, START_S, Running, job, running_on
from faults_sums import absent_s, committed_samples, recount, typical_s
from faults_sums import goodput as goodput_of

from benchmarks.testbed import Bed, Host, testbed
from coterie.watch.events import audit

NUM_HOSTS, HOST_CORES = 3, 0.55
MBIT = 1000.0  # at 100, meetings are so long that three learn no faster than two
FAR = 1_000_000  # steps: such a run is ended by us
CALM_S = 8.0  # of training between two faults
SHORT_S = 5.0  # of a stop or a cut among other faults
FREE_S = 60.0  # without faults, first
SLOW_MBIT = 10.0
SLOW_MS_PER_SAMPLE = 300.0  # reading takes so long that meetings of seconds pay
FOR_EVER_S = 1e6

Found = Iterator[dict[str, Any]]


def hosts(mbit: float = MBIT) -> list[Host]:
    """Hosts alike."""
    return [Host(f"h{number}", HOST_CORES, mbit) for number in range(NUM_HOSTS)]


def unit(part: str, run: Running) -> dict[str, Any]:
    """What is told of a run that did not begin."""
    return {"part": part, "failed": "the run did not begin", "words": run.words()}


# -- silences ------------------------------------------------------------------------------------


def silences(folder: Path, kinds: Sequence[str], num: int, cut_s: float, stop_s: float) -> Found:
    """Links that are cut for a while, and agents that are stopped, each host in its turn."""
    with testbed(hosts()) as bed:
        wanted = job("silence", 0, until={"steps": FAR})
        with running_on(bed, wanted, folder / "silence") as run:
            if run.find(lambda e: e["kind"] == "decision", START_S) is None:
                yield unit("silence", run)
                return
            for number in range(num):
                host = list(bed.hosts)[number % NUM_HOSTS]
                for kind in kinds:
                    time.sleep(CALM_S)
                    outcome = silence(bed, run, kind, host, cut_s if kind == "cut" else stop_s)
                    say(f"{kind} of {host}: {outcome}")
                    yield {"part": "silence", "kind": kind, "host": host, **outcome}
                    if not outcome["survived"]:
                        return
            yield {"part": "silence run", **books(run)}


def silence(bed: Bed, run: Running, kind: str, host: str, seconds: float) -> dict[str, Any]:
    """One host silent for a while, and what came of it."""
    pid, is_member = run.pid(host), host in run.of("term")[-1]["members"]
    fault_s = time.time()
    hush(bed, kind, host, pid)
    time.sleep(seconds)
    ended_s = time.time()
    unhush(bed, kind, host, pid)
    rejoined = run.state(host, "rejoined", ended_s, BACK_S)
    first = rejoined and run.commit_of(host, rejoined["time_s"], BACK_S)
    suspected = run.state(host, "suspected", fault_s, 0.0)
    pauses: dict[str, float] = {}
    for event in run.of("pause"):
        if fault_s < event["time_s"] < ended_s and event["member"] != host:
            pauses.setdefault(event["member"], event["seconds"])
    return {
        "seconds": seconds,
        "was_member": is_member,
        "survived": first is not None,
        "words": "" if first else run.words(),
        "suspected_s": suspected["time_s"] - fault_s if suspected else None,
        "pauses_s": list(pauses.values()),
        "rejoined_s": rejoined["time_s"] - ended_s if rejoined else None,
        "back_s": first["time_s"] - ended_s if first else None,
        "same_process": run.pid(host) == pid,
    }


def hush(bed: Bed, kind: str, host: str, pid: int) -> None:
    """Silence a host: its link is taken down, or its agent stopped."""
    if kind == "cut":
        bed.cut(host)
    else:
        os.kill(pid, signal.SIGSTOP)


def unhush(bed: Bed, kind: str, host: str, pid: int) -> None:
    """Let it be heard again."""
    if kind == "cut":
        bed.mend(host)
    else:
        os.kill(pid, signal.SIGCONT)


def books(run: Running) -> dict[str, Any]:
    """What a run's log says of all its samples."""
    sums = audit(run.events)
    return {
        "lost": sums.num_lost,
        "repeated": sums.num_repeated,
        "recount": recount(run.events),
        "disagreements": len(run.of("disagreement")),
        "states": {
            state: sum(e["state"] == state for e in run.of("agent"))
            for state in ("lost", "suspected", "rejoined", "healed")
        },
    }


# -- goodput -------------------------------------------------------------------------------------


def goodput(folder: Path, minutes: float, every_s: float, seed: int) -> Found:
    """Faults of all kinds for minutes: what is learned of what would be without them."""
    luck = random.Random(seed)
    free_s = min(FREE_S, 30.0 * minutes)
    with testbed(hosts()) as bed:
        wanted = job("goodput", seed, until={"steps": FAR})
        with running_on(bed, wanted, folder / "goodput") as run:
            began = run.find(lambda e: e["kind"] == "decision", START_S)
            if began is None:
                yield unit("goodput", run)
                return
            time.sleep(CALM_S)  # the first rounds are slower
            begin_s = time.time()
            time.sleep(free_s)
            faults_s, faults = time.time(), []
            for number in range(int(minutes * 60 / every_s)):
                at_s = faults_s + number * every_s + luck.uniform(0.0, every_s / 3)
                time.sleep(max(0.0, at_s - time.time()))
                faults.append(strike(bed, run, luck))
                if run.command.poll() is not None:
                    break
            time.sleep(max(0.0, faults_s + minutes * 60 - time.time()))
            end_s = time.time()
            time.sleep(CALM_S)
            again_s = time.time()
            time.sleep(free_s)  # a machine is not always the same: once more without faults
            away = spans(run, faults, end_s)
            before, after = (
                per_s(run, *span) for span in ((begin_s, faults_s), (again_s, time.time()))
            )
            free = (before + after) / 2
            seconds = end_s - faults_s
            samples = round(per_s(run, faults_s, end_s) * seconds)
            gone_s = absent_s([(left, back) for _, left, back in away], faults_s, end_s)
            yield {
                "part": "goodput", "free_per_s": free, "free_each_per_s": [before, after],
                "samples": samples, "seconds": seconds,
                **goodput_of(samples, seconds, free, gone_s, NUM_HOSTS),
                "alive": run.command.poll() is None, "words": run.words()[-1500:],
                "faults": faults, "away_s": [back - left for _, left, back in away], **books(run),
            }  # fmt: skip


def strike(bed: Bed, run: Running, luck: random.Random) -> dict[str, Any]:
    """One fault of a random kind on a random host."""
    kind, host = luck.choice(("kill", "stop", "cut")), luck.choice(list(bed.hosts))
    pid, fault_s = run.pid(host), time.time()
    say(f"goodput: {kind} of {host}")
    try:
        if kind == "kill":
            os.kill(pid, signal.SIGKILL)
        else:
            hush(bed, kind, host, pid)
            time.sleep(SHORT_S)
            unhush(bed, kind, host, pid)
    except ProcessLookupError:
        kind = f"{kind}, while it was being started again"
    return {"kind": kind, "host": host, "time_s": fault_s}


def spans(
    run: Running, faults: Sequence[dict[str, Any]], end_s: float
) -> list[tuple[str, float, float]]:
    """Who was away from when to when: from a fault until it is back at work, and by suspicion.

    A fault after which nobody was missed ends when a word of the host comes again.
    """
    away: dict[str, list[tuple[float, float]]] = {host: [] for host in run_hosts(run)}
    told = run.of("agent", "work")
    starts = [(fault["host"], fault["time_s"]) for fault in faults]
    starts += [(e["member"], e["time_s"]) for e in told if e.get("state") in ("lost", "suspected")]
    for host, left_s in sorted(starts, key=lambda start: start[1]):
        if away[host] and left_s < away[host][-1][1]:
            continue
        mine = [e for e in told if e["member"] == host and e["time_s"] > left_s]
        gone = any(e.get("state") in ("lost", "suspected") for e in mine[:3])
        ends = ("rejoined",) if gone else ("rejoined", None)
        back_s = next((e["time_s"] for e in mine if e.get("state") in ends), end_s)
        away[host].append((left_s, back_s))
    return [(host, *span) for host, each in away.items() for span in each]


def run_hosts(run: Running) -> set[str]:
    """All agents that ever were in a run."""
    return {event["member"] for event in run.of("agent")}


def per_s(run: Running, begin_s: float, end_s: float) -> float:
    """Samples a second that were committed between two moments."""
    here = [e for e in run.of("committed") if begin_s < e["time_s"] <= end_s]
    return sum(map(committed_samples, here)) / (end_s - begin_s)


# -- heartbeats ----------------------------------------------------------------------------------


def heartbeats(folder: Path, seconds: float) -> Found:
    """Whether anybody is taken for dead while all-reduces of 4 MB fill links of 10 Mbit/s."""
    with testbed(hosts(SLOW_MBIT)) as bed:
        wanted = job("heartbeats", 0, until={"steps": FAR})
        wanted["task"] |= {
            "model": "shakespeare:network",
            "train": {
                "call": "faults_task:train_set",
                "with": {"ms_per_sample": SLOW_MS_PER_SAMPLE},
            },
        }
        wanted["checkpoint_every_s"] = FOR_EVER_S
        with running_on(bed, wanted, folder / "heartbeats") as run:
            if run.find(lambda e: e["kind"] == "decision", 2 * START_S) is None:
                yield unit("heartbeats", run)
                return
            begin_s, before = time.time(), bed.bytes()
            busiest: list[float] = []
            while time.time() < begin_s + seconds and run.command.poll() is None:
                at_s, sent = time.time(), bed.bytes()
                time.sleep(1.0)
                now = bed.bytes()
                busiest.append(
                    max(now[h].sent_bytes - sent[h].sent_bytes for h in now) * 8e-6
                    / (time.time() - at_s)
                )  # fmt: skip
            took_s, after = time.time() - begin_s, bed.bytes()
            mbit = [(after[h].sent_bytes - before[h].sent_bytes) * 8e-6 / took_s for h in after]
            times = [e["time_s"] for e in run.of("committed")]
            yield {
                "part": "heartbeats", "seconds": took_s, "alive": run.command.poll() is None,
                "members": list(run.of("term")[-1]["members"]), "rounds": len(times),
                "round_s": typical_s(times), "mbit": median(mbit),
                "full_seconds": sum(rate > 0.8 * SLOW_MBIT for rate in busiest),
                "words": run.words()[-1500:], **books(run),
            }  # fmt: skip
