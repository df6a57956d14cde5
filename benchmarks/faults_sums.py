"""The arithmetic of the fault benchmark: pauses, lost and repeated samples, goodput. No processes.

Times are unix seconds. A commit is a step that counts, as one process saw it end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

NUM_GAPS = 3  # after a death one step at most can still end, or two if it fell between two logs


def typical_s(commits: Sequence[float]) -> float:
    """The median time between two commits.

    >>> typical_s([0.0, 1.0, 2.0, 9.0])
    1.0
    """
    gaps = [after - before for before, after in pairwise(commits)]
    return median(gaps) if gaps else math.nan


def pause_s(commits: Sequence[float], fault_s: float, step_s: float) -> float | None:
    """How long one survivor stood still, less a step; None where it never went on.

    A step that ends just after the death was begun with the dead: the longest of the first gaps
    from the last commit before the death counts.

    >>> pause_s([0.0, 1.0, 2.0, 7.0, 8.0, 9.0], fault_s=1.9, step_s=1.0)
    4.0
    >>> pause_s([0.0, 1.0], fault_s=1.5, step_s=1.0) is None
    True
    """
    before = [time for time in commits if time <= fault_s]
    after = [time for time in commits if time > fault_s]
    if not after:
        return None
    here = [*before[-1:], *after[:NUM_GAPS]]
    longest_s = max((b - a for a, b in pairwise(here)), default=0.0)
    return max(0.0, longest_s - step_s)


def longest_gap_s(commits: Sequence[float], begin_s: float, end_s: float) -> float | None:
    """The longest time without a commit between two moments; None where nothing was committed.

    >>> longest_gap_s([0.0, 1.0, 4.0, 5.0], 1.0, 5.0)
    3.0
    """
    here = [time for time in commits if begin_s <= time <= end_s]
    return max((b - a for a, b in pairwise(here)), default=None)


def first_after(times: Iterable[float], moment_s: float) -> float | None:
    """How long after a moment the first of these came.

    >>> first_after([1.0, 5.0], 2.0)
    3.0
    """
    later = [time for time in times if time > moment_s]
    return min(later) - moment_s if later else None


def recount(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Samples of whole data epochs that were learned never, or again, counted place by place.

    Another way than `coterie.watch.events.audit` goes: an array of counts for each epoch. Of the
    epoch under way only repetitions are known.

    >>> task = {"kind": "task", "num_train": 8}
    >>> learned = {"kind": "committed", "data_epoch": 0, "leases": {"a": [[0, 4]], "b": [[3, 7]]}}
    >>> recount([task, learned, {"kind": "epoch", "data_epoch": 0}])
    {'epochs': 1, 'samples': 8, 'lost': 1, 'repeated': 1}
    """
    num_train = 0
    counts: dict[int, np.ndarray] = {}
    finished: list[int] = []
    for event in events:
        if event["kind"] == "task":
            num_train = event["num_train"]
        elif event["kind"] == "committed":
            here = counts.setdefault(event["data_epoch"], np.zeros(num_train, dtype=int))
            for lease in event["leases"].values():
                for start, stop in lease:
                    here[start:stop] += 1
        elif event["kind"] == "epoch":
            finished.append(event["data_epoch"])
    return {
        "epochs": len(finished),
        "samples": int(sum(count.sum() for count in counts.values())),
        "lost": int(sum((counts[epoch] == 0).sum() for epoch in finished)),
        "repeated": int(sum((count - 1).clip(min=0).sum() for count in counts.values())),
    }


def committed_samples(event: Mapping[str, Any]) -> int:
    """How many samples a committed event is about.

    >>> committed_samples({"leases": {"a": [[0, 4]], "b": [[4, 6], [8, 9]]}})
    7
    """
    return sum(stop - start for lease in event["leases"].values() for start, stop in lease)


def absent_s(spans: Iterable[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """Member-seconds between two moments in which members were away; spans are (left, back).

    >>> absent_s([(0.0, 4.0), (3.0, 9.0)], 2.0, 8.0)
    7.0
    """
    return sum(max(0.0, min(back, end_s) - max(left, begin_s)) for left, back in spans)


def goodput(
    samples: int, seconds: float, free_per_s: float, absent_member_s: float, num_members: int
) -> dict[str, float]:
    """Samples a second over those without faults: as they are, and net of members that were away.

    Members that are away cannot learn; the net figure says what the others made of their time.

    >>> goodput(800, 10.0, 100.0, absent_member_s=6.0, num_members=3)
    {'gross': 0.8, 'capacity': 0.8, 'net': 1.0}
    """
    gross = samples / seconds / free_per_s
    capacity = 1.0 - absent_member_s / (num_members * seconds)
    return {"gross": gross, "capacity": capacity, "net": gross / capacity}


def thrown_away(log: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Steps of one process that were computed in vain: dropped when they ended, or done again.

    `log` holds its step events in order, over restarts: {"step": n, "committed": bool}.

    >>> log = [(1, True), (2, True), (3, False), (3, True), (2, True), (3, True)]
    >>> thrown_away([{"step": step, "committed": good} for step, good in log])
    {'dropped': 1, 'repeated': 2}
    """
    seen: set[int] = set()
    dropped = repeated = 0
    for event in log:
        if not event["committed"]:
            dropped += 1
        elif event["step"] in seen:
            repeated += 1
        seen |= {event["step"]} if event["committed"] else set()
    return {"dropped": dropped, "repeated": repeated}
