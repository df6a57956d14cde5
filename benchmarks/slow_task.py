"""The task of `shakespeare` for long rounds: one block of the transformer, and more windows.

Steps cost little beside their samples then, and an exchange little beside a round.
"""

from __future__ import annotations

from shakespeare import Transformer, encoded, windows
from torch import nn
from torch.utils.data import TensorDataset

NUM_TRAIN = 61_440  # ten rounds of 48 steps on 128


def network() -> nn.Module:
    """The transformer with its first block alone."""
    model = Transformer()
    model.blocks = model.blocks[:1]
    return model


def train_set() -> TensorDataset:
    """`NUM_TRAIN` windows spread evenly over the first 90 % of the text."""
    text = encoded()
    return windows(text[: len(text) * 9 // 10], NUM_TRAIN)
