"""What the benchmark of decisions makes of its measurements: crossings, errors, ratios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from coterie.coordinator.shares import exact_shares, paced_batch, paced_shares, step_s
from coterie.world import Device, Layer, Learned, Link, World

Told = Mapping[str, Any]

MIN_ROUNDS = 3  # before a decision's prediction is compared
NEAR = 0.10  # of the optimum: as good as it


def met_s(points: Sequence[Sequence[float]], target: float) -> float | None:
    """When a falling line of (seconds, loss) first meets the target; None where it does not.

    Losses fall about straight over the logarithm of time: so it is drawn between two scores, but
    for the first of them, at 0 s.

    >>> round(met_s([(0.0, 4.0), (1.0, 3.0), (4.0, 2.0)], 2.5), 6)
    2.0
    >>> met_s([(0.0, 4.0), (1.0, 3.0)], 3.5), met_s([(0.0, 4.0)], 3.5)
    (0.5, None)
    """
    for (left_s, loss), (right_s, next_loss) in pairwise(points):
        if next_loss <= target:
            part = (loss - target) / (loss - next_loss) if loss > target else 0.0
            if left_s <= 0:
                return float(right_s * part)
            return float(left_s * (right_s / left_s) ** part)
    return None


def plans(events: Sequence[Told]) -> list[dict[str, Any]]:
    """Each decision of a run: what it promised of a round, and what rounds then took.

    By the words of members, between the first and the last that came while the plan stood, less
    the seconds of scoring between them. `achieved_s` is None for under `MIN_ROUNDS` rounds.

    >>> def event(kind, time_s, **fields): return {"kind": kind, "time_s": time_s, **fields}
    >>> chosen = {"strategy": "chain(Reduce())", "shares": {"a": 8}, "round_s": 1.0}
    >>> work = [event("work", 2.0 + k, member="a", last_round=1 + k) for k in range(5)]
    >>> scores = event("scores", 3.5, seconds=0.4)
    >>> [plan] = plans([event("decision", 1.0, cause="first plan", chosen=chosen), *work, scores])
    >>> plan["promised_s"], round(plan["achieved_s"], 3), plan["num_rounds"]
    (1.0, 0.9, 4)
    """
    decided = [event for event in events if event["kind"] == "decision"]
    ends = [*(event["time_s"] for event in decided[1:]), float("inf")]
    found = []
    for decision, end_s in zip(decided, ends, strict=True):
        chosen = decision["chosen"]
        num_rounds, achieved_s = _rounds(events, decision["time_s"], end_s)
        found.append(
            {
                "at_s": decision["time_s"] - decided[0]["time_s"],
                "cause": decision.get("cause", ""),
                "strategy": chosen["strategy"],
                "shares": dict(chosen["shares"]),
                "promised_s": chosen["round_s"],
                "achieved_s": achieved_s if num_rounds >= MIN_ROUNDS else None,
                "num_rounds": num_rounds,
            }
        )
    return found


def _rounds(events: Sequence[Told], start_s: float, end_s: float) -> tuple[int, float | None]:
    """Rounds that members told of between two moments, and the seconds of one."""
    here = [event for event in events if start_s < event["time_s"] < end_s]
    paces: list[tuple[int, float]] = []
    for member in {event["member"] for event in here if event["kind"] == "work"}:
        own = [e for e in here if e["kind"] == "work" and e["member"] == member]
        first_s, last_s = own[0]["time_s"], own[-1]["time_s"]
        num = own[-1]["last_round"] - own[0]["last_round"]
        scored = [e["seconds"] for e in here if e["kind"] == "scores"]
        between = [e["time_s"] for e in here if e["kind"] == "scores"]
        rested_s = sum(s for s, t in zip(scored, between, strict=True) if first_s < t < last_s)
        if num > 0:
            paces.append((num, (last_s - first_s - rested_s) / num))
    if not paces:
        return 0, None
    return max(num for num, _ in paces), median(seconds for _, seconds in paces)


def error(plan: Told) -> float | None:
    """How far a promise of a round lay from what it took, relative to that.

    >>> error({"promised_s": 1.1, "achieved_s": 1.0}), error({"achieved_s": None})
    (0.10000000000000009, None)
    """
    achieved_s = plan["achieved_s"]
    return abs(plan["promised_s"] / achieved_s - 1) if achieved_s else None


def judged(outcome: Told) -> dict[str, float | None]:
    """The errors of a run: of its first plan, from probes alone, and of the last that was met."""
    errors = [error(plan) for plan in outcome.get("plans", ())]
    known = [each for each in errors if each is not None]
    return {"first": errors[0] if errors else None, "last": known[-1] if known else None}


def share_changes(outcomes: Iterable[Told]) -> tuple[int, int]:
    """How often plans changed in runs in which nothing did, and in how many rounds.

    >>> plan = {"strategy": "s", "shares": {"a": 8}, "num_rounds": 50}
    >>> share_changes([{"plans": [plan, {**plan, "shares": {"a": 7}}, plan]}])
    (2, 150)
    """
    changes = num_rounds = 0
    for outcome in outcomes:
        told = outcome.get("plans", ())
        num_rounds += sum(plan["num_rounds"] for plan in told)
        changes += sum(
            (before["strategy"], before["shares"]) != (after["strategy"], after["shares"])
            for before, after in pairwise(told)
        )
    return changes, num_rounds


def world_of(told: Told) -> World:
    """The world that an event told of.

    >>> world_of({"devices": [], "links": [], "batch": 8, "num_train": 100}).batch
    8
    """
    devices = tuple(Device(**device) for device in told["devices"])
    links = tuple(Link(**link) for link in told["links"])
    layers = tuple(Layer(**layer) for layer in told.get("chain", ()))
    learned = tuple(Learned(**kind) for kind in told.get("learned", ()))
    parts = {"devices": devices, "links": links, "chain": layers, "learned": learned}
    return World(**{**told, **parts})


# -- adapting ------------------------------------------------------------------------------------


def recovered(events: Sequence[Told], changed_s: float, host: str, factor: float) -> dict[str, Any]:
    """How soon after a host became slower the shares were near the best of the new speeds.

    The new speeds are those believed before, the host's divided by `factor`; the best are those of
    the same kind of sentence: all take as many steps, or slow members fewer. Rounds are those begun
    or under way under shares that were not near.
    """
    before = [e for e in events if e["kind"] == "decision" and e["time_s"] <= changed_s][-1]
    world = world_of(before["world"])
    devices = tuple(slower(d, factor) if d.name == host else d for d in world.devices)
    done = done_by(events, changed_s)
    found: dict[str, Any] = {"rounds": None, "seconds": None, "shares": None, "over_at_last": None}
    for block in (e for e in events if e["kind"] == "block" and e["time_s"] > changed_s):
        found["over_at_last"] = over_best(block, world.batch, devices)
        if found["over_at_last"] <= NEAR and found["rounds"] is None:
            found["rounds"] = max(0, block["first_round"] - done - 1)
            found["seconds"], found["shares"] = block["time_s"] - changed_s, block["shares"]
    return found


def over_best(block: Told, total: int, devices: Sequence[Device]) -> float:
    """How much longer a step of a block takes than with the best shares of its kind.

    Where a block names the batch of all its steps, slow members take fewer of them.

    >>> devices = [Device("a", 0.0, 0.25, 64), Device("b", 0.0, 0.75, 64)]
    >>> over_best({"shares": {"a": 4, "b": 4}}, 8, devices)
    1.0
    >>> over_best({"shares": {"a": 6, "b": 2}, "batch": 6}, 8, devices)
    0.0
    """
    if not block.get("batch"):
        best_s = step_s(exact_shares(total, devices), devices)
        return step_s(block["shares"], devices) / best_s - 1
    best_s = _paced_s(paced_shares(total, devices), paced_batch(total, devices), devices)
    return _paced_s(block["shares"], block["batch"], devices) / best_s - 1


def _paced_s(shares: Mapping[str, int], batch: int, devices: Sequence[Device]) -> float:
    return max(shares.get(d.name, 0) / batch * d.step_s(batch) for d in devices)


def done_by(events: Sequence[Told], at_s: float) -> int:
    """Rounds that had ended by a moment: those told of, and those since, at the pace of late.

    >>> work = {"kind": "work", "member": "a"}
    >>> told = [{**work, "time_s": float(k), "last_round": 2 * k} for k in (1, 2)]
    >>> done_by(told, 3.75)
    7
    """
    told = [(e["last_round"], e["time_s"]) for e in events if _is_work(e, 0.0, at_s)]
    if not told:
        return 0
    last, last_s = max(told)
    before = [(number, time_s) for number, time_s in told if number < last]
    if not before:
        return int(last)
    number, time_s = max(before)
    return int(last + (at_s - last_s) * (last - number) / (last_s - time_s))


def slower(device: Device, factor: float) -> Device:
    """The device with every step `factor` times as long.

    >>> slower(Device("a", 0.5, 0.25, 8), 3.0).step_s(2)
    3.0
    """
    return replace(
        device,
        overhead_s=device.overhead_s * factor,
        per_sample_s=device.per_sample_s * factor,
    )


def per_s(events: Sequence[Told], start_s: float, end_s: float) -> float:
    """Samples a second that members told of between two moments.

    >>> work = {"kind": "work", "num_samples": 30, "last_round": 1}
    >>> per_s([{**work, "time_s": 1.0}, {**work, "time_s": 9.0}], 0.0, 5.0)
    6.0
    """
    num = sum(e["num_samples"] for e in events if _is_work(e, start_s, end_s))
    return float(num / max(1e-9, end_s - start_s))


def switched(events: Sequence[Told], changed_s: float) -> dict[str, Any]:
    """What strategy and members a run had before a change, and when it took others, if ever."""

    def told(decision: Told) -> str:
        chosen = decision["chosen"]
        return f"{chosen['strategy']} on {', '.join(sorted(chosen['shares']))}"

    decided = [event for event in events if event["kind"] == "decision"]
    before = [event for event in decided if event["time_s"] <= changed_s][-1]
    done = max((e["last_round"] for e in events if _is_work(e, 0.0, changed_s)), default=0)
    found: dict[str, Any] = {"from": told(before), "to": None, "seconds": None, "rounds": None}
    for event in decided:
        if event["time_s"] > changed_s and told(event) != told(before):
            at_s = event["time_s"]
            later = max((e["last_round"] for e in events if _is_work(e, 0.0, at_s)), default=0)
            seconds, rounds = at_s - changed_s, later - done
            return {**found, "to": told(event), "seconds": seconds, "rounds": rounds}
    return found


def _is_work(event: Told, start_s: float, end_s: float) -> bool:
    return bool(event["kind"] == "work" and start_s < event["time_s"] <= end_s)


# -- the gauntlet --------------------------------------------------------------------------------

Cell = tuple[str, str, float | None]  # model, skew, Mbit/s


def cell_of(outcome: Told) -> Cell:
    """Where an outcome was measured."""
    return outcome["size"], outcome["skew"], outcome["mbit"]


def in_order(recipes: Sequence[str], found: Sequence[Told], size: str) -> list[str]:
    """Recipes in the order in which they did in the newest cell of a model that knows each.

    >>> done = [{"arm": "b", "size": "small", "seconds": 2.0},
    ...         {"arm": "a", "size": "small", "seconds": None}]
    >>> in_order(["a", "b", "c"], done, "small"), in_order(["a", "b"], done, "large")
    (['b', 'a', 'c'], ['a', 'b'])
    """
    took = {e["arm"]: e["seconds"] or float("inf") for e in found if e["size"] == size}
    return sorted(recipes, key=lambda recipe: took.get(recipe, float("inf")))


def limit_s(found: Iterable[Told], patience: float, most_s: float) -> float:
    """How long an arm may take: so many times the soonest of its cell.

    >>> limit_s([{"seconds": 4.0}, {"seconds": None}], 1.5, 60.0), limit_s([], 1.5, 60.0)
    (6.0, 60.0)
    """
    took = [each["seconds"] for each in found if each["seconds"]]
    return float(min([most_s, *(patience * seconds for seconds in took)]))


def compared(found: Sequence[Told], cell: Cell) -> dict[str, Any]:
    """One cell: `auto` against the best fixed strategy, the best single device, and DDP.

    Where no fixed strategy was as soon as its limit, `over_best` is an upper bound, by the longest
    of their limits, and `best_arm` says so. An `auto` that was given up counts its limit.

    >>> here = {"size": "small", "skew": "equal", "mbit": 10.0, "seed": 0}
    >>> times = {"auto": 11.0, "local-sgd(8)": 10.0, "diloco(32)": 12.0, "single": 22.0}
    >>> found = [{**here, "arm": arm, "seconds": seconds} for arm, seconds in times.items()]
    >>> row = compared(found, ("small", "equal", 10.0))
    >>> row["best_arm"], row["over_best"], row["over_single"], row["ddp_over"]
    ('local-sgd(8)', 1.1, 0.5, None)
    """
    here = [each for each in found if cell_of(each) == cell]
    tried = [each for each in here if each["arm"] == "auto" and not each.get("failed")]
    autos = [each["seconds"] or each["limit_s"] for each in tried]
    fixed = [each for each in here if each["arm"] not in ("auto", "single", "ddp")]
    singles = [
        each["seconds"]
        for each in found
        if each["arm"] == "single" and cell_of(each)[:2] == cell[:2] and each["seconds"]
    ]
    ddp = next((e["seconds"] for e in here if e["arm"] == "ddp"), None)
    auto = fmean(autos) if autos else None
    best_arm, best = soonest(fixed)
    single = min(singles, default=None)
    return {
        "cell": cell,
        "auto": auto,
        "autos": autos,
        "num_late": sum(not each["seconds"] for each in tried),
        "best_arm": best_arm,
        "best": best,
        "single": single,
        "ddp": ddp,
        "over_best": auto / best if auto and best else None,
        "over_single": auto / single if auto and single else None,
        "ddp_over": ddp / auto if auto and ddp else None,
        "all": {arm: _mean(each for each in fixed if each["arm"] == arm) for arm in _arms(fixed)},
    }


def soonest(fixed: Sequence[Told]) -> tuple[str, float | None]:
    """The fixed strategy that was soonest, on the mean of its runs; at least their limits if none.

    >>> soonest([{"arm": "a", "seconds": None, "limit_s": 9.0}])
    ('none within 9 s', 9.0)
    """
    means = {arm: _mean(each for each in fixed if each["arm"] == arm) for arm in _arms(fixed)}
    known = {arm: seconds for arm, seconds in means.items() if seconds}
    if known:
        best = min(known, key=known.__getitem__)
        return best, known[best]
    limits = [each["limit_s"] for each in fixed if each.get("limit_s") and not each.get("failed")]
    return (f"none within {min(limits):.3g} s", min(limits)) if limits else ("-", None)


def _arms(found: Iterable[Told]) -> list[str]:
    return list(dict.fromkeys(each["arm"] for each in found))


def _mean(found: Iterable[Told]) -> float | None:
    took = [each["seconds"] for each in found]
    return None if None in took or not took else fmean(took)
