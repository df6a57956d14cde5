"""The task of the fault benchmark: the next character of Shakespeare, read from a slow disk.

A small network on windows that take their time to be read: three processes are worth adding up then
on a machine of two cores. Every arm learns the same windows in the same order.

Legend of shape suffixes: B windows, T characters of a window, D width, V characters known.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import shakespeare
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

BATCH = 48  # windows of one step, over three processes
NUM_TRAIN = 4800  # 100 steps: many epochs are learned whole, and can be counted
MS_PER_SAMPLE = 2.0
WIDTH, SEEN = 64, 8  # of the network; pairs that a guess is made from
LEARNING_RATE = shakespeare.LEARNING_RATE


class FromDisk(TensorDataset):
    """Windows that are read one after the other, and take so many milliseconds each."""

    def __init__(self, tensors: tuple[Tensor, ...], ms_per_sample: float) -> None:
        super().__init__(*tensors)
        self.ms_per_sample = ms_per_sample

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, ...]]:
        """The windows at these places."""
        time.sleep(self.ms_per_sample / 1e3 * len(indices))
        return [self[index] for index in indices]

    def batch(self, indices: list[int]) -> tuple[Tensor, ...]:
        """The same windows as one batch."""
        time.sleep(self.ms_per_sample / 1e3 * len(indices))
        return tuple(tensor[indices] for tensor in self.tensors)


class Pairs(nn.Module):
    """Pairs of characters, a causal convolution over them, a guess: 0.3 M parameters, 1.2 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.Embedding(shakespeare.NUM_CHARS**2, WIDTH)
        self.look_back = nn.Conv1d(WIDTH, WIDTH, kernel_size=SEEN)
        self.guess = nn.Linear(WIDTH, shakespeare.NUM_CHARS)

    def forward(self, x_BT: Tensor) -> Tensor:
        """Logits of the next character at each place, B×T×V."""
        before_BT = F.pad(x_BT, (1, 0))[:, :-1]
        pairs_BTD = self.pairs(before_BT * shakespeare.NUM_CHARS + x_BT)
        past_BDT = F.pad(pairs_BTD.transpose(1, 2), (SEEN - 1, 0))
        seen_BTD = torch.relu(self.look_back(past_BDT)).transpose(1, 2)
        return self.guess(seen_BTD + pairs_BTD)


def network() -> nn.Module:
    """A fresh model; its weights follow from torch's seed alone."""
    return Pairs()


def train_set(ms_per_sample: float = MS_PER_SAMPLE) -> FromDisk:
    """`NUM_TRAIN` windows spread evenly over the first 90 % of the text."""
    text = shakespeare.encoded()
    train = shakespeare.windows(text[: len(text) * 9 // 10], NUM_TRAIN)
    return FromDisk(train.tensors, ms_per_sample)


def begin(seed: int) -> nn.Module:
    """The model with which every arm begins."""
    torch.manual_seed(seed)
    return network()


def batch_at(seed: int, step: int) -> list[int]:
    """The windows of a global step, counted from 0: the order in which a coterie job learns them.

    >>> len(batch_at(0, 1000)), batch_at(0, 0) == batch_at(0, 100)
    (48, False)
    """
    data_epoch, at = divmod(step * BATCH, NUM_TRAIN)
    return _order(seed, data_epoch)[at : at + BATCH]


@functools.lru_cache(maxsize=2)
def _order(seed: int, data_epoch: int) -> list[int]:
    order: list[Any] = np.random.default_rng([seed, data_epoch]).permutation(NUM_TRAIN).tolist()
    return order
