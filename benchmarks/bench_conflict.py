"""Conflict laws against TorchJD's aggregators and against the plain mean of the same rows.

Needs a python that has `torchjd[full]==0.18.0` beside Coterie's own dependencies; the package
never imports it, and without it there is nothing to compare with. Arms are interleaved, and
figures are medians of CPU time. Prints three tables for benchmarks/conflict.md:

    python benchmarks/bench_conflict.py [--times 21]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from coterie import combine
from coterie.tasks import Conflict, MultiTask, Supervised

try:
    from torchjd import aggregation
    from torchjd.linalg import QuadprogProjector
except ImportError:
    aggregation = None

NUM_COMPARED = 30  # random matrices
SIZES = [(2, 100_000), (5, 100_000), (10, 100_000), (10, 1_000_000)]

Law = Callable[[Sequence[Tensor], Sequence[float]], Tensor]
Peer = Callable[[int], Callable[[Tensor], Tensor]]  # of M rows: NashMTL has to be told
PAIRS: dict[str, tuple[Law, Peer]] = {
    "pcgrad": (combine.pcgrad, lambda num: Seeded(num)),
    "upgrad": (combine.upgrad, lambda num: aggregation.UPGrad()),
    "mgda": (combine.mgda, lambda num: aggregation.MGDA()),
    "cagrad": (combine.cagrad, lambda num: aggregation.CAGrad(c=0.5)),
    "nash_mtl": (combine.nash_mtl, lambda num: aggregation.NashMTL(n_tasks=num)),
    "aligned_mtl": (combine.aligned_mtl, lambda num: aggregation.AlignedMTL()),
    "imtl_g": (combine.imtl_g, lambda num: aggregation.IMTLG()),
}


# TorchJD's defaults round for speed; differences are also told of it told to be exact.
EXACT: dict[str, Peer] = {
    "upgrad": lambda num: aggregation.UPGrad(
        projector=QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12)
    ),
    "mgda": lambda num: aggregation.MGDA(epsilon=1e-9, max_iters=5_000),
}


class Seeded:
    """TorchJD's PCGrad over its number of rows: it adds up what ours takes the mean of."""

    def __init__(self, num: int) -> None:
        self.law, self.num = aggregation.PCGrad(), num

    def __call__(self, rows_MN: Tensor) -> Tensor:
        return self.law(rows_MN) / self.num


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began_s = time.process_time()
    call()
    return time.process_time() - began_s


def difference(name: str, num: int, dtype: torch.dtype, peer: Peer) -> str:
    """The largest distance to TorchJD over random rows, as a part of the result's length.

    Directions are compared for Nash-MTL, whose length TorchJD cuts to one.
    """
    law, _ = PAIRS[name]
    far = []
    for seed in range(NUM_COMPARED):
        generator = torch.Generator().manual_seed(seed)
        rows_MN = torch.randn(num, 50, generator=generator, dtype=dtype)
        ours_N = law(list(rows_MN), [1.0] * num)
        theirs_N = peer(num)(rows_MN)
        if name == "nash_mtl":
            ours_N, theirs_N = ours_N / ours_N.norm(), theirs_N / theirs_N.norm()
        far.append(float((ours_N - theirs_N).norm() / ours_N.norm()))
    return f"{median(far):.0e} / {max(far):.0e}"


def cost(name: str, num: int, size: int, times: int) -> tuple[float, float, float]:
    """Median CPU seconds of ours, of TorchJD's and of our mean, on the same float32 rows."""
    law, peer = PAIRS[name]
    rows_MN = torch.randn(num, size, generator=torch.Generator().manual_seed(1))
    rows, weights, theirs = list(rows_MN), [1.0] * num, peer(num)
    arms = (
        lambda: law(rows, weights),
        lambda: theirs(torch.stack(rows)),  # it takes a matrix, and gradients come one by one
        lambda: combine.mean(rows, weights),
    )
    for arm in arms:
        arm()
    taken = [[cpu_s(arm) for arm in arms] for _ in range(times)]
    ours, peers, mean = (median(column) for column in zip(*taken, strict=True))
    return ours, peers, mean


def network() -> nn.Module:
    """A small convolutional trunk on 28 × 28 pixels: 92,672 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 128), nn.ReLU()),
    )


def steps(num: int, times: int) -> dict[str, float]:
    """Median CPU seconds of a loss and its gradient, by balance, for tasks with 20 images each."""
    generator = torch.Generator().manual_seed(2)
    tasks = []
    for i in range(num):
        images = torch.randn(20, 1, 28, 28, generator=generator)
        data = TensorDataset(images, torch.randint(10, (20,), generator=generator))
        tasks.append(Supervised(f"task-{i}", nn.Linear(128, 10), data, data))
    balances = {"equal": "equal", "mean": Conflict("mean"), **{name: name for name in PAIRS}}
    arms = {}
    for name, balance in balances.items():
        task = MultiTask("steps", network, tasks, balance)
        arms[name] = (task, task.build(), task.fetch(range(task.num_train)))
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(times + 1):
        for name, (task, model, batch) in arms.items():
            taken[name].append(cpu_s(lambda t=task, m=model, b=batch: t.loss(m, b).backward()))
    return {name: median(each[1:]) for name, each in taken.items()}


def main() -> None:
    """Print the tables, with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=21, help="calls of each arm")
    times = parser.parse_args().times
    if aggregation is None:
        print("expected torchjd, found none: nothing is compared; pip install 'torchjd[full]'")
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "torchjd", "numpy"))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores; {versions}")
    print("\n| law | M = 2 | M = 5 | M = 10 | M = 5, float32 |\n|---|---|---|---|---|")
    for name, (_, usual) in PAIRS.items():
        for peer, said in ((usual, ""), (EXACT.get(name), ", told to be exact")):
            if peer is not None:
                cells = [difference(name, num, torch.float64, peer) for num in (2, 5, 10)]
                cells.append(difference(name, 5, torch.float32, peer))
                print(f"| {name}{said} | {' | '.join(cells)} |")
    print("\n| law | rows | ours, ms | over TorchJD's | over the mean |\n|---|---|---|---|---|")
    for name in PAIRS:
        for num, size in SIZES:
            ours, theirs, mean = cost(name, num, size, times)
            print(
                f"| {name} | {num} × {size:,} | {1e3 * ours:.2f} | {ours / theirs:.2f} "
                f"| {ours / mean:.2f} |"
            )
    print("\n| balance | tasks | step, ms | over separate passes | over one pass |")
    print("|---|---|---|---|---|")
    for num in (2, 5, 10):
        found = steps(num, times)
        for name, each in found.items():
            ratios = f"{each / found['mean']:.2f} | {each / found['equal']:.2f}"
            print(f"| {name} | {num} | {1e3 * each:.1f} | {ratios} |")


if __name__ == "__main__":
    main()
