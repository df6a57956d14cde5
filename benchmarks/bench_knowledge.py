"""What sharing brings: learners that teach one another beside the same learners alone.

Real images with few labels each. All arms of a race begin at the same weights, learn the same
samples, and take turns every ten steps; clocks count CPU seconds. Every number goes to
benchmarks/results/, and --page prints the page for benchmarks/knowledge.md:

    python benchmarks/bench_knowledge.py --seeds 5
    python benchmarks/bench_knowledge.py --parts alphabets,kin --seeds 2 --resume
    python benchmarks/bench_knowledge.py --parts processes,speeds --resume  # on a quiet machine
    python benchmarks/bench_knowledge.py --page benchmarks/results/knowledge-20261201.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch  # noqa: E402
from bed_runs import say  # noqa: E402

# What each part measures, of one seed, and where: "module:function".
PARTS = {
    "alphabets": "knowledge_alphabets:alphabets",
    "softmax": "knowledge_alphabets:softmax",
    "laws": "knowledge_alphabets:laws",
    "kin": "knowledge_peers:kin",
    "widths": "knowledge_peers:widths",
    "mixed": "knowledge_peers:mixed",
    "grouping": "knowledge_peers:grouping",
    "unrelated": "knowledge_peers:unrelated",
    "opposed": "knowledge_opposed:opposed",
    "hostile": "knowledge_opposed:hostile",
    "processes": "knowledge_processes:processes",
    "speeds": "knowledge_processes:speeds",
}
QUIET = ("processes", "speeds")  # says nothing on a busy machine: only where it is asked for


def about() -> dict[str, Any]:
    """What was measured, on what, when."""
    names = ("torch", "numpy", "scikit-learn")
    return {
        "date": f"{date.today()}",
        "machine": f"{os.cpu_count()} shared virtual cores, {platform.machine()}, one thread",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
    }


def measured(said: argparse.Namespace, done: set[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """One outcome for each seed and part, the parts of a seed one after the other."""
    for seed in range(said.first_seed, said.first_seed + said.seeds):
        for part in said.parts:
            if (part, seed) in done:
                continue
            module, function = PARTS[part].split(":")
            say(f"{part}, seed {seed}")
            began_s = time.process_time()
            found = getattr(importlib.import_module(f"benchmarks.{module}"), function)(seed)
            yield {
                "part": part,
                "seed": seed,
                "load": round(os.getloadavg()[0], 1),
                "cpu_s": round(time.process_time() - began_s, 1),
                **found,
            }


def words() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(part for part in PARTS if part not in QUIET))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="measure what is missing alone")
    results = HERE / "results" / f"knowledge-{date.today():%Y%m%d}.json"
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--page", type=Path, help="print the page of these results, measure none")
    return parser


def main() -> None:
    """Measure, keep every number; or print the page."""
    said = words().parse_args()
    if said.page:
        from benchmarks import knowledge_page

        print(knowledge_page.page(json.loads(said.page.read_text())))
        return
    said.parts = said.parts.split(",")
    if unknown := set(said.parts) - PARTS.keys():
        raise SystemExit(f"expected parts of {', '.join(PARTS)}, found {', '.join(unknown)}")
    torch.set_num_threads(1)
    told: dict[str, Any] = {"about": about(), "measured": []}
    if said.resume and said.results.is_file():
        told["measured"] = json.loads(said.results.read_text())["measured"]
    said.results.parent.mkdir(parents=True, exist_ok=True)
    for each in measured(said, {(old["part"], old["seed"]) for old in told["measured"]}):
        told["measured"].append(each)
        told["measured"].sort(key=lambda found: (list(PARTS).index(found["part"]), found["seed"]))
        said.results.write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
