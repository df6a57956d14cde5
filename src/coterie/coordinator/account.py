"""A run in figures, for its event log: how it goes, what was decided, what it came to."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from coterie.world import Decision, Option

if TYPE_CHECKING:
    from coterie.coordinator.coordinator import Coordinator


def progress(c: Coordinator) -> dict[str, Any]:
    """How it goes, for whoever watches."""
    fraction, elapsed_s = c.fraction(), c.elapsed_s
    living = [m for name, m in c.members.items() if name in c.term.members]
    return {
        "round": c.ledger.committed,
        "steps": c.ledger.num_steps,
        "data_epoch": c.ledger.num_epochs,
        "loss": c.loss,
        "per_s": c.gauge.recent_per_s(),
        "arm": c.gauge.arm,
        "ideal_per_s": sum(member.solo_per_s for member in living),
        "equal_per_s": c.gauge.arms["equal"].per_s,
        "elapsed_s": elapsed_s,
        "eta_s": elapsed_s * (1 / fraction - 1) if fraction > 0.02 else None,
        "fraction": fraction,
        "metrics": c.scores.metrics if c.scores else {},
    }


def summary(c: Coordinator) -> dict[str, Any]:
    """What the run came to."""
    ours, equal = c.gauge.arms["ours"].per_s, c.gauge.arms["equal"].per_s
    solo = sum(flow.per_s or 0.0 for flow in c.solo.values())
    metrics = c.scores.metrics if c.scores else {}
    plan = c.full_plan or c.plan
    return {
        "accuracy": metrics.get("accuracy"),
        "metrics": metrics,
        "agents": c.num_agents,
        "shares": dict(plan.shares) if plan else {},
        "ideal_fraction": ours / solo if ours and solo else None,
        "vs_equal": ours / equal if ours and equal else None,
        "kills_survived": c.num_kills,
        "rejoined": c.num_rejoined,
        "pause_s": max((s for pause in c.pauses for s in pause.values()), default=None),
        "strategy": plan.strategy if plan else None,
        "reasons": list(c.decisions[0].reasons) if c.decisions else [],
        "seconds": c.now_s - c.started_s,
        "steps": c.ledger.num_steps,
        "epochs": c.ledger.num_epochs,
    }


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
