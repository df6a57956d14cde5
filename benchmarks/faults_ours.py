"""Faults put into runs of ours whose agents are processes of this machine."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from bed_runs import say
from faults_runs import BACK_S, NUM_AGENTS, START_S, Running, doing, job, running
from faults_sums import longest_gap_s, recount, typical_s

from coterie.watch.events import audit

NAMES = tuple(f"agent-{number}" for number in range(NUM_AGENTS))
STARTS = 3  # so often is an agent started again
FAR = 1_000_000  # steps: such a run is ended by us
STEADY_ROUNDS = 20  # between two faults, where their moments are ours to choose
READ = "0"  # of x86-64
WARM_S = 120.0

Found = Iterator[dict[str, Any]]


def kills(folder: Path, seed: int, num: int, steps: int) -> Found:
    """One run with so many kills spread over its steps, and what it came to."""
    arm = "kills" if num else "free"
    agents = {"local": NUM_AGENTS, "spares": 1}
    wanted = job(arm, seed, until={"steps": steps}, agents=agents)
    luck, killed = random.Random(seed), Counter[str]()
    with running(wanted, folder / f"{arm}-{seed}") as run:
        began = run.find(lambda e: e["kind"] == "decision", START_S)
        if began is None:
            say(f"the run did not begin:\n{run.words()}")
            yield {"part": "run", "arm": arm, "seed": seed, "code": None, "words": run.words()}
            return
        for number in range(num):
            at = (number + luck.uniform(0.5, 1.0)) / (num + 1) * steps
            if not run.await_round(int(at)):
                break
            await_whole(run)
            time.sleep(luck.uniform(0.0, 0.3))
            if run.command.poll() is not None:
                break
            victim = choose(run, killed, luck)
            killed[victim] += 1
            outcome = kill(run, victim)
            say(f"{arm} {seed}: {told(outcome)}")
            yield {"part": "kills", "seed": seed, **outcome}
        yield {"part": "run", "arm": arm, "seed": seed, "asked": num, **ending(run, steps)}


def choose(run: Running, killed: Counter[str], luck: random.Random) -> str:
    """Whom to kill: of those at work, one that may still be started again."""
    here = [name for name in members(run) if killed[name] < STARTS]
    return luck.choice(here or [name for name in NAMES if killed[name] < STARTS])


def members(run: Running) -> list[str]:
    """Who forms the group."""
    return list(run.of("term")[-1]["members"])


def await_whole(run: Running) -> bool:
    """Wait until all agents are at work, or at hand where the plan leaves one out."""
    return run.find(lambda e: is_whole(run), BACK_S) is not None


def is_whole(run: Running) -> bool:
    """Whether nobody is away."""
    states = {e["member"]: e["state"] for e in run.of("agent") if e["member"] in NAMES}
    away = ("lost", "suspected", "returned", "joined")
    return all(state not in away or name in members(run) for name, state in states.items())


def kill(run: Running, victim: str) -> dict[str, Any]:
    """One kill -9 now, and what came of it."""
    survivors = [name for name in members(run) if name != victim]
    was = {name: doing(run.pid(name)) for name in (victim, *survivors)}
    is_member, warm = victim in members(run), has_warm_spare(run)
    fault_s = time.time()
    os.kill(run.pid(victim), signal.SIGKILL)
    rejoined = run.state(victim, "rejoined", fault_s, BACK_S)
    first = rejoined and run.commit_of(victim, rejoined["time_s"], BACK_S)
    lost = run.state(victim, "lost", fault_s, 0.0)
    later_s = (lost["time_s"] if lost else fault_s) + 0.3  # what was committed before may be told
    went_on = [run.commit_of(name, later_s, BACK_S) is not None for name in survivors]
    survived = all(went_on) and bool(went_on)
    return {
        "victim": victim,
        "victim_was": was[victim],
        "others_were": [was[name] for name in survivors],
        "was_member": is_member,
        "warm_spare": warm,
        "survived": survived,
        "was_over": run.command.poll() is not None,  # before the dead one's place was filled
        "words": "" if survived else run.words(),
        "noticed_s": lost["time_s"] - fault_s if lost else None,
        "rejoined_s": rejoined["time_s"] - fault_s if rejoined else None,
        "back_s": first["time_s"] - fault_s if first else None,
        **stand_stills(run, survivors, fault_s, rejoined["time_s"] if rejoined else None),
    }


def stand_stills(
    run: Running, survivors: list[str], fault_s: float, rejoined_s: float | None
) -> dict[str, Any]:
    """How long survivors stood still at a death, and when the dead one's place was filled.

    Members measure the first themselves, and tell it as an event; `gaps_s` are from the times at
    which their words came, which lie a quarter of a second apart, and so are an upper bound.
    """
    end_s = rejoined_s or fault_s + BACK_S
    paused: dict[str, float] = {}
    for event in run.of("pause"):
        if fault_s < event["time_s"] < end_s:
            paused.setdefault(event["member"], event["seconds"])
    gaps, rejoin_gaps = [], []
    for name in survivors:
        times = run.work_times(name)
        usual_s = typical_s([time_s for time_s in times if time_s < fault_s][-50:])
        after_s = min((t for t in times if t > fault_s), default=fault_s)
        begin_s = max((t for t in times if t <= fault_s), default=fault_s)
        gap_s = longest_gap_s(times, begin_s, min(end_s, max(after_s, fault_s + 3.0)))
        gaps += [gap_s - usual_s] if gap_s is not None else []
        gap_s = rejoined_s and longest_gap_s(times, rejoined_s - 1.5, rejoined_s + 1.5)
        rejoin_gaps += [max(0.0, gap_s - usual_s)] if gap_s else []
    return {
        "pauses_s": [paused[name] for name in survivors if name in paused],
        "untold": sum(name not in paused for name in survivors),
        "gaps_s": gaps,
        "rejoin_gaps_s": rejoin_gaps,
    }


def has_warm_spare(run: Running) -> bool:
    """Whether a spare has built the task and waits for the line that names it."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, OSError):
            words = process.cmdline()
            if "stand-by" in words and str(run.folder / "join.key") in words:
                call = Path(f"/proc/{process.pid}/syscall").read_text().split()
                if call[:2] == [READ, "0x0"]:
                    return True
    return False


def ending(run: Running, steps: int) -> dict[str, Any]:
    """What a run came to that ends by itself."""
    code = run.finish(timeout_s=max(120.0, steps * 0.5))
    events = list(run.events)
    books = audit(events)
    scores = [e["metrics"] for e in run.of("scores")]
    began, committed = run.of("decision")[0]["time_s"], run.of("committed")
    seconds = committed[-1]["time_s"] - began if committed else None
    return {
        "code": code,
        "words": "" if code == 0 else run.words(),
        "lost": books.num_lost,
        "repeated": books.num_repeated,
        "recount": recount(events),
        "steps": steps,
        "disagreements": len(run.of("disagreement")),
        "suspected": sum(e["state"] == "suspected" for e in run.of("agent")),
        "test_loss": scores[-1]["test_loss"] if scores else None,
        "likelihood": scores[-1]["likelihood"] if scores else None,
        "seconds": seconds,
        "step_s": seconds / steps if seconds else None,
    }


def told(outcome: dict[str, Any]) -> str:
    """An outcome in a few words."""
    if not outcome["survived"]:
        return f"not survived: {outcome}"
    pauses = ", ".join(f"{pause:.2f}" for pause in outcome["pauses_s"])
    return (
        f"{outcome.get('victim', 'coordinator')} ({outcome.get('victim_was', '')}) "
        f"pauses {pauses} s, back after {outcome['back_s'] or math.nan:.2f} s"
    )


# -- spares --------------------------------------------------------------------------------------


def spare(folder: Path, seed: int, num: int, spares: int) -> Found:
    """Kills with a spare that is warm each time, or without any."""
    agents = {"local": NUM_AGENTS, "spares": spares}
    wanted = job("spare", seed, until={"steps": FAR}, agents=agents)
    luck, killed = random.Random(seed), Counter[str]()
    with running(wanted, folder / f"spare-{spares}-{seed}") as run:
        if run.find(lambda e: e["kind"] == "decision", START_S) is None:
            yield {"part": "spare", "spares": spares, "survived": False, "words": run.words()}
            return
        for _ in range(num):
            if not (await_more(run) and await_whole(run)):
                break
            if spares and not await_warm(run):
                say("no spare became warm")
            victim = choose(run, killed, luck)
            killed[victim] += 1
            outcome = kill(run, victim)
            say(f"{spares} spares: {told(outcome)}")
            yield {"part": "spare", "spares": spares, "seed": seed, **outcome}
            if outcome["back_s"] is None:
                break


def await_more(run: Running) -> bool:
    """Wait for some more rounds; whether they came."""
    done = run.of("committed")
    return run.await_round((done[-1]["last_round"] if done else 0) + STEADY_ROUNDS)


def await_warm(run: Running) -> bool:
    """Wait until a spare is warm; whether one is."""
    until_s = time.monotonic() + WARM_S
    while time.monotonic() < until_s and run.command.poll() is None:
        if has_warm_spare(run):
            return True
        time.sleep(0.2)
    return False


# -- the coordinator -----------------------------------------------------------------------------


def coordinator(folder: Path, seed: int, num: int) -> Found:
    """Kill -9 of the coordinating process in mid-run, so many times in one run."""
    agents = {"local": NUM_AGENTS, "spares": 0}
    wanted = job("coordinator", seed, until={"steps": FAR}, agents=agents)
    luck = random.Random(seed)
    with running(wanted, folder / f"coordinator-{seed}") as run:
        if run.find(lambda e: e["kind"] == "decision", START_S) is None:
            yield {"part": "coordinator", "survived": False, "words": run.words()}
            return
        for _ in range(num):
            if not await_more(run):
                break
            time.sleep(luck.uniform(0.0, 2.0))
            outcome = kill_coordinator(run)
            say(f"coordinator: {told(outcome)}")
            yield {"part": "coordinator", "seed": seed, **outcome}
            if not outcome["survived"]:
                break
        run.command.send_signal(signal.SIGINT)
        code = run.finish(60.0)
        books = audit(run.events)
        yield {
            "part": "coordinator run", "seed": seed, "code": code, "lost": books.num_lost,
            "repeated": books.num_repeated, "recount": recount(run.events),
            "agent_deaths": sum(e["state"] == "lost" for e in run.of("agent")),
            "disagreements": len(run.of("disagreement")),
        }  # fmt: skip


def kill_coordinator(run: Running) -> dict[str, Any]:
    """One kill -9 of the coordinator, and what came of it."""
    here, pids = members(run), {name: run.pid(name) for name in NAMES}
    fault_s = time.time()
    os.kill(run.coordinator(), signal.SIGKILL)
    returned = run.find(lambda e: e["kind"] == "coordinator", BACK_S, fault_s)
    firsts = [run.commit_of(name, fault_s, BACK_S) for name in here if returned]
    back = all(firsts) and bool(firsts)
    back_s = max(first["time_s"] for first in firsts if first) if back else None
    return {
        "survived": back,
        "words": "" if back else run.words(),
        "returned_s": returned["time_s"] - fault_s if returned else None,
        "back_s": back_s - fault_s if back_s else None,
        "same_agents": pids == {name: run.pid(name) for name in NAMES},
        **stand_stills(run, here, fault_s, back_s + 1.0 if back_s else None),
    }
