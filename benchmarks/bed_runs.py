"""Runs of ours on a bed: how one is carried out, and what its agents did from the first decision.

A run is ended once it has scored its last model: what follows is the checkpoint's way over slow
links, which no figure is about.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.testbed import Bed
from coterie.watch.events import follow

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 240.0
Hear = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Work:
    """What agents did between comparison windows; parts are of the seconds of the wall.

    A stretch begins with the first decision or when a window ends, and lasts for each agent until
    its last report before the next window: all that it reports of a stretch it did in it.

    >>> report = {"kind": "work", "member": "a", "num_samples": 30, "num_steps": 3}
    >>> events = [{"kind": "decision", "time_s": 0.0},
    ...           {**report, "time_s": 2.0, "compute_s": 1.5, "exchange_s": 0.5},
    ...           {"kind": "window", "time_s": 7.0, "arm": "solo"},
    ...           {**report, "time_s": 9.0, "compute_s": 1.5, "exchange_s": 0.25},
    ...           {**report, "time_s": 10.0, "compute_s": 0.75, "exchange_s": 0.25}]
    >>> Work.of(events)
    Work(busy={'a': 0.75}, waiting={'a': 0.2}, per_s={'a': 18.0}, batch={'a': 10.0})
    """

    busy: Mapping[str, float]  # computing
    waiting: Mapping[str, float]  # in an exchange, or waiting for one
    per_s: Mapping[str, float]  # samples
    batch: Mapping[str, float]  # samples of a step

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> Work:
        """The work that the events of a run tell of."""
        sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        last_s: dict[str, float] = {}
        began_s = 0.0
        for event in events:
            if event["kind"] == "window" or (event["kind"] == "decision" and not began_s):
                began_s = event["time_s"]
                last_s.clear()
            elif event["kind"] == "work":
                name = event["member"]
                sums[name]["seconds"] += event["time_s"] - last_s.get(name, began_s)
                last_s[name] = event["time_s"]
                for key in ("compute_s", "exchange_s", "num_samples", "num_steps"):
                    sums[name][key] += event[key]

        def ratio(over: str, under: str) -> dict[str, float]:
            return {name: each[over] / each[under] for name, each in sorted(sums.items())}

        return cls(
            busy=ratio("compute_s", "seconds"),
            waiting=ratio("exchange_s", "seconds"),
            per_s=ratio("num_samples", "seconds"),
            batch=ratio("num_samples", "num_steps"),
        )


def solo_per_s(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Samples a second of each agent stepping freely on whole batches, by all that was measured.

    >>> solo_per_s([{"kind": "measured", "member": "a", "solo_per_s": s} for s in (9.0, 8.0)])
    {'a': 8.0}
    """
    return {e["member"]: e["solo_per_s"] for e in events if e["kind"] == "measured"}


# -- carrying out --------------------------------------------------------------------------------


def run_on(bed: Bed, job: Mapping[str, Any], hear: Hear = lambda event: None) -> list[Any]:
    """Coordinate on the bridge, join from every host; the events, each told to `hear` as it comes.

    Ends when the job's minutes are over and the model is scored. Raises RuntimeError with the last
    words of all programs where the run fails.
    """
    with TemporaryDirectory() as name, _programs() as programs:
        folder = Path(name)
        (folder / "job.yaml").write_text(yaml.safe_dump(dict(job)))
        command = [sys.executable, "-m", "coterie.cli"]
        training = [*command, "train", str(folder / "job.yaml"), "--runs", name, "--plain"]
        with (folder / "host.log").open("w") as words:
            programs.append(subprocess.Popen(training, stdout=words, stderr=words, text=True))
        host, run = programs[0], folder / job["name"]
        limit_s = time.monotonic() + TIMEOUT_S
        events: list[Any] = []
        for event in follow(
            run / "events.jsonl",
            until=lambda: host.poll() is not None or time.monotonic() > limit_s,
        ):
            events.append(event)
            hear(event)
            if event["kind"] == "run":
                joining = [*command, "join", event["endpoint"], "--key", str(run / "join.key")]
                for place in bed.hosts:
                    argv = [*joining, "--root", str(HERE), "--name", place, "--threads", "1"]
                    with (folder / f"{place}.log").open("w") as words:
                        programs.append(bed.run(place, argv, stdout=words, stderr=words))
            if _over(events, 60 * job["until"]["minutes"]):
                return events
        said = "\n".join(log.read_text()[-2000:] for log in sorted(folder.glob("*.log")))
        raise RuntimeError(f"expected a run of {job['strategy']} to be scored, found:\n{said}")


def _over(events: list[Any], seconds: float) -> bool:
    """Whether the newest event is the score of a model that learned for so long."""
    began_s = (event["time_s"] for event in events if event["kind"] == "decision")
    newest = events[-1]
    return newest["kind"] == "scores" and newest["time_s"] >= next(began_s) + seconds


@contextmanager
def _programs() -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that are ended with the block."""
    programs: list[subprocess.Popen[str]] = []
    try:
        yield programs
    finally:
        for program in programs:
            if program.poll() is None:
                program.terminate()
            program.wait()


def say(words: str) -> None:
    """Tell how it goes, on stderr: stdout belongs to the page."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def about() -> str:
    """The first line of a page: when and on what it was measured."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "pyzmq"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{date.today()}; {os.cpu_count()} cores, {platform.machine()}, load {load} at the end; "
        f"Python {platform.python_version()}, {versions}."
    )
