"""Wall time and bytes to one held-out loss on four hosts with slow links: ours and its peers.

Hosts are network namespaces with a rate limit and a CPU quota (`testbed`); all arms learn the same
task (`shakespeare`) from the same weights on the same windows in the same order. Arms run one after
another within each seed and rate, in an order that moves on with the seed. Needs root, and for
torchft an environment of its own (`peers/requirements.txt`):

    python benchmarks/bench_sync.py --seeds 3 --mbit 10 --mbit 100 \
        --peers-python /path/to/env/bin/python

DDP's losses do not depend on the rate of a link. Unless `--full` is given, its arms run to the
target once on the loopback; on the slow links they run some steady steps, and seconds and bytes to
the target are steps × those of a steady step. The other arms always run to the target.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import shakespeare  # noqa: E402
import sync_page  # noqa: E402
from sync_bed import TIMEOUT_S, Meter, Place, await_all, free_port  # noqa: E402
from sync_page import Outcome, Point, at, crossing, extrapolated  # noqa: E402

from benchmarks.testbed import Bed, Host, measure, testbed  # noqa: E402

NUM_HOSTS = 4
HOST_CORES = 0.45
SETTINGS: Mapping[str, Sequence[str]] = {  # each arm's grid: the best with the first seed goes on
    "ddp": ("fp32",),
    "fp16": ("fp16",),
    "powersgd": ("powersgd-1", "powersgd-4"),
    "torchft": ("diloco-25",),  # of 10, 25 and 50 the quickest at 10 Mbit/s in a run of its own
}
OURS = (
    "chain(Every(5, overlap=2), ErrorFeedback(ChunkTopK(4096, 64)), Reduce(), "
    "Outer(1.0, 0.3, nesterov=True))"
)
ARMS = ("ours", *SETTINGS)
POWERSGD_PLAIN_STEPS = 2  # before it begins to compress; torch asks for two at least
STEADY_STEPS = 6
MAX_STEPS = 800


@dataclass(frozen=True)
class Campaign:
    """What is asked of every arm."""

    target: float
    strategies: tuple[str, ...]
    peers_python: str
    full: bool
    few: tuple[float, ...] = ()  # rates at which only ours and DDP are run

    def say(self, words: str) -> None:
        """Tell how it goes, on stderr: stdout belongs to the page."""
        print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


# -- peers ---------------------------------------------------------------------------------------


def run_peer(
    campaign: Campaign, place: Place, setting: str, seed: int, options: Sequence[str]
) -> tuple[list[dict[str, Any]], Meter]:
    """Run one setting on all ranks; rank 0's log and what was metered."""
    is_diloco = setting.startswith("diloco")
    script = HERE / "peers" / ("torchft_diloco.py" if is_diloco else "ddp.py")
    python = campaign.peers_python if is_diloco else sys.executable
    shared = {"WORLD_SIZE": str(NUM_HOSTS), "MASTER_ADDR": place.master}
    shared["MASTER_PORT"] = str(free_port())
    with TemporaryDirectory() as folder, Meter(place.bed).running() as meter:
        log = Path(folder) / "rank0.jsonl"
        argv = [python, str(script), setting, "--log", str(log), "--seed", str(seed), *options]
        words = [Path(folder) / f"{rank}.log" for rank in range(NUM_HOSTS)]
        ranks = [
            place.start(rank, argv, {**shared, "RANK": str(rank)}, words[rank])
            for rank in range(NUM_HOSTS)
        ]
        await_all(ranks, lambda: "\n".join(word.read_text()[-2000:] for word in words))
        return [json.loads(line) for line in log.read_text().splitlines()], meter


def points_of(log: Sequence[Mapping[str, Any]], seed: int) -> tuple[Point, ...]:
    """The held-out losses of a peer's log, that of the first weights included."""
    first = Point(0, 0.0, first_loss(seed))
    scored = [event for event in log if event["kind"] == "scores"]
    return (first, *(Point(e["step"], e["seconds"], e["loss"]) for e in scored))


def first_loss(seed: int) -> float:
    """The held-out loss with which every arm begins."""
    return shakespeare.held_out_loss(shakespeare.begin(seed))


def peer_to_target(campaign: Campaign, place: Place, setting: str, seed: int) -> Outcome:
    """Really run to the target."""
    options = ["--steps", str(MAX_STEPS), "--until-loss", str(campaign.target)]
    log, meter = run_peer(campaign, place, setting, seed, options)
    points = points_of(log, seed)
    seconds = crossing([(p.seconds, p.loss) for p in points], campaign.target)
    steps = crossing([(p.steps, p.loss) for p in points], campaign.target)
    clock = [(event["seconds"], event["time_s"]) for event in log]
    start_s = clock[0][1]
    stop_s = at(clock, seconds) if seconds is not None else clock[-1][1]
    return Outcome(
        setting, seed, place.mbit, seconds, steps, points, "run to the target",
        num_bytes=meter.num_bytes(start_s, stop_s) if seconds is not None else None,
        host_cores=meter.cores(start_s, stop_s),
    )  # fmt: skip


def peer_by_steps(campaign: Campaign, place: Place, whole: Outcome, seed: int) -> Outcome:
    """Time steady steps, and take the number of steps from a whole run of the same seed."""
    plain = POWERSGD_PLAIN_STEPS if whole.setting.startswith("powersgd") else 0
    num = plain + 1 + STEADY_STEPS
    log, meter = run_peer(
        campaign, place, whole.setting, seed, ["--steps", str(num), "--score-every", "0"]
    )
    ends = {event.get("step", 0): event for event in log}
    first, last = ends[plain + 1], ends[num]  # the first of a kind also builds buckets
    first_bytes = meter.num_bytes(ends[0]["time_s"], first["time_s"])
    step_bytes = meter.num_bytes(first["time_s"], last["time_s"]) / STEADY_STEPS
    step_s = (last["seconds"] - first["seconds"]) / STEADY_STEPS
    left = whole.steps - plain - 1 if whole.steps is not None else None
    return replace(
        whole,
        mbit=place.mbit,
        seconds=extrapolated(first["seconds"], step_s, left) if left is not None else None,
        num_bytes=extrapolated(first_bytes, step_bytes, left) if left is not None else None,
        how=f"steps of a whole run × {STEADY_STEPS} steady steps",
        step_s=step_s,
        host_cores=meter.cores(first["time_s"], last["time_s"]),
    )


# -- ours ----------------------------------------------------------------------------------------


def job(campaign: Campaign, bed: Bed, strategy: str, seed: int) -> dict[str, Any]:
    """The job file of our arm."""
    names = {"model": "network", "train": "train_set", "test": "test_set", "loss": "loss"}
    task: dict[str, Any] = {key: f"shakespeare:{name}" for key, name in names.items()}
    return {
        "name": "sync",
        "task": {**task, "metrics": {"likelihood": "shakespeare:likelihood"}},
        "optimizer": {"call": "torch.optim:Adam", "with": {"lr": shakespeare.LEARNING_RATE}},
        "batch": shakespeare.BATCH,
        "seed": seed,
        "strategy": strategy,
        "until": {
            "likelihood": sync_page.likelihood(campaign.target),
            "steps": MAX_STEPS,
        },
        "agents": {"local": 0, "remote": NUM_HOSTS, "join_timeout_s": 180.0},
        "listen": f"{bed.address}:0",
        "checkpoint_every_s": 1e6,  # no other arm saves anything
        "root": str(HERE),
    }


def run_ours(
    campaign: Campaign, bed: Bed, strategy: str, seed: int
) -> tuple[list[dict[str, Any]], Meter]:
    """Coordinate on the bridge, join from every host; the run's events and what was metered."""
    from coterie.watch.events import read

    with TemporaryDirectory() as name, Meter(bed).running() as meter:
        folder = Path(name)
        (folder / "job.yaml").write_text(yaml.safe_dump(job(campaign, bed, strategy, seed)))
        command = [sys.executable, "-m", "coterie.cli"]
        events, key = folder / "sync" / "events.jsonl", folder / "sync" / "join.key"
        with (folder / "host.log").open("w") as words:
            host = subprocess.Popen(
                [*command, "train", str(folder / "job.yaml"), "--runs", name, "--plain"],
                stdout=words, stderr=words, text=True,
            )  # fmt: skip
        programs = [host]
        try:
            endpoint = await_endpoint(events, key, host)
            joining = [*command, "join", endpoint, "--key", str(key), "--root", str(HERE)]
            for rank, place in enumerate(bed.hosts):
                with (folder / f"{rank}.log").open("w") as words:
                    argv = [*joining, "--name", place, "--threads", "1"]
                    programs.append(bed.run(place, argv, stdout=words, stderr=words))
            host.wait(TIMEOUT_S)
        finally:
            for program in programs:
                if program.poll() is None:
                    program.terminate()
                program.wait()
        if host.returncode:
            raise RuntimeError("\n".join(p.read_text()[-2000:] for p in folder.glob("*.log")))
        return read(events), meter


def await_endpoint(events: Path, key: Path, host: subprocess.Popen[str]) -> str:
    """Where the run listens, once it does."""
    from coterie.watch.events import read

    while host.poll() is None:
        if key.exists() and events.exists() and (found := read(events)):
            return str(found[0]["endpoint"])
        time.sleep(0.1)
    raise RuntimeError("the run ended before it listened")


def ours_to_target(campaign: Campaign, place: Place, strategy: str, seed: int) -> Outcome:
    """Run our arm to the target; its clock begins with the first decision."""
    assert place.bed is not None
    events, meter = run_ours(campaign, place.bed, strategy, seed)
    run = sync_page.ours(events, first_loss(seed), shakespeare.BATCH)
    seconds = crossing([(p.seconds, p.loss) for p in run.points], campaign.target)
    stop_s = run.began_s + run.clock(seconds if seconds is not None else run.points[-1].seconds)
    reached = seconds is not None
    return Outcome(
        strategy, seed, place.mbit, seconds,
        crossing([(p.steps, p.loss) for p in run.points], campaign.target),
        run.points, "run to the target",
        num_bytes=meter.num_bytes(run.began_s, stop_s) if reached else None,
        host_cores=meter.cores(run.began_s, stop_s),
        before_s=run.before_s,
        before_bytes=meter.num_bytes(run.began_s - run.before_s, run.began_s),
    )  # fmt: skip


# -- the campaign --------------------------------------------------------------------------------


def outcomes(
    campaign: Campaign, arms: Sequence[str], seeds: int, rates: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Every measured thing, as it comes: outcomes of arms, and figures of beds."""
    whole: dict[tuple[str, int], Outcome] = {}
    tried: dict[tuple[str, float], list[Outcome]] = {}
    for seed in range(seeds):
        for mbit in rates:
            hosts = [Host(f"h{rank}", HOST_CORES, mbit) for rank in range(NUM_HOSTS)]
            with testbed(hosts) as bed:
                figures = [asdict(figure) for figure in measure(bed)]
                yield {"kind": "bed", "seed": seed, "mbit": mbit, "figures": figures}
                here = [a for a in arms if mbit not in campaign.few or a in ("ours", "ddp")]
                turned = [*arms[seed % len(arms) :], *arms[: seed % len(arms)]]
                for arm in (arm for arm in turned if arm in here):
                    for setting in grid(campaign, arm, tried.get((arm, mbit), [])):
                        campaign.say(f"seed {seed}, {mbit:g} Mbit/s: {setting}")
                        done = one(campaign, Place(bed, mbit), arm, setting, seed, whole)
                        tried.setdefault((arm, mbit), []).append(done)
                        load = os.getloadavg()[0]
                        yield {"kind": "outcome", "arm": arm, "load": load, **asdict(done)}


def grid(campaign: Campaign, arm: str, tried: Sequence[Outcome]) -> Sequence[str]:
    """All settings of an arm with the first seed, then the one that was quickest to the target."""
    settings = campaign.strategies if arm == "ours" else SETTINGS[arm]
    reached = [outcome for outcome in tried if outcome.seconds is not None]
    if len(tried) < len(settings) or not reached:
        return settings
    first = [outcome for outcome in reached if outcome.seed == reached[0].seed]
    return (min(first, key=lambda outcome: outcome.seconds or 0.0).setting,)


def one(
    campaign: Campaign,
    place: Place,
    arm: str,
    setting: str,
    seed: int,
    whole: dict[tuple[str, int], Outcome],
) -> Outcome:
    """One setting of an arm with one seed at one rate; a failure is an outcome too."""
    try:
        if arm == "ours":
            return ours_to_target(campaign, place, setting, seed)
        if arm == "torchft" or campaign.full:
            return peer_to_target(campaign, place, setting, seed)
        if (setting, seed) not in whole:
            whole[setting, seed] = peer_to_target(campaign, Place(None), setting, seed)
        return peer_by_steps(campaign, place, whole[setting, seed], seed)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        campaign.say(f"{setting} failed: {error}")
        return Outcome(setting, seed, place.mbit, None, None, (), f"failed: {str(error)[-400:]}")


def words() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mbit", type=float, action="append", help="default: 10 and 100")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--strategy", action="append", help=f"of ours; default: {OURS}")
    parser.add_argument("--target", type=float, default=shakespeare.TARGET)
    parser.add_argument(
        "--few", type=float, action="append", default=[], help="a rate for ours and DDP alone"
    )
    parser.add_argument("--full", action="store_true", help="run DDP to the target as well")
    own = os.environ.get("COTERIE_PEERS_PYTHON", sys.executable)
    parser.add_argument("--peers-python", default=own, help="an environment with torchft")
    results = HERE / "results" / f"sync-{date.today():%Y%m%d}.json"
    parser.add_argument("--results", type=Path, default=results)
    return parser


def main() -> None:
    """Measure, keep every number, print the page."""
    said = words().parse_args()
    strategies = tuple(said.strategy or [OURS])
    campaign = Campaign(said.target, strategies, said.peers_python, said.full, tuple(said.few))
    said.results.parent.mkdir(parents=True, exist_ok=True)
    told = {"about": sync_page.about(campaign.target, shakespeare), "measured": []}
    arms = said.arms.split(",")
    for measured in outcomes(campaign, arms, said.seeds, said.mbit or [10.0, 100.0]):
        told["measured"].append(measured)
        said.results.write_text(json.dumps(told, indent=1) + "\n")
    print(sync_page.page(told))


if __name__ == "__main__":
    main()
