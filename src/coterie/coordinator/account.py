"""A run in figures, for its event log: how it goes, what was decided, what it came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from coterie.coordinator.run import Run
from coterie.world import Decision, Device, Layer, Learned, Link, Option, World


def progress(run: Run) -> dict[str, Any]:
    """How it goes, for whoever watches."""
    fraction, elapsed_s = run.fraction(), run.elapsed_s
    living = [m for name, m in run.members.items() if name in run.term.members]
    return {
        "round": run.ledger.committed,
        "steps": run.ledger.num_steps,
        "data_epoch": run.ledger.num_epochs,
        "loss": run.loss,
        "per_s": run.gauge.recent_per_s(),
        "arm": run.gauge.arm,
        "ideal_per_s": sum(member.solo_per_s for member in living),
        "equal_per_s": run.gauge.arms["equal"].per_s or run.equal_per_s,
        "elapsed_s": elapsed_s,
        "at_work_s": dict(run.at_work_s),
        "eta_s": elapsed_s * (1 / fraction - 1) if fraction > 0.02 else None,
        "fraction": fraction,
        "metrics": run.scores.metrics if run.scores else {},
    }


def summary(run: Run) -> dict[str, Any]:
    """What the run came to."""
    ours, equal = run.gauge.arms["ours"].per_s, run.gauge.arms["equal"].per_s
    solo = sum(flow.per_s or 0.0 for flow in run.solo.values())
    metrics = run.scores.metrics if run.scores else {}
    decision = run.with_all
    return {
        "accuracy": metrics.get("accuracy"),
        "metrics": metrics,
        "agents": run.num_agents,
        "shares": dict(decision.chosen.shares) if decision else {},
        "ideal_fraction": ours / solo if ours and solo else None,
        "vs_equal": ours / equal if ours and equal else None,
        "kills_survived": run.num_kills,
        "suspected": run.num_suspected,
        "rejoined": run.num_rejoined,
        "pause_s": max((s for pause in run.pauses for s in pause.values()), default=None),
        "strategy": decision.chosen.strategy if decision else None,
        "reasons": list(decision.reasons) if decision else [],
        "seconds": run.now_s - run.started_s,
        "steps": run.ledger.num_steps,
        "epochs": run.ledger.num_epochs,
    }


def from_event(event: Mapping[str, Any]) -> Decision:
    """The decision that an event was written of.

    >>> from coterie.world import Device
    >>> world = World((Device("a", 0.1, 0.01, 8),), (), 8, 100)
    >>> option = Option("chain(Reduce())", {"a": 8}, 0.2, 0.0, 8.0, 1.0, 1.0)
    >>> decision = Decision(1, "first plan", world, option, (), ("alone",))
    >>> from_event(json.loads(json.dumps(as_event(decision)))) == decision
    True
    """
    known = {field.name for field in fields(Option)}

    def option(told: Mapping[str, Any]) -> Option:
        return Option(**{name: value for name, value in told.items() if name in known})

    world = event["world"]
    return Decision(
        number=event["number"],
        cause=event["cause"],
        world=World(
            **{
                **world,
                "devices": tuple(Device(**device) for device in world["devices"]),
                "links": tuple(Link(**link) for link in world["links"]),
                "chain": tuple(Layer(**layer) for layer in world.get("chain", ())),
                "learned": tuple(Learned(**kind) for kind in world.get("learned", ())),
            }
        ),
        chosen=option(event["chosen"]),
        rejected=tuple(map(option, event["rejected"])),
        reasons=tuple(event["reasons"]),
    )


def as_event(decision: Decision) -> dict[str, Any]:
    """A decision as an event's fields: inputs, chosen, rejected, reasons."""

    def option(o: Option) -> dict[str, Any]:
        rates = {"throughput_per_s": o.throughput_per_s, "goodput_per_s": o.goodput_per_s}
        return {**asdict(o), "shares": dict(o.shares), **rates}

    return {
        "number": decision.number,
        "cause": decision.cause,
        "chosen": option(decision.chosen),
        "rejected": [option(o) for o in decision.rejected],
        "reasons": list(decision.reasons),
        "world": json.loads(json.dumps(asdict(decision.world))),
    }


def log_final(run: Run) -> None:
    """Put on record what has become final: rounds with their owners, and epochs learned whole."""
    final, finished = run.ledger.drain()
    for number, done in final:
        leases = {m: k.spans for m, k in done.leases.items() if k.num_samples}
        run.event(
            "committed",
            term=run.term.number,
            first_round=number,
            last_round=number,
            data_epoch=done.data_epoch,
            leases=leases,
        )
    for data_epoch in finished:
        run.epoch_loss = run.loss_sum / run.num_losses if run.num_losses else None
        run.loss_sum, run.num_losses = 0.0, 0
        run.event("epoch", data_epoch=data_epoch, loss=run.epoch_loss)


def put_on_record(run: Run) -> None:
    """The books as they stand; first what has become final, which is no part of them."""
    log_final(run)
    run.event("books", **run.ledger.books())
    run.ledger.freed = False
