"""What the scripts of this folder learn: the next character of Shakespeare.

Settings of nanoGPT's example for a CPU (Karpathy 2022): 4 layers, 4 heads, width 128, windows
of 64 characters. The dataset writes down when which process fetched how many samples, so that
scripts are measured which do not know of it: `OWN_LOOP_METER` names a folder for that.

Legend of shape suffixes: B windows, T characters of a window, V characters known.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shakespeare

shakespeare.WINDOW, shakespeare.WIDTH = 64, 128
NUM_TRAIN = 48_000  # windows of a pass: 500 steps


class Net(shakespeare.Transformer):
    """The decoder, with logits as cross-entropy takes them: B×V×T."""

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits of the next character at each place."""
        return super().forward(x_BT).transpose(1, 2)


def net() -> nn.Module:
    """A fresh model; its weights follow from a fixed seed."""
    torch.manual_seed(0)
    return Net()


class Metered(TensorDataset):
    """Windows of the text; each fetch of the loop's is noted with its time."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        folder = os.environ.get("OWN_LOOP_METER")
        self._meter = open(Path(folder) / f"{os.getpid()}.jsonl", "a") if folder else None  # noqa: SIM115

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """The samples of a batch, as a loader asks for them."""
        # What other threads fetch is for a rehearsal: no step of the loop's.
        if self._meter and threading.current_thread() is threading.main_thread():
            told = {"time_s": time.monotonic(), "cpu_s": time.process_time()}
            rank = int(os.environ.get("RANK", "0"))
            self._meter.write(json.dumps({**told, "rank": rank, "num": len(indices)}) + "\n")
            self._meter.flush()
        return [self[i] for i in indices]


def _train_set() -> Metered:
    text = shakespeare.encoded()
    return Metered(*shakespeare.windows(text[: len(text) * 9 // 10], NUM_TRAIN).tensors)


dataset = _train_set()
