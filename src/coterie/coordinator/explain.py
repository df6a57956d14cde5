"""Why a run was decided as it was: each decision, its inputs, its rivals, what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from coterie.coordinator.listing import MOST_NAMED, named, shared

Event = Mapping[str, Any]

MOST_LINKS = 6  # told one by one; more are summed up
PLENTY = 1 << 30  # samples at once: more than any batch, where no memory was said
STAMP = frozenset({"seq", "time_s", "kind", "decision"})


def explain(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Every decision of a log: number, cause, inputs, chosen, rejected, reasons and outcome.

    Each rejected option gains `slower`, the part of the chosen goodput that it was predicted to
    miss (negative where it was predicted to be faster, None where that cannot be said). `outcome`
    is the last comparison of prediction and achievement, its `error` relative to the prediction,
    and None until something was measured. A resumed run may number its decisions anew: an outcome
    belongs to the latest decision of its number.

    >>> option = {"strategy": "chain(Reduce())", "shares": {"pi": 8}, "round_s": 0.1}
    >>> decision = {"kind": "decision", "number": 1, "cause": "the run begins", "chosen": option}
    >>> outcome = {"kind": "outcome", "decision": 1, "error": 0.05}
    >>> explain([decision, outcome])[0]["outcome"]
    {'error': 0.05}
    """
    explained: list[dict[str, Any]] = []
    latest: dict[Any, dict[str, Any]] = {}
    for event in events:
        if event.get("kind") == "decision":
            latest[event.get("number")] = _decided(event)
            explained.append(latest[event.get("number")])
        elif event.get("kind") == "outcome" and event.get("decision") in latest:
            compared = {name: value for name, value in event.items() if name not in STAMP}
            latest[event["decision"]]["outcome"] = compared
        elif event.get("kind") == "trial" and event.get("decision") in latest:
            latest[event["decision"]]["trials"].append(event.get("text", ""))
        elif event.get("kind") == "handover" and event.get("decision") in latest:
            latest[event["decision"]]["handovers"].append(event.get("text", ""))
        elif event.get("kind") == "kept" and event.get("decision") in latest:
            latest[event["decision"]]["kept"].append(event.get("text", ""))
        elif event.get("kind") == "noise" and event.get("decision") in latest:
            told = {name: value for name, value in event.items() if name not in STAMP}
            latest[event["decision"]]["noise"] = told
    return explained


def sentences(explained: Iterable[Mapping[str, Any]]) -> list[str]:
    """What `explain` found, in plain words, one sentence each.

    >>> outcome = {"predicted_round_s": 0.118, "achieved_round_s": 0.124}
    >>> decision = {"number": 1, "cause": "the run begins", "chosen": {}, "outcome": outcome}
    >>> sentences([decision])[-1]
    'Outcome: predicted 0.118 s a round, achieved 0.124 s: 5 % longer than predicted.'
    """
    return [_printable(words) for decision in explained for words in _told(decision)]


def _decided(event: Event) -> dict[str, Any]:
    chosen = dict(event.get("chosen") or {})
    return {
        "number": event.get("number"),
        "cause": event.get("cause", ""),
        "inputs": dict(event.get("world") or {}),
        "chosen": chosen,
        "rejected": [
            {**option, "slower": _slower(option, chosen)} for option in event.get("rejected") or ()
        ],
        "reasons": list(event.get("reasons") or ()),
        "outcome": None,
        "noise": None,
        "handovers": [],
        "trials": [],
        "kept": [],
    }


def _slower(option: Event, chosen: Event) -> float | None:
    mine, best = option.get("goodput_per_s"), chosen.get("goodput_per_s")
    return None if mine is None or not best else 1 - mine / best


def _told(decision: Event) -> Iterator[str]:
    inputs, chosen = decision.get("inputs") or {}, decision["chosen"]
    yield f"Decision {decision['number']}: {decision['cause'] or 'no cause was noted'}."
    yield from _devices_words(inputs.get("devices") or (), inputs.get("batch"))
    yield from _link_words(inputs.get("links") or ())
    if meeting_s := inputs.get("meeting_s"):
        yield f"Measured of a meeting: {_seconds(meeting_s)} beyond the price of its exchange."
    yield f"Chosen: {_option_words(chosen)}{_rates_words(chosen)}."
    for reason in decision.get("reasons") or ():
        yield f"Because: {reason.rstrip('.')}."
    for text in decision.get("handovers") or ():
        yield f"Handed over: {str(text).rstrip('.')}."
    for option in decision.get("rejected") or ():
        yield _rejected_words(option)
    yield _outcome_words(decision.get("outcome"))
    for trial in decision.get("trials") or ():
        yield f"Tried: {str(trial).rstrip('.')}."
    for kept in decision.get("kept") or ():
        yield f"Measured: {str(kept).rstrip('.')}."
    if noise := decision.get("noise"):
        yield f"Measured: {str(noise.get('text', '')).rstrip('.')}."


def _devices_words(devices: Sequence[Event], batch: int | None) -> Iterator[str]:
    """One by one where they are few; of many, those alike together."""
    if len(devices) <= MOST_NAMED:
        yield from (_device_words(device, batch) for device in devices)
        return
    alike: dict[str, list[Event]] = {}
    for device in devices:
        alike.setdefault(_device_words({**device, "name": ""}, batch), []).append(device)
    for group in islice(alike.values(), MOST_NAMED):
        name = named([str(device.get("name", "a device")) for device in group])
        yield _device_words({**group[0], "name": name}, batch)
    if len(alike) > MOST_NAMED:
        yield f"Believed of {len(devices):,} devices: as different as these, or more so."


def _device_words(device: Event, batch: int | None) -> str:
    name = device.get("name", "a device")
    a_s, c_s, most = (device.get(k) for k in ("overhead_s", "per_sample_s", "max_batch"))
    if a_s is None or c_s is None:
        return f"Believed of {name}: nothing was measured."
    words = f"Believed of {name}: {_seconds(a_s)} a step and {_seconds(c_s)} more for each sample"
    alone = min(filter(None, (batch, most)), default=0)
    if alone and a_s + c_s * alone > 0:
        words += f", {_amount(alone / (a_s + c_s * alone))} samples/s alone at a batch of {alone:,}"
    return words + (f", at most {most:,} samples at once." if most and most < PLENTY else ".")


def _link_words(links: Sequence[Event]) -> Iterator[str]:
    measured = [link for link in links if None not in _road(link)]
    if len(measured) <= MOST_LINKS:
        for link in measured:
            latency_s, bytes_per_s = _road(link)
            yield (
                f"Believed of {link.get('a')} to {link.get('b')}: "
                f"{_amount(bytes_per_s / 1e6)} MB/s after {_seconds(latency_s)}."
            )
        return
    latencies_s, speeds = zip(*map(_road, measured), strict=True)
    yield (
        f"Believed of {len(measured)} links: {_amount(min(speeds) / 1e6)} to "
        f"{_amount(max(speeds) / 1e6)} MB/s after {_seconds(min(latencies_s))} to "
        f"{_seconds(max(latencies_s))}."
    )


def _road(link: Event) -> tuple[Any, Any]:
    return link.get("latency_s"), link.get("bytes_per_s")


def _option_words(option: Event) -> str:
    words = shared({m: share for m, share in (option.get("shares") or {}).items() if share})
    return f"{option.get('strategy', 'an unnamed strategy')}" + (f" on {words}" if words else "")


def _rates_words(option: Event) -> str:
    """What an option was predicted to bring, after a colon; nothing where nothing was said."""
    round_s, exchange_s = option.get("round_s"), option.get("exchange_s")
    throughput, goodput = option.get("throughput_per_s"), option.get("goodput_per_s")
    parts = (
        f"{_seconds(round_s)} a round" if round_s is not None else "",
        f"{_seconds(exchange_s)} of it exchange" if exchange_s is not None else "",
        f"{_amount(throughput)} samples/s" if throughput is not None else "",
        f"goodput {_amount(goodput)} samples/s" if goodput is not None else "",
    )
    said = ", ".join(filter(None, parts))
    return f": predicted {said}" if said else ""


def _rejected_words(option: Event) -> str:
    if option.get("refused"):
        return f"Impossible: {_option_words(option)}: {str(option['refused']).rstrip('.')}."
    slower = option.get("slower")
    if slower is None:
        than = ""
    elif round(abs(slower) * 100) == 0:
        than = ", as fast as the chosen"
    else:
        than = f", {abs(slower) * 100:.0f} % {'slower' if slower > 0 else 'faster'} than the chosen"
    return f"Rejected: {_option_words(option)}{_rates_words(option)}{than}."


def _outcome_words(outcome: Event | None) -> str:
    predicted_s = (outcome or {}).get("predicted_round_s")
    achieved_s = (outcome or {}).get("achieved_round_s")
    if not predicted_s or achieved_s is None:
        return "Outcome: not measured yet."
    percent = (achieved_s / predicted_s - 1) * 100
    than = f"{abs(percent):.0f} % {'longer' if percent > 0 else 'shorter'} than predicted"
    return (
        f"Outcome: predicted {_seconds(predicted_s)} a round, achieved {_seconds(achieved_s)}: "
        f"{than if round(abs(percent)) else 'as predicted'}."
    )


def _seconds(seconds: float) -> str:
    if seconds and seconds < 0.01:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _printable(words: str) -> str:
    """Names come from other machines: none of them may steer the reader's terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in words)
