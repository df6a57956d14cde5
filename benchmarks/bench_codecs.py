"""What packing costs: encode + decode of every codec against one copy of the same vector.

All arms run one after the other in each repeat, in one process on one thread; a ratio compares
two times of the same repeat. `clone()` writes to memory that is new, as a user would and as
`decode` must; `copy_()` writes to memory that is there. The system's pages for new memory are most
of the cost of both `clone()` and `decode` above 32 MB. To take them out, let the process keep what
it frees:

    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \\
        python benchmarks/bench_codecs.py [NUM_REPEATS]

Codecs are found by themselves; sketches are left out, since they pack in conversation. Prints
tables for benchmarks/codecs.md.
Legend of shape suffixes: N values of the vector.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from coterie.sync import codecs
from coterie.sync.codecs import Codec
from coterie.types import Ctx

SIZES = (1_000_000, 10_000_000)
LEAST_REPEATS = 15
VARIANTS: dict[str, tuple[tuple[int, ...], ...]] = {"Stochastic": ((16,), (8,), (4, 64))}


def kinds(above: type[object]) -> Iterator[type[Codec]]:
    """Every codec class below another that can be made, of the house alone."""
    for kind in above.__subclasses__():
        yield from kinds(kind)
        ours = kind.__module__.startswith(codecs.__name__)
        if ours and issubclass(kind, Codec) and not inspect.isabstract(kind):
            yield kind


def found() -> list[Codec]:
    """One codec of each class, or as many as it has variants, in the order of their bytes."""
    for module in pkgutil.iter_modules(codecs.__path__, f"{codecs.__name__}."):
        importlib.import_module(module.name)
    made = [kind(*given) for kind in kinds(Codec) for given in VARIANTS.get(kind.__name__, ((),))]
    return sorted(made, key=lambda codec: (-codec.packet_bytes(SIZES[-1]), repr(codec)))


def seconds(call: Callable[[], object], device: str) -> float:
    """CPU time of a call; on another device, wall time until that is done."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(values_N: Tensor, made: Sequence[Codec], num_repeats: int) -> dict[str, list[float]]:
    """Seconds of each arm in each repeat; a codec's are those of encode and of decode."""
    device, warm_N = values_N.device.type, torch.empty_like(values_N)
    ctx = Ctx(generator=torch.Generator(device).manual_seed(0))
    arms: dict[str, Callable[[], object]] = {
        "clone": values_N.clone,
        "copy_": lambda: warm_N.copy_(values_N),
    }
    for codec in made:
        packed = codec.encode(values_N, ctx)
        arms[f"{codec} encode"] = partial(codec.encode, values_N, ctx)
        arms[f"{codec} decode"] = partial(codec.decode, packed, values_N, ctx)
    times: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(num_repeats + 2):
        for name, call in arms.items():
            taken_s = seconds(call, device)
            if repeat >= 2:  # the first two warm up
                times[name].append(taken_s)
    return times


def ratio(above_s: Sequence[float], below_s: Sequence[float]) -> str:
    """Median of the ratios repeat by repeat, and their least and most."""
    ratios = [above / below for above, below in zip(above_s, below_s, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"


def table(values_N: Tensor, made: Sequence[Codec], num_repeats: int) -> list[str]:
    """One table: a row for each codec."""
    num, times = values_N.numel(), measure(values_N, made, num_repeats)
    clone_s, copy_s = times["clone"], times["copy_"]
    lines = [
        f"## {num:,} float32 values, {values_N.device.type}",
        "",
        f"One `clone()` takes {1e3 * median(clone_s):.3g} ms, one warm `copy_()` "
        f"{1e3 * median(copy_s):.3g} ms (medians of {num_repeats}).",
        "",
        "| codec | bytes/value | encode, ms | decode, ms | both / `clone()` | both / `copy_()` |",
        "|---|---|---|---|---|---|",
    ]
    for codec in made:
        encode_s, decode_s = times[f"{codec} encode"], times[f"{codec} decode"]
        both_s = [one + other for one, other in zip(encode_s, decode_s, strict=True)]
        lines.append(
            f"| `{codec}` | {codec.packet_bytes(num) / num:.4g} | {1e3 * median(encode_s):.3g} | "
            f"{1e3 * median(decode_s):.3g} | {ratio(both_s, clone_s)} | {ratio(both_s, copy_s)} |"
        )
    return [*lines, ""]


def cpu() -> str:
    """The name of the processor, where the system tells it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def page(num_repeats: int) -> str:
    """All tables, with what they were measured on."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    kept = "MALLOC_MMAP_THRESHOLD_" in os.environ
    gpus = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    lines = [
        f"{date.today()}; {', '.join([cpu(), *gpus])}; 1 thread; load {load} before; Python "
        f"{platform.python_version()}, torch {torch.__version__}; freed memory is "
        f"{'kept by the process' if kept else 'given back as the system pleases'}. Ratios are "
        "medians (least … most).",
        "",
    ]
    made = found()
    for device in ("cpu", *(["cuda"] if gpus else [])):
        generator = torch.Generator().manual_seed(0)
        for num in SIZES:
            values_N = torch.randn(num, generator=generator).to(device)
            lines += table(values_N, made, num_repeats)
    return "\n".join(lines).rstrip()


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(page(int(sys.argv[1]) if len(sys.argv) > 1 else LEAST_REPEATS))


if __name__ == "__main__":
    main()
