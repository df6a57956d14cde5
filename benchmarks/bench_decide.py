"""Whether `auto` decides as well as the best hand-tuned choice: on twelve beds, and as they change.

Three unequal hosts (`testbed`) learn one task (`decide_task`) with a small and a large model. In
each cell of bandwidth × skew × model `auto`, untuned, runs beside a grid of fixed strategies, the
fastest host alone and DDP. The same runs tell how well rounds are predicted, how often plans
change without need, and what the coordinator uses; runs of their own, how soon a plan is right
again after a host or the links became slow; a last part plays runs in virtual time. Needs root:

    python benchmarks/bench_decide.py --page FILE      # the page of results, or of a part of them
    python benchmarks/bench_decide.py --parts gauntlet --sizes small --mbit 10 --skews equal

Parts: twenty (DDP at 20 Mbit/s), adapt, links, gauntlet, and of all runs kept so far replan and
simulate. Results are kept after each outcome; with `--resume` those of the file are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import decide_changes  # noqa: E402
import decide_page  # noqa: E402
import decide_runs  # noqa: E402
import decide_task  # noqa: E402
from bed_runs import say  # noqa: E402
from decide_runs import Hosts, warmed  # noqa: E402
from decide_sums import Cell, in_order, limit_s, soonest  # noqa: E402

from benchmarks.testbed import Host, measure, testbed  # noqa: E402
from coterie.errors import CoterieError  # noqa: E402

SKEWS: Mapping[str, Sequence[float]] = {  # cores of each host
    "equal": (0.21, 0.21, 0.21),
    "4:2:1": (0.36, 0.18, 0.09),
    "8x": (0.30, 0.30, 0.0375),
}
MBIT = (100.0, 10.0, 0.0)  # 0: unshaped
GRID = (
    "local-sgd(8)",
    "all-reduce-int8",
    "diloco-int8(32)",
    "all-reduce",
    "dylu(16)",
    "local-sgd(32)",
    "streaming-diloco(32)",
    "diloco(32)",
)
PARTS = ("twenty", "adapt", "links", "gauntlet", "replan", "simulate")
MOST_S = 60.0  # of an arm, where nothing is known of its cell yet
TWENTY, TWENTY_SKEW = 20.0, "4:2:1"
SIMULATED_AT_ONCE = 2

FAILURES = (RuntimeError, OSError, subprocess.SubprocessError, StopIteration, CoterieError)

Told = dict[str, Any]
Found = Iterator[Told]


@dataclass
class Campaign:
    """What is asked for, where it leaves its files, and what was found so far."""

    said: argparse.Namespace
    folder: Path
    until_s: float
    found: list[Told] = field(default_factory=list)
    num_runs: int = 0

    def of(self, cell: Cell) -> list[Told]:
        """Outcomes of a cell."""
        runs = [each for each in self.found if each["part"] == "run"]
        return [e for e in runs if (e["size"], e["skew"], e["mbit"]) == cell]

    def alone(self, size: str, skew: str) -> list[Told]:
        """What the fastest host of a skew came to alone: once, for no link is in it."""
        runs = [each for each in self.found if each["part"] == "run" and each["arm"] == "single"]
        return [each for each in runs if (each["size"], each["skew"]) == (size, skew)]

    def room(self) -> Path:
        """A folder for the next run."""
        self.num_runs += 1
        return self.folder / f"{self.num_runs}"

    @property
    def late(self) -> bool:
        """Whether its minutes are over."""
        return time.monotonic() > self.until_s


def cores_of(skew: str) -> dict[str, float]:
    """Cores of each host by name.

    >>> cores_of("4:2:1")
    {'h0': 0.36, 'h1': 0.18, 'h2': 0.09}
    """
    return {f"h{rank}": cores for rank, cores in enumerate(SKEWS[skew])}


def hosts_of(skew: str, mbit: float | None) -> list[Host]:
    """Hosts of a bed."""
    return [Host(name, cores, mbit) for name, cores in cores_of(skew).items()]


def guarded(cell: Cell, arm: str, seed: int, run: Callable[[], Told]) -> Told:
    """One outcome; a failure is one too."""
    size, skew, mbit = cell
    here = {"part": "run", "size": size, "skew": skew, "mbit": mbit, "arm": arm, "seed": seed}
    try:
        outcome = run()
    except FAILURES as error:
        outcome = {"seconds": None, "failed": f"{error!r:.80} {str(error)[-500:]}"}
    took, failed = outcome["seconds"], outcome.get("failed")
    came = f"{took:.1f} s" if took else "failed" if failed else "not in time"
    rate = f"{mbit:g} Mbit/s" if mbit else "unshaped"
    say(f"{size}, {skew}, {rate}, seed {seed}: {arm}: {came}")
    return {**here, **outcome}


# -- the gauntlet --------------------------------------------------------------------------------


def gauntlet(campaign: Campaign) -> Found:
    """Every cell, the most telling first."""
    said = campaign.said
    for seed in range(said.seeds):
        for mbit in said.mbit:
            for size in said.sizes:
                for skew in said.skews:
                    if campaign.late:
                        say("its minutes are over")
                        return
                    yield from one_cell(campaign, (size, skew, mbit or None), seed, said.grid)


def one_cell(campaign: Campaign, cell: Cell, seed: int, grid: Sequence[str]) -> Found:
    """A bed, and on it all arms of a cell that were not run before."""
    _, skew, mbit = cell
    finals = campaign.said.finals if grid else 0
    done = [each["arm"] for each in campaign.of(cell) if each["seed"] == seed]
    if "ddp" in done and done.count("auto") > finals:
        return  # before this campaign was resumed
    with testbed(hosts_of(skew, mbit)) as bed:
        figures = [asdict(figure) for figure in measure(bed, seconds=0.4)]
        yield {"part": "bed", "skew": skew, "mbit": mbit, "figures": figures}
        with warmed(bed) as hosts:
            yield from arms(campaign, hosts, cell, seed, grid)


def arms(campaign: Campaign, hosts: Hosts, cell: Cell, seed: int, grid: Sequence[str]) -> Found:
    """The fastest host alone, `auto` among the grid in the order that seems best, DDP; finals."""
    size, skew, _ = cell
    done = [each["arm"] for each in campaign.of(cell) if each["seed"] == seed]
    if not campaign.alone(size, skew):
        run = partial(decide_runs.single, hosts, campaign.room(), (size, 0), MOST_S)
        yield guarded(cell, "single", 0, run)
    for arm in in_turn(campaign, size, grid):
        if arm not in done:
            yield ours(campaign, hosts, cell, arm, seed)
    if "ddp" not in done:
        yield ddp(campaign, hosts, cell, seed)
    for _ in range(campaign.said.finals if grid else 0):
        fixed = [each for each in campaign.of(cell) if each["arm"] in grid]
        for arm in (soonest(fixed)[0], "auto"):
            if arm in (*grid, "auto"):
                yield ours(campaign, hosts, cell, arm, seed)


def in_turn(campaign: Campaign, size: str, grid: Sequence[str]) -> list[str]:
    """The grid as it did before, with `auto` among its first, in another place each time."""
    runs = [each for each in campaign.found if each["part"] == "run"]
    ranked = in_order(grid, runs, size)
    cells = {(each["skew"], each["mbit"]) for each in runs if each["size"] == size}
    place = min(len(ranked), len(cells) % 3)
    return [*ranked[:place], "auto", *ranked[place:]]


def ours(campaign: Campaign, hosts: Hosts, cell: Cell, arm: str, seed: int) -> Told:
    """One run of ours; a fixed strategy is given up once it cannot be the best of its cell."""
    size, skew, _ = cell
    rivals = [each for each in campaign.of(cell) if each["arm"] not in ("ddp", "single")]
    if arm != "auto":
        rivals += campaign.alone(size, skew)
    patience = campaign.said.patience if arm != "auto" else campaign.said.auto_patience
    most_s = limit_s(rivals, patience, MOST_S)
    how = (size, arm, seed)
    run = partial(decide_runs.to_target, hosts, campaign.room(), how, most_s)
    return guarded(cell, arm, seed, run)


def ddp(campaign: Campaign, hosts: Hosts, cell: Cell, seed: int) -> Told:
    """Torch's DDP: steps of one device on the whole batch, seconds of a steady step here."""
    size, skew, _ = cell
    steps = next((each.get("steps") for each in campaign.alone(size, skew)), None)
    timed_s = campaign.said.ddp_s
    run = partial(decide_runs.ddp, hosts, campaign.room(), (size, seed), steps, timed_s)
    return guarded(cell, "ddp", seed, run)


def twenty(campaign: Campaign) -> Found:
    """`auto` and DDP alone at 20 Mbit/s."""
    for size in campaign.said.sizes:
        yield from one_cell(campaign, (size, TWENTY_SKEW, TWENTY), 0, ())


# -- changes, and what needs no bed --------------------------------------------------------------


def tried(what: str, run: Callable[[], Told]) -> Told:
    """One outcome of a bed that changes; a failure is one too."""
    say(what)
    try:
        return run()
    except FAILURES as error:
        return {"part": "failed", "what": what, "failed": f"{error!r:.80} {str(error)[-500:]}"}


def adapt(campaign: Campaign) -> Found:
    """One of three equal hosts becomes three times slower in mid-run."""
    with testbed(hosts_of("equal", decide_changes.MBIT)) as bed, warmed(bed) as hosts:
        for number in range(campaign.said.repeats):
            for strategy in ("all-reduce", "local-sgd(8)", "auto"):
                how = ("small", strategy, number)
                run = partial(decide_changes.slowdown, hosts, campaign.room(), how)
                yield tried(f"slowdown {number + 1}, {strategy}", run)


def links(campaign: Campaign) -> Found:
    """All links become ten times slower in mid-run of `auto`."""
    for size in campaign.said.sizes:
        with testbed(hosts_of("equal", decide_changes.MBIT)) as bed, warmed(bed) as hosts:
            watched_s = campaign.said.link_s
            run = partial(decide_changes.slow_links, hosts, campaign.room(), size, watched_s)
            yield tried(f"links, {size}", run)


def replan(campaign: Campaign) -> Found:
    """How long deciding takes on the worlds of these runs, and on eight devices."""
    runs = [each for each in campaign.found if each.get("world") and each.get("shapes")]
    yield from decide_changes.replans(runs)


def simulate(campaign: Campaign) -> Found:
    """The soonest fixed strategy of each cell, played on the world that its run believed."""
    runs = [each for each in campaign.found if each["part"] == "run"]
    played = {(e["size"], e["skew"], e["mbit"]) for e in campaign.found if e["part"] == "simulated"}
    cells = dict.fromkeys((each["size"], each["skew"], each["mbit"]) for each in runs)
    chosen: list[Told] = []
    for cell in (cell for cell in cells if cell not in played):
        fixed = [e for e in campaign.of(cell) if e["seconds"] and e["arm"] in campaign.said.grid]
        chosen += sorted(fixed, key=lambda each: each["seconds"])[: campaign.said.simulated]
    with ThreadPoolExecutor(SIMULATED_AT_ONCE) as pool:
        yield from pool.map(play, chosen)


def play(run: Told) -> Told:
    """One run in virtual time, in a process of its own."""
    asked = {key: run[key] for key in ("size", "seed", "world")}
    asked |= {"strategy": run["arm"], "limit_s": 4 * run["seconds"]}
    script = str(HERE / "decide_simulated.py")
    done = subprocess.run(
        [sys.executable, script, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    here = {key: run[key] for key in ("size", "skew", "mbit", "arm", "seed")}
    here |= {"part": "simulated", "bed_s": run["seconds"]}
    if done.returncode:
        return {**here, "seconds": None, "failed": done.stderr[-600:]}
    outcome: Told = json.loads(done.stdout)
    say(f"simulated {run['arm']}: {outcome['seconds'] or float('nan'):.1f} of {run['seconds']:.1f}")
    return {**here, **outcome}


# -- the campaign --------------------------------------------------------------------------------

DO: Mapping[str, Callable[[Campaign], Found]] = {
    "twenty": twenty,
    "adapt": adapt,
    "links": links,
    "gauntlet": gauntlet,
    "replan": replan,
    "simulate": simulate,
}


def words() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", type=split, default=PARTS, help="default: all")
    parser.add_argument("--sizes", type=split, default=tuple(decide_task.SIZES))
    parser.add_argument("--skews", type=split, default=tuple(SKEWS))
    parser.add_argument("--mbit", type=float, nargs="+", default=MBIT, help="0: unshaped")
    parser.add_argument("--grid", nargs="+", default=GRID, help="fixed strategies")
    parser.add_argument("--seeds", type=int, default=1, help="of the whole gauntlet")
    parser.add_argument("--finals", type=int, default=1, help="more runs of auto and of the best")
    parser.add_argument("--patience", type=float, default=1.25, help="× the soonest of a cell")
    parser.add_argument("--auto-patience", type=float, default=3.0, help="the same, of auto")
    parser.add_argument("--ddp-s", type=float, default=4.0, help="that steady steps are timed")
    parser.add_argument("--repeats", type=int, default=1, help="of each slowdown")
    parser.add_argument("--link-s", type=float, default=30.0, help="watched after links slowed")
    parser.add_argument("--simulated", type=int, default=1, help="runs of each cell, soonest first")
    parser.add_argument("--minutes", type=float, default=44.0, help="then no cell is begun")
    results = HERE / "results" / f"decide-{date.today():%Y%m%d}.json"
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--resume", action="store_true", help="go on with the results kept")
    parser.add_argument("--page", type=Path, help="print the page of these results, measure none")
    return parser


def split(text: str) -> tuple[str, ...]:
    """Words between commas.

    >>> split("a,b")
    ('a', 'b')
    """
    return tuple(text.split(","))


def main() -> None:
    """Measure, keep every number, print the page."""
    said = words().parse_args()
    if said.page:
        print(decide_page.page(json.loads(said.page.read_text())))
        return
    if unknown := set(said.parts) - set(PARTS):
        raise SystemExit(f"expected parts of {', '.join(PARTS)}, found {', '.join(unknown)}")
    said.results.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then too
    told: Told = {"about": decide_page.about(decide_task, said.patience), "measured": []}
    if said.resume and said.results.exists():
        told["measured"] = json.loads(said.results.read_text())["measured"]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coterie-decide-") as name:
        campaign = Campaign(said, Path(name), began_s + 60 * said.minutes, told["measured"])
        for part in said.parts:
            for each in DO[part](campaign):
                load = round(os.getloadavg()[0], 2)
                minute = round((time.monotonic() - began_s) / 60, 1)
                told["measured"].append({"minute": minute, "load": load, **each})
                said.results.write_text(json.dumps(told) + "\n")
    print(decide_page.page(told))


if __name__ == "__main__":
    main()
