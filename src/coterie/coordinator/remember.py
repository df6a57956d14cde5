"""What a coordinator that was killed knew: read back from the events that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.coordinator.account import from_event
from coterie.coordinator.gauge import Flow
from coterie.coordinator.ledger import Ledger
from coterie.coordinator.run import UNTRIED_ROAD, Run
from coterie.sync.reading import parse
from coterie.transport import messages as say
from coterie.types import Layout
from coterie.world import Device, Link

DEVICE = ("overhead_s", "per_sample_s", "max_batch")


def remember(run: Run, events: Sequence[Mapping[str, Any]]) -> None:
    """Know again what the events of a run tell; its members then say where they stand.

    What was not on record yet is small: rounds that members committed of late, which they tell
    again, and what was measured since the last decision, which is measured again.
    """
    began = max((at for at, event in enumerate(events) if event["kind"] == "run"), default=0)
    for event in events[began:]:
        _take_in(run, event)
    run.ledger.mend()
    run.reuniting = run.probing = run.plan is not None
    run.alike = run.alike and not (run.plan and run.asked is None)  # a trial may have walked


def _take_in(run: Run, event: Mapping[str, Any]) -> None:
    match event["kind"]:
        case "layout":
            _know_layout(run, event)
        case "books":
            run.ledger = Ledger.of(event)
        case "block" | "committed" | "epoch":
            run.ledger.replay(event)
            run.epoch_loss = event.get("loss", run.epoch_loss)
        case "term":
            members = tuple(event["members"])
            run.term = say.Term(number=event["number"], members=members, store="")
        case "owners":
            run.owned = dict(event["tasks"])
        case "decision":
            _decide_again(run, event)
        case "measured":
            name = event["member"]
            run.beliefs[name] = Device(name, **{key: event[key] for key in DEVICE})
            run.solo[name] = Flow(round(event["solo_per_s"]), 1, 1.0)
        case "link":
            link = Link(event["a"], event["b"], event["latency_s"], event["bytes_per_s"])
            run.links[frozenset((link.a, link.b))] = link
        case "scores":
            told = ("round", "metrics", "seconds")
            run.scores = say.Scores(**{key: event[key] for key in told})
        case "checkpoint":
            run.saved_round = event.get("round", 0)
            run.save_cost_s = event.get("pause_s", 0.0)
        case "progress":
            run.elapsed_before_s, run.loss = event["elapsed_s"], event["loss"]
            run.at_work_s = dict(event.get("at_work_s", {}))
        case "trial":
            run.tried_s = event["seconds"]
        case "pause":
            run.pauses.append({event["member"]: event["seconds"]})
        case "server":
            _know_server(run, event)
        case "agent":
            _meet_again(run, event)


def _decide_again(run: Run, event: Mapping[str, Any]) -> None:
    decision = from_event(event)
    run.job = run.job.model_copy(update={"batch": decision.world.batch})  # as a script said it
    run.decisions.append(decision)
    run.plan, run.strategy = decision.chosen, parse(decision.chosen.strategy)
    run.road = replace(UNTRIED_ROAD, a=decision.world.meeting_s)
    run.chain = decision.world.chain
    run.progress.know(decision.world.learned)
    run.beliefs |= {device.name: device for device in decision.world.devices}
    if len(decision.chosen.shares) == run.num_agents or run.with_all is None:
        run.with_all = decision


def _know_layout(run: Run, event: Mapping[str, Any]) -> None:
    shapes = tuple(tuple(shape) for shape in event["shapes"])
    run.layout = Layout(tuple(event["names"]), shapes)
    run.sources = tuple((tuple(tasks), size) for tasks, size in event.get("sources", ()))


def _know_server(run: Run, event: Mapping[str, Any]) -> None:
    if event["state"] == "joined":
        run.hub_pid, run.hub_start_s = event["pid"], event.get("seconds", 0.0)
    elif event["state"] == "suspected":
        run.fenced.add(run.hub_pid)


def _meet_again(run: Run, event: Mapping[str, Any]) -> None:
    name, state = event["member"], event["state"]
    run.known[name] = event.get("pid", run.known.get(name, 0))
    run.num_kills += state == "lost"
    run.num_suspected += state == "suspected"
    run.num_rejoined += state == "rejoined"
    if state in ("lost", "suspected"):
        run.losses[name] += 1
        run.missed.add(name)
    elif state == "rejoined":
        run.missed.discard(name)
